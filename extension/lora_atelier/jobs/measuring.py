"""Dry runs for pages: one at a time, followed while it goes on; what it measured holds for the same settings from then.

What was measured is remembered as long as the program runs: the next start may find another machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import TrainConfig, to_kohya
from ..errors import AlreadyRunningError, ConfigError, ExtensionError, JobError
from . import forms
from .dry_run import FOLDER, DryRun
from .estimate import Plan
from .forms import JobForm
from .picture_copies import copy_pictures
from .service import Jobs


@dataclass(frozen=True)
class State:
    """How a measurement stands: "none", "running", "done" or "failed"; while it runs, its stage, as ``DryRun`` says."""

    status: str = "none"
    stage: str = ""
    done: int = 0
    total: int = 0
    error: ExtensionError | None = None


@dataclass
class Measuring:
    """The measurements of one data folder. ``on_busy`` is told that the machine's memory is needed, and no longer;
    ``command`` replaces the trainer (tests)."""

    jobs: Jobs
    on_busy: Callable[[bool], object] | None = None
    command: Sequence[str] | None = None
    _dry: DryRun | None = None
    _key: str = ""
    _ended: State = field(default_factory=State)
    _known: dict[str, Plan] = field(default_factory=dict)
    _pictures: Path | None = None
    _lock: Any = field(default_factory=threading.RLock, repr=False)

    def start(self, form: JobForm) -> None:
        """Begin to measure ``form``. Raises ConfigError with what is wrong with it, JobError if it can't be begun,
        AlreadyRunningError while something is trained or measured."""
        with self._lock:
            if self.state().status == "running":
                raise AlreadyRunningError("A training is being measured already.", todo="Wait until it is done.")
            if self.jobs.running() is not None:
                raise AlreadyRunningError(
                    "Nothing can be measured while a training goes on: it takes the memory and the time.",
                    todo="Wait until it ends, or pause it.",
                )
            if form.engine != "native":
                raise JobError("Only our own trainer can measure before a training.")
            self.jobs.require_trainer()
            proposal = self.jobs.propose(form)
            if proposal.blocking() or proposal.config is None or proposal.plan is None or form.pictures is None:
                raise ConfigError.from_problems(proposal.blocking())
            config = proposal.config
            self._key = _key(config, form, proposal.pictures)
            if form.left_out or form.captions:
                self._pictures = self.jobs.data_dir / FOLDER / f"{uuid.uuid4().hex[:8]}-pictures"
                config = forms.moved(config, self._copied(form, self._pictures))
            self._make_room()
            try:
                self._dry = DryRun.start(
                    self.jobs.data_dir,
                    config,
                    proposal.plan,
                    trigger=form.trigger.strip(),
                    whose=form.whose,
                    command=self.command,
                )
            except ExtensionError:
                self._over()
                if self.on_busy is not None:
                    self.on_busy(False)
                raise

    def state(self) -> State:
        """How it stands; the one who asks after its end takes what it found."""
        with self._lock:
            if self._dry is None:
                return self._ended
            if not self._dry.is_done:
                stage, done, total = self._dry.stage()
                return State("running", stage, done, total)
            try:
                # The trainer counts pictures that keep what the model knows as well.
                self._known[self._key] = dataclasses.replace(
                    self._dry.plan(), pictures=self._dry.before.pictures, given=self._dry.before.given
                )
                self._ended = State("done")
            except ExtensionError as error:
                self._ended = State("failed", error=error)
            self._over()
            return self._ended

    def cancel(self) -> None:
        """End it, if one is going on."""
        with self._lock:
            self._ended = State()
            self._over()

    def known(self, config: TrainConfig, form: JobForm, plan: Plan) -> Plan:
        """What was measured for these very settings and pictures; ``plan``, which was foretold, where nothing was."""
        return self._known.get(_key(config, form, plan.pictures), plan)

    def _copied(self, form: JobForm, target: Path) -> Path:
        """The pictures that would be used, in ``target``. Raises JobError."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_pictures(form, target, self.jobs.data_dir)
        except OSError as error:
            self._over()
            raise JobError(
                "The training could not be measured.",
                why="{reason}.",
                todo="Check that the folder {folder} may be written to and that the disk has room.",
                reason=error.strerror or str(error),
                folder=str(self.jobs.data_dir),
            ) from error
        return target

    def _over(self) -> None:
        was_going = self._dry is not None
        if self._dry is not None:
            self._dry.end()
        self._dry = None
        if self._pictures is not None:
            shutil.rmtree(self._pictures, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._pictures.parent.rmdir()
        self._pictures = None
        # A training that began meanwhile needs the memory on.
        if was_going and self.on_busy is not None and self.jobs.running() is None:
            self.on_busy(False)

    def _make_room(self) -> None:
        if self.on_busy is not None and self.on_busy(True) is False:
            self._over()
            raise AlreadyRunningError("A picture is being drawn.", todo="Try again when it is done.")


def _key(config: TrainConfig, form: JobForm, pictures: int) -> str:
    """What a measurement holds for: the settings but names and words, the model, how many pictures of which folder."""
    plain = dataclasses.replace(
        config,
        output=dataclasses.replace(config.output, name=""),
        sampling=dataclasses.replace(config.sampling, prompts=()),
    )
    main, dataset = to_kohya(plain)
    for each in dataset.get("datasets", ()):
        for subset in each.get("subsets", ()):
            subset.pop("class_tokens", None)
    told = [main, dataset, len(config.sampling.prompts), str(form.base_model), pictures]
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
