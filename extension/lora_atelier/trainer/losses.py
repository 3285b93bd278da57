"""What the U-Net should have predicted, and how its errors are weighted. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Noisy latents at the given signal shares: (b, c, h, w), alphas_cumprod (b,).

    Source: Ho et al. 2020, Denoising Diffusion Probabilistic Models, eq. 4.
    """
    alpha = alphas_cumprod.view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def target(prediction_type: str, latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """What the U-Net is to predict: the noise, or the velocity.

    Source of the velocity: Salimans & Ho 2022, Progressive Distillation, section 2.4.
    """
    if prediction_type == "epsilon":
        return noise
    alpha = alphas_cumprod.view(-1, 1, 1, 1)
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


def per_picture(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of each picture, in float32: (b,)."""
    return (predicted.float() - wanted.float()).square().mean(dim=(1, 2, 3))


def min_snr_weights(prediction_type: str, alphas_cumprod: Tensor, gamma: float) -> Tensor:
    """Weight of each timestep's loss, (b,): min(snr, gamma) over snr, or over snr + 1 for velocity; 1 if gamma is 0.

    Source: Hang et al. 2023, Efficient Diffusion Training via Min-SNR Weighting Strategy, section 3.4.
    """
    if gamma <= 0:
        return torch.ones_like(alphas_cumprod)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    limited = snr.clamp(max=gamma)
    return limited / (snr + 1) if prediction_type == "v_prediction" else limited / snr.clamp(min=1e-8)


def offset_noise(noise: Tensor, offsets: Tensor, strength: float) -> Tensor:
    """Noise (b, c, h, w) whose every channel is moved by its own normal number (b, c, 1, 1) times ``strength``."""
    return noise + strength * offsets
