"""A dry run: the trainer makes a few steps, and what the whole run will take is known instead of guessed.

It has a folder of its own under ``dry runs``, which is removed when it is over; what it encoded stays in the cache for
the run. It is started and then asked how it stands, so that a page need not wait for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import config_files, events, locking
from ..config import TrainConfig
from ..errors import ExtensionError, JobError, Message, TrainerFailedError, message
from . import estimate
from .environment import trainer_environment, trainer_python
from .estimate import Plan
from .run_dir import Job, RunDir

FOLDER = "dry runs"
_SCHEMA = 1
_POLL_S = 0.1
_ABANDONED_S = 3600.0


@dataclass
class DryRun:
    """One that was started; ``plan`` says what it found once ``is_done``."""

    run: RunDir
    config: TrainConfig
    before: Plan
    _process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls,
        data_dir: Path,
        config: TrainConfig,
        before: Plan,
        *,
        trigger: str = "",
        whose: str = "mine",
        command: Sequence[str] | None = None,
    ) -> DryRun:
        """Start one for ``config``, of which ``before`` was foretold; ``command`` replaces the trainer (tests).

        Raises JobError if it can't be started.
        """
        _sweep(data_dir / FOLDER)
        run = RunDir(data_dir / FOLDER / uuid.uuid4().hex[:8])
        argv = [*(command or [str(trainer_python()), "-m", "lora_atelier.trainer"]), "--dry-run", str(run.path)]
        try:
            run.path.mkdir(parents=True)
            config_files.write(config, run.path)
            _job(run, config, trigger, whose).write(run.job_path)
            with run.log_path.open("ab") as log:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=run.path,
                    env=trainer_environment(),
                )
        except OSError as error:
            shutil.rmtree(run.path, ignore_errors=True)
            raise JobError(
                "The training could not be measured.",
                why="{reason}.",
                todo="Check that the folder {folder} may be written to and that the disk has room.",
                reason=error.strerror or str(error),
                folder=str(data_dir),
            ) from error
        return cls(run, config, before, process)

    @property
    def is_done(self) -> bool:
        """Whether its process has ended."""
        return self._process.poll() is not None

    def stage(self) -> tuple[str, int, int]:
        """What it is doing: a name as in ``events.Preparing`` or "steps", how much of it is done, of how much."""
        told = [timed.event for timed in events.read(self.run.events_path)[0]]
        last = next((event for event in reversed(told) if isinstance(event, events.Preparing)), None)
        return (last.stage, last.done, last.total) if last is not None else ("starting", 0, 0)

    def plan(self) -> Plan:
        """What it measured; waits for its end. Raises what stands against the training."""
        while not self.is_done:
            time.sleep(_POLL_S)
        try:
            said = json.loads((self.run.path / "measured.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._failure() from error
        if said.get("schema") != _SCHEMA:
            raise JobError(
                "The training could not be measured.",
                why="Its trainer is of another version of LoRA Atelier.",
                todo="Type  python install.py trainer  once, then try again.",
            )
        return corrected(self.before, self.config, said)

    def end(self) -> None:
        """End it if it still runs, and remove its folder."""
        if not self.is_done:
            self._process.kill()
        self._process.wait()
        shutil.rmtree(self.run.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.run.path.parent.rmdir()

    def _failure(self) -> ExtensionError:
        told = [timed.event for timed in events.read(self.run.events_path)[0]]
        failed = next((event for event in told if isinstance(event, events.Failed)), None)
        if failed is not None:
            return ExtensionError.from_json(failed.error)
        return TrainerFailedError(
            "The training could not be measured: its process ended without a last word.",
            todo="It may have run out of memory. Choose a smaller batch or resolution, or close other programs.",
            log_tail=self.run.log_tail(),
        )


def _sweep(folder: Path) -> None:
    """Remove dry runs that nobody ended: those that have no trainer any more."""
    with contextlib.suppress(OSError):
        for left in list(folder.iterdir()):
            if time.time() - left.stat().st_mtime > _ABANDONED_S and not locking.is_locked(left / "lock"):
                shutil.rmtree(left, ignore_errors=True)


def measure(data_dir: Path, config: TrainConfig, before: Plan, *, trigger: str = "", whose: str = "mine") -> Plan:
    """Make a dry run from its start to its end. Raises JobError, and what stands against the training."""
    dry = DryRun.start(data_dir, config, before, trigger=trigger, whose=whose)
    try:
        return dry.plan()
    finally:
        dry.end()


def corrected(before: Plan, config: TrainConfig, said: dict[str, Any]) -> Plan:
    """``before`` with what a dry run measured in its place; ``said`` is its ``measured.json``."""
    parts = {name: int(size) for name, size in said["memory"].items()}
    more = int(said["peak_bytes"]) - sum(parts.values())
    if more > 0:  # held at another moment than in the steps
        parts["activations"] += more
    return dataclasses.replace(
        before,
        pictures=said["pictures"],
        steps=said["steps"],
        seconds=round(sum(said["seconds"].values()), 1),
        memory_bytes=sum(parts.values()),
        file_bytes=said["file_bytes"],
        device="cpu" if said["device"] == "cpu" else "gpu",
        memory=parts,
        free_bytes=said["free_bytes"],
        disk_bytes=estimate.disk_bytes(config, said["file_bytes"], said["state_bytes"], said["cache_bytes"]),
        measured=True,
    )


def _job(run: RunDir, config: TrainConfig, trigger: str, whose: str) -> Job:
    return Job(
        id=run.id,
        name=config.output.name,
        goal="character",
        trigger=trigger,
        whose=whose,
        lora_dir=config.output.folder,
        base_model=config.model.base_model,
        pictures="",
        created=time.time(),
    )


# ------------------------------------------------------------------------------------------- does it fit


def shortage(plan: Plan, config: TrainConfig) -> tuple[Message, ...]:
    """What to say of a run that takes more memory than is free, and the remedy that helps most; nothing if it fits."""
    if plan.fits is not False:
        return ()
    needed, free = (round(size / 1e9, 1) for size in (plan.memory_bytes, plan.free_bytes))
    if plan.device == "gpu":
        return (
            message(
                "It takes about {needed} GB and the graphics card has {free} GB free: it will hardly fit.",
                needed=needed,
                free=free,
            ),
            _remedy(plan, config),
        )
    return (
        message(
            "It takes about {needed} GB and {free} GB of memory are free: it will hardly fit.", needed=needed, free=free
        ),
        _remedy(plan, config),
    )


def _remedy(plan: Plan, config: TrainConfig) -> Message:
    largest = max(plan.memory, key=lambda part: plan.memory[part]) if plan.memory else ""
    batch = max((dataset.batch_size for dataset in config.data.datasets), default=1)
    if config.schedule.mixed_precision == "no":
        return message("Set mixed_precision = bf16: the base model and a step take half.")
    if largest == "activations" and not config.schedule.gradient_checkpointing:
        return message("Set gradient_checkpointing = true: a step keeps a third, and takes a third longer.")
    if largest == "activations" and batch > 1:
        return message("Set train_batch_size = 1, and gradient_accumulation_steps to what it was.")
    if largest == "activations":
        return message("Choose a smaller resolution.")
    return message("Close other programs, or choose a smaller base model.")
