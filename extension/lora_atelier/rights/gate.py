"""The gate: the only way to a picture's pixels in training."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..datasets.items import Item
from ..errors import DataError, Message, RightsError
from . import ledger, signals
from .ledger import BASES, Record

LEDGER = "rights.jsonl"


@dataclass(frozen=True)
class Admitted:
    """The pictures of a run that may be used, and the sentences that refuse the others."""

    items: tuple[Item, ...]
    refused: tuple[Message, ...]
    whose: str
    _records: Mapping[str, Record]

    def sha256(self, item: Item) -> str:
        """The sha256 of the file that was admitted, 64 hex digits."""
        return self._records[str(item.path)].sha256

    def open(self, item: Item) -> Image.Image:
        """The decoded picture. Raises RightsError if its file is no longer the admitted one, DataError if it can't be
        decoded."""
        data = _read(item.path)
        if hashlib.sha256(data).hexdigest() != self.sha256(item):
            raise _changed(item.path)
        try:
            picture = Image.open(io.BytesIO(data))
            picture.load()
        except Exception as error:  # decoders fail in many ways, all of which mean this
            raise DataError(
                "“{name}” can't be read as a picture.",
                why="{reason}.",
                todo="Save it again as PNG or JPEG.",
                name=item.path.name,
                reason=str(error).rstrip("."),
            ) from error
        return picture

    def summary(self) -> dict[str, Any]:
        """What the adapter file says: the answer, and counts; no name and no path."""
        used = [self._records[str(item.path)] for item in self.items]
        return {
            "schema": ledger.SCHEMA,
            "whose": self.whose,
            "sharing": self.whose != "experiment",
            "pictures": len(used),
            "basis": _counts([record.basis for record in used]),
            "data_mining": _counts([record.data_mining for record in used]),
            "refused": len(self.refused),
        }


def admit(items: Sequence[Item], run_dir: Path, *, whose: str) -> Admitted:
    """Admit the pictures that carry no prohibition, and record them in ``run_dir/rights.jsonl``.

    A run that goes on must find the pictures that it began with. Raises RightsError if all are refused, if one
    changed since the run began, or if ``whose`` is no answer we know; OSError if the record can't be written.
    """
    if whose not in BASES:
        raise RightsError(
            "It is not said whose the pictures are.",
            why="“{whose}” is none of the answers.",
            todo="Answer it with one of: {answers}.",
            whose=whose,
            answers=", ".join(BASES),
        )
    before = ledger.read(run_dir / LEDGER)
    admitted: list[Item] = []
    refused: list[Message] = []
    records: dict[str, Record] = {}
    for item in items:
        record, refusal = _examine(item.path, whose)
        known = before.get(record.path)
        if known is not None and known.sha256 != record.sha256:
            raise _changed(item.path)
        if refusal is not None:
            refused.append(refusal)
        else:
            admitted.append(item)
            records[record.path] = record
    if not admitted:
        raise RightsError(
            "None of the pictures may be used.",
            why="All {count} carry a prohibition in the file itself.",
            todo="Ask the rights holder for files without it, or use other pictures.",
            count=len(refused),
        )
    if records != before:
        ledger.write(run_dir / LEDGER, records.values())
    return Admitted(tuple(admitted), tuple(refused), whose, records)


def _examine(path: Path, whose: str) -> tuple[Record, Message | None]:
    data = _read(path)
    said = signals.read_bytes(data)
    record = Record(
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        basis=BASES[whose],
        data_mining=said.data_mining,
        terms=said.terms,
    )
    return record, signals.refusal_of(path.name, said)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            "“{name}” can't be read.",
            why="{reason}.",
            todo="Put the picture back, or start a new training without it.",
            name=path.name,
            reason=error.strerror or str(error),
        ) from error


def _changed(path: Path) -> RightsError:
    return RightsError(
        "“{name}” is no longer the picture that this training began with.",
        why="Its file changed.",
        todo="Put the old file back and press Resume, or start a new training.",
        name=path.name,
    )


def _counts(values: Sequence[str]) -> dict[str, int]:
    return {value: values.count(value) for value in sorted(set(values))}
