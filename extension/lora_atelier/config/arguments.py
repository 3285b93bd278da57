"""``name=value`` arguments of optimizers and schedulers, as kohya's lists hold them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import Problem, problem


def parsed(arguments: Sequence[str]) -> dict[str, Any]:
    """The arguments with their values as Python literals, as sd-scripts reads them: ``betas=0.9,0.99`` is a pair.

    Raises ValueError for one that is none; ``argument_problems`` says which.
    """
    return dict(_pair(argument) for argument in arguments)


def argument_problems(where: str, arguments: Sequence[str]) -> Iterator[Problem]:
    """A problem for each argument that is not a name and a Python literal, or that comes twice."""
    seen = set()
    for argument in arguments:
        try:
            name, _ = _pair(argument)
        except ValueError:
            yield problem(
                where,
                "“{argument}” can't be read: write name=value, with a number, True, False, None or a text in quotes.",
                argument=argument,
            )
            continue
        if name in seen:
            yield problem(where, "“{name}” is given twice; keep one.", name=name)
        seen.add(name)


def _pair(argument: str) -> tuple[str, Any]:
    name, equals, text = argument.partition("=")
    if not equals or not name.strip().isidentifier():
        raise ValueError(argument)
    try:
        return name.strip(), ast.literal_eval(text.strip())
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(argument) from error
