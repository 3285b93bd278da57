"""The text that AUTOMATIC1111's webui writes into pictures and reads back from them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping


def build(prompt: str, negative_prompt: str, values: Mapping[str, str | int | float | None]) -> str:
    """Return the text for a picture's ``parameters``: the prompt as it was typed, then what else made the picture.

    Values that are None are left out; values with a comma, colon or line break are quoted, as the webui's own writer
    does (modules/infotext_utils.py, ``quote``).
    """
    lines = [prompt]
    if negative_prompt:
        lines.append(f"Negative prompt: {negative_prompt}")
    lines.append(", ".join(f"{key}: {_quoted(_text(value))}" for key, value in values.items() if value is not None))
    return "\n".join(lines)


def parse(text: str) -> tuple[str, str, dict[str, str]]:
    """Return prompt, negative prompt and values of a picture's ``parameters`` text."""
    *head, last = text.strip().split("\n")
    found = re.findall(r'\s*([\w][\w \-/]*):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    if len(found) < 3:
        head, found = [*head, last], []
    prompt: list[str] = []
    negative: list[str] = []
    in_negative = False
    for line in head:
        if line.startswith("Negative prompt:"):
            in_negative, line = True, line.removeprefix("Negative prompt:").lstrip()
        (negative if in_negative else prompt).append(line)
    return "\n".join(prompt), "\n".join(negative), {key: _unquoted(value.strip()) for key, value in found}


def _text(value: str | int | float | None) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ",:\n") else text


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:
        return text
