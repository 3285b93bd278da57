"""What a picture file's header tells before its pixels are decoded: whether it is a picture, and how large."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from ..errors import Message, message
from .buckets import Size

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jxl"})
_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)
# Formats whose further frames are a film; MPO's (phones) and TIFF's are not.
_FILMS = ("GIF", "PNG", "WEBP", "AVIF")


def read_size(path: Path, remarks: list[Message]) -> Size | None:
    """Width and height as shown; None, with a remark that names the file, if it is no picture we can read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                width, height = picture.size
                if picture.getexif().get(_ORIENTATION, 1) in _QUARTER_TURNS:
                    width, height = height, width
                if picture.format in _FILMS and getattr(picture, "is_animated", False):
                    remarks.append(message("“{name}” is a film; its first picture is used.", name=path.name))
    except Image.DecompressionBombError:
        remarks.append(message("“{name}” has too many pixels; it is left out. Make it smaller.", name=path.name))
        return None
    except Exception:  # decoders fail in many ways, all of which mean this
        remarks.append(_unreadable(path))
        return None
    if not (width and height):
        remarks.append(_unreadable(path))
        return None
    return width, height


def _unreadable(path: Path) -> Message:
    return message(
        "“{name}” can't be read as a picture; it is left out. Save or copy it again to have it in.", name=path.name
    )
