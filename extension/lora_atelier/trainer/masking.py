"""The mask of a picture in a run: from a picture of its own, from its transparency, or from both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..datasets import masks
from ..datasets.buckets import Framing, Size
from ..datasets.items import Item
from ..errors import DataError
from .caches import TensorCache
from .conditions import cut_name


@dataclass(frozen=True)
class MaskFile:
    """The file of a mask picture, read once: its bytes and their sha256."""

    path: Path
    data: bytes
    sha256: str

    @classmethod
    def read(cls, path: Path) -> MaskFile:
        """Read it. Raises DataError."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(
                "The mask “{name}” can't be read.",
                why="{reason}.",
                todo="Check that it is there and may be read.",
                name=path.name,
                reason=error.strerror or str(error),
            ) from error
        return cls(path, data, hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Masks:
    """The masks of a run's pictures, (1, h, w) in latents' pixels, 0 to 1, from the cache or made and put there."""

    kept: TensorCache

    def read(self, item: Item, sha256: str, file: MaskFile | None, framing: Framing) -> Tensor | None:
        """A mask that was made before; None if it was not."""
        tensors = self.kept.read(_name(item, sha256, file, framing))
        found = tensors.get("mask") if tensors else None
        width, height = framing.bucket
        return found if found is not None and found.shape == (1, height // 8, width // 8) else None

    def make(
        self, item: Item, sha256: str, file: MaskFile | None, framing: Framing, opacity: Image.Image | None
    ) -> Tensor:
        """The product of what the mask picture and the transparency say, each 1 where it is not there or not asked.

        ``opacity`` is cut to the bucket. Raises DataError for a mask picture that can't be read.
        """
        mask = made(item, file, framing, opacity, framing.centre)
        self.kept.write(_name(item, sha256, file, framing), {"mask": mask})
        return mask


def made(item: Item, file: MaskFile | None, framing: Framing, opacity: Image.Image | None, corner: Size) -> Tensor:
    """As ``Masks.make``, for a picture whose cut begins at ``corner``; nothing is kept."""
    width, height = framing.bucket
    mask = torch.ones(1, height // 8, width // 8)
    if file is not None:
        whole = masks.scaled(masks.read_mask(file.path, file.data), framing, item.resize_interpolation)
        mask = mask * torch.from_numpy(masks.weights(whole, framing.bucket, corner))
    if item.alpha_mask and opacity is not None:
        mask = mask * torch.from_numpy(masks.weights(opacity, framing.bucket, (0, 0)))
    return mask


def _name(item: Item, sha256: str, file: MaskFile | None, framing: Framing) -> str:
    of_file = file.sha256[:32] if file is not None else "none"
    transparency = "-a" if item.alpha_mask else ""
    return f"{sha256[:32]}-{of_file}-{cut_name(framing, item.resize_interpolation)}{transparency}"
