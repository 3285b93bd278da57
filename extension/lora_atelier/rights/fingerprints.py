"""Fingerprints of pictures: PDQ of the whole and of parts of it, so that a copy is found that was cropped or turned.

A training picture has ``NUM_VIEWS`` hashes of 32 bytes; a picture that is looked up has its own, mirrored as well, and
the whole in its eight positions. Two pictures are compared whole against part, in both directions, never part against
part: that finds no more copies and more accidents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import pdq
from .pdq import Bits, Luma

# What a stored fingerprint was made by; another number is another fingerprint.
ALGORITHM = "pdq13 v1"
# The hash of a picture with a lower quality says little: it has hardly any edges.
LEAST_QUALITY = 50
# PDQ's own limit for the same picture; unrelated ones lie at 128, the nearest of a million random ones at 84.
CERTAIN = 31
# Nearer than this in one view an output is like a training picture of one LoRA. 58 had no false alarm on 14 000 pairs
# (rights.md 3.2), but of the 141 comparisons of two pictures one comes to 42 by chance where they have one template.
# From there to the limit of doubt it is looked at again.
FLAG, DOUBT = 38, 80
# Nearer than this on the average of all parts at the same places: other drawings of the same template come to 57; of
# drawings made again (`benchmarks/guard.py`) all of “redrawn, 5 px” come to 52 and two thirds of 10 px to 55.
FLAG_PARTS = 56

_LARGEST = 512  # PDQ is made of pictures of about this size
_SMALL = 256  # parts are hashed at this size, which changes a few bits and saves three quarters of the time
_CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
_MIDDLE = ((0.5, 0.5),)
# Share of each side that is seen, and where the rest lies: 0 all of it to the right or below, 1 to the left or above.
_PARTS: tuple[tuple[float, float, float], ...] = (
    *((0.9, x, y) for x, y in (*_MIDDLE, *_CORNERS)),
    *((0.8, x, y) for x, y in (*_MIDDLE, *_CORNERS)),
    *((share, 0.5, 0.5) for share in (0.85, 0.7)),
)
NUM_VIEWS = 1 + len(_PARTS)
# Which view of a mirrored picture shows what a view of the picture itself shows.
_MIRRORED = (0, *(1 + _PARTS.index((share, 1 - x, y)) for share, x, y in _PARTS))
_TRIMMED_AT_MOST = 0.35  # of a side
_EVEN = 6.0  # the largest spread of brightness in a border that is cut off


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Fingerprint:
    """``views`` (NUM_VIEWS, 32), the whole picture first; ``turned`` (8, 32), the whole in its eight positions;
    ``mirrored`` (NUM_VIEWS, 32), the views of the mirrored picture. ``quality`` is 0 to 100."""

    views: Bits
    mirrored: Bits
    turned: Bits
    quality: int

    @property
    def is_telling(self) -> bool:
        """Whether there is enough in the picture for its hashes to say something."""
        return self.quality >= LEAST_QUALITY


def brightness(picture: Image.Image, largest: int = _LARGEST) -> Luma:
    """Brightness (h, w) of a picture made at most ``largest`` pixels long."""
    return pdq.luma(shrunk(picture, largest))


def shrunk(picture: Image.Image, largest: int) -> Image.Image:
    """The picture, its longer side at most ``largest``."""
    longer = max(picture.size)
    if longer <= largest:
        return picture
    size = tuple(max(1, round(side * largest / longer)) for side in picture.size)
    if picture.mode not in ("RGB", "RGBA", "L"):
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    return picture.resize((size[0], size[1]), Image.Resampling.BOX)


def fingerprint(picture: Image.Image) -> Fingerprint:
    """The fingerprint of a picture, its even borders cut off first."""
    return of_brightness(trimmed(brightness(picture)))


def of_brightness(luma: Luma) -> Fingerprint:
    """The fingerprint of brightness (h, w)."""
    whole = pdq.standard(luma)
    small = reduced(luma, _SMALL)
    cosines = np.stack([whole.cosines, *(pdq.quick(part).cosines for part in parts(small))])
    mirror = np.where(np.arange(cosines.shape[-1]) % 2 == 0, -1.0, 1.0)
    return Fingerprint(
        views=pdq.packed(cosines),
        mirrored=pdq.packed(cosines * mirror),
        turned=whole.dihedral(),
        quality=whole.quality,
    )


def parts(luma: Luma) -> Iterator[Luma]:
    """The parts of a picture that have a hash of their own."""
    return (window(luma, *part) for part in _PARTS)


def window(luma: Luma, share: float, x: float, y: float) -> Luma:
    """The part of (h, w) that is ``share`` of each side, at ``x`` and ``y`` of the room there is (0 to 1)."""
    height, width = (max(1, round(side * share)) for side in luma.shape)
    top, left = round((luma.shape[0] - height) * y), round((luma.shape[1] - width) * x)
    return luma[top : top + height, left : left + width]


def reduced(luma: Luma, largest: int) -> Luma:
    """The picture with its longer side at most ``largest``."""
    if max(luma.shape) <= largest:
        return luma
    scale = largest / max(luma.shape)
    size = (max(1, round(luma.shape[1] * scale)), max(1, round(luma.shape[0] * scale)))
    return np.asarray(Image.fromarray(luma, mode="F").resize(size, Image.Resampling.BOX))


def trimmed(luma: Luma) -> Luma:
    """The picture without even borders on opposite sides; unchanged where that would leave little of it.

    Only borders of the same brightness go: the ground of a drawing that reaches one side is no border.
    """
    height, width = luma.shape
    top, bottom = _even_rows(luma)
    left, right = _even_rows(luma.T)
    ends = luma[: top or 1].mean(), luma[height - (bottom or 1) :].mean()
    if not top or not bottom or abs(ends[0] - ends[1]) > _EVEN:
        top = bottom = 0
    sides = luma[:, : left or 1].mean(), luma[:, width - (right or 1) :].mean()
    if not left or not right or abs(sides[0] - sides[1]) > _EVEN:
        left = right = 0
    inside = luma[top : height - bottom, left : width - right]
    return inside if min(inside.shape) >= 32 else luma


def _even_rows(luma: Luma) -> tuple[int, int]:
    """How many rows at the start and at the end have one brightness."""
    most = int(len(luma) * _TRIMMED_AT_MOST)
    is_even = np.ptp(luma, axis=1) <= _EVEN
    first = luma[:, :1].mean(axis=1)

    def count(rows: NDArray[np.bool_], values: NDArray[np.floating]) -> int:
        run = rows & (np.abs(values - values[0]) <= _EVEN)
        length = len(run) if run.all() else int(run.argmin())
        return length if length <= most else 0

    return count(is_even, first), count(is_even[::-1], first[::-1])


def distance(seen: Fingerprint, views: Bits) -> NDArray[np.int16]:
    """How far a picture is from each of n others, whose ``views`` are (n, NUM_VIEWS, 32): (n,), 0 to 256."""
    count = len(views)
    if not count:
        return np.empty(0, np.int16)
    whole = pdq.distances(np.concatenate([seen.turned, seen.mirrored[:1]]), views.reshape(-1, views.shape[-1]))
    nearest = whole.min(axis=0).reshape(count, -1).min(axis=1)
    asked = np.concatenate([seen.views[1:], seen.mirrored[1:]])
    return np.asarray(np.minimum(nearest, pdq.distances(asked, views[:, 0]).min(axis=0)))


def composition_distance(seen: Fingerprint, views: Bits) -> NDArray[np.float32]:
    """How far a picture is from each of n others on the average of all views at the same places: (n,), 0 to 256.

    As it is or mirrored, whichever is nearer; of a part of the other picture this says nothing.
    """
    both = np.stack([seen.views, seen.mirrored[list(_MIRRORED)]])
    differing = pdq.count_bits(pdq.as_words(both)[:, None] ^ pdq.as_words(views)[None])
    return np.asarray(differing.sum(axis=-1).mean(axis=-1).min(axis=0), dtype=np.float32)
