"""One field is one setting: the field with all that the form, the files, the checks and the tables are made from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import MISSING, field, fields
from typing import Any

from ..errors import Problem, problem

# sd-scripts' key is the field's own name.
SAME = "="


def setting(
    default: Any,
    label: str,
    help: str,
    *,
    kohya: str = "",
    choices: tuple[str | int, ...] = (),
    least: float | None = None,
    most: float | None = None,
    absent: Any = MISSING,
) -> Any:
    """A dataclass field with what the form and the files need to know of it.

    ``kohya`` is sd-scripts' key, SAME if it is the field's name; settings without one are ours and are written with
    the prefix ``atelier_``. ``choices``, ``least`` and ``most`` (both included) are checked by ``checked``.
    ``absent`` is the value that sd-scripts takes where its file leaves the key out, if that is not ``default``.
    """
    metadata = {"label": label, "help": help, "kohya": kohya, "choices": choices, "least": least, "most": most}
    if absent is not MISSING:
        metadata["absent"] = absent
    return field(default=default, metadata=metadata)


def key_of(setting: dataclasses.Field[Any]) -> str:
    """The key of a setting in kohya's files."""
    kohya: str = setting.metadata["kohya"]
    if kohya == SAME:
        return setting.name
    return kohya or f"atelier_{setting.name}"


def absent(setting: dataclasses.Field[Any]) -> Any:
    """The value of a setting whose key is not in the file."""
    return setting.metadata.get("absent", setting.default)


def checked(where: str, config: Any) -> Iterator[Problem]:
    """Every setting of a group that is out of its range or none of its choices; ``where`` is the group's name."""
    for f in fields(config):
        if not f.metadata:
            continue
        value, place = getattr(config, f.name), f"{where}.{f.name}"
        if f.metadata["choices"]:
            yield from one_of(place, value, f.metadata["choices"])
        least, most = f.metadata["least"], f.metadata["most"]
        for number in value if isinstance(value, tuple) else (value,):
            if least is not None and most is not None:
                yield from between(place, number, least, most)
            elif least is not None:
                yield from at_least(place, number, least)


def at_least(where: str, value: float, least: float) -> Iterator[Problem]:
    """A problem if ``value`` is less than ``least`` or no number."""
    if not least <= value < math.inf:
        yield problem(where, "This is {value}; it must be {least} or more.", value=value, least=least)


def between(where: str, value: float, low: float, high: float) -> Iterator[Problem]:
    """A problem if ``value`` lies outside of ``low`` to ``high`` or is no number."""
    if not low <= value <= high:
        yield problem(where, "This is {value}; it must lie between {low} and {high}.", value=value, low=low, high=high)


def one_of(where: str, value: str | int, choices: tuple[str | int, ...]) -> Iterator[Problem]:
    """A problem if ``value`` is none of ``choices``."""
    if value not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        yield problem(where, "This is “{value}”; it must be one of {choices}.", value=value, choices=listed)
