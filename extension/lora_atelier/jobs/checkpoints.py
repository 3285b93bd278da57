"""The LoRAs that a run left on its way: which there are, and one of them as a LoRA of its own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..adapters import card
from ..errors import JobError
from .names import fresh_name
from .view import RunView

_STEP = re.compile(r"-s(\d{6,})(-\d+)?$")


@dataclass(frozen=True)
class Checkpoint:
    """The adapter of one step. ``kind`` is "checkpoint", "best" or "result"."""

    step: int
    path: Path
    kind: str


def checkpoints(view: RunView) -> list[Checkpoint]:
    """All that are there, one for each step: the finished LoRA before the best, that before a checkpoint."""
    run = view.run
    found: dict[int, Checkpoint] = {}
    for folder, kind in ((run.checkpoints_dir, "checkpoint"), (run.best_dir, "best")):
        for path in sorted(folder.glob("*.safetensors")):
            if match := _STEP.search(path.stem):
                found[int(match.group(1))] = Checkpoint(int(match.group(1)), path, kind)
    if view.result is not None and view.result.is_file():
        found[view.step] = Checkpoint(view.step, view.result, "result")
    return [found[step] for step in sorted(found)]


def spread(found: Sequence[Checkpoint], most: int) -> list[Checkpoint]:
    """At most ``most`` of them: the last, the best, and others evenly between."""
    if len(found) <= most:
        return list(found)
    kept = {len(found) - 1, *(at for at, each in enumerate(found) if each.kind == "best")}
    for number in range(most):
        if len(kept) < most:
            kept.add(round(number * (len(found) - 1) / (most - 1)))
    return [found[at] for at in sorted(kept)]


def keep(view: RunView, step: int) -> Path:
    """Put the adapter of a step into the LoRA folder under a fresh name, with the run's trigger and its sample of that
    step as its card; returns its path. Raises JobError."""
    chosen = next((each for each in checkpoints(view) if each.step == step), None)
    if chosen is None or view.job is None:
        raise JobError("There is no checkpoint of step {step} any more.", todo="Reload the page.", step=step)
    folder = Path(view.job.lora_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = {path.stem for path in folder.glob("*.safetensors")}
        path = folder / f"{fresh_name(f'{view.job.name}-s{step:06d}', taken)}.safetensors"
        temporary = path.with_suffix(".tmp")
        shutil.copy2(chosen.path, temporary)
        temporary.replace(path)
        samples = sorted(view.run.samples_dir.glob(f"step-{step:06d}-01.png"))
        card.write_card(
            path, trigger=view.job.trigger, description="LoRA Atelier", preview=samples[0] if samples else None
        )
    except OSError as error:
        raise JobError(
            "The LoRA could not be copied.",
            why="{reason}.",
            todo="Make room on the disk or allow writing there, then try again.",
            reason=error.strerror or str(error),
        ) from error
    return path
