"""Base models: what a file is, its modules, its layers' names, pictures from it."""
