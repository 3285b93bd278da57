"""An append-only history: each event holds the hash of the one before, so that none can be changed unnoticed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import canonical

START = "0" * 64
Event = dict[str, Any]


def append(events: list[Event], what: str, *, at: str, by: str, data: Mapping[str, Any]) -> Event:
    """Add an event and return it. ``what`` happened, ``at`` is RFC 3339, ``by`` who said so."""
    event: Event = {
        "kind": "event",
        "seq": len(events),
        "at": at,
        "by": by,
        "what": what,
        "data": dict(data),
        "before": events[-1]["hash"] if events else START,
    }
    event["hash"] = canonical.digest(event)
    events.append(event)
    return event


def first_broken(events: Sequence[Mapping[str, Any]]) -> int | None:
    """The number of the first event that is not as it was written, or None."""
    before = START
    for number, event in enumerate(events):
        said = {name: value for name, value in event.items() if name != "hash"}
        try:
            whole = event["seq"] == number and event["before"] == before and event["hash"] == canonical.digest(said)
        except (KeyError, ValueError, RecursionError):
            whole = False
        if not whole:
            return number
        before = event["hash"]
    return None


def extends(longer: Sequence[Mapping[str, Any]], shorter: Iterable[Mapping[str, Any]]) -> bool:
    """Whether ``longer`` begins with all events of ``shorter``."""
    hashes = [event["hash"] for event in shorter]
    return [event["hash"] for event in longer[: len(hashes)]] == hashes
