"""The training tab: one element, which the scripts in ``javascript/`` fill from our JSON routes."""
