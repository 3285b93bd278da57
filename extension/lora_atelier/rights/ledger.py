"""The record of what a run admitted: one line of JSON a picture in ``rights.jsonl``, kept with the run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import RightsError

SCHEMA = 1
# The page's one question -> the ledger's basis.
BASES = {"mine": "owner", "permission": "written_permission", "open-licence": "licence", "experiment": "none"}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One admitted picture: what it was (sha256 of the file's bytes), on what basis, what the file said."""

    path: str
    sha256: str
    basis: str
    data_mining: str
    terms: tuple[str, ...] = ()


def write(path: Path, records: Iterable[Record]) -> None:
    """Write all records. Raises OSError."""
    lines = [json.dumps({"schema": SCHEMA, **asdict(record)}, ensure_ascii=False) for record in records]
    atomic.write_text(path, "".join(f"{line}\n" for line in lines))


def read(path: Path) -> dict[str, Record]:
    """The records by picture path; empty where there is no file. Raises RightsError if it is newer or damaged."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    try:
        return {record.path: record for record in map(_record, lines)}
    except (KeyError, TypeError, ValueError) as error:
        raise RightsError(
            "The record of this training's pictures can't be read.",
            why="{file} is damaged or was written by a newer version: {reason}.",
            todo="Start a new training with the same pictures.",
            file=path.name,
            reason=str(error),
        ) from error


def _record(line: str) -> Record:
    said: Mapping[str, Any] = json.loads(line)
    if said["schema"] > SCHEMA:
        raise ValueError(f"schema {said['schema']}")
    return Record(
        path=said["path"],
        sha256=said["sha256"],
        basis=said["basis"],
        data_mining=said["data_mining"],
        terms=tuple(said["terms"]),
    )
