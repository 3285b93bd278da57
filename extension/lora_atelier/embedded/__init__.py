"""The embedded host: its page, its base model, and the world of drawn pictures that the model knows."""
