"""What is trained, on what: the parts of a step that the loop, the measurements and the samples share."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import LossConfig
from ..models.load import Model
from ..models.text import TextConditioning
from . import losses
from .averaging import Average, arrived
from .batches import Place
from .network import LoraNetwork

# What is measured on held-out pictures: the squared error, whatever is trained with.
PLAIN_LOSS = LossConfig()


@dataclass(frozen=True)
class Example:
    """One picture as a step needs it: posteriors (2, 4, h, w) plain and mirrored, its caption, its weight.

    ``loss_mask`` (1, h, w) weighs the latents' pixels of the plain picture; mirrored with it. ``varied``, where the
    caption is another each time, gives it for a draw, a step from 0 and the number of steps; ``caption`` is then what
    the picture is measured with.
    """

    posteriors: tuple[Tensor, ...]
    caption: str
    size: tuple[int, int]
    weight: float = 1.0
    key: str = ""
    loss_mask: Tensor | None = None
    varied: Callable[[random.Random, int, int], str] | None = None


@dataclass(frozen=True)
class Batch:
    """What one pass through the U-Net needs of b pictures of one size, on the CPU.

    Latents and noises (b, 4, h, w), timesteps (b,); ``seen_noises`` is what the U-Net sees where that is not what it is
    to tell; ``masks`` (b, 1, h, w).
    """

    latents: Tensor
    noises: Tensor
    timesteps: Tensor
    captions: Sequence[str]
    size: tuple[int, int]
    seen_noises: Tensor | None = None
    masks: Tensor | None = None


@dataclass
class Trainee:
    """What is trained, on what, and how a caption becomes conditioning."""

    model: Model
    network: LoraNetwork
    optimizer: torch.optim.Optimizer
    accelerator: Any
    alphas_cumprod: Tensor
    condition: Callable[[Sequence[str]], TextConditioning]
    average: Average | None = None

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def arrived(self) -> AbstractContextManager[None]:
        """Within, the network has the weights that a person gets; afterwards those of the next step, bit for bit."""
        return arrived(list(self.network.parameters()), self.optimizer, self.average)

    def loss_per_picture(self, batch: Batch, loss: LossConfig = PLAIN_LOSS) -> Tensor:
        """Loss of each picture, unweighted: (b,), on the device; ``loss`` says how errors are measured."""
        shares = self.alphas_cumprod[batch.timesteps]
        alphas = shares.to(self.device)
        latents, noises = batch.latents.to(self.device), batch.noises.to(self.device)
        seen = noises if batch.seen_noises is None else batch.seen_noises.to(self.device)
        kind = self.model.info.prediction_type
        with self.accelerator.autocast():
            text = self.condition(batch.captions)
            noisy = losses.add_noise(latents, seen, alphas).to(self.model.unet.dtype)
            predicted = self.model.prediction(noisy, batch.timesteps.to(self.device), text, size=batch.size)
        curved = loss.loss_type in ("huber", "smooth_l1")
        return losses.per_picture(
            predicted,
            losses.target(kind, latents, noises, alphas),
            kind=loss.loss_type,
            threshold=losses.huber_thresholds(batch.timesteps, shares, loss) if curved else None,
            mask=None if batch.masks is None else batch.masks.to(self.device),
        )


def stacked_masks(examples: Sequence[Example], places: Sequence[Place]) -> Tensor | None:
    """The pictures' masks (b, 1, h, w), mirrored where the picture is; ones for those without, None if none has one."""
    if all(example.loss_mask is None for example in examples):
        return None
    masks = []
    for example, place in zip(examples, places, strict=True):
        mask = example.loss_mask
        if mask is None:
            mask = torch.ones(1, *example.posteriors[0].shape[-2:])
        masks.append(mask.flip(-1) if place.mirrored else mask)
    return torch.stack(masks)
