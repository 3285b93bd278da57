"""Aspect buckets: which size a picture is trained at, and how much of it is cut off. The rules are sd-scripts'."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import DatasetConfig

Size = tuple[int, int]


@dataclass(frozen=True)
class Framing:
    """How a picture becomes its bucket: scaled to ``resized``, of which ``bucket`` is cut out; all (width, height)."""

    bucket: Size
    resized: Size

    @property
    def room(self) -> Size:
        """How far the cut can be moved from the upper left corner."""
        return self.resized[0] - self.bucket[0], self.resized[1] - self.bucket[1]

    @property
    def centre(self) -> Size:
        """The upper left corner (x, y) of the cut around the middle."""
        return self.room[0] // 2, self.room[1] // 2


def sizes(dataset: DatasetConfig) -> list[Size]:
    """All buckets, narrowest first: sides in steps between the limits, as large as the resolution's area lets them.

    For each width the largest height, and the mirror image. The shortest side is rounded down to whole steps, the
    longest up.
    """
    if not dataset.enable_bucket:
        return [dataset.resolution]
    step, area = dataset.bucket_reso_steps, dataset.resolution[0] * dataset.resolution[1]
    side = max(step, int(math.sqrt(area)) // step * step)
    shortest = max(step, dataset.min_bucket_reso // step * step)
    longest = -(-dataset.max_bucket_reso // step) * step
    found = {(side, side)}
    for width in range(shortest, longest + 1, step):
        height = min(longest, area // width) // step * step
        if height >= shortest:
            found |= {(width, height), (height, width)}
    return sorted(found)


def choose(width: int, height: int, dataset: DatasetConfig) -> Size:
    """The bucket of a picture of this size; see ``frame``."""
    return frame(width, height, dataset).bucket


def frame(width: int, height: int, dataset: DatasetConfig) -> Framing:
    """The bucket whose width / height is nearest to the picture's, and the size that covers it with the least loss.

    Of two that are equally near the narrower; a picture that has a bucket's very size keeps it. With
    ``bucket_no_upscale`` a picture is never enlarged and has a bucket of its own.
    """
    if dataset.enable_bucket and dataset.bucket_no_upscale:
        return _own_size(width, height, dataset)
    shape, made = width / height, sizes(dataset)
    bucket = (width, height)
    if bucket not in made:
        bucket = min(made, key=lambda size: abs(size[0] / size[1] - shape))
    return cover(width, height, bucket)


def cover(width: int, height: int, bucket: Size) -> Framing:
    """The smallest size of the picture's shape that covers ``bucket``."""
    wider = width / height > bucket[0] / bucket[1]
    scale = bucket[1] / height if wider else bucket[0] / width
    return Framing(bucket, (max(bucket[0], _rounded(width * scale)), max(bucket[1], _rounded(height * scale))))


def _own_size(width: int, height: int, dataset: DatasetConfig) -> Framing:
    """The picture's own size, made smaller where its area is too large, cut down to whole steps."""
    area, step = dataset.resolution[0] * dataset.resolution[1], dataset.bucket_reso_steps
    resized = (width, height)
    if width * height > area:
        resized = _smaller(width / height, area, step)
    bucket = (resized[0] // step * step, resized[1] // step * step)
    if min(bucket) == 0:  # smaller than one step: the only case that must enlarge
        return cover(width, height, (max(step, bucket[0]), max(step, bucket[1])))
    return Framing(bucket, resized)


def _smaller(shape: float, area: int, step: int) -> Size:
    """The size of this shape and area, one of whose sides is in whole steps: the side that distorts less."""
    exact_width = math.sqrt(area * shape)
    by_width = _rounded(exact_width) // step * step
    by_height = _rounded(area / exact_width) // step * step
    if by_width == 0 or by_height == 0:
        return max(step, by_width), max(step, by_height)
    height_then = _rounded(by_width / shape) // step * step
    width_then = _rounded(by_height * shape) // step * step
    if height_then and abs(by_width / height_then - shape) < abs(width_then / by_height - shape):
        return by_width, _rounded(by_width / shape)
    return _rounded(by_height * shape), by_height


def _rounded(value: float) -> int:
    """To the nearest whole number, halves up, as sd-scripts rounds."""
    return int(value + 0.5)
