"""The caption file that lies beside a picture: which one it is, and its text whatever program saved it."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path

CAPTION_SUFFIXES = (".txt", ".caption")
# sd-scripts' face detection names pictures name_x_y_w_h; their caption may lie beside "name".
_FACE_NUMBERS = 4


@dataclass(frozen=True)
class Caption:
    """A caption file's lines that are not empty, and the encoding that they were read in."""

    path: Path
    lines: tuple[str, ...]
    encoding: str

    def text(self, *, multiline: bool) -> str:
        """The first line, or all of them where one is chosen by lot."""
        return "\n".join(self.lines) if multiline else self.lines[0]


def find_caption(picture: Path, extension: str) -> Caption | None:
    """The caption file of ``picture``; None if there is none or all are empty.

    The asked-for ending comes first, then the usual ones.
    """
    for stem in _stems(picture):
        for ending in dict.fromkeys((extension, *CAPTION_SUFFIXES)):
            path = picture.with_name(stem + ending)
            try:
                text, encoding = decode_named(path.read_bytes())
            except OSError:
                continue
            lines = tuple(line.strip() for line in text.splitlines() if line.strip())
            if lines:
                return Caption(path, lines, encoding)
    return None


def read_caption(picture: Path, extension: str) -> str | None:
    """The first line of the caption file beside ``picture``; None if there is none or it is empty."""
    found = find_caption(picture, extension)
    return found.text(multiline=False) if found is not None else None


def _stems(picture: Path) -> tuple[str, ...]:
    parts = picture.stem.split("_")
    named, numbers = parts[:-_FACE_NUMBERS], parts[-_FACE_NUMBERS:]
    if named and len(numbers) == _FACE_NUMBERS and all(number.isdigit() for number in numbers):
        return picture.stem, "_".join(named)
    return (picture.stem,)


def decode(data: bytes) -> str:
    """Text of unknown encoding; see ``decode_named``."""
    return decode_named(data)[0]


def decode_named(data: bytes) -> tuple[str, str]:
    """Text of unknown encoding, and the encoding's name.

    UTF-16 where its mark stands in front, UTF-8 (with or without mark) if it is that, else cp932, in which Japanese
    Windows programs save, else cp1252, with marks where even that fails.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace"), "utf-16"
    for name, encoding in (("utf-8", "utf-8-sig"), ("cp932", "cp932")):
        try:
            return data.decode(encoding), name
        except UnicodeDecodeError:
            continue
    return data.decode("cp1252", errors="replace"), "cp1252"
