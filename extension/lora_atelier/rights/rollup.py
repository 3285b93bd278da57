"""What a LoRA file says of the rights of all its pictures together: counts and intersections, nothing of one alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import licences, merkle
from .ledger import PROFILE_OF, Record
from .signals_base import count

SCHEMA = 2
_MOST_CREDITS = 200


def summary(
    records: Sequence[Record], *, whose: str, refused: int, secret: bytes, folder: Mapping[str, Any]
) -> dict[str, Any]:
    """The summary of a run's records. Pictures that only keep what the model knows are counted apart.

    ``folder`` is what the folders' ledgers state as a whole; of it only a contact is taken.
    """
    own = [record for record in records if not record.is_reg]
    profile = "studio" if folder.get("profile") == "studio" else PROFILE_OF[whose]
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "whose": whose,
        "profile": profile,
        "sharing": profile != "experiment",
        "pictures": len(own),
        "regularisation": len(records) - len(own),
        "basis": count(record.basis for record in own),
        "licences": count(record.licence for record in own if record.licence),
        "source_types": count(record.source_type for record in own if record.source_type),
        "data_mining": count(record.data_mining for record in own),
        "signals": _added(record.signals for record in own),
        "refused": refused,
        "override": sum(bool(record.override) for record in own),
        "evidence": len({sha256 for record in own for sha256 in record.evidence}),
        "people": _people(own),
        "permits": licences.intersection(record.permits for record in records if record.permits and not record.is_reg),
        "root": merkle.root(secret, (record.sha256 for record in records)),
    }
    credits = dict.fromkeys(name for record in own for name in record.credits)
    if credits:
        found["credits"] = list(credits)[:_MOST_CREDITS]
    if folder.get("contact"):
        found["contact"] = folder["contact"]
    return found


def joined(own: Mapping[str, Any], others: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """What a LoRA says that goes on from others; ``own`` as it is where there are none.

    Permits are the intersection, credits the union; one that is not for sharing makes all of it so. None stands for a
    LoRA that says nothing of rights: it permits nothing for certain.
    """
    if not others:
        return dict(own)
    each = [own, *(other or {} for other in others)]
    found = {**own, "permits": licences.intersection(_mapping(said.get("permits")) for said in each)}
    credits = dict.fromkeys(str(name) for said in each for name in _listed(said.get("credits")))
    if credits:
        found["credits"] = list(credits)[:_MOST_CREDITS]
    if any(said.get("sharing") is False for said in each):
        found["sharing"] = False
        found["permits"] = {**found["permits"], "share_model": licences.NO}
    found["made_from"] = [
        {name: str(said[name]) for name in ("root", "profile") if said.get(name)} if said else {} for said in others
    ]
    return found


def _mapping(value: Any) -> Mapping[str, str]:
    """Permits of a foreign file; what is no answer is unknown."""
    answers = (licences.YES, licences.NO)
    given = value if isinstance(value, Mapping) else {}
    return {str(name): answer for name, answer in given.items() if answer in answers}


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _people(records: Sequence[Record]) -> dict[str, Any]:
    """How many pictures were said to show persons, and the weakest consent of each relation."""
    weakest: dict[str, str] = {}
    order = ("none", "verbal", "written")
    for record in records:
        for relation, consent in record.people.items():
            if relation != "present":
                weakest[relation] = min(consent, weakest.get(relation, consent), key=order.index)
    present = count(record.people.get("present", "unknown") for record in records)
    return {"present": present, "consent": weakest} if weakest else {"present": present}


def _added(counts: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in counts:
        for name, number in each.items():
            found[name] = found.get(name, 0) + number
    return dict(sorted(found.items()))
