"""A prepared run: model, pictures and network in place; trains them, and decides when what is looked at and kept."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import memory
from ..config.epochs import in_steps
from ..config.rhythm import Rhythms
from ..datasets.cache import CacheFolder
from ..errors import ConfigError, message
from ..events import Finished, Started, Stopped
from ..models import detect
from ..models.detect import ModelInfo
from . import checkpoint
from .best import Best
from .building import build, require
from .checkpoint import Progressed
from .examiner import Allowed, pass_seconds
from .gallery import Gallery
from .heldout import validated
from .loop import Loop
from .pictures import Pictures, plan_of, read_pictures
from .preparation import Preparation
from .results import Results
from .run import Run, announce, peak_memory_bytes
from .settings import decisive, require_same
from .trackers import listen
from .trainee import Example, Trainee


@dataclass
class Session:
    """A run between its preparation and its end."""

    this: Run
    trainee: Trainee
    loop: Loop
    heldout: list[Example]
    # Whether those are pictures that are not trained on: only then is a lower loss better.
    is_heldout: bool
    rhythms: Rhythms
    results: Results
    gallery: Gallery
    settings: Mapping[str, Any]
    progressed: Progressed = Progressed()
    best: Best = Best()
    _sat_down: float = field(default_factory=time.monotonic)

    # ------------------------------------------------------------------------------------------- preparing

    @classmethod
    def prepare(cls, this: Run) -> Session:
        """Read pictures and model, fill the caches, build the network, and take up the last state if there is one."""
        from accelerate import Accelerator

        checkpoint.require_writable(this.path, Path(this.config.output.folder))
        accelerator = Accelerator(mixed_precision=this.config.schedule.mixed_precision)
        if accelerator.device.type == "cpu":
            memory.keep_freed()
        pictures = read_pictures(this)
        steps_per_epoch = count_in_steps(this, pictures)
        config = this.config
        this.tell(
            Started(
                steps=config.schedule.steps,
                resumed_from=last_step(this.path),
                pictures=len(pictures.train) + len(pictures.heldout),
                device=str(accelerator.device),
                steps_per_epoch=steps_per_epoch,
            )
        )
        announce(this, pictures.warnings)
        info = detect.inspect(Path(config.model.base_model))
        _require_same(this, info)
        require(config)
        listen(this, last_step(this.path))
        session = cls.build(this, Preparation(this, pictures, info, accelerator.device), accelerator, steps_per_epoch)
        session.take_up()
        return session

    @classmethod
    def build(cls, this: Run, preparation: Preparation, accelerator: Any, steps_per_epoch: int) -> Session:
        """A session before its first step, of the pictures and the model that ``preparation`` makes ready."""
        config, info, pictures = this.config, preparation.info, preparation.pictures
        settings = decisive(config, info, CacheFolder.of_run(this.path))
        if info.family == "toy":
            # Its layers are too small to share: threads that wait for each other on busy cores cost ten times more.
            torch.set_num_threads(1)
        prepared = preparation.prepare()
        trainee = build(this, prepared.model, accelerator, prepared.condition)
        loop = Loop(
            config=config,
            trainee=trainee,
            examples=prepared.examples,
            plan=plan_of(config, pictures),
            report=this.tell,
            peak_memory=peak_memory_bytes,
            warn=this.warn,
            encoder=prepared.encoder,
        )
        rhythms = Rhythms.of(config, steps_per_epoch)
        results = Results(this, trainee, pictures, loop.plan, rhythms.checkpoints)
        most = config.validation.max_validation_steps * max(each.batch_size for each in config.data.datasets)
        return cls(
            this=this,
            trainee=trainee,
            loop=loop,
            heldout=prepared.heldout[: most or None],
            is_heldout=bool(pictures.heldout),
            rhythms=rhythms,
            results=results,
            gallery=Gallery(this, trainee, loop.watch, results.write_adapter),
            settings=settings,
        )

    def take_up(self) -> None:
        """Go on from the last complete state, if there is one."""
        state = checkpoint.latest_state(self.this.path / "state")
        if state is not None:
            self.progressed = checkpoint.load_state(state, self.trainee)
            self.loop.step = self.loop.watch.kept = self.progressed.step
            self.best = self.progressed.best
        self.gallery.take_up()

    # -------------------------------------------------------------------------------------------- training

    def train(self) -> bool:
        """Make all steps and write the adapter; returns False if the run was stopped before its end."""
        self._sat_down = time.monotonic()
        if self.loop.step == 0:
            self._measure()
            if self.this.config.sampling.sample_at_first:
                self.gallery.show(0, bleed=True)
        # A run that was ended in its last moments has nothing left to train.
        if not self._is_to_end():
            self.loop.run(until=self._after_step)
        if self.loop.step < self.this.config.schedule.steps and not self._is_to_end():
            self._keep()
            self.gallery.collect()
            self.this.tell(Stopped(step=self.loop.step))
            print(f"Stopped at step {self.loop.step}.", flush=True)
            return False
        self._finish()
        return True

    def _after_step(self, step: int) -> bool:
        """Measure, sample and keep what is due; returns whether the run is to stop."""
        if step == self.this.config.schedule.steps:
            return False
        self.gallery.collect()
        if self.rhythms.measurements.is_due(step):
            self._measure()
        if self.this.asked("sample-now") or self.rhythms.samples.is_due(step):
            self.gallery.show(step)
        if self.this.asked("save-now") or self.rhythms.checkpoints.is_due(step):
            self._keep()
        return self._is_to_end() or self.this.stop_requested()

    def _is_to_end(self) -> bool:
        return self.best.is_exhausted(self.this.config.validation.patience)

    def _measure(self) -> None:
        if not self.this.config.validation.split:
            return
        step = self.loop.step
        found = validated(self.trainee, self.heldout, seed=self.this.config.validation.seed, step=step)
        self.this.tell(found)
        for said in self.loop.watch.measured(step, found.loss):
            self.this.warn(said)
        # Without held-out pictures it is those of the training that are measured, and more training is always better.
        if step and self.is_heldout:
            before, self.best = self.best, self.best.after(step, found.loss)
            if self.best.step != before.step:
                self.results.keep_best(self.best)

    def _keep(self) -> None:
        """Keep state and checkpoint of this step, unless they are kept already."""
        step = self.loop.step
        if step and step == self.loop.watch.kept:
            return
        self.loop.look()
        if self.results.keep(self._progress()):
            self.loop.watch.kept = step

    def _finish(self) -> None:
        """Keep the final state, measure, sample, and put adapter and card into the LoRA folder."""
        # The state first: if the LoRA folder can't be written, nothing has to be trained again.
        self._keep()
        train_seconds, step = self._progress().train_seconds, self.loop.step
        if self._is_to_end():
            self.this.warn(
                message(
                    "Ended early: the held-out loss is at its lowest at step {step}; its LoRA is the result.",
                    step=self.best.step,
                )
            )
        else:
            self._measure()
        self.gallery.show(step, bleed=True)
        self.gallery.finish(step)
        best = self.best if self._is_to_end() else None
        self.results.memorise(self.loop.examples, self._test_time(step, train_seconds), best=best)
        path, model_hash = self.results.finish(
            step,
            best=best,
            kept=self.loop.watch.kept,
            preview=self.gallery.preview,
        )
        self.this.tell(
            Finished(
                step=step,
                file=str(path),
                model_hash=model_hash,
                seconds=time.monotonic() - self.this.began,
                train_seconds=train_seconds,
                peak_memory_bytes=peak_memory_bytes(),
            )
        )
        print(f"Finished: {path}", flush=True)

    def _test_time(self, step: int, train_seconds: float) -> Allowed:
        """What the memorisation test may take, and how long it takes by the steps of this sitting, if it made some."""
        pace = self.loop.pace() or train_seconds / max(1, step)
        return Allowed(step, train_seconds, pass_seconds(self.this.config, self.loop.plan, pace))

    def _progress(self) -> Progressed:
        sat = time.monotonic() - self._sat_down
        return Progressed(self.loop.step, self.progressed.train_seconds + sat, self.best, self.settings)


# ------------------------------------------------------------------------------------------- going on


def count_in_steps(this: Run, pictures: Pictures) -> int:
    """Count in steps what the run's settings count in epochs; returns the steps of one epoch. Raises ConfigError."""
    batches = plan_of(this.config, pictures).batches_per_epoch
    steps_per_epoch = max(1, math.ceil(batches / this.config.schedule.accumulation))
    if this.config.schedule.max_train_epochs:
        this.config, _ = in_steps(this.config, steps_per_epoch)
        problems = tuple(this.config.schedule.problems())
        if problems:
            raise ConfigError.from_problems(problems)
    return steps_per_epoch


def last_step(run_dir: Path) -> int:
    """The step of the last complete state; 0 where there is none. Raises JobError if it is gone."""
    state = checkpoint.latest_state(run_dir / "state")
    return checkpoint.step_of(state) if state is not None else 0


def _require_same(this: Run, info: ModelInfo) -> None:
    """Raise JobError if a run that goes on has other settings than it began with."""
    state = checkpoint.latest_state(this.path / "state")
    before = checkpoint.read_progress(state).settings if state is not None else {}
    if before:
        require_same(before, decisive(this.config, info, CacheFolder.of_run(this.path)))
