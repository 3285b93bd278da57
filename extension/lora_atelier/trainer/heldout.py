"""The loss on pictures that are not trained on: with fixed noise and timesteps, so that two of them compare."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..events import Validated
from . import noise
from .trainee import Batch, Example, Trainee, stacked_masks


@torch.no_grad()
def heldout_loss(trainee: Trainee, examples: Sequence[Example], *, seed: int, timesteps: int = 8) -> float:
    """Mean loss on ``examples`` with noise and timesteps that are always the same; training's state is not touched."""
    trainee.network.eval()
    ladder = (torch.arange(timesteps) + 0.5).div(timesteps).mul(1000).long()
    total = 0.0
    for example in examples:
        mean = example.posteriors[0][0]
        noises = torch.stack([noise.gaussian(mean.shape, seed, "heldout", example.key, at) for at in range(timesteps)])
        batch = Batch(
            latents=mean.expand(timesteps, *mean.shape),
            noises=noises,
            timesteps=ladder,
            captions=[example.caption] * timesteps,
            size=example.size,
            masks=stacked_masks([example.loss_mask] * timesteps, noises),
        )
        with trainee.arrived():
            total += float(trainee.loss_per_picture(batch).mean())
    trainee.network.train()
    return total / len(examples)


def validated(trainee: Trainee, examples: Sequence[Example], *, seed: int, step: int) -> Validated:
    """The held-out loss as an event."""
    return Validated(step=step, loss=heldout_loss(trainee, examples, seed=seed))
