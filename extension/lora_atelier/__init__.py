"""LoRA Atelier: train and load LoRA adapters inside Stable Diffusion webuis, with the rights of the pictures kept."""

__version__ = "0.1.0"
