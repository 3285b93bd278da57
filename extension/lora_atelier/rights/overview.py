"""A folder's rights at a glance: what a training would do with each picture, before there is one. Reads no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from ..errors import Message, message
from . import licences, policy
from .folder_ledger import Entry, FolderLedger
from .policy import Case, Decision
from .signals_verified import is_unchecked


@dataclass(frozen=True)
class Row:
    """One file: what is known of it, and what would be done with it."""

    name: str
    entry: Entry
    case: Case
    decision: Decision

    @property
    def has_origin(self) -> bool:
        """Whether anything tells where it comes from or what may be done with it: most files have lost that."""
        return bool(self.entry.found.get("signals") or self.entry.found.get("rights"))

    def to_json(self) -> dict[str, Any]:
        """All of it but the sentence, which needs a language."""
        rights = self.case.signals.rights
        return {
            "name": self.name,
            "item": self.entry.item_id,
            "outcome": self.decision.outcome,
            "rule": self.decision.rule,
            "reservation": self.case.signals.data_mining,
            "has_origin": self.has_origin,
            "signals": self.entry.found.get("signals", []),
            "creator": ", ".join(rights.creators),
            "notice": rights.notice,
            "source_url": rights.source_url or str(self.case.said.get("source_url", "")),
            "basis": self.case.basis,
            "licence": self.case.licence,
            "permits": self.case.permits(),
            "personal": self.entry.found.get("personal", []),
            "override": self.entry.override,
            "withdrawn": self.entry.withdrawn,
            "said": self.entry.said,
        }


@dataclass(frozen=True)
class Overview:
    """All files of a folder, in the order of their names."""

    rows: tuple[Row, ...]
    statement: Mapping[str, Any]

    def counts(self) -> dict[str, int]:
        """How many are used, left out, to be decided on; with no origin, with personal data, of the same bytes."""
        outcomes = [row.decision.outcome for row in self.rows]
        return {
            "included": outcomes.count("include"),
            "left_out": outcomes.count("exclude"),
            "undecided": outcomes.count("quarantine"),
            "no_origin": sum(not row.has_origin for row in self.rows),
            "personal": sum(bool(row.entry.found.get("personal")) for row in self.rows),
            "same_bytes": len(self.rows) - len({row.entry.item_id for row in self.rows}),
            "override": sum(bool(row.decision.override) for row in self.rows),
        }

    def permits(self) -> dict[str, str]:
        """What all pictures that would be used permit together."""
        return licences.intersection(row.case.permits() for row in self.rows if row.decision.included)

    def sentences(self) -> Iterator[Message]:
        """What to say before a training: how many, why some not, what is not known."""
        counts = self.counts()
        yield message(
            "{included} pictures are used, {left_out} are left out, {undecided} wait for a decision.",
            included=counts["included"],
            left_out=counts["left_out"],
            undecided=counts["undecided"],
        )
        if counts["personal"]:
            yield message("{count} files or captions hold personal data; look at them.", count=counts["personal"])
        yield from self.remarks()

    def remarks(self) -> Iterator[Message]:
        """What is not known of the files, what their licences take away, and what an expert should look at."""
        if no_origin := self.counts()["no_origin"]:
            yield message("{count} files have no information about their origin.", count=no_origin)

        if any(is_unchecked(row.case.signals) for row in self.rows):
            yield message(
                "Content credentials are read here and their signatures not checked: that needs the package "
                "“c2pa-python” in the trainer's environment."
            )
        for licence in dict.fromkeys(row.case.licence for row in self.rows if row.decision.included):
            yield from licences.reasons(licence)
        if self._is_of_one_creator():
            yield message(
                "It is stated that works of one creator are aimed at, without a licence. Japan's guidance of 2024 "
                "names training on a few works of one creator, in order to put out what is creative in them, as a "
                "case where its exception may not hold. A style alone is an idea and free; expression is not. Ask an "
                "expert."
            )

    def _is_of_one_creator(self) -> bool:
        """Whether somebody states that the works of one creator are aimed at to whom there is no relation."""
        return self.statement.get("targets_specific_creator") == "yes" and self.statement.get(
            "relation_to_creator", "unknown"
        ) in ("none", "unknown")


def overview(ledger: FolderLedger, *, whose: str, today: date | None = None) -> Overview:
    """What a training under ``whose`` would do with the folder's pictures as they were last looked at."""
    today = today or date.today()
    rows = []
    for name, item in sorted(ledger.names.items()):
        entry = ledger.entries[item]
        case = Case(
            name=name,
            signals=entry.signals(),
            said=ledger.effective(entry),
            entry=entry,
            whose=whose,
            today=today,
            withdrawn=bool(entry.found.get("withdrawn_before")),
            is_new=ledger.approved is not None and name not in ledger.approved,
        )
        rows.append(Row(name, entry, case, policy.decide(case)))
    return Overview(tuple(rows), ledger.statement)
