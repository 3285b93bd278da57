"""What the guard knows of one LoRA's training pictures, in a file beside the LoRA that never leaves this machine.

``<name>.training-pictures.npz`` holds fingerprints, a small copy of each picture to show beside an output, and its
file's name. It is written at the end of a training and belongs to the tensors of one LoRA by their hash. None of it is
in the .safetensors: a fingerprint is a coarse shadow of its picture.
"""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import atomic
from ..errors import RightsError
from . import fingerprints, keypoints
from .fingerprints import ALGORITHM, NUM_VIEWS
from .keypoints import Points
from .pdq import BYTES, Bits, Luma

SUFFIX = ".training-pictures.npz"
SCHEMA = 1


@dataclass(frozen=True)
class Reference:
    """One training picture: its file's name and hash, how much there is to see in it (0 to 100), and its limits.

    An output is like it below ``whole``, ``parts`` and ``windows`` bits, from ``corners`` places or a share of
    ``blocks`` on; ``whole`` is 0 where nothing can be said. Files from before ``parts`` have 0 there.
    """

    name: str
    sha256: str
    quality: int
    whole: int
    windows: int
    corners: int
    blocks: float
    parts: float = 0.0


@dataclass(frozen=True, eq=False)
class References:
    """The training pictures of one LoRA; ``views`` (n, NUM_VIEWS, 32) and ``strips`` (n, 12, 32) are their hashes."""

    model_hash: str
    pictures: tuple[Reference, ...]
    views: Bits
    strips: Bits
    copies: tuple[bytes, ...]
    _corners: dict[int, tuple[Points, Luma]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def limits(self) -> NDArray[np.int16]:
        """The limits ``whole``, ``windows``, ``corners`` of each picture, (n, 3)."""
        limits = [(each.whole, each.windows, each.corners) for each in self.pictures]
        return np.array(limits, dtype=np.int16).reshape(-1, 3)

    @cached_property
    def windows(self) -> Bits:
        """What the second look compares with: (n, NUM_VIEWS + 12, 32)."""
        return np.concatenate([self.views, self.strips], axis=1)

    def picture(self, at: int) -> Image.Image:
        """The small copy of a training picture, RGB."""
        return Image.open(io.BytesIO(self.copies[at])).convert("RGB")

    def corners(self, at: int) -> tuple[Points, Luma]:
        """The corners of a training picture and the brightness they were found in, made when first asked for."""
        if at not in self._corners:
            luma = fingerprints.reduced(
                fingerprints.trimmed(fingerprints.brightness(self.picture(at))), keypoints.TRAINING_SIDE
            )
            self._corners[at] = keypoints.of_training(luma), luma
        return self._corners[at]

    def write(self, path: Path) -> None:
        """Write the file. Raises OSError."""
        about = {
            "schema": SCHEMA,
            "algorithm": ALGORITHM,
            "model_hash": self.model_hash,
            "pictures": [vars(each) for each in self.pictures],
        }
        ends = np.cumsum([len(copy) for copy in self.copies], dtype=np.int64)
        arrays: dict[str, Any] = {
            "about": np.frombuffer(json.dumps(about, ensure_ascii=False).encode("utf-8"), np.uint8),
            "views": self.views,
            "strips": self.strips,
            "copies": np.frombuffer(b"".join(self.copies), np.uint8),
            "ends": ends,
        }

        def save(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)

        atomic.write_with(path, save)


def beside(adapter: Path) -> Path:
    """Where the file of a LoRA lies."""
    return adapter.with_name(adapter.stem + SUFFIX)


def read(path: Path) -> References | None:
    """The file that ``write`` wrote; None where there is none. Raises RightsError if it is damaged or newer."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return _checked({name: stored[name] for name in ("about", "views", "strips", "copies", "ends")})
    except FileNotFoundError:
        return None
    except Exception as error:  # zip files and arrays are damaged in many ways, all of which mean this
        raise RightsError(
            "What is kept of this LoRA's training pictures can't be read, so its pictures are not compared with them.",
            why="{file} is damaged or was written by a newer version: {reason}.",
            todo="Delete it to stop seeing this, or train the LoRA again.",
            file=path.name,
            reason=str(error) or type(error).__name__,
        ) from error


def _checked(stored: dict[str, NDArray[Any]]) -> References:
    about = json.loads(stored["about"].tobytes().decode("utf-8"))
    if about["schema"] > SCHEMA or about["algorithm"] != ALGORITHM:
        raise ValueError(f"schema {about['schema']}, {about['algorithm']}")
    pictures = tuple(
        Reference(
            name=str(each["name"]),
            sha256=str(each["sha256"]),
            quality=int(each["quality"]),
            whole=int(each["whole"]),
            windows=int(each["windows"]),
            corners=int(each["corners"]),
            blocks=float(each["blocks"]),
            parts=float(each.get("parts", 0.0)),
        )
        for each in about["pictures"]
    )
    count, ends = len(pictures), [0, *stored["ends"].tolist()]
    if stored["views"].shape != (count, NUM_VIEWS, BYTES) or stored["strips"].shape[::2] != (count, BYTES):
        raise ValueError("its parts do not belong together")
    if len(ends) != count + 1 or ends[-1] != len(stored["copies"]):
        raise ValueError("its parts do not belong together")
    whole = stored["copies"].tobytes()
    copies = tuple(whole[start:end] for start, end in itertools.pairwise(ends))
    return References(str(about["model_hash"]), pictures, stored["views"], stored["strips"], copies)
