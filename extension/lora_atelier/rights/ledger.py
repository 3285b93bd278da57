"""The record of what a run admitted: one line of JSON a picture in ``rights.jsonl``, kept with the run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import RightsError

# 2: with licence, permits, signals and what else the folder's ledger says.
SCHEMA = 2
# The page's one question -> the ledger's basis, where nothing else is stated.
BASES = {
    "mine": "owner",
    "permission": "written_permission",
    "open-licence": "licence",
    "experiment": "none",
    "studio": "none",
}
# The same question -> the rules that the gate goes by (``said.PROFILES``).
PROFILE_OF = {
    "mine": "own-work",
    "permission": "own-work",
    "open-licence": "open-licence",
    "experiment": "experiment",
    "studio": "studio",
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One admitted picture: what it was (sha256 of the file's bytes), on what basis, what the file said.

    ``signals`` counts what was said about training by "kind: use"; ``credits`` are those that were opted in;
    ``override`` is the reason that was given against a prohibition; ``group`` is the picture that this one is nearly
    the same as; ``evidence`` lists the hashes of documents; ``people`` is what was said of persons in
    it; ``left_out`` is one that is seen no time because others are nearly the same.
    """

    path: str
    sha256: str
    basis: str
    data_mining: str
    terms: tuple[str, ...] = ()
    licence: str = ""
    source_type: str = ""
    permits: Mapping[str, str] = field(default_factory=dict)
    signals: Mapping[str, int] = field(default_factory=dict)
    credits: tuple[str, ...] = ()
    override: str = ""
    people: Mapping[str, str] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()
    group: str = ""
    left_out: bool = False
    is_reg: bool = False


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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
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
    names = {f.name for f in fields(Record)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in said.items() if name in names
    }
    return Record(**values)
