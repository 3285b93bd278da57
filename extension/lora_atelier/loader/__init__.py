"""Adapter files in a prompt -> weights of the host's model: which files exist, what is applied, exact undo."""
