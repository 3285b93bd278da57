"""A decoded picture -> the pixels that are trained on: upright, RGB, scaled and cut to its bucket."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from .buckets import Framing, Size

Array = npt.NDArray[np.generic]
Hue = 0  # the first channel of Pillow's HSV
# sd-scripts' limits: 8 of OpenCV's 180 steps of hue either way, gamma 0.95 to 1.05, in a third of the steps.
_HUE_SHIFT = 8 / 180
_GAMMA = 0.05
_COLOUR_RATE = 0.33
_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "lanczos4": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "cubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "linear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
}
_COLUMNS = 512


def upright(picture: Image.Image) -> Image.Image:
    """The picture as a viewer shows it (EXIF rotation applied), RGB or, where it has transparency, RGBA."""
    turned = ImageOps.exif_transpose(picture)
    if turned.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in turned.info:
        return turned.convert("RGBA")
    return _eight_bits(turned).convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of more than 8 bits with its values scaled to 0–255; Pillow itself would cut them off there."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture).astype(np.float64)
    if picture.mode == "F" and values.max(initial=0.0) <= 1.0:
        values = values * 255
    elif values.max(initial=0.0) > 255 or picture.mode.startswith("I;16"):
        values = values / 257  # 65535 becomes 255
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def alpha(picture: Image.Image) -> Image.Image | None:
    """How opaque an upright picture is, "L"; None where it has no transparency."""
    return picture.getchannel("A") if picture.mode == "RGBA" else None


def on_white(picture: Image.Image) -> Image.Image:
    """An upright picture in RGB; what is transparent becomes white."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    flat = Image.new("RGBA", picture.size, "white")
    flat.alpha_composite(picture)
    return flat.convert("RGB")


def framed(picture: Image.Image, framing: Framing, corner: Size | None = None, interpolation: str = "") -> Image.Image:
    """The picture scaled and cut as ``framing`` says, around its middle or from ``corner`` (x, y)."""
    x, y = framing.centre if corner is None else corner
    width, height = framing.bucket
    return resized(picture, framing.resized, interpolation).crop((x, y, x + width, y + height))


def resized(picture: Image.Image, size: Size, interpolation: str = "") -> Image.Image:
    """The picture at another size; without a wish by averaging areas where it shrinks, else by Lanczos.

    A picture of that size already keeps its bits.
    """
    if picture.size == size:
        return picture
    shrinks = picture.width >= size[0] and picture.height >= size[1]
    if interpolation == "area" or (not interpolation and shrinks):
        if shrinks:
            return Image.fromarray(_averaged(np.asarray(picture), size))
        # An area smaller than a pixel is a mix of the pixels it touches.
        return picture.resize(size, Image.Resampling.BILINEAR)
    return picture.resize(size, _FILTERS.get(interpolation, Image.Resampling.LANCZOS))


def _averaged(values: Array, size: Size) -> Array:
    """Every new pixel is the mean of the area (h, w[, c]) that it covers, parts of pixels counted in part."""
    columns = values.shape[1]
    # In strips, so that the sums of a picture of 100 megapixels do not take a gigabyte.
    strips = [_means(values[:, at : at + _COLUMNS], size[1], axis=0) for at in range(0, columns, _COLUMNS)]
    means = _means(np.concatenate(strips, axis=1), size[0], axis=1)
    return np.clip(np.rint(means), 0, 255).astype(np.uint8)


def _means(values: Array, count: int, axis: int) -> npt.NDArray[np.float64]:
    """``count`` means of equal parts of ``axis``: differences of the running sum, read between whole places."""
    length = values.shape[axis]
    rows = np.moveaxis(values, axis, 0)
    sums = np.zeros((length + 1, *rows.shape[1:]), dtype=np.float64)
    np.cumsum(rows, axis=0, dtype=np.float64, out=sums[1:])
    edges = np.arange(count + 1) * (length / count)
    whole = np.minimum(edges.astype(np.int64), length)
    part = (edges - whole).reshape(-1, *[1] * (rows.ndim - 1))
    at_edges = sums[whole] + part * rows[np.minimum(whole, length - 1)]
    return np.moveaxis(np.diff(at_edges, axis=0) * (count / length), 0, axis)


def recoloured(picture: Image.Image, draw: random.Random) -> Image.Image:
    """The picture with its hue or its brightness moved a little in a third of the calls, as sd-scripts' colour
    augmentation does; the gamma curve is that of values 0–1, where sd-scripts raises 0–255 to that power."""
    if draw.random() > _COLOUR_RATE:
        return picture
    if draw.random() > 0.5:
        shift = round(draw.uniform(-_HUE_SHIFT, _HUE_SHIFT) * 256)
        return _mapped(picture.convert("HSV"), lambda value: (value + shift) % 256, channel=Hue).convert("RGB")
    gamma = draw.uniform(1 - _GAMMA, 1 + _GAMMA)
    return picture.point([round(255 * (value / 255) ** gamma) for value in range(256)] * 3)


def _mapped(picture: Image.Image, change: Callable[[int], int], *, channel: int) -> Image.Image:
    channels = list(picture.split())
    channels[channel] = channels[channel].point([change(value) for value in range(256)])
    return Image.merge(picture.mode, channels)
