"""Trainings that a test begins from a webui, over the routes that its page uses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .install import ROOT, Webui
from .models import EMBEDDED

_PATIENCE_S = 1800.0


def train(webui: Webui, name: str, *, steps: int, base: Path = EMBEDDED, **changes: Any) -> str:
    """Start a training on ``base``, the embedded base model, and return its id.

    ``changes`` are single settings, with "__" for the point in their places.
    """
    form = {
        "folder": str(ROOT / "examples" / "figure"),
        "base_model": str(base),
        "name": name,
        "trigger": "zuzu",
        "goal": "object",
        "whose": "mine",
        "quality": "draft",
        "changes": {
            "schedule.steps": steps,
            "sampling.sample_at_first": False,
            **{place.replace("__", "."): value for place, value in changes.items()},
        },
    }
    answer = webui.ours("POST", "runs", form)
    assert "run" in answer, answer
    return str(answer["run"]["id"])


def ended(webui: Webui, run: str) -> dict[str, Any]:
    """The training as it is once it has ended. Raises AssertionError where that takes too long."""
    deadline = time.monotonic() + _PATIENCE_S
    while (view := webui.ours("GET", f"runs/{run}"))["status"] == "running":
        assert time.monotonic() < deadline, view
        time.sleep(1)
    return view


def stop(webui: Webui, run: str) -> None:
    """Stop it, and wait until its process is gone."""
    webui.ours("POST", f"runs/{run}/stop", {})
    ended(webui, run)


def until_step(webui: Webui, run: str, step: int) -> None:
    """Wait until it has come so far. Raises AssertionError if it ends before."""
    deadline = time.monotonic() + _PATIENCE_S
    while (view := webui.ours("GET", f"runs/{run}"))["step"] < step:
        assert view["status"] == "running" and time.monotonic() < deadline, view
        time.sleep(1)
