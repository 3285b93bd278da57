"""The second look of the guard: many windows of an output, also turned a little, against all views of a picture.

It finds what the first look misses: a picture with a bar of text, in a frame, or at a slant (rights.md 3.2, PDQ-grid).
Comparing parts with parts makes more accidents, so the limit is lower than that of the first look.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import pdq
from .fingerprints import reduced, window
from .pdq import Bits, Luma

# Below the 44 that had no false alarm on 14 000 pairs (rights.md 3.2): drawings of one template come to 36.
FLAG = 34
_SIDE = 256
_MIDDLE = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5)
_SPREAD = (0.85, 0.75, 0.62)
_SLANTED = ((-10, 0.8), (-10, 0.7), (-5, 0.85), (-5, 0.8), (5, 0.85), (5, 0.8), (10, 0.8), (10, 0.7))
# Whole width or height with a strip cut off at one end, where text bars lie.
_STRIPS = (0.92, 0.85, 0.78)


def hashes(luma: Luma) -> Bits:
    """The hashes (n, 32) of all windows of brightness (h, w), as they are and mirrored."""
    cosines = np.stack([pdq.quick(each).cosines for each in _windows(reduced(luma, _SIDE))])
    mirror = np.where(np.arange(cosines.shape[-1]) % 2 == 0, -1.0, 1.0)
    return pdq.packed(np.concatenate([cosines, cosines * mirror]))


def strips(luma: Luma) -> Iterator[Luma]:
    """The picture without a strip at one of its four sides."""
    height, width = luma.shape
    for share in _STRIPS:
        rows, columns = round(height * share), round(width * share)
        yield from (luma[:rows], luma[height - rows :], luma[:, :columns], luma[:, width - columns :])


def strip_hashes(luma: Luma) -> Bits:
    """The hashes (12, 32) of a training picture's strips, which the windows are compared with as well."""
    return pdq.packed(np.stack([pdq.quick(each).cosines for each in strips(reduced(luma, _SIDE))]))


def distance(asked: Bits, views: Bits) -> NDArray[np.int16]:
    """How far windows (a, 32) are from each of n pictures with views (n, v, 32), the nearest pair counts: (n,)."""
    count = len(views)
    apart = pdq.distances(asked, views.reshape(-1, views.shape[-1])).min(axis=0)
    return np.asarray(apart.reshape(count, -1).min(axis=1) if count else apart)


def _windows(luma: Luma) -> Iterator[Luma]:
    yield from (window(luma, share, 0.5, 0.5) for share in _MIDDLE)
    for share, x, y in product(_SPREAD, (0.0, 0.5, 1.0), (0.0, 0.5, 1.0)):
        if (x, y) != (0.5, 0.5):
            yield window(luma, share, x, y)
    yield from strips(luma)
    for angle, share in _SLANTED:
        turned = Image.fromarray(luma, mode="F").rotate(angle, resample=Image.Resampling.BILINEAR)
        yield window(np.asarray(turned), share, 0.5, 0.5)
