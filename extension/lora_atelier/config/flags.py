"""sd-scripts' options on a command line: ``--network_dim 16 --network_args conv_dim=8 conv_alpha=4 --sdpa``."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import Problem, problem
from . import keys
from .values import Values, not_of_kind, of_text

# What a dataset file calls otherwise.
_IN_DATASETS = {"train_batch_size": "batch_size", "caption_extention": "caption_extension"}


@dataclass(frozen=True)
class Flags:
    """Options by kohya's keys, in the types that a TOML file would have, and what is wrong with them."""

    main: Mapping[str, Any]
    problems: tuple[Problem, ...] = ()


def read_flags(words: Sequence[str]) -> Flags:
    """What the words of a command line say; each option is ``--key`` or ``--key=value``, the last of equal ones counts.

    Dashes inside of a name mean the same as underscores.
    """
    reader = _FlagReader()
    found = {key: value for key, given in reader.grouped(words) for value in reader.read(key, given)}
    return Flags(found, tuple(reader.problems))


class _FlagReader(Values):
    def grouped(self, words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        """Each option with the words that follow it."""
        key = ""
        given: list[str] = []
        for word in words:
            if word.startswith("--") and len(word) > 2:
                if key:
                    yield key, given
                name, equals, value = word[2:].partition("=")
                key, given = name.replace("-", "_"), [value] if equals else []
            elif key:
                given.append(word)
            else:
                self.wrong(problem(word, "“{word}” belongs to no option; options begin with two dashes.", word=word))
        if key:
            yield key, given

    def read(self, key: str, given: list[str]) -> Iterator[Any]:
        """The value of an option; nothing, and a problem, if it can't be read."""
        kind = keys.kind_of(key)
        if kind is None:
            keys.unknown_option(self, key)
        elif kind == "bool" and not given:
            yield True
        elif kind == "":
            yield True if not given else _literal(given[0]) if len(given) == 1 else given
        elif not given:
            self.wrong(problem(key, "“--{key}” needs a value.", key=key))
        elif len(given) > 1 and not kind.startswith("tuple"):
            self.wrong(
                problem(
                    key,
                    "“--{key}” takes one value and has {count}; put one with spaces in quotes.",
                    key=key,
                    count=len(given),
                )
            )
        else:
            try:
                yield _value(given, kind)
            except ValueError:
                self.wrong(not_of_kind(key, " ".join(given), kind))


def _value(given: Sequence[str], kind: str) -> Any:
    if kind.startswith("tuple"):
        part = kind[len("tuple[") :].partition(",")[0]
        return [of_text(each, part) for each in given]
    return of_text(given[0], kind)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text


def over_dataset(dataset: Mapping[str, Any], main: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """The contents of a dataset file without what ``main``, the flags, say otherwise; and a note for each such key.

    In sd-scripts the dataset file would win; a person who types an option means it.
    """
    names = {_IN_DATASETS.get(key, key): key for key in main}
    names = {name: key for name, key in names.items() if name in _dataset_names()}
    replaced: set[str] = set()

    def without(table: Any) -> Any:
        if not isinstance(table, Mapping):
            return table
        kept = {}
        for name, value in table.items():
            if name in ("datasets", "subsets") and isinstance(value, list):
                kept[name] = [without(each) for each in value]
            elif name == "general":
                kept[name] = without(value)
            elif name in names:
                replaced.add(names[name])
            else:
                kept[name] = value
        return kept

    left = without(dataset)
    said = (
        problem(key, "“--{key}” replaces what the dataset file says; sd-scripts would keep the file's value.", key=key)
        for key in sorted(replaced)
    )
    return left, tuple(said)


def _dataset_names() -> set[str]:
    return {*keys.subset_keys(), *keys.dataset_keys(), "validation_split", "validation_seed"}
