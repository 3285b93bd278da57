"""The gate: the only way to a picture's pixels in training."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from PIL import Image

from .. import atomic
from ..datasets.items import Item
from ..errors import DataError, Message, RightsError, message
from . import ledger, near_duplicates, policy, rollup, scanning, signals
from .folder_ledger import Entry, FolderLedger, item_id
from .ledger import BASES, Record
from .policy import Case, Decision
from .signals_base import Signals
from .signals_sidecar import Beside
from .signals_verified import checked_of, with_checked
from .store import Prohibitions, Store

LEDGER = "rights.jsonl"
# What was left out, for the report.
REFUSED = "rights-refused.json"
# The secret of the tree over a run's pictures; whoever has it can tell which pictures are in it.
SECRET = "rights-secret"


@dataclass(frozen=True)
class Admitted:
    """The pictures of a run that may be used, the sentences that refuse the others, and what else to say.

    ``items`` may have other repeats than they came with: near-duplicates share one budget.
    """

    items: tuple[Item, ...]
    refused: tuple[Message, ...]
    whose: str
    _records: Mapping[str, Record]
    remarks: tuple[Message, ...] = ()
    run_dir: Path = Path()
    _as_admitted: Mapping[Item, Item] = field(default_factory=dict)
    _folder: Mapping[str, Any] = field(default_factory=dict)

    def sha256(self, item: Item) -> str:
        """The sha256 of the file that was admitted, 64 hex digits."""
        return self._records[str(item.path)].sha256

    def admitted(self, item: Item) -> Item | None:
        """The item as it was admitted, with the repeats that it got; None if it was left out."""
        return self._as_admitted.get(item)

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
        """What the adapter file says: the answer, counts, permits, credits that were opted in, and the root of the tree
        over the pictures; no name and no path."""
        paths = dict.fromkeys(str(item.path) for item in self.items)
        used = [self._records[path] for path in paths]
        return rollup.summary(
            used, whose=self.whose, refused=len(self.refused), secret=secret_of(self.run_dir), folder=self._folder
        )


def admit(items: Sequence[Item], run_dir: Path, *, whose: str, today: date | None = None) -> Admitted:
    """Admit the pictures that may be used, by the rules of ``whose`` and of their folders' ledgers, and record them.

    They stand in ``run_dir/rights.jsonl`` then.

    A run that goes on must find the pictures that it began with. Raises RightsError if all are refused, if one changed
    since the run began or since it was approved, or if ``whose`` is no answer we know; OSError if the record can't be
    written.
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
    examiner = _Examiner(whose, today or date.today(), Store.of_run(run_dir))
    admitted: list[Item] = []
    refused: dict[str, Decision] = {}
    records: dict[str, Record] = {}
    for item in items:
        path = str(item.path)
        if path not in records and path not in refused:
            record, decision = examiner.examine(item)
            known = before.get(path)
            if known is not None and known.sha256 != record.sha256:
                raise _changed(item.path)
            if decision.included:
                records[path] = replace(record, group=known.group) if known is not None else record
            else:
                refused[path] = decision
        if path in records:
            admitted.append(item)
    sentences = tuple(decision.why for decision in refused.values())
    if not any(not item.is_reg for item in admitted) and refused:
        raise _none_left(list(refused.values()))
    kept, said = _shared(admitted, records, before, examiner)
    if records != before:
        ledger.write(run_dir / LEDGER, records.values())
        _write_refused(run_dir, refused)
    return Admitted(
        tuple(kept.values()),
        sentences,
        whose,
        records,
        (*examiner.remarks, *said),
        run_dir,
        kept,
        examiner.folder_statement(),
    )


def _shared(
    items: Sequence[Item], records: dict[str, Record], before: Mapping[str, Record], examiner: _Examiner
) -> tuple[dict[Item, Item], list[Message]]:
    """The items as they are used: near-duplicates share one budget of repeats. Their groups go into ``records``."""
    places = Counter((item.dataset, item.path) for item in items)
    sharing = [
        item
        for item in dict.fromkeys(items)
        # Who lists a picture twice on purpose is not second-guessed.
        if not item.is_reg and places[item.dataset, item.path] == 1 and examiner.shares_repeats(item)
    ]
    if any(str(item.path) not in before for item in sharing):
        grouped = near_duplicates.groups(
            sharing, lambda item: records[str(item.path)].sha256, lambda item: _read(item.path), examiner.fingerprint
        )
        for path in {str(item.path) for item in sharing}:
            records[path] = replace(records[path], group=grouped.get(path, ""))
    else:
        # A run that goes on has the groups that it began with.
        grouped = {path: record.group for path, record in records.items() if record.group}
    repeats, said = near_duplicates.shared(sharing, grouped)
    for item, number in repeats.items():
        records[str(item.path)] = replace(records[str(item.path)], left_out=not number)
    used = {item: repeats.get(item, item.num_repeats) for item in items}
    return {item: replace(item, num_repeats=number) for item, number in used.items() if number}, said


@dataclass
class _Examiner:
    """Decides on pictures, with what is known of their folders; each folder is looked at once."""

    whose: str
    today: date
    store: Store | None
    remarks: list[Message] = field(default_factory=list)
    _ledgers: dict[Path, FolderLedger | None] = field(default_factory=dict)
    _beside: dict[Path, Beside] = field(default_factory=dict)
    _fingerprints: dict[str, str] = field(default_factory=dict)
    _earlier: Prohibitions | None = None

    def examine(self, item: Item) -> tuple[Record, Decision]:
        """What the record says of a picture, and whether it is used. Raises DataError, RightsError."""
        path, data = item.path, _read(item.path)
        sha256 = hashlib.sha256(data).hexdigest()
        known = self.ledger(path.parent)
        entry = known.entries.get(item_id(sha256)) if known is not None else None
        if entry is not None and entry.found.get("look") == scanning.LOOK:
            self._fingerprints[str(path)] = str(entry.found.get("pdq", ""))
        if known is not None and known.approved is not None and known.approved.get(path.name, sha256) != sha256:
            raise RightsError(
                "“{name}” is no longer the picture that was looked at and approved.",
                why="Its file changed since.",
                todo="Look through the folder again, approve it, and start the training again.",
                name=path.name,
            )
        beside = self._beside.setdefault(path.parent, Beside(path.parent))
        found = signals.read_bytes(data)
        if entry is not None:
            # The record knows more of these bytes where somebody checked the seals of their content credentials.
            found = with_checked(found, checked_of(entry.signals()))
        found = found.merged(beside.signals(path.name))
        inherited, withdrawn = self._inherited(data, sha256, entry, known)
        found = found.merged(inherited)
        case = Case(
            name=path.name,
            signals=found,
            said=known.effective(entry) if known is not None else {},
            entry=entry,
            whose=self.whose,
            today=self.today,
            withdrawn=withdrawn,
            is_reg=item.is_reg,
            is_new=known is not None and known.approved is not None and path.name not in known.approved,
        )
        decision = policy.decide(case)
        return _record(case, sha256, str(path), decision), decision

    def _inherited(
        self, data: bytes, sha256: str, entry: Entry | None, known: FolderLedger | None
    ) -> tuple[Signals, bool]:
        if self._earlier is None:
            self._earlier = self.store.prohibitions() if self.store is not None else Prohibitions()
        if not self._earlier:  # then no pixels are needed
            return Signals(), False
        if entry is not None:
            pixels, pdq = entry.pixel_id, str(entry.found.get("pdq", ""))
        else:
            pixels, pdq = scanning.pixels_and_fingerprint(data)
        besides = known.dataset_id if known is not None else ""
        return self._earlier.of(item_id(sha256), pixels, pdq, besides=besides)

    def ledger(self, folder: Path) -> FolderLedger | None:
        """The folder's ledger. One that can't be relied on ends a run, an experiment aside."""
        if folder not in self._ledgers:
            try:
                self._ledgers[folder] = scanning.open_ledger(folder, self.store)
            except RightsError as error:
                if self.whose != "experiment":
                    raise
                self.remarks.append(message("{reason} The experiment goes on without it.", reason=str(error.what)))
                self._ledgers[folder] = None
        return self._ledgers[folder]

    def fingerprint(self, item: Item) -> str | None:
        """What the folder's record knows of how a picture looks; None where it was not looked at."""
        return self._fingerprints.get(str(item.path))

    def shares_repeats(self, item: Item) -> bool:
        known = self.ledger(item.path.parent)
        return known is None or bool(known.statement.get("share_repeats", True))

    def folder_statement(self) -> dict[str, Any]:
        """What the folders together say that concerns the LoRA as a whole; the first one's word."""
        found: dict[str, Any] = {}
        for known in self._ledgers.values():
            if known is not None:
                found = {**known.statement, **found}
        return found


def _record(case: Case, sha256: str, path: str, decision: Decision) -> Record:
    said = case.said
    persons = said.get("people", {}).get("persons", ())
    people = {"present": said.get("people", {}).get("present", "")} if said.get("people") else {}
    if persons:
        people |= {person["relation"]: person["consent"] for person in persons}
    credits = [one.get("credit_as") or one["name"] for one in said.get("creators", ()) if one.get("credit_optin")]
    return Record(
        path=path,
        sha256=sha256,
        basis=case.basis,
        data_mining=case.signals.data_mining,
        terms=case.signals.terms,
        licence=case.licence,
        source_type=str(said.get("source_type", "")),
        permits=case.permits(),
        signals=case.signals.counts(),
        credits=tuple(dict.fromkeys(credits)),
        override=decision.override,
        people={name: value for name, value in people.items() if value},
        evidence=tuple(one["sha256"] for one in said.get("evidence", ())),
        is_reg=case.is_reg,
    )


def secret_of(run_dir: Path) -> bytes:
    """The run's secret, made when it is first needed. Raises OSError."""
    path = run_dir / SECRET
    try:
        return bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (FileNotFoundError, ValueError):
        made = secrets.token_bytes(32)
        atomic.write_text(path, made.hex() + "\n")
        return made


def _write_refused(run_dir: Path, refused: Mapping[str, Decision]) -> None:
    said = [{"path": path, "rule": one.rule, "why": one.why.to_json()} for path, one in refused.items()]
    atomic.write_text(run_dir / REFUSED, json.dumps({"schema": 1, "refused": said}, ensure_ascii=False) + "\n")


def _none_left(decisions: Sequence[Decision]) -> RightsError:
    if all(one.rule == "reservation" for one in decisions):
        return RightsError(
            "None of the pictures may be used.",
            why="All {count} carry a prohibition, in the file itself or where they came from.",
            todo="Ask the rights holder for files without it, or use other pictures.",
            count=len(decisions),
        )
    return RightsError(
        "None of the pictures may be used.",
        why="{count} are left out. {first}",
        todo="State what is missing for the folder, or use other pictures.",
        count=len(decisions),
        first=str(decisions[0].why),
    )


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
