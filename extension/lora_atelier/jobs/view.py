"""How a run stands, as a person is told: where it is, how long it will take, what went wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from .. import events
from ..errors import ExtensionError
from . import estimate
from .died import why_died
from .run_dir import Job, Progress, RunDir, Status


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run as it stands now; ``error`` is what to tell a person.

    ``stage`` is "starting", one of the trainer's preparations, of which ``stage_done`` of ``stage_total`` is done, or
    "training"; empty when the run does not run. ``best`` is the adapter file of the step ``best_step``, which has the
    lowest loss on held-out pictures so far; ``is_best_last`` says whether no later one was measured. A run that is
    ``queued`` waits for its turn; one that is ``paused`` was stopped to go on later, and the queue waits for it.
    ``device`` is what the trainer says it computes on, ``card`` which of several graphics cards it was given.
    """

    run: RunDir
    job: Job | None
    status: Status
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    loss: float | None = None
    stage: str = ""
    stage_done: int = 0
    stage_total: int = 0
    result: Path | None = None
    best: Path | None = None
    best_step: int = 0
    best_loss: float | None = None
    is_best_last: bool = False
    queued: bool = False
    paused: bool = False
    peak_memory_bytes: int = 0
    seconds_per_step: float | None = None
    device: str = ""
    card: str = ""
    steps_per_epoch: int = 0
    error: ExtensionError | None = None


def describe(run: RunDir, job: Job, progress: Progress, status: Status, *, exit_code: int | None = None) -> RunView:
    """How a run with this job stands, from what its events say; ``exit_code`` is its trainer's, where it is known."""
    started, stepped = progress.get(events.Started), progress.get(events.Stepped)
    finished, failed = progress.get(events.Finished), progress.get(events.Failed)
    preparing, stopped = progress.get(events.Preparing), progress.get(events.Stopped)
    best, measured = progress.get(events.Best), progress.get(events.Validated)
    plan = estimate.Plan.from_table(job.plan)
    steps = started.steps if started else plan.steps if plan else 0
    step = max(stepped.step if stepped else 0, stopped.step if stopped else 0)
    error: ExtensionError | None = None
    if status == "failed" and failed is not None:
        error = ExtensionError.from_json(failed.error)
    elif status == "died":
        error = why_died(run, progress, exit_code)
    stage = _stage(progress) if status == "running" else ""
    counted = preparing if preparing is not None and preparing.stage == stage else None
    return RunView(
        run=run,
        job=job,
        status=status,
        step=finished.step if status == "finished" and finished else step,
        steps=steps,
        seconds_left=_seconds_left(progress, plan) if status == "running" else None,
        loss=stepped.loss if stepped else None,
        stage=stage,
        stage_done=counted.done if counted else 0,
        stage_total=counted.total if counted else 0,
        result=_result(job, finished) if status == "finished" and finished else None,
        best=run.best_dir / best.file if best else None,
        best_step=best.step if best else 0,
        best_loss=best.loss if best else None,
        is_best_last=best is not None and (measured is None or measured.step <= best.step),
        queued=run.queued_path.exists(),
        paused=status != "finished" and run.paused_path.exists(),
        peak_memory_bytes=stepped.peak_memory_bytes if stepped else 0,
        seconds_per_step=stepped.seconds_per_step if stepped else None,
        device=started.device if started else "",
        card=run.card() if status == "running" else "",
        steps_per_epoch=started.steps_per_epoch if started else 0,
        error=error,
    )


def _seconds_left(progress: Progress, plan: estimate.Plan | None) -> float | None:
    """What the trainer says once it makes steps; before that what the plan said, less the time since the start."""
    started, _ = progress.run.started()
    stepped = progress.latest.get("stepped")
    if stepped is not None and isinstance(stepped.event, events.Stepped) and stepped.at >= started:
        return stepped.event.seconds_left
    return max(plan.seconds - (time.time() - started), 5.0) if plan else None


def _stage(progress: Progress) -> str:
    """What the trainer is doing: a preparation's name, or "training"."""
    if progress.last is None or not progress.spoke():
        return "starting"
    last = progress.last.event
    if isinstance(last, events.Preparing):
        return last.stage
    return "starting" if isinstance(last, events.Started) else "training"


def _result(job: Job, finished: events.Finished) -> Path:
    file = Path(finished.file)
    return file if file.is_absolute() else Path(job.lora_dir) / file
