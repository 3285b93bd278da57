"""Weights in a text: ``(word)`` 1.1 times, ``(word:1.3)`` 1.3 times, ``[word]`` 1/1.1 times, ``\\(`` a bracket itself.

The notation is AUTOMATIC1111's. What is opened and not closed counts to the end; what is closed and was not opened is
text.
"""

from __future__ import annotations

import re

_STEP = 1.1
_CLOSING_WEIGHT = re.compile(r":([+-]?(?:\d+\.?\d*|\.\d+))\)")
_ESCAPED = "\\()[]"


def weighted_parts(text: str) -> list[tuple[str, float]]:
    """The text without its brackets, in pieces of one weight each; at least one piece."""
    pieces: list[tuple[str, float]] = []
    round_from: list[int] = []
    square_from: list[int] = []

    def multiply(start: int, factor: float) -> None:
        pieces[start:] = [(piece, weight * factor) for piece, weight in pieces[start:]]

    at = 0
    while at < len(text):
        letter, weight = text[at], _CLOSING_WEIGHT.match(text, at)
        if letter == "\\":
            # In front of anything but a bracket it says nothing and is left out.
            escaped = text[at + 1 : at + 2]
            at += 1
            if escaped and escaped in _ESCAPED:
                pieces.append((escaped, 1.0))
                at += 1
            continue
        if weight is not None and round_from:
            multiply(round_from.pop(), float(weight[1]))
            at = weight.end()
            continue
        if letter == "(":
            round_from.append(len(pieces))
        elif letter == "[":
            square_from.append(len(pieces))
        elif letter == ")" and round_from:
            multiply(round_from.pop(), _STEP)
        elif letter == "]" and square_from:
            multiply(square_from.pop(), 1 / _STEP)
        else:
            pieces.append((letter, 1.0))
        at += 1
    for start in round_from:
        multiply(start, _STEP)
    for start in square_from:
        multiply(start, 1 / _STEP)
    return _joined(pieces) or [("", 1.0)]


def _joined(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    joined: list[tuple[str, float]] = []
    for piece, weight in pieces:
        if joined and joined[-1][1] == weight:
            joined[-1] = joined[-1][0] + piece, weight
        else:
            joined.append((piece, weight))
    return joined
