"""Every random draw of a run, as a function of what it is for: (seed, purpose, step, place in the batch).

Nothing depends on what was drawn before, so stopping, resuming, caching and sampling change no draw.
"""

from __future__ import annotations

import hashlib
import math
import random

import torch
from torch import Tensor, nn

from ..config import LossConfig

Key = str | int
# The golden ratio's inverse: its multiples, without their whole parts, fill [0, 1) more evenly than any other number's.
_GOLDEN = (math.sqrt(5) - 1) / 2


def seed_of(*key: Key) -> int:
    """A 63-bit seed that stands for ``key``."""
    text = "\x1f".join(map(str, key))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big") >> 1


def generator(*key: Key) -> torch.Generator:
    """A CPU generator that stands for ``key``."""
    return torch.Generator("cpu").manual_seed(seed_of(*key))


def rng(*key: Key) -> random.Random:
    """A standard-library generator that stands for ``key``."""
    return random.Random(seed_of(*key))


def gaussian(shape: tuple[int, ...] | torch.Size, *key: Key) -> Tensor:
    """Standard normal numbers of ``shape``, float32, on the CPU."""
    return torch.randn(shape, generator=generator(*key))


# ------------------------------------------------------------------------------------------------- timesteps


def timesteps(count: int, config: LossConfig, seed: int, number: int) -> Tensor:
    """The timesteps of batch ``number``'s ``count`` pictures, drawn as ``config`` says: (count,) int64."""
    bounds = config.min_timestep, config.max_timestep
    if config.timesteps == "uniform":
        return uniform_timesteps(count, seed, "timesteps", number, bounds=bounds)
    start = None
    if config.timesteps == "low_discrepancy":
        start = (rng(seed, "first timestep").random() + number * _GOLDEN) % 1
    return stratified_timesteps(count, seed, "timesteps", number, bounds=bounds, start=start)


def stratified_timesteps(
    count: int, *key: Key, bounds: tuple[int, int] = (0, 1000), start: float | None = None
) -> Tensor:
    """``count`` timesteps from ``bounds`` (the end excluded), one from each of as many equal parts, in random order.

    A batch then covers the whole schedule, which lowers the variance of its loss: Kingma et al. 2021, Variational
    Diffusion Models, appendix I.1. ``start`` is where in its part each lies, 0 to 1; drawn if it is None. Where it runs
    through a low-discrepancy sequence, batches cover the schedule together as well.
    """
    draw = generator(*key)
    drawn = torch.rand((), generator=draw)
    first, end = bounds
    parts = (torch.arange(count) + (drawn if start is None else start)) / count
    chosen = first + (parts * (end - first)).long().clamp(0, end - first - 1)
    return chosen[torch.randperm(count, generator=draw)]


def uniform_timesteps(count: int, *key: Key, bounds: tuple[int, int] = (0, 1000)) -> Tensor:
    """``count`` timesteps from ``bounds`` (the end excluded), each drawn alone, as sd-scripts does: (count,) int64."""
    return torch.randint(*bounds, (count,), generator=generator(*key))


# ----------------------------------------------------------------------------------------------------- noise


def training_noise(latents: Tensor, config: LossConfig, seed: int, *place: Key) -> Tensor:
    """The noise that is added to one picture's latents (c, h, w) and is to be told: normal, shaped by ``config``."""
    drawn = gaussian(latents.shape, seed, "noise", *place)
    if config.noise_offset:
        strength = config.noise_offset
        if config.noise_offset_random_strength:
            strength *= rng(seed, "offset strength", *place).random()
        scale = config.adaptive_noise_scale
        offsets = gaussian((latents.shape[0], 1, 1), seed, "offset", *place)
        drawn = offset_noise(drawn, offsets, adapted_offset(strength, latents, scale) if scale else strength)
    if config.multires_noise_iterations:
        key = (seed, "pyramid", *place)
        drawn = pyramid_noise(drawn, config.multires_noise_iterations, config.multires_noise_discount, *key)
    return drawn


def seen_noise(noise: Tensor, config: LossConfig, seed: int, *place: Key) -> Tensor:
    """The noise (c, h, w) that the U-Net sees: with input perturbation some more than it is to tell.

    Source: Ning et al. 2023, Input Perturbation Reduces Exposure Bias in Diffusion Models, algorithm 1.
    """
    strength = config.ip_noise_gamma
    if not strength:
        return noise
    if config.ip_noise_gamma_random_strength:
        strength *= rng(seed, "perturbation strength", *place).random()
    return noise + strength * gaussian(noise.shape, seed, "perturbation", *place)


def offset_noise(noise: Tensor, offsets: Tensor, strength: float | Tensor) -> Tensor:
    """Noise (…, c, h, w) whose every channel is moved by its own normal number (…, c, 1, 1) times ``strength``.

    Source: Guttenberg 2023, Diffusion with Offset Noise (crosslabs.org).
    """
    return noise + strength * offsets


def adapted_offset(strength: float, latents: Tensor, scale: float) -> Tensor:
    """The strength of each channel's offset, (c, 1, 1): ``scale`` times the size of its mean more, never below 0."""
    return (strength + scale * latents.mean(dim=(-2, -1), keepdim=True).abs()).clamp(min=0)


def pyramid_noise(noise: Tensor, iterations: int, discount: float, *key: Key) -> Tensor:
    """Noise (c, h, w) with coarser noise added, brought back to a standard deviation of 1.

    Layer i has 1 / r^i of the size, r anew from [2, 4) for each, weighs ``discount``^i, and is the last one once a side
    is a single pixel. sd-scripts divides by the standard deviation of the whole batch; here a picture's noise does not
    depend on its neighbours. Source: Whitaker 2023, Multi-Resolution Noise for Diffusion Model Training (wandb.ai).
    """
    channels, height, width = noise.shape
    draw = rng(*key)
    for level in range(iterations):
        ratio = (2 + 2 * draw.random()) ** level
        size = max(1, int(height / ratio)), max(1, int(width / ratio))
        coarse = gaussian((1, channels, *size), *key, level)
        enlarged = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
        noise = noise + enlarged[0] * discount**level
        if 1 in size:
            break
    return noise / noise.std()
