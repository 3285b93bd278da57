"""Content credentials whose signatures were checked, by the helper process where it has the package for it.

What it finds takes the place of what was read without checking (``signals_c2pa``), with two exceptions: a prohibition
stays one whoever made it, and permission under a seal that does not hold is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .signals_base import Signal, Signals, signal
from .signals_c2pa import use_of

# A question to the helper -> its result, {"error": …}, or None where there is no helper.
Ask = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
_SEALS = ("trusted", "valid", "invalid")
_FORBIDDING = ("not_allowed", "constrained")


def anchors_path(data_dir: Path) -> Path:
    """Where a person may put certificates (PEM) that vouch for signers."""
    return data_dir / "rights" / "trusted-signers.pem"


def is_unchecked(said: Signals) -> bool:
    """Whether there are content credentials whose signatures nobody checked."""
    return any(one.where == "c2pa" and one.seal == "unchecked" for one in said.found)


@dataclass(frozen=True)
class Verifier:
    """Asks for the signatures of pictures that have content credentials; others cost nothing."""

    ask: Ask
    anchors: str = ""

    @classmethod
    def of(cls, ask: Ask, data_dir: Path) -> Verifier:
        """The verifier of a data folder, with the signers that its person trusts."""
        try:
            return cls(ask, anchors_path(data_dir).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return cls(ask)

    def verified(self, path: Path, said: Signals) -> Signals:
        """What a picture says, with what is known of the seals; as it was where nobody can check them."""
        if not is_unchecked(said):
            return said
        answer = self.ask({"do": "credentials", "path": str(path.absolute()), "anchors": self.anchors})
        if answer is None:
            return said
        try:
            found = tuple(_signals(answer))
        except (KeyError, TypeError, ValueError, AttributeError):
            return said
        return with_checked(said, found)


def with_checked(said: Signals, checked: tuple[Signal, ...]) -> Signals:
    """What was read and what was checked of the same bytes, together."""
    if not checked:
        return said
    known = {one.raw for one in checked if one.use in _FORBIDDING}
    invalid = all(one.seal == "invalid" for one in checked)
    kept = [
        replace(one, seal="invalid") if invalid and one.where == "c2pa" else one
        for one in said.found
        # A prohibition that the checker does not list (of a part, or behind a damage) is one all the same.
        if one.where != "c2pa" or (one.use in _FORBIDDING and one.raw not in known)
    ]
    return Signals((*kept, *(one for one in checked if one not in kept)), said.rights)


def checked_of(said: Signals) -> tuple[Signal, ...]:
    """Those that were checked."""
    return tuple(one for one in said.found if one.where == "c2pa" and one.seal in _SEALS)


def _signals(answer: Mapping[str, Any]) -> Iterator[Signal]:
    """The signals of the helper's answer; one of use "unread" where it could make nothing of the manifest."""
    if "error" in answer or answer["state"] not in _SEALS:
        yield signal("c2pa", "c2pa", "a C2PA manifest that can't be read", "unread", seal="invalid")
        return
    seal = str(answer["state"])
    signer = str(answer["signer"]) or "somebody unnamed"
    broken = seal == "invalid"
    # Something is there that nobody can rely on: permission from elsewhere is not enough beside it.
    yield signal("c2pa.signature", "c2pa", f"signed by {signer}", "unread" if broken else "unspecified", seal=seal)
    for each in answer["statements"]:
        for name, word in each["entries"].items():
            use = use_of(str(name), str(word))
            if use == "allowed" and (broken or not each["active"]):
                use = "unread" if broken else "unspecified"
            yield signal(str(each["label"]).partition("__")[0], "c2pa", f"{name}: {word}", use, seal=seal)
    for each in answer["identities"]:
        if each["name"]:
            yield signal("cawg.identity", "c2pa", f"by {each['name']}", "unspecified", seal=str(each["seal"]))
