"""Aspect buckets: which size a picture is trained at, and how it is fitted to it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from PIL import Image, ImageOps

from ..config import DatasetConfig


def sizes(dataset: DatasetConfig) -> list[tuple[int, int]]:
    """All buckets (width, height): sides in steps between the limits, as large as the resolution's area lets them.

    The rule is sd-scripts' (make_bucket_resolutions): for each width the largest height, and the mirror image.
    """
    if not dataset.enable_bucket:
        return [dataset.resolution]
    step, area = dataset.bucket_reso_steps, dataset.resolution[0] * dataset.resolution[1]
    return sorted({size for pair in _pairs(dataset, step, area) for size in (pair, pair[::-1])})


def _pairs(dataset: DatasetConfig, step: int, area: int) -> Iterator[tuple[int, int]]:
    side = max(step, int(math.sqrt(area)) // step * step)
    yield side, side
    for width in range(-(-dataset.min_bucket_reso // step) * step, dataset.max_bucket_reso + 1, step):
        height = min(dataset.max_bucket_reso, area // width) // step * step
        if height >= dataset.min_bucket_reso:
            yield width, height


def choose(width: int, height: int, dataset: DatasetConfig) -> tuple[int, int]:
    """The bucket (width, height) whose shape is nearest to the picture's; of several, the largest."""
    if dataset.enable_bucket and dataset.bucket_no_upscale:
        return _own_size(width, height, dataset)
    shape = math.log(width / height)
    return min(sizes(dataset), key=lambda size: (abs(math.log(size[0] / size[1]) - shape), -size[0] * size[1]))


def _own_size(width: int, height: int, dataset: DatasetConfig) -> tuple[int, int]:
    """The picture's own size, made smaller where its area is too large, cut down to whole steps."""
    area, step = dataset.resolution[0] * dataset.resolution[1], dataset.bucket_reso_steps
    scale = min(1.0, math.sqrt(area / (width * height)))
    return max(step, int(width * scale) // step * step), max(step, int(height * scale) // step * step)


def fit(picture: Image.Image, bucket: tuple[int, int]) -> Image.Image:
    """The picture in RGB, upright, scaled to cover the bucket (width, height) and cut around its middle.

    What is transparent becomes white.
    """
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        upright = Image.new("RGBA", layer.size, "white")
        upright.alpha_composite(layer)
    return ImageOps.fit(upright.convert("RGB"), bucket, Image.Resampling.LANCZOS)
