"""What rights routes answer: a folder at a glance, one picture, in the reader's words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .. import locales
from ..rights import licences
from ..rights.folder_ledger import FolderLedger
from ..rights.licences import normalise
from ..rights.overview import Overview, Row

# Finds that a copy without metadata is free of; those in captions are for a person to look at.
_IN_FILES = ("exif", "xmp")
# Names that are sent with a group, so that a page can show the first of them.
_FIRST = 6


def overview_json(found: Overview, ledger: FolderLedger, lang: str, *, start: int, count: int) -> dict[str, Any]:
    """A folder as the page shows it: counts, groups of what is left out, marks of single pictures, some rows whole."""
    return {
        "statement": ledger.statement,
        "approved": ledger.approved is not None,
        "events": len(ledger.events),
        "unread": ledger.unread,
        "counts": found.counts(),
        "permits": found.permits(),
        "sentences": [locales.sentence(said, lang) for said in found.sentences()],
        "remarks": [locales.sentence(said, lang) for said in found.remarks()],
        "basis": dict(Counter(row.case.basis for row in found.rows if row.decision.included)),
        "licences": dict(Counter(row.case.licence for row in found.rows if row.decision.included and row.case.licence)),
        "groups": groups_json(found.rows, lang),
        "marks": marks(found.rows),
        "personal": personal_json(found.rows),
        "total": len(found.rows),
        "from": start,
        "pictures": [row_json(one, lang) for one in found.rows[start : start + count]],
    }


def groups_json(rows: Iterable[Row], lang: str) -> list[dict[str, Any]]:
    """The pictures that would not be used, by the rule that leaves them out; the largest group first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if not row.decision.included:
            groups.setdefault(row.decision.rule, []).append(row)
    return [
        {
            "rule": rule,
            "outcome": group[0].decision.outcome,
            "count": len(group),
            "names": [row.name for row in group[:_FIRST]],
            "why": locales.sentence(group[0].decision.why, lang),
        }
        for rule, group in sorted(groups.items(), key=lambda each: -len(each[1]))
    ]


def marks(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """What is to be seen on single pictures; those that are as most of the folder and have nothing are not in it."""
    listed = list(rows)
    common = Counter((row.case.basis, row.case.licence) for row in listed).most_common(1)
    usual = common[0][0] if common else ("", "")
    found = {}
    for row in listed:
        said = row.case.signals.data_mining
        plain = row.decision.included and not row.decision.override and said == "none_found"
        if plain and (row.case.basis, row.case.licence) == usual and not row.entry.said:
            continue
        found[row.name] = {
            "rule": "" if row.decision.included else row.decision.rule,
            "reservation": said,
            "basis": row.case.basis,
            "licence": row.case.licence,
            "override": bool(row.decision.override),
        }
    return found


def personal_json(rows: Iterable[Row]) -> dict[str, Any]:
    """How many files and captions hold something personal, of which kinds."""
    files = captions = 0
    kinds: Counter[str] = Counter()
    for row in rows:
        finds = row.entry.found.get("personal", [])
        own = {str(one.get("kind")) for one in finds if one.get("where") in _IN_FILES}
        files += bool(own)
        captions += any(one.get("where") == "caption" for one in finds)
        kinds.update(own)
    return {"files": files, "captions": captions, "kinds": dict(kinds)}


def row_json(row: Row, lang: str) -> dict[str, Any]:
    """One picture with the sentence that says why it is left out, if it is."""
    why = row.decision.why
    return {**row.to_json(), "why": locales.sentence(why, lang) if why else ""}


def licence_json(text: str, lang: str) -> dict[str, Any]:
    """What a licence that somebody wrote is taken for, what it permits, and why it takes something away."""
    name = normalise(text)
    permits: Mapping[str, str] = licences.permits_of(name) if name else {}
    return {
        "licence": name,
        "permits": dict(permits),
        "sentences": [locales.sentence(said, lang) for said in licences.reasons(name)] if name else [],
    }
