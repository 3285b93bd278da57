"""The rules by which a picture is used or left out: four profiles, one picture at a time, no files. Needs no torch.

What a rights holder forbids is left out under every profile. Beyond that, *own work* asks nothing, *open licence* asks
for a licence, *studio* for a basis, evidence and consents and knows no exception, and *experiment* asks nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from ..errors import Message, message
from . import licences
from .folder_ledger import Entry, expired
from .ledger import BASES, PROFILE_OF
from .signals import refusal_of
from .signals_base import Signals

_OWN = {
    **dict.fromkeys(licences.PERMITS, "yes"),
    "share_dataset": "unknown",
    "name_in_prompt": "unknown",
    "attribution": "no",
    "share_alike": "no",
}
_NEEDING_CONSENT = frozenset({"model", "minor", "public_figure", "unknown"})


@dataclass(frozen=True, kw_only=True)
class Case:
    """All that is known of one picture: ``said`` is what holds for it, ``entry`` its own line in the ledger, if any."""

    name: str
    signals: Signals
    said: Mapping[str, Any]
    entry: Entry | None = None
    whose: str
    today: date
    withdrawn: bool = False
    is_reg: bool = False
    # Whether the file came after the folder was approved.
    is_new: bool = False

    @property
    def profile(self) -> str:
        """The rules that hold: a folder that a studio marked as its own stays so, whatever a run says."""
        return "studio" if self.said.get("profile") == "studio" else PROFILE_OF[self.whose]

    @property
    def basis(self) -> str:
        if self.said.get("basis"):
            return str(self.said["basis"])
        # A studio's folder asks for a statement; what the page was answered is none.
        return "none" if self.profile == "studio" else BASES[self.whose]

    @property
    def licence(self) -> str:
        """The licence that is stated; else, unless somebody owns the picture, what its file says."""
        stated = str(self.said.get("licence", ""))
        if not stated and self.basis != "owner":
            stated = self.signals.rights.licence or self.signals.rights.web_statement
            return licences.normalise(stated)
        return licences.normalise(stated) or (f"LicenseRef-{_plain(stated)}" if stated else "")

    def permits(self) -> dict[str, str]:
        """What may be done with what is learned from it, by the licence or the owner, and by what is stated."""
        if self.licence:
            found = licences.permits_of(self.licence)
        else:
            found = (
                dict(_OWN) if self.basis in ("owner", "public_domain") else dict.fromkeys(licences.PERMITS, "unknown")
            )
        found |= self.said.get("permits", {})
        if self.profile == "experiment":
            found |= {"share_model": "no", "share_dataset": "no"}
        return found


@dataclass(frozen=True)
class Decision:
    """ "include", "exclude" or "quarantine" by which rule; ``why`` says it where a picture is left out.

    ``override`` is the reason that somebody gave against a prohibition.
    """

    outcome: str
    rule: str
    why: Message = field(default_factory=lambda: Message(""))
    override: str = ""

    @property
    def included(self) -> bool:
        return self.outcome == "include"


def decide(case: Case) -> Decision:
    """Whether a picture is used. The first rule that leaves it out is the one that is said."""
    strict = case.profile == "studio"
    if case.withdrawn or (case.entry is not None and case.entry.withdrawn is not None):
        return _out("withdrawn", message("“{name}” is left out: it was withdrawn.", name=case.name))
    override = ""
    refusal = refusal_of(case.name, case.signals)
    if refusal is not None:
        given = case.entry.override if case.entry is not None else None
        if given is None or strict:
            return _out("reservation", refusal)
        override = f"{given['by']}: {given['reason']}"
    if "no" in (case.permits()["train"], case.permits()["gen_train"]) and not override:
        return _out(
            "permits",
            message("“{name}” is left out: training on it is not permitted by what is stated.", name=case.name),
        )
    # Nothing is asked for an experiment, nor of pictures that only keep what a model knows.
    if case.profile == "experiment" or (case.is_reg and not case.said):
        return Decision(
            "include", "experiment" if case.profile == "experiment" else "regularisation", override=override
        )
    if day := expired(case.said, case.today):
        return _out(
            "expired",
            message("“{name}” is left out: what permits its use does not hold today ({day}).", name=case.name, day=day),
            outcome="quarantine",
        )
    if case.profile == "open-licence" and not case.licence:
        return _out(
            "licence",
            message("“{name}” is left out: it has no licence. State it, once for the folder.", name=case.name),
        )
    missing = _missing(case) if strict else None
    return missing or Decision("include", case.profile, override=override)


def _missing(case: Case) -> Decision | None:
    """What a studio's picture lacks, or None."""
    if case.is_new:
        return _out(
            "approval", message("“{name}” is left out: it was not there when the folder was approved.", name=case.name)
        )
    if case.basis == "none":
        return _out("basis", message("“{name}” is left out: it is not stated why it may be used.", name=case.name))
    if case.basis != "owner" and not case.said.get("evidence"):
        return _out("evidence", message("“{name}” is left out: no document shows that it may be used.", name=case.name))
    if case.signals.unread:
        return _out(
            "unread",
            message("“{name}” is left out: it holds a statement of rights that can't be read.", name=case.name),
            outcome="quarantine",
        )
    people = case.said.get("people", {})
    for person in people.get("persons", ()):
        if person["relation"] in _NEEDING_CONSENT and (person["consent"] != "written" or not person.get("evidence")):
            return _out(
                "consent", message("“{name}” is left out: a person in it has given no written consent.", name=case.name)
            )
    return None


def _out(rule: str, why: Message, *, outcome: str = "exclude") -> Decision:
    return Decision(outcome, rule, why)


def _plain(text: str) -> str:
    """A licence's own name as SPDX lets one be written."""
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text)
    return "-".join(part for part in kept.split("-") if part)[:60] or "Stated"
