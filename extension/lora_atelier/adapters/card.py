"""Where a new adapter file goes, and the card beside it. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import atomic


def fresh_path(folder: Path, stem: str, suffix: str = ".safetensors") -> Path:
    """A path in ``folder`` that no file has: ``stem``, else ``stem-2``, ``stem-3`` …"""
    path, number = folder / f"{stem}{suffix}", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}{suffix}", number + 1
    return path


def write_card(adapter: Path, *, trigger: str, description: str, preview: Path | None) -> None:
    """Put the card beside an adapter: A1111's user metadata as JSON, and a preview picture. Raises OSError."""
    card: Mapping[str, Any] = {
        "description": description,
        "activation text": trigger,
        "preferred weight": 0.8,
        "notes": "",
    }
    atomic.write_text(adapter.with_suffix(".json"), json.dumps(card, ensure_ascii=False, indent=2) + "\n")
    if preview is not None and preview.is_file():
        atomic.write_bytes(adapter.with_suffix(".png"), preview.read_bytes())


def read_card(adapter: Path) -> dict[str, Any]:
    """The card beside an adapter as A1111 keeps it; empty if there is none or it can't be read."""
    try:
        card = json.loads(adapter.with_suffix(".json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}


def edit_card(adapter: Path, *, trigger: str, weight: float, notes: str) -> None:
    """Change what a card says; what else is in it stays. Raises OSError."""
    said = {"activation text": trigger, "preferred weight": weight, "notes": notes}
    card = {"description": "", **read_card(adapter), **said}
    atomic.write_text(adapter.with_suffix(".json"), json.dumps(card, ensure_ascii=False, indent=2) + "\n")
