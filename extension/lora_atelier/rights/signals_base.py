"""What signals are: one statement that was found about a picture, all of them together, and who counts as strictest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# ``constrained``: allowed under terms that a person must read. ``unread``: something is there that could not be read.
Use = Literal["allowed", "not_allowed", "constrained", "unspecified", "unread"]
DataMining = Literal["prohibited", "allowed", "none_found"]

# What is kept of a statement's own words.
RAW_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One statement: ``kind`` of standard, ``where`` it was found, its own words, what it says of training.

    ``seal`` is what is known of a signature over it: "none", "unchecked" where there is one that nobody checked,
    "invalid", "valid" (unchanged, by somebody for whom nobody vouches) or "trusted".
    """

    kind: str
    where: str
    raw: str
    use: Use
    seal: str = "none"

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Signal:
        return cls(**{name: str(said[name]) for name in ("kind", "where", "raw", "use", "seal")})  # type: ignore[arg-type]


def signal(kind: str, where: str, raw: str, use: Use, *, seal: str = "none") -> Signal:
    """A signal whose words are cut to a length that a list can hold."""
    text = " ".join(raw.split())
    return Signal(kind=kind, where=where, raw=text[:RAW_CHARACTERS], use=use, seal=seal)


@dataclass(frozen=True)
class Rights:
    """What a file says of its rights, in its own words; empty where it says nothing. Nothing here is checked by us."""

    creators: tuple[str, ...] = ()
    notice: str = ""
    owner: str = ""
    terms: str = ""
    web_statement: str = ""
    licence: str = ""
    credit: str = ""
    marked: str = ""
    model_release: str = ""
    property_release: str = ""
    minor_age: str = ""
    digital_source_type: str = ""
    persons: tuple[str, ...] = ()
    source_url: str = ""

    def to_json(self) -> dict[str, Any]:
        """Only what is said."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items() if value
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Rights:
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in said.items()
        }
        return cls(**values)

    def merged(self, other: Rights) -> Rights:
        """Both statements; where both say one thing, the first one's word."""
        values: dict[str, Any] = {}
        for name, own in vars(self).items():
            others = getattr(other, name)
            values[name] = tuple(dict.fromkeys((*own, *others))) if isinstance(own, tuple) else own or others
        return Rights(**values)


@dataclass(frozen=True)
class Signals:
    """All statements about one picture, and what it says of its rights."""

    found: tuple[Signal, ...] = ()
    rights: Rights = field(default_factory=Rights)

    @property
    def data_mining(self) -> DataMining:
        """The strictest statement. Silence is ``none_found``, and so is permission beside something unread."""
        uses = {one.use for one in self.found}
        if uses & {"not_allowed", "constrained"}:
            return "prohibited"
        return "allowed" if "allowed" in uses and "unread" not in uses else "none_found"

    @property
    def prohibited(self) -> bool:
        return self.data_mining == "prohibited"

    @property
    def unread(self) -> bool:
        """Whether something is there that could not be read."""
        return any(one.use == "unread" for one in self.found)

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms of the PLUS vocabulary that were found."""
        return tuple(dict.fromkeys(one.raw for one in self.found if one.kind == "plus"))

    def prohibitions(self) -> tuple[Signal, ...]:
        """The statements that forbid, the plainest first."""
        order = {"not_allowed": 0, "constrained": 1}
        return tuple(sorted((one for one in self.found if one.use in order), key=lambda one: order[one.use]))

    def merged(self, *others: Signals) -> Signals:
        """These and the others together, each statement once."""
        found, rights = list(self.found), self.rights
        for other in others:
            found += other.found
            rights = rights.merged(other.rights)
        return Signals(tuple(dict.fromkeys(found)), rights)

    def counts(self) -> dict[str, int]:
        """How many statements of each kind and use there are, as "kind: use"."""
        return count(f"{one.kind}: {one.use}" for one in self.found)


def count(values: Iterable[str]) -> dict[str, int]:
    """How often each value comes, in the order of the values."""
    listed = list(values)
    return {value: listed.count(value) for value in sorted(set(listed))}
