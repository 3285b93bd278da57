"""The rights of one folder of pictures: what was stated for all, what for single ones, and who said it when.

It lies beside the pictures as ``rights.jsonl``, one line of canonical JSON for the folder, for each picture and for
each event, and goes wherever the folder goes. Pictures are known by the sha256 of their files. What was stated is what
the events say: a line that differs from them was changed by hand, and ``problems`` says so.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import Message, RightsError, message
from . import canonical, history, said
from .signals_base import Rights, Signal, Signals

FILE = "rights.jsonl"
SCHEMA = 1


def now() -> str:
    """The time in UTC as RFC 3339, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def item_id(sha256: str) -> str:
    """What a picture is called in the ledger."""
    return f"sha256:{sha256}"


@dataclass
class Entry:
    """One picture: ``found`` in its file and beside it, ``said`` of it alone by a person.

    ``found`` holds "signals", "rights" (see ``signals_base``) and what is "personal". ``override`` is None or
    ``{by, at, reason}``, ``withdrawn`` None or ``{at, case_id}``.
    """

    item_id: str
    name: str
    pixel_id: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    override: dict[str, Any] | None = None
    withdrawn: dict[str, Any] | None = None

    @property
    def sha256(self) -> str:
        return self.item_id.removeprefix("sha256:")

    def signals(self) -> Signals:
        """What was found, as it was read."""
        return Signals(
            tuple(map(Signal.from_json, self.found.get("signals", ()))), Rights.from_json(self.found.get("rights", {}))
        )

    def to_json(self) -> dict[str, Any]:
        return {"kind": "item", **vars(self)}


@dataclass
class FolderLedger:
    """Statements, entries by ``item_id`` and events of one folder. ``approved`` is None or file names -> sha256."""

    dataset_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    statement: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    events: list[history.Event] = field(default_factory=list)
    approved: dict[str, str] | None = None
    # File names -> item ids as the last look found them: of two files of the same bytes an entry has one name only.
    names: dict[str, str] = field(default_factory=dict, compare=False)
    # How many files the last look did not come to; what it found is then not part of the record yet.
    unread: int = field(default=0, compare=False)

    # ------------------------------------------------------------------------------------------------ files

    @classmethod
    def read(cls, folder: Path) -> FolderLedger | None:
        """The ledger beside the pictures in ``folder``; None where there is none. Raises RightsError, OSError."""
        try:
            text = (folder / FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise _damaged(folder, str(error)) from error
        return cls.parse(text, folder)

    @classmethod
    def parse(cls, text: str, folder: Path) -> FolderLedger:
        """The ledger that ``lines`` wrote. Raises RightsError if it is damaged, newer, or was changed by hand."""
        ledger = cls()
        try:
            for line in text.splitlines():
                row = json.loads(line)
                ledger._take(row)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise _damaged(folder, str(error)) from error
        if (wrong := next(ledger.problems(), None)) is not None:
            raise _damaged(folder, str(wrong))
        return ledger

    def _take(self, row: Mapping[str, Any]) -> None:
        if row["kind"] == "dataset":
            if row["schema"] > SCHEMA:
                raise ValueError(f"schema {row['schema']} of a newer version")
            self.dataset_id, self.statement, self.approved = row["id"], row["statement"], row["approved"]
        elif row["kind"] == "item":
            entry = Entry(**{name: value for name, value in row.items() if name != "kind"})
            self.entries[entry.item_id] = entry
        elif row["kind"] == "event":
            self.events.append(dict(row))
        else:
            raise ValueError(f"a line of kind {row['kind']}")

    def rows(self) -> Iterator[dict[str, Any]]:
        """The ledger as JSON objects: the folder, its pictures by name, its events."""
        yield {
            "kind": "dataset",
            "schema": SCHEMA,
            "id": self.dataset_id,
            "statement": self.statement,
            "approved": self.approved,
        }
        yield from (one.to_json() for one in sorted(self.entries.values(), key=lambda one: (one.name, one.item_id)))
        yield from self.events

    def write(self, folder: Path) -> None:
        """Write the file beside the pictures. Raises OSError."""
        atomic.write_bytes(folder / FILE, b"".join(canonical.encode(row) + b"\n" for row in self.rows()))

    # ------------------------------------------------------------------------------------------------ stating

    def state(self, values: Mapping[str, Any], *, by: str, at: str | None = None) -> None:
        """State something for the whole folder; what is not named stays, None takes back what was stated. Raises
        RightsError if it is no statement."""
        self._do("stated", {"said": _restated(said.FOLDER, self.statement, values)}, by, at)

    def except_(self, items: Iterable[str], values: Mapping[str, Any], *, by: str, at: str | None = None) -> None:
        """State something for single pictures that differ; None takes it back. Raises RightsError for what is no
        statement."""
        for one in self._known(items):
            restated = _restated(said.SAID, self.entries[one].said, values)
            self._do("excepted", {"items": [one], "said": restated}, by, at)

    def override(self, items: Iterable[str], *, by: str, reason: str, at: str | None = None) -> None:
        """Admit pictures against what was found: somebody takes it upon them, with a reason. Raises RightsError."""
        if not by.strip() or not reason.strip():
            raise RightsError(
                "Pictures with a prohibition are not used without a name and a reason.",
                todo="Say who decides it and why, for example that you are the rights holder.",
            )
        if self.statement.get("profile") == "studio":
            raise RightsError(
                "Nothing can be overridden under the studio profile.",
                why="It asks for evidence instead.",
                todo="Use other pictures, or ask the rights holder for files without the prohibition.",
            )
        listed = self._known(items)
        self._do("overridden", {"items": listed, "reason": reason}, by, at)

    def lift_override(self, items: Iterable[str], *, by: str, at: str | None = None) -> None:
        """Take an override back."""
        self._do("override lifted", {"items": self._known(items)}, by, at)

    def withdraw(self, items: Iterable[str], *, by: str, case_id: str = "", at: str | None = None) -> None:
        """Take pictures out for good: no training uses them from now on."""
        self._do("withdrawn", {"items": self._known(items), "case_id": case_id}, by, at)

    def approve(self, files: Mapping[str, str], *, by: str, at: str | None = None) -> None:
        """Note which files were looked at (names -> sha256): a training of another file of that name stops."""
        self._do("approved", {"files": dict(files)}, by, at)

    def scanned(self, entries: Iterable[Entry], *, by: str, at: str | None = None) -> None:
        """Take over what was found in the folder's files; what people said of them stays. Files that are gone stay in
        the record where something was said of them, or they forbade training."""
        current = {one.item_id: one for one in entries}
        for one in current.values():
            before = self.entries.get(one.item_id)
            if before is not None:
                one.said, one.override, one.withdrawn = before.said, before.override, before.withdrawn
        # A prohibition outlives the file that had it: the same picture may come back without.
        kept = {
            key: one
            for key, one in self.entries.items()
            if key not in current and (one.said or one.override or one.withdrawn or one.signals().prohibited)
        }
        if _found(self.entries) == _found({**kept, **current}):
            return
        self.entries = {**kept, **current}
        self._do("scanned", {"pictures": len(current), "sha256": canonical.digest(_found(current))}, by, at)

    def _do(self, what: str, data: Mapping[str, Any], by: str, at: str | None) -> None:
        event = history.append(self.events, what, at=at or now(), by=by, data=data)
        _apply(self, event)

    def _known(self, items: Iterable[str]) -> list[str]:
        listed = list(items)
        unknown = next((one for one in listed if one not in self.entries), None)
        if unknown is not None or not listed:
            raise RightsError(
                "There is no such picture in this folder's record.",
                why="{item} is not in it.",
                todo="Let the folder be looked through again.",
                item=unknown or "–",
            )
        return listed

    # ------------------------------------------------------------------------------------------------ asking

    def by_name(self, name: str) -> Entry | None:
        """The picture that has this file name now or had it last."""
        if name in self.names:
            return self.entries.get(self.names[name])
        return next((one for one in self.entries.values() if one.name == name), None)

    def effective(self, entry: Entry | None) -> dict[str, Any]:
        """What holds for a picture: the folder's statement, and what was said of it alone."""
        return said.combined(self.statement, entry.said if entry is not None else {})

    def problems(self) -> Iterator[Message]:
        """What in the record is not as it was written: an event, or a line that differs from the events."""
        broken = history.first_broken(self.events)
        if broken is not None:
            yield message("Event {number} of the history was changed or is missing.", number=broken + 1)
            return
        replayed = FolderLedger(entries={key: Entry(key, one.name) for key, one in self.entries.items()})
        for event in self.events:
            _apply(replayed, event)
        if (self.statement, self.approved) != (replayed.statement, replayed.approved):
            yield message("What is stated for the folder differs from its history.")
        for key, one in self.entries.items():
            again = replayed.entries[key]
            if (one.said, one.override, one.withdrawn) != (again.said, again.override, again.withdrawn):
                yield message("What is stated for “{name}” differs from its history.", name=one.name)


def _apply(ledger: FolderLedger, event: Mapping[str, Any]) -> None:
    """What an event does to the statements. Pictures that are no longer in the record are passed over."""
    data, what = event["data"], event["what"]
    items = [ledger.entries[one] for one in data.get("items", ()) if one in ledger.entries]
    if what == "stated":
        ledger.statement = dict(data["said"])
    elif what == "approved":
        ledger.approved = dict(data["files"])
    for one in items:
        if what == "excepted":
            one.said = dict(data["said"])
        elif what == "overridden":
            one.override = {"by": event["by"], "at": event["at"], "reason": data["reason"]}
        elif what == "override lifted":
            one.override = None
        elif what == "withdrawn":
            one.withdrawn = {"at": event["at"], "case_id": data["case_id"]}


def _found(entries: Mapping[str, Entry]) -> list[Any]:
    return [[one.item_id, one.name, one.pixel_id, one.found] for _, one in sorted(entries.items())]


def _restated(schema: Mapping[str, Any], before: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """``before`` with what is stated now, and without what is taken back. Raises RightsError."""
    stated = {name: value for name, value in values.items() if value is not None}
    # A name that we don't know is wrong also where it is taken back.
    unknown = {name: value for name, value in values.items() if name not in schema["properties"]}
    wrong = next(said.problems(schema, {**stated, **unknown}), None)
    if wrong is not None:
        raise RightsError(
            "This can't be stated about pictures: {wrong}.",
            todo="Correct it and send it again.",
            wrong=wrong,
        )
    kept = {name: value for name, value in before.items() if name not in values or values[name] is not None}
    return said.combined(kept, stated)


def _damaged(folder: Path, reason: str) -> RightsError:
    return RightsError(
        "The record of rights in {folder} can't be relied on.",
        why="{file} is damaged, was changed by hand or is of a newer version: {reason}.",
        todo="Put a copy of it back, or delete it and state the rights again.",
        folder=str(folder),
        file=FILE,
        reason=reason.rstrip("."),
    )


def expired(values: Mapping[str, Any], today: date) -> str:
    """The day on which evidence or a consent of a statement ran out (before ``today``), or one from which it does not
    hold yet; "" if all hold. A document that holds today takes the place of others of its kind."""
    documents = values.get("evidence", ())
    held = {row.get("kind", "") for row in documents if not _out_of_time(row, today)}
    persons = values.get("people", {}).get("persons", ())
    rows = [*(row for row in documents if row.get("kind", "") not in held), *persons]
    return next((day for row in rows if (day := _out_of_time(row, today))), "")


def _out_of_time(row: Mapping[str, Any], today: date) -> str:
    until, since = str(row.get("valid_until", "")), str(row.get("valid_from", ""))
    if until and until < today.isoformat():
        return until
    return since if since and since > today.isoformat() else ""
