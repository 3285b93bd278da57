"""How the embedded base model is made: see README.md in this folder."""
