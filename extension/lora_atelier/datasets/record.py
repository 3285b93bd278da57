"""The list of pictures that a run began with, so that it goes on with the same ones or says what is another."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import DataError, Message, message

SCHEMA = 1
FILE = "pictures.json"


@dataclass(frozen=True)
class Entry:
    """One picture: its content, its caption, and all else that decides how it is seen, by name.

    ``name`` is for people: where the file lies changes nothing.
    """

    name: str
    sha256: str
    caption: str
    use: Mapping[str, Any] = field(default_factory=dict)


def write(path: Path, entries: Sequence[Entry]) -> None:
    """Write the list. Raises OSError."""
    said = {"schema": SCHEMA, "pictures": [asdict(entry) for entry in entries]}
    atomic.write_text(path, json.dumps(said, ensure_ascii=False, indent=1) + "\n")


def read(path: Path) -> list[Entry] | None:
    """The list that a run began with; None where there is none that can be read."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return [Entry(**entry) for entry in said["pictures"]] if said["schema"] <= SCHEMA else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Difference:
    """What is another since a run began."""

    new: tuple[Entry, ...] = ()
    gone: tuple[Entry, ...] = ()
    changed: tuple[tuple[Entry, Entry], ...] = ()
    moved: bool = False

    def __bool__(self) -> bool:
        return bool(self.new or self.gone or self.changed or self.moved)

    def sentences(self) -> Iterator[Message]:
        """One sentence a picture, with its name."""
        for entry in self.gone:
            yield message("“{name}” is not among the pictures any more.", name=entry.name)
        for entry in self.new:
            yield message("“{name}” was not among the pictures when the training began.", name=entry.name)
        for before, now in self.changed:
            if before.caption != now.caption:
                yield message(
                    "The caption of “{name}” was “{before}” and is “{now}”.",
                    name=now.name,
                    before=before.caption,
                    now=now.caption,
                )
                continue
            names = sorted({*before.use, *now.use})
            what = next(name for name in names if before.use.get(name) != now.use.get(name))
            yield message(
                "“{name}” is used otherwise: {setting} was {before} and is {now}.",
                name=now.name,
                setting=what,
                before=json.dumps(before.use.get(what), ensure_ascii=False),
                now=json.dumps(now.use.get(what), ensure_ascii=False),
            )
        if self.moved:
            yield message("The pictures come in another order.")

    def error(self) -> DataError:
        """The refusal to go on."""
        return DataError(
            "The training can't go on: its pictures are not those that it began with.",
            why="{new} are new, {gone} are gone and {changed} are used otherwise; the log names them.",
            todo="Put them back as they were and press Resume, or start a new training.",
            new=len(self.new),
            gone=len(self.gone),
            changed=len(self.changed),
        )


def difference(before: Sequence[Entry], now: Sequence[Entry]) -> Difference:
    """What is another in ``now``. A picture is known by its content; where one comes twice, in its order."""
    old, new = _by_content(before), _by_content(now)
    changed = tuple((old[key], new[key]) for key in old if key in new and _facts(old[key]) != _facts(new[key]))
    gone = tuple(entry for key, entry in old.items() if key not in new)
    added = tuple(entry for key, entry in new.items() if key not in old)
    moved = not (gone or added) and [e.sha256 for e in before] != [e.sha256 for e in now]
    return Difference(added, gone, changed, moved)


def _facts(entry: Entry) -> tuple[str, Mapping[str, Any]]:
    # Through JSON, in which tuples are lists.
    return entry.caption, json.loads(json.dumps(entry.use))


def _by_content(entries: Sequence[Entry]) -> dict[tuple[str, int], Entry]:
    counts: dict[str, int] = defaultdict(int)
    found = {}
    for entry in entries:
        found[entry.sha256, counts[entry.sha256]] = entry
        counts[entry.sha256] += 1
    return found
