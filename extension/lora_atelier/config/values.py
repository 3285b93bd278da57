"""Values of kohya's files in the types of our settings; what does not fit is collected as a problem."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import Message, Problem, message, problem

Field = dataclasses.Field[Any]

_KINDS: Mapping[str, Message] = {
    "bool": message("This is {value}; it must be true or false."),
    "int": message("This is {value}; it must be a whole number."),
    "float": message("This is {value}; it must be a number."),
    "str": message("This is {value}; it must be a text."),
    "tuple[str, ...]": message("This is {value}; it must be a list of texts."),
    "tuple[int, ...]": message("This is {value}; it must be a list of whole numbers."),
    "tuple[float, ...]": message("This is {value}; it must be a list of numbers."),
    "tuple[int, int]": message("This is {value}; it must be a whole number or [width, height]."),
}
TRUE, FALSE = {"true", "1", "yes"}, {"false", "0", "no", "none", ""}


def of_text(text: str, kind: str) -> Any:
    """What ``text`` says, in the type that is written ``kind``. Raises ValueError if it says none of that type."""
    if kind == "str":
        return text
    if kind == "bool":
        if text.lower() not in TRUE | FALSE:
            raise ValueError(text)
        return text.lower() in TRUE
    if kind.startswith("tuple"):
        part = kind[len("tuple[") :].partition(",")[0]
        return tuple(of_text(each.strip(), part) for each in text.strip("()[] ").split(",") if each.strip())
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    if kind == "float":
        return number
    # Large seeds have more digits than a float holds.
    return int(number) if re.search(r"[.e]", text, re.IGNORECASE) and number.is_integer() else int(text)


def not_of_kind(key: str, value: Any, kind: str) -> Problem:
    """The problem of a value that is not of the type that is written ``kind``."""
    return Problem(key, Message(_KINDS[kind].template, {"value": repr(value)}))


class Values:
    """Converts values and collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []

    def value(self, key: str, value: Any, f: Field) -> Any:
        """``value`` in the type of a setting; one of another type becomes a problem and the setting's default."""
        kind = str(f.type)
        if kind == "float" and type(value) in (int, float) and math.isfinite(value):
            return float(value)
        if kind in ("bool", "int", "str") and type(value).__name__ == kind:
            return value
        if kind == "tuple[int, int]" and type(value) is int:
            return value, value
        if kind.startswith("tuple") and isinstance(value, list | tuple):
            part = kind[len("tuple[") :].partition(",")[0]
            types = {"str": (str,), "int": (int,), "float": (int, float)}[part]
            fits = len(value) == 2 if kind == "tuple[int, int]" else True
            if fits and all(type(each) in types for each in value):
                return tuple(float(each) for each in value) if part == "float" else tuple(value)
        self.wrong(not_of_kind(key, value, kind))
        return f.default

    def parsed(self, key: str, text: str, f: Field) -> Any:
        """The value of a "name=value" argument in the type of a setting."""
        try:
            return of_text(text, str(f.type))
        except ValueError:
            self.wrong(not_of_kind(key, text, str(f.type)))
            return f.default

    def arguments(self, key: str, given: Any) -> list[tuple[str, str]]:
        """``["name=value", …]`` as kohya's network_args and optimizer_args are."""
        if given is None:
            return []
        if not isinstance(given, list | tuple):
            self.wrong(problem(key, 'This must be a list like ["name=value"].'))
            return []
        pairs = []
        for argument in given:
            name, equals, value = str(argument).partition("=")
            if equals:
                pairs.append((name.strip(), value.strip()))
            else:
                self.wrong(problem(key, "“{argument}” has no value; write name=value.", argument=str(argument)))
        return pairs

    def numbers(self, key: str, text: str, kind: type[int] | type[float]) -> Any:
        try:
            numbers = [kind(part) for part in text.split(",")]
        except ValueError:
            return text  # ``value`` will say what is wrong with it
        return numbers[0] if len(numbers) == 1 and key == "resolution" else numbers

    def unreadable(self, key: str, argument: str) -> None:
        self.wrong(problem(key, "“{argument}” can't be read as a number.", argument=argument))

    def wrong(self, found: Problem) -> None:
        """Note a problem."""
        self.problems.append(found)

    def unknown(self, key: str, known: Iterable[str]) -> None:
        """Note that ``key`` is none of ``known``, naming the nearest."""
        near = difflib.get_close_matches(key, list(known), n=1)
        if near:
            self.wrong(problem(key, "“{key}” is no option that we know; did you mean “{near}”?", near=near[0], key=key))
        else:
            self.wrong(problem(key, "“{key}” is no option that we know; remove it.", key=key))
