"""The weight above which a LoRA's own test found training pictures coming back, as its header says it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..errors import Message, message


def read(metadata: Mapping[str, str]) -> float | None:
    """The weight that a LoRA's own test found, 0 to 1; None where its header says none."""
    try:
        said = json.loads(metadata.get("atelier_rights", "") or "{}")["memorisation"]["safe_weight"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    is_number = isinstance(said, int | float) and not isinstance(said, bool)
    return float(said) if is_number and 0 <= said <= 1 else None


def above(name: str, limit: float | None, weight: float) -> Message | None:
    """What to say beside a picture that is made with a LoRA above ``limit``; None where there is nothing to say."""
    if limit is None or abs(weight) <= limit + 1e-6:
        return None
    return message(
        "LoRA “{name}” is at weight {weight}: above {limit}, training pictures of it came back when it was tested.",
        name=name,
        weight=weight,
        limit=limit,
    )
