"""PDQ, the perceptual hash: 256 bits of a picture's coarse brightness.

``standard`` equals Meta's own code bit for bit, down to the order in which 32-bit numbers are added: in flat or
symmetric pictures, whose frequencies are near nothing, that order decides bits. ``quick`` is the same formula as two
matrix products; it differs in such bits alone.

Source: Meta, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Luma = NDArray[np.float32]
Bits = NDArray[np.uint8]
Real = NDArray[np.floating[Any]]

BITS = 256
BYTES = BITS // 8
_SIDE = 64  # pixels of the picture that is transformed
_FREQUENCIES = 16
_SMALLEST = 5  # a side below this has no hash
_WEIGHTS = np.array([0.299, 0.587, 0.114])  # of red, green and blue in brightness


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Pdq:
    """The transform (16, 16) that a hash is made from, and how much there is to see in the picture: 0 to 100.

    Below 50 the bits are mostly noise: a picture almost without edges.
    """

    cosines: Real
    quality: int

    @property
    def bits(self) -> Bits:
        """The hash, packed (32,), highest frequency first, as PDQ's hexadecimal text has it."""
        return packed(self.cosines[None])[0]

    def dihedral(self) -> Bits:
        """The hashes (8, 32) of the picture as it is, mirrored, and both turned by 90, 180 and 270 degrees."""
        return packed(turned(self.cosines))


def luma(picture: Image.Image) -> Luma:
    """Brightness (h, w), 0 to 255; what is transparent is white."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        above = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    pixels = np.asarray(picture.convert("RGB"))
    # In this order and precision, because a bit can hang on the last place of a number.
    red, green, blue = (pixels[..., at] * weight for at, weight in enumerate(_WEIGHTS))
    return np.asarray((red + green + blue).astype(np.float32))


def standard(brightness: Luma) -> Pdq:
    """The transform and quality of a picture's brightness (h, w), as every other PDQ has them."""
    height, width = brightness.shape
    if min(height, width) < _SMALLEST:
        return Pdq(np.zeros((_FREQUENCIES, _FREQUENCIES)), 0)
    filtered = brightness
    for _ in range(2):
        filtered = _box_filtered(_box_filtered(filtered.T).T)
    small = filtered[_chosen(height)][:, _chosen(width)]
    cosines = _cosines().astype(np.float32)
    return Pdq(_summed_in_order(_summed_in_order(cosines, small), cosines.T), _quality(small))


def quick(brightness: Luma) -> Pdq:
    """Nearly ``standard``, several times faster."""
    height, width = brightness.shape
    if min(height, width) < _SMALLEST:
        return Pdq(np.zeros((_FREQUENCIES, _FREQUENCIES)), 0)
    small = _reduced(_reduced(brightness).T).T
    return Pdq(_cosines() @ small @ _cosines().T, _quality(small))


def packed(cosines: Real) -> Bits:
    """Transforms (n, 16, 16) -> hashes (n, 32): a bit says whether a frequency is above the median of all."""
    flat = cosines.reshape(len(cosines), BITS).astype(np.float32)
    # PDQ's median of an even number of values is the lower one of the middle two.
    median = np.partition(flat, BITS // 2 - 1, axis=1)[:, BITS // 2 - 1 : BITS // 2]
    return np.packbits((flat > median)[:, ::-1], axis=1)


def turned(cosines: Real) -> Real:
    """The transforms (8, 16, 16) of a picture in its eight positions, without the picture.

    Mirroring changes the sign of every odd frequency along its axis (the first one here is frequency 1).
    """
    signs = np.where(np.arange(_FREQUENCIES) % 2 == 0, -1.0, 1.0)
    quarter = [cosines]
    for _ in range(3):
        quarter.append((quarter[-1] * signs[None, :]).T)
    return np.stack([*quarter, *(each * signs[None, :] for each in quarter)])


def distances(one: Bits, other: Bits) -> NDArray[np.int16]:
    """How many bits differ: (a, 32) and (b, 32) -> (a, b)."""
    differing = as_words(one)[:, None, :] ^ as_words(other)[None, :, :]
    return np.asarray(count_bits(differing).sum(axis=-1, dtype=np.int16))


def as_words(hashes: Bits) -> NDArray[np.uint64]:
    """The same bits (..., 32) as (..., 4) words of 64."""
    return np.ascontiguousarray(hashes).view(np.uint64)


def count_bits(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """How many bits are set in each word."""
    if hasattr(np, "bitwise_count"):  # numpy 2; webuis also have 1.26
        return np.asarray(np.bitwise_count(words))
    counted = _bits_of_16()[words[..., None].view(np.uint16)]
    return np.asarray(counted.sum(axis=-1, dtype=np.uint8))


@lru_cache(maxsize=1)
def _bits_of_16() -> NDArray[np.uint8]:
    numbers = np.arange(1 << 16, dtype=np.uint16)
    return np.asarray(np.unpackbits(numbers.view(np.uint8).reshape(-1, 2), axis=1).sum(axis=1, dtype=np.uint8))


def _quality(small: Real) -> int:
    """The sum of the steps between neighbours of (64, 64), scaled so that a picture with enough of them has 100."""
    steps = sum(
        int(np.abs(np.trunc((a - b) * np.float32(100) / np.float32(255))).sum())
        for a, b in ((small[:-1], small[1:]), (small[:, :-1], small[:, 1:]))
    )
    return min(100, steps // 90)


def _window(side: int) -> tuple[int, int]:
    """The width of the box filter along a side, and how far it reaches to the right, the middle included.

    Windows of even width reach one pixel further to the right than to the left.
    """
    width = (side + 2 * _SIDE - 1) // (2 * _SIDE)
    return width, (width + 2) // 2


def _chosen(side: int) -> NDArray[np.intp]:
    return np.asarray(((np.arange(_SIDE) + 0.5) * side / _SIDE).astype(np.intp))


def _box_filtered(values: Luma) -> Luma:
    """The running mean along the first axis of (n, m); the window is cut off at both ends."""
    values = np.ascontiguousarray(values)
    width, right = _window(len(values))
    out, total = np.empty_like(values), np.zeros(values.shape[1], np.float32)
    for at in range(-(right - 1), len(values)):
        entering, leaving = at + right - 1, at - (width - right) - 1
        if entering < len(values):
            total += values[entering]
        if leaving >= 0:
            total -= values[leaving]
        if at >= 0:
            count = min(entering, len(values) - 1) - max(leaving, -1)
            np.divide(total, np.float32(count), out=out[at])
    return out


def _summed_in_order(one: Luma, other: Luma) -> Luma:
    """The product (a, k) (k, b) -> (a, b), each sum made from the first term to the last in 32 bits."""
    total = np.zeros((one.shape[0], other.shape[1]), np.float32)
    for at in range(one.shape[1]):
        total += one[:, at, None] * other[None, at, :]
    return total


def _reduced(values: Luma) -> Luma:
    """Two box filters along the first axis and the choice of 64 rows: (n, m) -> (64, m).

    Band by band and not as a matrix product: that would wake the threads of numpy's library, which on busy cores wait
    for each other a hundred times longer than there is to compute.
    """
    first, weights = _reduction(len(values))
    total = np.zeros((_SIDE, values.shape[1]), np.float32)
    for at in range(weights.shape[1]):
        total += weights[:, at, None] * values[first + at]
    return total


@lru_cache(maxsize=256)
def _reduction(side: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Where the band of each of the 64 rows begins, (64,), and its weights, (64, k): zero beyond the band."""
    width, right = _window(side)
    at = np.arange(side)
    start, end = np.maximum(0, at - (width - right)), np.minimum(side, at + right)
    inside = (at[None, :] >= start[:, None]) & (at[None, :] < end[:, None])
    box = inside / (end - start)[:, None]
    whole = (box[_chosen(side)] @ box).astype(np.float32)
    band = min(side, 2 * width)
    first = np.minimum(np.argmax(whole > 0, axis=1), side - band)
    return first, np.take_along_axis(whole, first[:, None] + np.arange(band)[None, :], axis=1)


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    """The frequencies 1 to 16 of the cosine transform (DCT-II) of 64 values: (16, 64)."""
    frequency = np.arange(1, _FREQUENCIES + 1)[:, None]
    scale = float(np.float32(np.sqrt(2 / _SIDE)))
    return scale * np.cos(np.pi / 2 / _SIDE * frequency * (2 * np.arange(_SIDE)[None, :] + 1))
