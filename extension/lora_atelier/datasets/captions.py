"""The caption that lies beside a picture."""

from __future__ import annotations

from pathlib import Path

_ENDINGS = (".txt", ".caption")


def read_caption(picture: Path, extension: str) -> str | None:
    """The first line of the caption file beside ``picture``; None if there is none or it is empty.

    The asked-for ending comes first, then the usual ones. UTF-8 with or without BOM, else cp932, in which Japanese
    Windows programs save.
    """
    for ending in dict.fromkeys((extension, *_ENDINGS)):
        try:
            data = picture.with_suffix(ending).read_bytes()
        except OSError:
            continue
        lines = decode(data).splitlines()
        first = next((line.strip() for line in lines if line.strip()), None)
        if first is not None:
            return first
    return None


def decode(data: bytes) -> str:
    """Text of unknown encoding: UTF-8 if it is that, else cp932, else UTF-8 with marks where it fails."""
    for encoding in ("utf-8-sig", "cp932"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", errors="replace")
