"""What is said about a picture being used: in its file, in files beside it, on the page that it came from.

The strictest statement counts. Silence is ``none_found``, never "allowed": most pictures have lost their metadata, and
what stands on a page can't be seen in a file. Needs no torch and no network.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import Message, message
from . import signals_embedded
from .signals_base import DataMining as DataMining
from .signals_base import Rights as Rights
from .signals_base import Signal as Signal
from .signals_base import Signals as Signals
from .signals_sidecar import Beside


def read(path: Path, beside: Beside | None = None) -> Signals:
    """Return what the file at ``path`` and the files beside it say. Raises OSError if it can't be read.

    Whoever reads many pictures of a folder gives the folder's ``beside``, so that it is listed once.
    """
    return read_bytes(path.read_bytes()).merged((beside or Beside(path.parent)).signals(path.name))


def read_bytes(data: bytes) -> Signals:
    """Return what a picture's bytes say; the strictest of several statements counts."""
    return signals_embedded.read(data)


def refusal(path: Path) -> Message | None:
    """Why the picture at ``path`` may not be trained on, or None. Raises OSError."""
    return refusal_of(path.name, read(path))


def refusal_of(name: str, signals: Signals) -> Message | None:
    """The sentence that refuses a picture with these signals, or None."""
    if not signals.prohibited:
        return None
    worst = signals.prohibitions()[0]
    if worst.where == "inherited":
        return message(
            "“{name}” is left out: the same picture, or nearly, came with a prohibition before ({term}).",
            name=name,
            term=worst.raw,
        )
    if worst.use == "constrained":
        return message(
            "“{name}” is left out: its rights holder allows training only on terms that a person must read ({term}).",
            name=name,
            term=worst.raw,
        )
    if worst.where in ("xmp", "exif", "iim", "c2pa"):
        return message(
            "“{name}” is left out: its rights holder forbids training in the file itself ({term}).",
            name=name,
            term=worst.raw,
        )
    return message(
        "“{name}” is left out: where it came from, training is forbidden ({where}: {term}).",
        name=name,
        where=worst.where,
        term=worst.raw,
    )
