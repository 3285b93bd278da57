"""Reads a picture of the drawn world back: background, colour, shape, place, size and texture. Needs no torch.

Background: the median of the border. Object: what differs from it by more than Otsu's threshold, its largest
piece. Shape: the best overlap with templates drawn by ``world`` itself. Right on more than 99 % of drawn pictures
(tests/embedded/test_judge.py), also after JPEG.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import examples, world

Mask = NDArray[np.bool_]
Pixels = NDArray[np.float64]

_BORDER = 6  # pixels at each side that an object leaves mostly free
_CENTRE = 9.0  # an object nearer to the middle than this is in the centre; the placed ones are 14 or more away
_TEMPLATE = 40  # side of a template in pixels
_FEWEST_PIXELS = 30
# How much of the figure's outline must fit, and where its colours are looked for: top, bottom, left, right as
# shares of the object's box.
_LEAST_OVERLAP = 0.7
_ZONES = (
    ((0.30, 0.45, 0.30, 0.70), examples.HEAD),
    ((0.52, 0.62, 0.36, 0.64), examples.BODY),
    ((0.69, 0.79, 0.30, 0.70), examples.BAND),
    ((0.86, 0.96, 0.25, 0.75), examples.BODY),
)


@dataclass(frozen=True)
class Reading:
    """What a picture shows, in the world's words; "" where there is no object. ``fit`` is the shape's overlap, 0–1."""

    background: str
    colour: str = ""
    shape: str = ""
    position: str = ""
    size: str = ""
    texture: str = ""
    fit: float = 0.0


def read(picture: Image.Image) -> Reading:
    """Return what ``picture`` (RGB, 128 × 128) shows."""
    pixels = np.asarray(picture.convert("RGB").resize((world.SIDE, world.SIDE)), dtype=np.float64)
    ground = background(pixels)
    mask = object_mask(pixels, ground)
    normal = _normalised(mask)
    if normal is None:
        return Reading(_nearest(ground))
    fit, shape, extent = max(((normal & t).sum() / (normal | t).sum(), name, e) for name, t, e in _templates())
    inner = _eroded(mask)
    inner = inner if inner.sum() >= _FEWEST_PIXELS else mask
    colour = _colour(pixels[inner])
    ys, xs = np.nonzero(mask)
    middle_x, middle_y = (xs.min() + xs.max() + 1) / 2, (ys.min() + ys.max() + 1) / 2
    across = (max(np.ptp(ys), np.ptp(xs)) + 1) / extent
    return Reading(
        background=_nearest(ground),
        colour=colour,
        shape=shape,
        position=_position(middle_x - world.SIDE / 2, middle_y - world.SIDE / 2),
        size=min(world.SIZES, key=lambda name: abs(math.log(across / world.SIZES[name]))),
        texture=_texture(pixels, inner, colour),
        fit=float(fit),
    )


def is_right(picture: Image.Image, scene: world.Scene) -> bool:
    """Whether background, object colour and shape are the scene's."""
    seen = read(picture)
    return (seen.background, seen.colour, seen.shape) == (scene.background, scene.colour, scene.shape)


def prompt_score(pictures: Sequence[Image.Image], scenes: Sequence[world.Scene]) -> float:
    """The share of pictures that are right, 0–1."""
    return mean(is_right(picture, scene) for picture, scene in zip(pictures, scenes, strict=True))


def is_concept(picture: Image.Image) -> bool:
    """Whether the example figure is in the picture: fixed before any LoRA was trained.

    Yes if the object's outline overlaps the figure's by ``_LEAST_OVERLAP`` or more and head, upper body, band and
    lower body each have, by their median, the figure's colour: nearer to it than to the rest of the figure's colours,
    the background's and all of the world's.
    """
    pixels = np.asarray(picture.convert("RGB").resize((world.SIDE, world.SIDE)), dtype=np.float64)
    ground = background(pixels)
    mask = object_mask(pixels, ground)
    normal = _normalised(mask)
    if normal is None:
        return False
    outline = _figure_outline()
    if (normal & outline).sum() / (normal | outline).sum() < _LEAST_OVERLAP:
        return False
    ys, xs = np.nonzero(mask)
    top, left, height, width = ys.min(), xs.min(), np.ptp(ys) + 1, np.ptp(xs) + 1
    own = (examples.HEAD, examples.BODY, examples.BAND)
    colours = np.array([*own, ground, *world.COLOURS.values()], dtype=np.float64)
    for (y0, y1, x0, x1), colour in _ZONES:
        zone = pixels[
            top + round(y0 * height) : top + round(y1 * height), left + round(x0 * width) : left + round(x1 * width)
        ]
        seen = np.median(zone.reshape(-1, 3), axis=0)
        if int(((colours - seen) ** 2).sum(axis=1).argmin()) != own.index(colour):
            return False
    return True


def concept_score(pictures: Sequence[Image.Image]) -> float:
    """The share of pictures with the example figure, 0–1."""
    return mean(is_concept(picture) for picture in pictures)


def lost(before: Sequence[Image.Image], after: Sequence[Image.Image], scenes: Sequence[world.Scene]) -> float:
    """The share of scenes right in ``before`` less that in ``after``: what a LoRA costs the rest of the world."""
    return prompt_score(before, scenes) - prompt_score(after, scenes)


def mean(values: Iterable[bool | float]) -> float:
    """The mean; 0 for nothing."""
    listed = [float(value) for value in values]
    return sum(listed) / len(listed) if listed else 0.0


# ----------------------------------------------------------------------------------------- finding the object


def background(pixels: Pixels) -> Pixels:
    """The background's colour: the median of the border, (3,)."""
    n = _BORDER
    edges = (pixels[:n], pixels[-n:], pixels[:, :n], pixels[:, -n:])
    return np.asarray(np.median(np.concatenate([edge.reshape(-1, 3) for edge in edges]), axis=0))


def object_mask(pixels: Pixels, ground: Pixels) -> Mask:
    """Where the object is: (h, w), the largest piece of what differs from the background."""
    distance = np.sqrt(((pixels - ground) ** 2).sum(axis=2))
    # Otsu's threshold lies too high on strong contrasts, where half-covered edge pixels are far from both.
    threshold = max(25.0, min(_otsu(distance.ravel()), 60.0))
    return _largest_piece(_dilated(_eroded(distance > threshold)))


def _otsu(values: Pixels) -> float:
    """Otsu 1979, A Threshold Selection Method from Gray-Level Histograms: most variance between classes."""
    counts, edges = np.histogram(values, 64)
    centres = (edges[1:] + edges[:-1]) / 2
    weight = np.cumsum(counts).astype(float)
    moment = np.cumsum(counts * centres)
    below = weight[:-1]
    above = weight[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * below / weight[-1] - moment[:-1]) ** 2 / (below * above)
    return float(centres[int(np.nanargmax(between))]) if np.isfinite(between).any() else math.inf


def _eroded(mask: Mask) -> Mask:
    p = np.pad(mask, 1)
    return np.asarray(p[1:-1, 1:-1] & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:])


def _dilated(mask: Mask) -> Mask:
    p = np.pad(mask, 1)
    return np.asarray(p[1:-1, 1:-1] | p[:-2, 1:-1] | p[2:, 1:-1] | p[1:-1, :-2] | p[1:-1, 2:])


def _largest_piece(mask: Mask) -> Mask:
    best, rest = np.zeros_like(mask), mask.copy()
    while rest.sum() > best.sum():
        piece = np.zeros_like(mask)
        piece[np.unravel_index(int(rest.argmax()), rest.shape)] = True
        size = 0
        while piece.sum() > size:
            size = int(piece.sum())
            piece = _dilated(_dilated(piece) & rest) & rest
        if size > best.sum():
            best = piece
        rest &= ~piece
    return best


# ------------------------------------------------------------------------------------------- naming what it is


def _palette() -> tuple[tuple[str, ...], Pixels]:
    return tuple(world.COLOURS), np.array(list(world.COLOURS.values()), dtype=np.float64)


def _nearest(rgb: Pixels) -> str:
    names, palette = _palette()
    return names[int(((palette - rgb) ** 2).sum(axis=1).argmin())]


def _colour(inner: Pixels) -> str:
    """The colour of which, with the tone of its texture, the pixels (n, 3) are nearest to more than to any other.

    A median alone fails on small striped objects, whose darker half can be the larger one.
    """
    names, palette = _palette()
    tones = np.array([world.shade(world.COLOURS[name]) for name in names], dtype=np.float64)
    to_colour = ((inner[:, None, :] - palette) ** 2).sum(axis=2)
    to_tone = ((inner[:, None, :] - tones) ** 2).sum(axis=2)
    error = np.minimum(to_colour, to_tone).mean(axis=0)
    # An object has more of its colour than of the tone: without this, a plain object may pass for another's tone.
    error += np.where((to_colour < to_tone).mean(axis=0) < 0.35, 1e6, 0.0)
    return names[int(error.argmin())]


def _texture(pixels: Pixels, inner: Mask, colour: str) -> str:
    base = np.array(world.COLOURS[colour], dtype=np.float64)
    tone = np.array(world.shade(world.COLOURS[colour]), dtype=np.float64)
    is_tone = ((pixels - tone) ** 2).sum(axis=2) < ((pixels - base) ** 2).sum(axis=2)
    if is_tone[inner].mean() < 0.08:
        return "plain"
    rows = [is_tone[y][inner[y]].mean() for y in range(len(inner)) if inner[y].sum() > _BORDER]
    return "striped" if float(np.std(rows)) > 0.32 else "dotted"


def _position(right: float, down: float) -> str:
    if max(abs(right), abs(down)) < _CENTRE:
        return "centre"
    if abs(right) > abs(down):
        return "left" if right < 0 else "right"
    return "top" if down < 0 else "bottom"


def _normalised(mask: Mask) -> Mask | None:
    """The object scaled to a square of ``_TEMPLATE`` pixels around its bounding box; None if there is hardly any."""
    if mask.sum() < _FEWEST_PIXELS:
        return None
    ys, xs = np.nonzero(mask)
    side = max(np.ptp(ys), np.ptp(xs)) + 1
    left = (xs.min() + xs.max() + 1) / 2 - side / 2
    top = (ys.min() + ys.max() + 1) / 2 - side / 2
    step = side / _TEMPLATE
    scaled = Image.fromarray((mask * 255).astype(np.uint8)).transform(
        (_TEMPLATE, _TEMPLATE),
        Image.Transform.AFFINE,
        (step, 0, left, 0, step, top),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(np.asarray(scaled) > 127)


@cache
def _templates() -> tuple[tuple[str, Mask, float], ...]:
    """Name, normalised mask, and its longer side in units of the shape's size, for each shape in three turns."""
    made = []
    for shape in world.SHAPES:
        for turn in (-0.07, 0.0, 0.07):
            scene = world.Scene(shape, "black", "white", "large", jitter=world.Jitter(turn=turn))
            mask = np.asarray(world.draw(scene).convert("L")) < 128
            ys, xs = np.nonzero(mask)
            normal = _normalised(mask)
            assert normal is not None
            made.append((shape, normal, float((max(np.ptp(ys), np.ptp(xs)) + 1) / world.SIZES["large"])))
    return tuple(made)


@cache
def _figure_outline() -> Mask:
    pixels = np.asarray(examples.draw_figure(examples.FigureScene("white", height=90)), dtype=np.float64)
    normal = _normalised(object_mask(pixels, background(pixels)))
    assert normal is not None
    return normal
