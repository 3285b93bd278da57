"""Every random draw of a run, as a function of what it is for: (seed, purpose, step, place in the batch).

Nothing depends on what was drawn before, so stopping, resuming, caching and sampling change no draw.
"""

from __future__ import annotations

import hashlib
import random

import torch
from torch import Tensor

Key = str | int


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


def stratified_timesteps(count: int, *key: Key) -> Tensor:
    """``count`` of the 1000 timesteps, one from each of as many equal parts, in random order: (count,) int64.

    A batch then covers the whole schedule, which lowers the variance of its loss: Kingma et al. 2021, Variational
    Diffusion Models, appendix I.1.
    """
    draw = generator(*key)
    start = torch.rand((), generator=draw)
    parts = (torch.arange(count) + start) / count
    return (parts * 1000).long().clamp(0, 999)[torch.randperm(count, generator=draw)]
