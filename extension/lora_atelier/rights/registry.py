"""A registry of many fingerprints: which of a million hashes are within 31 bits of one, exactly, in milliseconds.

Two hashes that differ in at most 31 of 256 bits agree, in at least one of their 16 pieces of 16 bits, in all bits but
one. So each piece has a list of the hashes by its value, and a search looks up 17 values in each of 16 lists.
Source: Norouzi, Punjani & Fleet 2012, Fast Search in Hamming Space with Multi-Index Hashing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import atomic
from ..errors import RightsError
from . import pdq
from .fingerprints import CERTAIN
from .pdq import Bits

SCHEMA = 1
_PIECES = 16
_VALUES = 1 << 16
_ABOUT, _HASHES, _ORDER, _STARTS = "about.json", "hashes.npy", "order.npy", "starts.npy"


@dataclass(frozen=True)
class Found:
    """A hash of the registry near one that was asked for: which of both, and in how many bits they differ."""

    asked: int
    entry: int
    distance: int


@dataclass(frozen=True, eq=False)
class Registry:
    """Hashes (n, 32) with their lists; from ``open`` they stay on disk and only the pages that a search needs are read.

    ``order`` (16, n) has the entries by the value of each piece, ``starts`` (16, 65537) where each value begins.
    """

    hashes: Bits
    order: NDArray[np.uint32]
    starts: NDArray[np.uint32]

    @classmethod
    def build(cls, hashes: Bits) -> Registry:
        """The registry of hashes (n, 32)."""
        pieces = np.ascontiguousarray(hashes).view(np.uint16)
        order = np.stack([np.argsort(piece, kind="stable") for piece in pieces.T]).astype(np.uint32)
        starts = np.zeros((_PIECES, _VALUES + 1), np.uint32)
        for at in range(_PIECES):
            starts[at, 1:] = np.cumsum(np.bincount(pieces[:, at], minlength=_VALUES))
        return cls(np.ascontiguousarray(hashes), order, starts)

    @classmethod
    def open(cls, folder: Path) -> Registry:
        """The registry that ``write`` wrote, left on disk. Raises RightsError."""
        try:
            about: dict[str, Any] = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            if about["schema"] > SCHEMA:
                raise ValueError(f"schema {about['schema']}")
            arrays = [np.load(folder / name, mmap_mode="r") for name in (_HASHES, _ORDER, _STARTS)]
            if arrays[0].shape != (about["count"], pdq.BYTES) or arrays[1].shape != (_PIECES, about["count"]):
                raise ValueError("the files do not belong together")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RightsError(
                "The registry of fingerprints in {folder} can't be read.",
                why="{reason}.",
                todo="Make it again from its pictures.",
                folder=folder.name,
                reason=str(error),
            ) from error
        return cls(*arrays)

    def write(self, folder: Path) -> None:
        """Write the registry into ``folder``. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in ((_HASHES, self.hashes), (_ORDER, self.order), (_STARTS, self.starts)):
            atomic.write_with(folder / name, partial(_save, values))
        atomic.write_text(folder / _ABOUT, json.dumps({"schema": SCHEMA, "count": len(self.hashes)}) + "\n")

    def search(self, asked: Bits, *, within: int = CERTAIN) -> list[Found]:
        """The entries within ``within`` bits (31 at most) of any of ``asked`` (a, 32), nearest first."""
        if within > CERTAIN:
            raise ValueError(f"a search within {within} bits would miss entries")
        rows, entries = self._candidates(np.ascontiguousarray(asked))
        differing = pdq.as_words(np.asarray(self.hashes[entries])) ^ pdq.as_words(asked)[rows]
        apart = pdq.count_bits(differing).sum(axis=1, dtype=np.int16)
        near = np.flatnonzero(apart <= within)
        found = {(int(rows[at]), int(entries[at])): int(apart[at]) for at in near}
        return sorted(
            (Found(row, entry, bits) for (row, entry), bits in found.items()),
            key=lambda each: (each.distance, each.entry),
        )

    def _candidates(self, asked: Bits) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Pairs (which asked, which entry) that agree in a piece but for one bit; a pair may come more than once."""
        flips = np.concatenate([[0], 1 << np.arange(_PIECES)]).astype(np.uint16)
        values = asked.view(np.uint16)[:, :, None] ^ flips  # (a, 16, 17)
        piece = np.arange(_PIECES)[None, :, None]
        first = self.starts[piece, values].astype(np.int64).ravel()
        length = self.starts[piece, values.astype(np.int64) + 1].astype(np.int64).ravel() - first
        # The runs first … first + length, one after the other.
        ends = np.cumsum(length)
        inside = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - length, length)
        at = np.repeat(first, length) + inside
        which = np.repeat(np.arange(len(length)), length)
        entries = self.order[(which // len(flips)) % _PIECES, at]
        return which // (len(flips) * _PIECES), entries.astype(np.intp)


def _save(values: NDArray[Any], path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, values)
