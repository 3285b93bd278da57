"""Corners of a picture and what surrounds them, to find one picture inside another: cropped, turned, pasted, framed.

A small scale-space of our own in numpy, because webuis need not have OpenCV. A picture is found in another if many of
its corners have a counterpart there and one similarity (turn, scale, shift) explains them.

Sources: Harris & Stephens 1988, A Combined Corner and Edge Detector (where corners are); Lowe 2004, Distinctive Image
Features from Scale-Invariant Keypoints (turn, descriptor, ratio test, one match gives a similarity).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .fingerprints import reduced
from .pdq import Luma

Array = NDArray[np.float32]

# The longer side at which a training picture and an output are looked at, and how many corners each may have.
TRAINING_SIDE, TRAINING_POINTS = 320, 320
OUTPUT_SIDE, OUTPUT_POINTS = 512, 800
_SCALE_STEP = 2**0.5
_SMALLEST_LEVEL = 32  # pixels
_BINS, _CELLS, _SAMPLES = 8, 4, 16  # of direction; cells and samples along a side of what surrounds a corner
_RATIO = 0.9  # the second best match must be this much worse
_REACH = 12  # pixels from a corner to the picture's edge, at its level
_CELL = 12.0  # matches within one square of this many pixels of the training picture count once
_TOLERANCE = 4.0  # pixels of the training picture; thrice that before the fit is refined
_SCALES = (0.15, 6.0)
_HARRIS = 0.05
# From so many agreeing places on two pictures are compared block by block; with so many blocks alike, and this share of
# all, one lies in the other. Other drawings of one template reach a share of 0.76, pictures pasted or cropped lie about
# 0.9 and above.
LEAST, BLOCKS, SHARE = 10, 12, 0.85
# From so many places and this share on a pair is worth looking at.
FLAG, FLAG_SHARE = 14, 0.72
# Where hashes leave doubt, both pictures are laid upon each other: what a model drew again reaches 0.8, another drawing
# of the same kind 0.3, of the same template 0.55; from the second share on a pair is worth looking at.
IN_PLACE, FLAG_IN_PLACE = 0.7, 0.6
# Blocks of a picture are compared where their brightness spreads by so much, and are alike from this correlation on.
_BLOCK, _LEAST_SPREAD, _ALIKE = 16, 4.0, 0.6


@dataclass(frozen=True, eq=False)
class Points:
    """n corners: x and y in pixels (n, 2), size of a pixel at their level (n,), direction (n,), what surrounds them
    (n, 128)."""

    places: Array
    sizes: Array
    angles: Array
    descriptors: Array

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def near(self) -> Array:
        """2 where a corner is too near another to be its rival, else 0, (n, n): one place found at two levels."""
        x, y = self.places[:, 0], self.places[:, 1]
        apart = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2
        return np.asarray(np.where(apart < (8 * self.sizes[:, None]) ** 2, 2, 0), dtype=np.float32)


def of_training(luma: Luma) -> Points:
    """The corners of a training picture's brightness (h, w)."""
    return find(reduced(luma, TRAINING_SIDE), TRAINING_POINTS)


def of_output(luma: Luma) -> Points:
    """The corners of an output's brightness (h, w)."""
    return find(reduced(luma, OUTPUT_SIDE), OUTPUT_POINTS)


def find(luma: Luma, most: int) -> Points:
    """The strongest corners, shared out among the levels of scale by their area."""
    levels = _levels(luma)
    if not levels:
        none = np.empty((0, 2), np.float32)
        return Points(none, none[:, 0], none[:, 0], np.empty((0, _CELLS * _CELLS * _BINS), np.float32))
    areas = np.array([level.size for level, _ in levels], dtype=float)
    shares = np.maximum(8, most * areas / areas.sum()).astype(int)
    found = [_level_points(level, pixel, int(share)) for (level, pixel), share in zip(levels, shares, strict=True)]
    return Points(
        np.concatenate([each.places for each in found]),
        np.concatenate([each.sizes for each in found]),
        np.concatenate([each.angles for each in found]),
        np.concatenate([each.descriptors for each in found]),
    )


@dataclass(frozen=True, eq=False)
class Agreement:
    """How many places of a training picture are found again in an output, and the affine map (3, 2) that moves them.

    Both in pixels of the sizes at which they are looked at.
    """

    count: int
    moves: Array | None = None


def agreement(training: Points, output: Points) -> Agreement:
    """The map that explains most of the corners that both pictures have."""
    if len(training) < 4 or len(output) < 4:
        return Agreement(0)
    ours, theirs = _matches(training, output)
    if len(ours) < 4:
        return Agreement(0)
    start, end = training.places[ours], output.places[theirs]
    best = _voted(training, output, ours, theirs)
    fitted = None
    for _ in range(3):
        fitted = _affine(start[best], end[best])
        if fitted is None:
            return Agreement(0)
        moved = start @ fitted[:2] + fitted[2]
        scale = float(np.sqrt(abs(np.linalg.det(fitted[:2]))))
        best = np.linalg.norm(moved - end, axis=1) < _TOLERANCE * max(scale, 0.25)
        if best.sum() < 4:
            return Agreement(0)
    return Agreement(_places(start[best], end[best]), fitted)


@dataclass(frozen=True)
class Overlap:
    """Where a training picture lies in an output: how many of its blocks look the same there, and which share of those
    that lie in the output and have something to see."""

    blocks: int
    share: float


def overlap(training: Luma, output: Luma, moves: Array) -> Overlap:
    """Compare a training picture with what lies at its place in the output, block by block.

    Corners alone agree for two drawings of one face too; their surroundings then do not. Blocks are compared by the
    correlation of brightness, so that colour and contrast may differ. Both as ``of_training`` and ``of_output`` look at
    them.
    """
    inside, seen = _seen_there(training, output, moves)
    ours, theirs, valid = (_blocks(each) for each in (_smoothed(training, 1.5), seen, inside.astype(np.float32)))
    ours, theirs = (each - each.mean(axis=1, keepdims=True) for each in (ours, theirs))
    spread = np.sqrt((ours**2).mean(axis=1))
    told = (valid.min(axis=1) > 0) & (spread > _LEAST_SPREAD)
    both = np.sqrt((ours**2).sum(axis=1) * (theirs**2).sum(axis=1)) + 1e-6
    alike = told & (np.abs((ours * theirs).sum(axis=1)) / both > _ALIKE)
    return Overlap(int(alike.sum()), float(alike.sum() / max(1, told.sum())))


def in_place(training: Luma, output: Luma) -> Overlap:
    """Compare a training picture with an output that shows the same from edge to edge, whatever the sizes."""
    size = (training.shape[1], training.shape[0])
    fitted = np.asarray(Image.fromarray(output, mode="F").resize(size, Image.Resampling.BILINEAR))
    return overlap(training, fitted, np.array([[1, 0], [0, 1], [0, 0]], np.float32))


def _seen_there(training: Luma, output: Luma, moves: Array) -> tuple[NDArray[np.bool_], Luma]:
    """The output as the training picture's pixels see it (h, w), and where that is in the output at all."""
    scale = float(np.sqrt(abs(np.linalg.det(moves[:2]))))
    smooth = _smoothed(output, max(0.5, 1.5 * scale)) if scale > 0.4 else output
    y, x = np.mgrid[: training.shape[0], : training.shape[1]]
    places = np.stack([x.ravel() + 0.5, y.ravel() + 0.5], axis=1) @ moves[:2] + moves[2] - 0.5
    column, row = np.rint(places).astype(np.intp).T
    inside = (column >= 0) & (row >= 0) & (column < output.shape[1]) & (row < output.shape[0])
    seen = smooth[np.clip(row, 0, output.shape[0] - 1), np.clip(column, 0, output.shape[1] - 1)]
    return inside.reshape(training.shape), np.asarray(seen.reshape(training.shape))


def _blocks(values: Luma) -> Array:
    """The whole blocks of (h, w) as rows: (n, block²)."""
    rows, columns = (side // _BLOCK for side in values.shape)
    cut = values[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    return np.ascontiguousarray(cut.transpose(0, 2, 1, 3)).reshape(rows * columns, _BLOCK * _BLOCK)


def _levels(luma: Luma) -> list[tuple[Luma, float]]:
    """The picture at ever smaller sizes, with how many pixels of the picture one pixel is."""
    if min(luma.shape) < _SMALLEST_LEVEL:
        return []
    levels, pixel = [], 1.0
    picture = Image.fromarray(luma, mode="F")
    while True:
        size = (round(luma.shape[1] / pixel), round(luma.shape[0] / pixel))
        if min(size) < _SMALLEST_LEVEL:
            break
        level = luma if pixel == 1.0 else np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
        levels.append((_smoothed(level, 1.0), pixel))
        pixel *= _SCALE_STEP
    return levels


def _level_points(level: Luma, pixel: float, most: int) -> Points:
    across, down = _gradient(level)
    where = _corners(across, down, most)
    angles = _directions(across, down, where)
    return Points(
        ((where + 0.5) * pixel).astype(np.float32),
        np.full(len(where), pixel, np.float32),
        angles,
        _descriptors(across, down, where, angles),
    )


def _corners(across: Array, down: Array, most: int) -> Array:
    """The x and y (n, 2) of the strongest corners of a level, each the strongest of its neighbourhood."""
    xx, yy, xy = (_smoothed(product, 1.5) for product in (across * across, down * down, across * down))
    strength = xx * yy - xy * xy - _HARRIS * (xx + yy) ** 2
    inner = strength[_REACH:-_REACH, _REACH:-_REACH]
    if min(inner.shape, default=0) < 3:
        return np.empty((0, 2), np.float32)
    around = _neighbourhood_maximum(inner, 2)
    ys, xs = np.nonzero((inner >= around) & (inner > 1.0))
    strongest = np.argsort(inner[ys, xs])[::-1][:most]
    return np.stack([xs[strongest], ys[strongest]], axis=1).astype(np.float32) + _REACH


def _neighbourhood_maximum(values: Array, reach: int) -> Array:
    out = values
    for axis in (0, 1):
        padded = np.pad(out, [(reach, reach) if at == axis else (0, 0) for at in (0, 1)], mode="edge")
        length = out.shape[axis]
        out = np.max([np.take(padded, range(at, at + length), axis=axis) for at in range(2 * reach + 1)], axis=0)
    return out


def _directions(across: Array, down: Array, where: Array) -> Array:
    """The main direction of the gradient around each corner, radians (n,)."""
    offsets, weights = _disc()
    rows = (where[:, None, 1] + offsets[None, :, 1]).astype(np.intp)
    columns = (where[:, None, 0] + offsets[None, :, 0]).astype(np.intp)
    gx, gy = across[rows, columns], down[rows, columns]
    bins = 36
    size = np.hypot(gx, gy) * weights
    place = (np.arctan2(gy, gx) % (2 * np.pi)) / (2 * np.pi) * bins
    at = place.astype(np.intp) % bins + np.arange(len(where))[:, None] * bins
    rough = np.bincount(at.ravel(), size.ravel(), minlength=len(where) * bins).reshape(-1, bins)
    shares = ((-2, 1), (-1, 4), (0, 6), (1, 4), (2, 1))
    histogram = np.sum([np.roll(rough, shift, axis=1) * share for shift, share in shares], axis=0)
    peak = histogram.argmax(axis=1)
    each = np.arange(len(where))
    before, top, after = (histogram[each, (peak + shift) % bins] for shift in (-1, 0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num(0.5 * (before - after) / (before - 2 * top + after))
    return np.asarray((peak + 0.5 + between) / bins * 2 * np.pi, dtype=np.float32)


def _descriptors(across: Array, down: Array, where: Array, angles: Array) -> Array:
    """What surrounds each corner, turned by its direction: 4 × 4 cells of 8 directions, of length 1: (n, 128)."""
    if not len(where):
        return np.empty((0, _CELLS * _CELLS * _BINS), np.float32)
    grid, cells, weights = _sample_grid()
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x = where[:, 0, None] + grid[:, 0] * cosine - grid[:, 1] * sine
    y = where[:, 1, None] + grid[:, 0] * sine + grid[:, 1] * cosine
    columns = np.clip(np.rint(x), 0, across.shape[1] - 1).astype(np.intp)
    rows = np.clip(np.rint(y), 0, across.shape[0] - 1).astype(np.intp)
    gx, gy = across[rows, columns], down[rows, columns]
    size = np.hypot(gx, gy) * weights
    place = ((np.arctan2(gy, gx) - angles[:, None]) % (2 * np.pi)) / (2 * np.pi) * _BINS
    lower = place.astype(np.intp) % _BINS
    share = place - np.floor(place)
    # (n, 256 samples) @ (256, 16 cells) for each direction: a sample counts in the cells around it.
    made = np.empty((len(where), _CELLS * _CELLS, _BINS), np.float32)
    for at in range(_BINS):
        part = size * (np.where(lower == at, 1 - share, 0) + np.where((lower + 1) % _BINS == at, share, 0))
        made[:, :, at] = part.astype(np.float32) @ cells
    flat = made.reshape(len(where), -1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6
    flat = np.minimum(flat, 0.2)
    return np.asarray(flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6), dtype=np.float32)


def _matches(training: Points, output: Points) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which corner of the training picture is most like which of the output, where the next best is less so."""
    likeness = training.descriptors @ output.descriptors.T
    best = likeness.argmax(axis=1)
    each = np.arange(len(training))
    top = likeness[each, best]
    second = (likeness - output.near[best]).max(axis=1)
    apart, next_apart = np.sqrt(np.maximum(0, 2 - 2 * top)), np.sqrt(np.maximum(0, 2 - 2 * second))
    kept = np.flatnonzero(apart < _RATIO * next_apart)
    return kept, best[kept]


def _voted(training: Points, output: Points, ours: NDArray[np.intp], theirs: NDArray[np.intp]) -> NDArray[np.bool_]:
    """The matches (m,) that agree with the similarity that most of them agree with; each match proposes one."""
    start, end = training.places[ours], output.places[theirs]
    scale = output.sizes[theirs] / training.sizes[ours]
    turn = output.angles[theirs] - training.angles[ours]
    cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
    dx, dy = start[None, :, 0] - start[:, None, 0], start[None, :, 1] - start[:, None, 1]
    x = end[:, None, 0] + cosine[:, None] * dx - sine[:, None] * dy
    y = end[:, None, 1] + sine[:, None] * dx + cosine[:, None] * dy
    apart = np.hypot(x - end[None, :, 0], y - end[None, :, 1])
    # A corner's own direction and level are rough: what lies far from it may be off by more.
    allowed = (3 * _TOLERANCE + 0.1 * np.hypot(dx, dy)) * np.maximum(scale, 0.25)[:, None]
    agrees = (apart < allowed) & (np.abs(np.log(scale[None, :] / scale[:, None])) < 0.8)
    return np.asarray(agrees[agrees.sum(axis=1).argmax()])


def _affine(start: Array, end: Array) -> Array | None:
    """The map (3, 2) of least squares from one set of places to the other; None if it squeezes or shears too much."""
    if len(start) < 4:
        return None
    fitted, *_ = np.linalg.lstsq(np.column_stack([start, np.ones(len(start))]), end, rcond=None)
    large, small = np.linalg.svd(fitted[:2], compute_uv=False)
    if not (_SCALES[0] < small and large < _SCALES[1] and large < 2 * small) or np.linalg.det(fitted[:2]) <= 0:
        return None
    return np.asarray(fitted)


def _places(start: Array, end: Array) -> int:
    """How many squares of the training picture, and no more than of the output, the matches lie in."""
    return min(len(np.unique(np.floor(each / _CELL), axis=0)) for each in (start, end))


def _gradient(level: Luma) -> tuple[Array, Array]:
    found = [np.asarray(np.gradient(level, axis=axis), dtype=np.float32) for axis in (1, 0)]
    return found[0], found[1]


def _smoothed(values: Array, sigma: float) -> Array:
    reach = int(np.ceil(2.5 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(values, [(reach, reach) if at == axis else (0, 0) for at in (0, 1)], mode="edge")
        length, values = values.shape[axis], np.zeros_like(values)
        for at, part in enumerate(kernel):
            cut = (slice(at, at + length), slice(None))
            values += padded[cut if axis == 0 else cut[::-1]] * part
    return values


@lru_cache(maxsize=1)
def _disc() -> tuple[Array, Array]:
    """Whole-pixel offsets (m, 2) around a corner, and their weights (m,)."""
    y, x = np.mgrid[-8:9, -8:9]
    inside = np.hypot(x, y) <= 8
    offsets = np.stack([x[inside], y[inside]], axis=1).astype(np.float32)
    return offsets, np.exp(-(offsets**2).sum(axis=1) / (2 * 4.0**2)).astype(np.float32)


@lru_cache(maxsize=1)
def _sample_grid() -> tuple[Array, Array, Array]:
    """Offsets (256, 2) of the samples, how much each counts in each cell (256, 16), and its weight (256,)."""
    line = np.arange(_SAMPLES) - (_SAMPLES - 1) / 2
    x, y = (each.ravel() for each in np.meshgrid(line, line))
    centres = (np.arange(_CELLS) - (_CELLS - 1) / 2) * (_SAMPLES / _CELLS)
    along = [np.maximum(0, 1 - np.abs(each[:, None] - centres) / (_SAMPLES / _CELLS)) for each in (x, y)]
    cells = (along[1][:, :, None] * along[0][:, None, :]).reshape(len(x), -1)
    weights = np.exp(-(x**2 + y**2) / (2 * (_SAMPLES / 2) ** 2))
    return np.stack([x, y], axis=1).astype(np.float32), cells.astype(np.float32), weights.astype(np.float32)
