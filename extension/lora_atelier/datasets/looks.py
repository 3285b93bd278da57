"""How a picture looks, in a few numbers: is it blurred, and which others are nearly the same. Needs no torch."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageStat

# Sides that a picture is brought to: for its edges, and for its fingerprint.
_EDGES_SIDE = 384
_SIDE = 8
# Colours of areas alone say nothing where all areas are alike, as in noise and textures: there the details must agree
# as well, how each of 16 × 16 areas differs from the square of four that it is in. Copies at two thirds of the size,
# JPEG of quality 60, correlate by 0.99 (photographs, drawings) or 0.58 and more (noise), two pictures of one noise by
# 0.12 at most. What has less contrast than the least (of 255) has no details to compare.
_DETAILS_SIDE = 16
_GREY_SIDE = 256
_COLOURS = 3 * _SIDE * _SIDE
_SAME_DETAILS = 0.35
_LEAST_CONTRAST = 0.05
# Fingerprints (8 × 8 pixels, RGB, 0 to 255) that differ by less on average are of nearly the same picture: other sizes
# and JPEG qualities stay below 2.5, two figures of ``examples`` on one ground at different places are 3.7 apart.
_ALIKE = 3.0
# Below this ratio of its finest details to the coarser ones a picture is blurred. Measured on the photographs in
# ``examples``: 0.25 (a soft one) to 1.0, the same behind a Gaussian of 3 pixels in 512 0.06 to 0.15; drawings 0.3.
BLURRED = 0.15


@dataclass(frozen=True)
class Look:
    """``detail``: how much of a picture's detail is in its finest scale, 0 (blurred) to about 1; ``print`` is its
    fingerprint as hexadecimal."""

    detail: float
    print: str


def look(image: Image.Image) -> Look:
    """How a picture looks; transparency counts as white."""
    flat = image
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        flat = Image.new("RGB", rgba.size, "white")
        flat.paste(rgba, mask=rgba.getchannel("A"))
    flat = flat.convert("RGB")
    # BOX averages whole areas, so that the same picture in another size comes to the same pixels.
    small = flat.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return Look(round(_detail(flat), 4), (small.tobytes() + _details(flat)).hex())


def _detail(image: Image.Image) -> float:
    """The mean difference to a slightly softened copy over that of a softened copy to a softer one.

    A blurred picture hardly changes when it is softened a little, and still does when it is softened more. 1 for a
    picture without any detail, which is flat and not blurred.
    """
    grey = image.convert("L")
    grey.thumbnail((_EDGES_SIDE, _EDGES_SIDE), Image.Resampling.BOX)
    soft = grey.filter(ImageFilter.GaussianBlur(1))
    softer = grey.filter(ImageFilter.GaussianBlur(3))
    fine = ImageStat.Stat(ImageChops.difference(grey, soft)).mean[0]
    coarse = ImageStat.Stat(ImageChops.difference(soft, softer)).mean[0]
    return fine / coarse if coarse > 0.1 else 1.0


def _details(image: Image.Image) -> bytes:
    """How much brighter each area is than the square of four that it is in, 128 for as bright: 16 × 16 bytes, scaled to
    the largest difference; all 128 where there is hardly any."""
    grey = image.convert("L").resize((_GREY_SIDE, _GREY_SIDE), Image.Resampling.BOX).convert("F")
    areas = grey.resize((_DETAILS_SIDE, _DETAILS_SIDE), Image.Resampling.BOX)
    squares = areas.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    values, means = areas.tobytes(), squares.tobytes()
    found = [
        struct.unpack_from("=f", values, 4 * (row * _DETAILS_SIDE + column))[0]
        - struct.unpack_from("=f", means, 4 * (row // 2 * _SIDE + column // 2))[0]
        for row in range(_DETAILS_SIDE)
        for column in range(_DETAILS_SIDE)
    ]
    if math.sqrt(sum(value * value for value in found) / len(found)) < _LEAST_CONTRAST:
        return bytes([128]) * len(found)
    most = max(map(abs, found))
    return bytes(128 + round(127 * value / most) for value in found)


def near_duplicates(prints: Mapping[str, str]) -> dict[str, str]:
    """Each picture that looks like an earlier one -> the name of that one; names in the order of ``prints``."""
    pixels = {name: _pixels(text) for name, text in prints.items()}
    names = [name for name, of_it in pixels.items() if len(of_it) == _COLOURS + _DETAILS_SIDE**2]
    if not names:
        return {}
    table = np.frombuffer(b"".join(pixels[name] for name in names), np.uint8).reshape(len(names), -1)
    colours = table[:, :_COLOURS].astype(np.int16)
    means = colours.reshape(len(names), -1, 3).mean(axis=1, dtype=np.float32)
    details = table[:, _COLOURS:].astype(np.float32) - 128
    sizes = np.linalg.norm(details, axis=1)
    # Two that are both without any detail agree in it, as if they had the same one.
    details = np.where(sizes[:, None] > 0, details / np.maximum(sizes, 1)[:, None], details.shape[1] ** -0.5)
    twins = np.zeros(len(names), bool)
    found: dict[str, str] = {}
    for at in range(1, len(names)):
        # Means are no farther apart than the pixels that they are of: few pictures are left to compare.
        near = np.flatnonzero(~twins[:at] & (np.abs(means[:at] - means[at]).sum(axis=1) < 3 * _ALIKE))
        near = near[np.abs(colours[near] - colours[at]).sum(axis=1) < _ALIKE * _COLOURS]
        near = near[(details[near] @ details[at] >= _SAME_DETAILS) & ((sizes[near] > 0) == (sizes[at] > 0))]
        if len(near):
            found[names[at]] = names[near[0]]
            twins[at] = True
    return found


def _pixels(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
