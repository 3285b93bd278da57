"""``<lora:name:te:unet:dyn>`` in a prompt <-> ``NetworkCall``, in the grammar that AUTOMATIC1111's webui accepts.

``<lora:x>`` is weight 1; ``<lora:x:0.8>`` sets text encoder and U-Net; ``<lora:x:0.5:0.8>`` sets them apart; a
third number is DyLoRA's rank. ``te=``, ``unet=`` and ``dyn=`` name them in any order; ``<lyco:x>`` means the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import Message, message

# AUTOMATIC1111 takes "lyco", the tag of an extension that it has swallowed, for "lora"; old prompts have it.
_TAG = re.compile(r"<(?:lora|lyco):([^>]*)>")
_START = re.compile(r"<(?:lora|lyco):")
# A rank of more digits is none; int() refuses thousands of them with an error of its own.
_RANK_DIGITS = 6


@dataclass(frozen=True)
class NetworkCall:
    """One ``<lora:…>``: which adapter, at which multipliers; ``source`` is the text as the person wrote it.

    ``named`` keeps arguments that this version does not act on (block weights, schedules), untouched.
    """

    name: str
    te: float = 1.0
    unet: float = 1.0
    dyn: int | None = None
    source: str = field(default="", compare=False)
    named: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The call as a tag that parses to this very call."""
        parts = [self.name, _number(self.te)]
        if self.unet != self.te or self.dyn is not None:
            parts.append(_number(self.unet))
        if self.dyn is not None:
            parts.append(str(self.dyn))
        parts += [f"{key}={value}" for key, value in self.named.items()]
        return f"<lora:{':'.join(parts)}>"


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt's text without its tags, its calls in order, and what could not be understood."""

    text: str
    calls: tuple[NetworkCall, ...] = ()
    problems: tuple[Message, ...] = ()


def parse(prompt: str) -> ParsedPrompt:
    """Return the prompt's text and its calls; a tag that makes no sense becomes a problem and no call."""
    calls: list[NetworkCall] = []
    problems: list[Message] = []

    def take(match: re.Match[str]) -> str:
        try:
            calls.append(_call(match.group(1), source=match.group(0)))
        except _BadTagError as bad:
            problems.append(bad.message)
        return ""

    text = _TAG.sub(take, prompt)
    unclosed = _START.search(text)
    if unclosed is not None:
        start = unclosed.start()
        problems.append(message("“{tag}” has no closing “>”; it was read as plain text.", tag=text[start : start + 40]))
    return ParsedPrompt(_tidy(text) if calls or problems else prompt, tuple(calls), tuple(problems))


class _BadTagError(Exception):
    def __init__(self, said: Message) -> None:
        self.message = said


def _call(arguments: str, source: str) -> NetworkCall:
    positional, named = [], {}
    for part in arguments.split(":"):
        key, equals, value = part.partition("=")
        if equals:
            named[key.strip()] = value.strip()
        else:
            positional.append(part.strip())
    if not positional or not positional[0]:
        raise _BadTagError(message("“{tag}” names no LoRA; it was left out. Write <lora:name:0.8>.", tag=source))
    if len(positional) > 4:
        raise _BadTagError(message("“{tag}” has too many numbers; it was left out. Write <lora:name:0.8>.", tag=source))
    name, *numbers = positional
    te = _float(named.pop("te", numbers[0] if numbers else "1"), source)
    # One number alone is for both parts; A1111 takes it from the resolved text-encoder value, te= included.
    unet = _float(named.pop("unet", numbers[1] if len(numbers) > 1 else str(te)), source)
    dyn = named.pop("dyn", numbers[2] if len(numbers) > 2 else "")
    return NetworkCall(name, te, unet, _rank(dyn, source) if dyn else None, source, named)


def _float(text: str, source: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _BadTagError(
            message(
                "“{text}” in “{tag}” is not a number; the LoRA was left out. Write it like <lora:name:0.8>.",
                text=text,
                tag=source,
            )
        )
    return value


def _rank(text: str, source: str) -> int:
    if not text.isdecimal() or len(text) > _RANK_DIGITS or int(text) < 1:
        raise _BadTagError(
            message(
                "“{text}” in “{tag}” is not a rank (a whole number from 1); the LoRA was left out.",
                text=text,
                tag=source,
            )
        )
    return int(text)


def _number(value: float) -> str:
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _tidy(text: str) -> str:
    # "a cat, <lora:x:1>, red" leaves ", ," behind, which the text encoder would see as two empty tags.
    text = re.sub(r",(\s*,)+", ",", text)
    return re.sub(r"[ \t]{2,}", " ", text).strip().strip(",").strip()
