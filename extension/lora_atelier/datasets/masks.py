"""Masks: how much each place of a picture counts in the loss, from a picture of its own or from transparency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..errors import DataError
from . import pixels
from .buckets import Framing, Size

# A latent stands for 8 × 8 pixels.
_SIDE = 8


def read_mask(path: Path, data: bytes) -> Image.Image:
    """A mask picture as "L": white counts, black does not, grey in part; of coloured ones the red. Raises DataError."""
    import io

    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
        return ImageOps.exif_transpose(picture).convert("RGB").getchannel("R")
    except Exception as error:  # decoders fail in many ways, all of which mean this
        raise DataError(
            "The mask “{name}” can't be read as a picture.",
            why="{reason}.",
            todo="Save it again as PNG.",
            name=path.name,
            reason=str(error).rstrip("."),
        ) from error


def scaled(mask: Image.Image, framing: Framing, interpolation: str = "") -> Image.Image:
    """The mask at the size that its picture is scaled to, before anything is cut off.

    A mask may be smaller than its picture. sd-scripts stretches it to the bucket instead, so that it moves against a
    picture of another shape.
    """
    return pixels.resized(mask, framing.resized, interpolation)


def weights(mask: Image.Image, bucket: Size, corner: Size) -> npt.NDArray[np.float32]:
    """The weight of each latent, (h/8, w/8), 0 to 1: the mean of its part of the scaled mask, cut at ``corner``."""
    x, y = corner
    width, height = bucket
    cut = np.asarray(mask.crop((x, y, x + width, y + height)), dtype=np.float32)
    blocks = cut.reshape(height // _SIDE, _SIDE, width // _SIDE, _SIDE)
    return blocks.mean(axis=(1, 3), dtype=np.float32) / 255
