"""What a picture file is, told by all its pixels: size, what is wrong with it, its fingerprint; and its thumbnail."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from ..datasets import faces, looks
from ..errors import ExtensionError, Message, message

MAX_PIXELS = 200_000_000

# Says why a picture may not be used (a mark in the file that forbids it), or None.
Refusal = Callable[[Path], Message | None]


def probe(path: Path, refusal: Refusal | None) -> dict[str, Any]:
    """Size, issues, fingerprint, and whether the picture can be used, as plain JSON; all pixels are read once."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; we name those that are too large
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                image.load()
                upright = ImageOps.exif_transpose(image)
                width, height = upright.size
                frames = getattr(image, "n_frames", 1)
                look = looks.look(upright)
                shows_face = faces.may_show_one(upright)
    except (Image.DecompressionBombError, MemoryError):
        return _probed(0, 0, ("large", message("It has too many pixels; make it smaller.")), refused=True)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError):
        said = message("It can't be read as a picture; it is left out.")
        return _probed(0, 0, ("broken", said), refused=True)
    try:
        forbidden = refusal(path) if refusal is not None else None
    except ExtensionError as error:
        forbidden = error.what
    if forbidden:
        return _probed(width, height, ("prohibited", forbidden), refused=True, print=look.print)
    issues: list[tuple[str, Message]] = []
    if frames > 1:
        issues.append(("animated", message("It is animated; only its first picture is used.")))
    if min(width, height) < 64:
        issues.append(("small", message("It is very small; a larger picture teaches more.")))
    elif look.detail < looks.BLURRED:
        issues.append(("blurred", message("It looks blurred; the LoRA would learn that too.")))
    if shows_face:
        issues.append(("face", message("It may show somebody's face. If it is a real person's, did they agree?")))
    return _probed(width, height, *issues, print=look.print)


def _probed(
    width: int, height: int, *issues: tuple[str, Message], refused: bool = False, print: str = ""
) -> dict[str, Any]:
    said = [{"kind": kind, "said": issue.to_json()} for kind, issue in issues]
    return {"width": width, "height": height, "issues": said, "refused": refused, "print": print}


def write_thumbnail(source: Path, target: Path, side: int) -> None:
    """Write a JPEG of at most ``side`` × ``side`` pixels, upright and on white. Raises what Pillow raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.draft("RGB", (side * 2, side * 2))  # JPEGs: decode no more than is needed
            upright = ImageOps.exif_transpose(image)
            upright.thumbnail((side, side))
            rgba = upright.convert("RGBA")
    flat = Image.new("RGB", rgba.size, "white")
    flat.paste(rgba, mask=rgba.getchannel("A"))
    flat.save(target, "JPEG", quality=85)
