"""Pictures that are others each time they are seen: cut elsewhere, in other colours, and encoded anew."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from ..datasets import pixels
from ..datasets.items import Item
from ..models.load import Model
from .conditions import encoded
from .masking import MaskFile, made
from .pictures import Pictures


@dataclass(frozen=True)
class Fresh:
    """One picture with sd-scripts' random_crop or color_aug; ``model`` has the VAE, ``mask`` is its mask's file."""

    item: Item
    pictures: Pictures
    model: Model
    mask: MaskFile | None = None

    def __call__(self, draw: random.Random, mirrored: bool) -> tuple[Tensor, Tensor | None]:
        """A posterior (2, 4, h, w) and a mask (1, h, w) for this draw, on the CPU, both mirrored where asked.

        Raises RightsError if the file changed, DataError if it can't be decoded, ModelError.
        """
        item, framing = self.item, self.pictures.framing(self.item)
        corner = framing.centre
        if item.random_crop:
            corner = draw.randint(0, framing.room[0]), draw.randint(0, framing.room[1])
        shown = self.pictures.show(item, corner)
        picture = pixels.recoloured(shown.picture, draw) if item.color_aug else shown.picture
        posterior = encoded(self.model, picture, mirrored=mirrored)
        if self.mask is None and not item.alpha_mask:
            return posterior, None
        mask = made(item, self.mask, framing, shown.opacity, corner)
        return posterior, torch.flip(mask, (-1,)) if mirrored else mask


def is_fresh(item: Item) -> bool:
    """Whether a picture is another each time."""
    return item.random_crop or item.color_aug
