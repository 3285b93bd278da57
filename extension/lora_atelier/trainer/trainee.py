"""What is trained, on what: the parts of a step that the loop, the measurements and the samples share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..config import LossConfig
from ..models.load import Model
from ..models.text import TextConditioning
from . import losses
from .averaging import Average, arrived
from .compiling import CompiledUnet
from .network import LoraNetwork

# What is measured on held-out pictures: the squared error, whatever is trained with.
PLAIN_LOSS = LossConfig()


class Posteriors(Protocol):
    """Those of one picture, plain and, where it is also mirrored, that: (2, 4, h, w) each, mean and deviation."""

    def __getitem__(self, side: int, /) -> Tensor: ...
    def __iter__(self) -> Iterator[Tensor]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Example:
    """One picture as a step needs it: posteriors (2, 4, h, w) plain and mirrored, its caption, its weight.

    ``loss_mask`` (1, h, w) weighs the latents' pixels of the plain picture; mirrored with it. ``varied``, where the
    caption is another each time, gives it for a draw, a step from 0 and the number of steps; ``caption`` is then what
    the picture is measured with. ``fresh``, where the picture is, gives its posterior and mask for a draw, mirrored or
    not. Of a ``preserved`` one the model is to go on predicting what it does without the network.
    """

    posteriors: Posteriors
    caption: str
    size: tuple[int, int]
    weight: float = 1.0
    key: str = ""
    loss_mask: Tensor | None = None
    varied: Callable[[random.Random, int, int], str] | None = None
    fresh: Callable[[random.Random, bool], tuple[Tensor, Tensor | None]] | None = None
    preserved: bool = False

    def seen(self, draw: random.Random, mirrored: bool) -> tuple[Tensor, Tensor | None]:
        """The posterior and the mask that a step sees; mirrored or not."""
        if self.fresh is not None:
            return self.fresh(draw, mirrored)
        mask = self.loss_mask.flip(-1) if self.loss_mask is not None and mirrored else self.loss_mask
        return self.posteriors[int(mirrored)], mask


@dataclass(frozen=True)
class Batch:
    """What one pass through the U-Net needs of b pictures of one size, on the CPU.

    Latents and noises (b, 4, h, w), timesteps (b,); ``seen_noises`` is what the U-Net sees where that is not what it is
    to tell; ``masks`` (b, 1, h, w); ``preserved`` (b,) says of which the model is to predict what it does without the
    network.
    """

    latents: Tensor
    noises: Tensor
    timesteps: Tensor
    captions: Sequence[str]
    size: tuple[int, int]
    seen_noises: Tensor | None = None
    masks: Tensor | None = None
    preserved: Tensor | None = None


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
    compiled: CompiledUnet | None = None

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def arrived(self) -> AbstractContextManager[None]:
        """Within, the network has the weights that a person gets; afterwards those of the next step, bit for bit."""
        return arrived(list(self.network.parameters()), self.optimizer, self.average)

    @torch.no_grad()
    def _unchanged(self, batch: Batch, noisy: Tensor) -> Tensor:
        """What the base model alone predicts. Source: sd-scripts' diff_output_preservation (train_network.py)."""
        self.network.detach()
        try:
            text = self.condition(batch.captions)
            return self.model.prediction(noisy, batch.timesteps.to(self.device), text, size=batch.size)
        finally:
            self.network.attach()

    def loss_per_picture(
        self, batch: Batch, loss: LossConfig = PLAIN_LOSS, unet: Callable[..., Any] | None = None
    ) -> Tensor:
        """Loss of each picture, unweighted: (b,), on the device; ``loss`` says how errors are measured.

        ``unet`` answers instead of the model's own where it is given.
        """
        shares = self.alphas_cumprod[batch.timesteps]
        alphas = shares.to(self.device)
        latents, noises = batch.latents.to(self.device), batch.noises.to(self.device)
        seen = noises if batch.seen_noises is None else batch.seen_noises.to(self.device)
        kind = self.model.info.prediction_type
        with self.accelerator.autocast():
            text = self.condition(batch.captions)
            noisy = losses.add_noise(latents, seen, alphas).to(self.model.unet.dtype)
            wanted = losses.target(kind, latents, noises, alphas)
            if batch.preserved is not None:
                preserved = batch.preserved.view(-1, 1, 1, 1).to(self.device)
                wanted = torch.where(preserved, self._unchanged(batch, noisy).to(wanted), wanted)
            predicted = self.model.prediction(noisy, batch.timesteps.to(self.device), text, size=batch.size, unet=unet)
        curved = loss.loss_type in ("huber", "smooth_l1")
        return losses.per_picture(
            predicted,
            wanted,
            kind=loss.loss_type,
            threshold=losses.huber_thresholds(batch.timesteps, shares, loss) if curved else None,
            mask=None if batch.masks is None else batch.masks.to(self.device),
        )


def stacked_masks(masks: Sequence[Tensor | None], latents: Tensor) -> Tensor | None:
    """The masks (b, 1, h, w) of ``latents`` (b, 4, h, w); ones for pictures without, None if none has one."""
    if all(mask is None for mask in masks):
        return None
    return torch.stack([torch.ones(1, *latents.shape[-2:]) if mask is None else mask for mask in masks])
