"""The pictures of a training run: where they are, what they are called, how often they are seen. Needs no torch."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ..config import DatasetConfig, SubsetConfig
from ..errors import DataError, Message, message
from .captions import read_caption

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jxl"})
# kohya's folder of folders: 10_momo is seen ten times an epoch, and "momo" is the caption of last resort.
_REPEATS_FOLDER = re.compile(r"(\d+)_(.+)")


@dataclass(frozen=True)
class Item:
    """One picture of a run; ``width`` and ``height`` are as a viewer shows it (EXIF rotation applied)."""

    path: Path
    caption: str
    width: int
    height: int
    num_repeats: int = 1
    is_reg: bool = False
    flip_aug: bool = False
    caption_dropout_rate: float = 0.0


def read_items(dataset: DatasetConfig, *, fallback: str = "") -> tuple[list[Item], list[Message]]:
    """All usable pictures of a dataset in the order of their names, and what to say about the others.

    A picture whose header can't be read is left out and named. ``fallback`` is the caption of pictures that have
    none, where the subset gives no ``class_tokens``. Raises DataError for a folder that can't be read, or if nothing
    is left.
    """
    items: list[Item] = []
    remarks: list[Message] = []
    for subset in dataset.subsets:
        for part in _parts(subset):
            items += _subset_items(part, fallback, remarks)
    if not any(not item.is_reg for item in items):
        raise DataError(
            "There is no picture to train on.",
            why="{folders} has none that can be read.",
            todo="Put PNG, JPEG or WebP pictures there, or choose another folder.",
            folders=", ".join(subset.image_dir for subset in dataset.subsets),
        )
    return items, remarks


def _parts(subset: SubsetConfig) -> list[SubsetConfig]:
    """The subset itself, or kohya's numbered folders inside it if it holds no picture of its own."""
    folder = Path(subset.image_dir)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            "The folder {folder} can't be read.",
            why="{reason}.",
            todo="Check that it is there and may be read.",
            folder=str(folder),
            reason=error.strerror or str(error),
        ) from error
    if any(Path(entry.name).suffix.lower() in PICTURE_SUFFIXES for entry in entries):
        return [subset]
    numbered = [(entry, _REPEATS_FOLDER.fullmatch(entry.name)) for entry in entries if entry.is_dir()]
    parts = [
        replace(
            subset,
            image_dir=entry.path,
            num_repeats=max(1, int(match.group(1))),
            class_tokens=subset.class_tokens or match.group(2),
        )
        for entry, match in numbered
        if match
    ]
    return parts or [subset]


def _subset_items(subset: SubsetConfig, fallback: str, remarks: list[Message]) -> list[Item]:
    items, uncaptioned = [], 0
    instead = subset.class_tokens or fallback
    for path in sorted(Path(subset.image_dir).iterdir()):
        if path.suffix.lower() not in PICTURE_SUFFIXES or path.name.startswith("."):
            continue
        size = _size(path, remarks)
        if size is None:
            continue
        caption = read_caption(path, subset.caption_extension)
        uncaptioned += caption is None
        items.append(
            Item(
                path=path,
                caption=instead if caption is None else caption,
                width=size[0],
                height=size[1],
                num_repeats=subset.num_repeats,
                is_reg=subset.is_reg,
                flip_aug=subset.flip_aug,
                caption_dropout_rate=subset.caption_dropout_rate,
            )
        )
    if uncaptioned and items:
        remarks.append(
            message(
                "{count} of {total} pictures have no caption; “{caption}” is used for them.",
                count=uncaptioned,
                total=len(items),
                caption=instead,
            )
        )
    return items


def _size(path: Path, remarks: list[Message]) -> tuple[int, int] | None:
    """Width and height as shown; None, with a remark that names the file, if it is no picture we can read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                width, height = picture.size
                # Values 5 to 8 turn the picture by a quarter.
                if picture.getexif().get(0x0112, 1) in (5, 6, 7, 8):
                    width, height = height, width
    except Exception:  # decoders fail in many ways, all of which mean this
        remarks.append(message("“{name}” can't be read as a picture; it is left out.", name=path.name))
        return None
    return (width, height) if width and height else None
