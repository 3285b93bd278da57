"""A prepared run: model, pictures and network in place; trains them and keeps what comes out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .. import events
from ..adapters import file as adapter_file
from ..errors import ExtensionError, JobError, message
from ..events import Finished, Sampled, Saved, Started, Stopped
from ..models import detect
from ..models.detect import ModelInfo
from . import checkpoint, samples
from .best import Best
from .building import build
from .checkpoint import Progressed
from .loop import Example, Loop, Trainee, validated
from .metadata import Facts, metadata
from .pictures import Pictures, plan_of, read_pictures
from .preparation import Preparation
from .run import Run, announce, peak_memory_bytes
from .settings import decisive, require_same

# How often, over the run, where the settings say "choose for me".
_CHECKPOINTS, _SAMPLES, _MEASUREMENTS = 10, 5, 10


class Session:
    """A run between its preparation and its end."""

    def __init__(self, this: Run, trainee: Trainee, pictures: Pictures, loop: Loop, heldout: list[Example]) -> None:
        self.this, self.trainee, self.pictures, self.loop = this, trainee, pictures, loop
        self.heldout = heldout
        self.progressed = Progressed()
        self.settings: Mapping[str, Any] = {}
        self.best = Best()
        self.preview: Path | None = None
        self._sat_down = time.monotonic()

    # ------------------------------------------------------------------------------------------- preparing

    @classmethod
    def prepare(cls, this: Run) -> Session:
        """Read pictures and model, fill the caches, build the network, and take up the last state if there is one."""
        from accelerate import Accelerator

        config = this.config
        checkpoint.require_writable(this.path, Path(config.output.folder))
        accelerator = Accelerator(mixed_precision=config.schedule.mixed_precision)
        pictures = read_pictures(this)
        this.tell(
            Started(
                steps=config.schedule.steps,
                resumed_from=last_step(this.path),
                pictures=len(pictures.train) + len(pictures.heldout),
                device=str(accelerator.device),
            )
        )
        announce(this, pictures.warnings)
        info = detect.inspect(Path(config.model.base_model))
        settings = decisive(config, info)
        _require_same(this, info)
        if info.family == "toy":
            # Its layers are too small to share: threads that wait for each other on busy cores cost ten times more.
            torch.set_num_threads(1)
        prepared = Preparation(this, pictures, info, accelerator.device).prepare()
        examples, heldout = prepared.examples, prepared.heldout
        trainee = build(this, prepared.model, accelerator, prepared.condition)
        loop = Loop(
            config=config,
            trainee=trainee,
            examples=examples,
            plan=plan_of(this.config, pictures, examples),
            report=this.tell,
            peak_memory=peak_memory_bytes,
            warn=this.warn,
        )
        session = cls(this, trainee, pictures, loop, heldout)
        session.settings = settings
        session.take_up()
        return session

    def take_up(self) -> None:
        """Go on from the last complete state, if there is one."""
        state = checkpoint.latest_state(self.this.path / "state")
        if state is not None:
            self.progressed = checkpoint.load_state(state, self.trainee)
            self.loop.step = self.loop.watch.kept = self.progressed.step
            self.best = self.progressed.best
        pictures = sorted((self.this.path / "samples").glob("*-01.png"))
        self.preview = pictures[-1] if pictures else None

    # -------------------------------------------------------------------------------------------- training

    def train(self) -> bool:
        """Make all steps and write the adapter; returns False if the run was stopped before its end."""
        self._sat_down = time.monotonic()
        if self.loop.step == 0:
            self._measure()
            self._sample(bleed=True)
        # A run that was ended in its last moments has nothing left to train.
        if not self._is_to_end():
            self.loop.run(until=self._after_step)
        if self.loop.step < self.this.config.schedule.steps and not self._is_to_end():
            self._stop()
            return False
        self._finish()
        return True

    def _after_step(self, step: int) -> bool:
        """Measure, sample and keep what is due; returns whether the run is to stop."""
        config, last = self.this.config, self.this.config.schedule.steps
        if step == last:
            return False
        if _is_due(step, config.validation.every_n_steps, last, _MEASUREMENTS):
            self._measure()
        if _is_due(step, config.sampling.every_n_steps, last, _SAMPLES):
            self._sample()
        if _is_due(step, config.output.save_every_n_steps, last, _CHECKPOINTS):
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
        if step and self.pictures.heldout:
            before, self.best = self.best, self.best.after(step, found.loss)
            if self.best.step != before.step:
                self._mark_best()

    def _mark_best(self) -> None:
        """Keep the adapter of the best measurement beside the checkpoints, and remove the one that was it before."""
        folder, best = self.this.path / "best", self.best
        path = folder / f"{self.this.config.output.name}-s{best.step:06d}.safetensors"
        try:
            self._write_adapter(path)
            for old in folder.glob("*.safetensors"):
                if old != path:
                    old.unlink(missing_ok=True)
        except OSError as error:
            self.this.warn(
                message(
                    "The best LoRA so far, of step {step}, could not be kept: {reason}. Make room.",
                    step=best.step,
                    reason=error.strerror or str(error),
                )
            )
            return
        self.this.tell(events.Best(step=best.step, loss=best.loss, file=path.name))

    def _sample(self, *, bleed: bool = False) -> None:
        """Make the sample pictures, with ``bleed`` one more without the trigger; one that fails is only a warning."""
        sampling, trigger = self.this.config.sampling, self.this.job.trigger
        prompts = [samples.parse(line, sampler=sampling.sampler) for line in sampling.prompts]
        plain = [samples.without_trigger(prompt, trigger) for prompt in prompts] if bleed else []
        with self.trainee.arrived():
            self.trainee.network.eval()
            for number, prompt in enumerate(prompts, 1):
                self._draw_sample(prompt, f"step-{self.loop.step:06d}-{number:02d}.png")
            for prompt in [each for each in plain if each is not None][:1]:
                self._draw_sample(prompt, f"step-{self.loop.step:06d}-{len(prompts) + 1:02d}.png", trigger=False)
            self.trainee.network.train()

    def _draw_sample(self, prompt: samples.SamplePrompt, name: str, *, trigger: bool = True) -> None:
        path = self.this.path / "samples" / name
        try:
            contrast = samples.draw(self.trainee.model, prompt, path, clip_skip=self.this.config.model.clip_skip)
        except (ExtensionError, OSError, RuntimeError) as error:
            self.this.warn(message("A sample picture failed: {reason}.", reason=str(error).rstrip(".")))
            return
        if name.endswith("-01.png"):
            self.preview = path
        self.this.tell(Sampled(step=self.loop.step, file=name, prompt=prompt.text, seed=prompt.seed, trigger=trigger))
        for said in self.loop.watch.sampled(name, f"{prompt.text} {prompt.seed}", contrast):
            self.this.warn(said)

    def _keep(self) -> None:
        """Write state and adapter of this step; a full disk is a warning, and the next checkpoint tries again."""
        step = self.loop.step
        if step and step == self.loop.watch.kept:
            return
        self.loop.look()
        try:
            state = checkpoint.save_state(
                self.this.path / "state",
                self.trainee,
                self._progress(),
                keep=self.this.config.output.keep_states,
            )
            path = checkpoint.fresh_path(self.this.path / "checkpoints", f"{self.this.config.output.name}-s{step:06d}")
            self._write_adapter(path)
        except OSError as error:
            self.this.warn(
                message(
                    "The checkpoint of step {step} could not be kept: {reason}. Make room; the last one is good.",
                    step=step,
                    reason=error.strerror or str(error),
                )
            )
            return
        self.loop.watch.kept = step
        self.this.tell(Saved(step=step, file=path.name, state=state))

    def _stop(self) -> None:
        self._keep()
        self.this.tell(Stopped(step=self.loop.step))
        print(f"Stopped at step {self.loop.step}.", flush=True)

    def _finish(self) -> None:
        """Write the final state, measure, sample, and put adapter and card into the LoRA folder."""
        # The state first: if the LoRA folder can't be written, nothing has to be trained again.
        self._keep()
        train_seconds = self._progress().train_seconds
        if self._is_to_end():
            self.this.warn(
                message(
                    "Ended early: the held-out loss is at its lowest at step {step}; its LoRA is the result.",
                    step=self.best.step,
                )
            )
        else:
            self._measure()
        self._sample(bleed=True)
        output = self.this.config.output
        path = checkpoint.fresh_path(Path(output.folder), output.name)
        model_hash = self._write_result(path)
        try:
            checkpoint.write_card(
                path,
                trigger=self.this.job.trigger,
                description="LoRA Atelier",
                preview=self.preview,
            )
        except OSError as error:
            self.this.warn(message("The card of the LoRA could not be written: {reason}.", reason=str(error)))
        self.this.tell(
            Finished(
                step=self.loop.step,
                file=str(path),
                model_hash=model_hash,
                seconds=time.monotonic() - self.this.began,
                train_seconds=train_seconds,
                peak_memory_bytes=peak_memory_bytes(),
            )
        )
        print(f"Finished: {path}", flush=True)

    def _progress(self) -> Progressed:
        sat = time.monotonic() - self._sat_down
        return Progressed(self.loop.step, self.progressed.train_seconds + sat, self.best, self.settings)

    def _write_result(self, path: Path) -> str:
        """Write the LoRA of the last step, or of the best one where the run ended early. Raises JobError."""
        try:
            found = sorted((self.this.path / "best").glob(f"*-s{self.best.step:06d}.safetensors"))
            if self._is_to_end() and found:
                return adapter_file.write(path, load_file(found[0]), self._described(path, self.best.step))
            return self._write_adapter(path)
        except OSError as error:
            raise JobError(
                "The LoRA could not be written to {folder}.",
                why="{reason}.",
                todo="Make room on the disk or allow writing there, then press Resume: it goes on from step {kept}.",
                folder=str(path.parent),
                reason=error.strerror or str(error),
                kept=self.loop.watch.kept,
            ) from error

    def _write_adapter(self, path: Path) -> str:
        dtype = checkpoint.DTYPES[self.this.config.output.precision]
        described = self._described(path, self.loop.step)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.trainee.arrived():
            return adapter_file.write(path, self.trainee.network.tensors(dtype), described)

    def _described(self, path: Path, step: int) -> dict[str, str]:
        job = self.this.job
        facts = Facts.of(
            self.pictures,
            step=step,
            batches_per_epoch=self.loop.plan.batches_per_epoch,
            started=job.created,
            session=int(job.created * 1000) % 2**32,
        )
        return metadata(self.this.config, self.trainee.model.info, facts, stem=path.stem, trigger=job.trigger)


# ------------------------------------------------------------------------------------------- going on


def last_step(run_dir: Path) -> int:
    """The step of the last complete state; 0 where there is none. Raises JobError if it is gone."""
    state = checkpoint.latest_state(run_dir / "state")
    return checkpoint.step_of(state) if state is not None else 0


def _require_same(this: Run, info: ModelInfo) -> None:
    """Raise JobError if a run that goes on has other settings than it began with."""
    state = checkpoint.latest_state(this.path / "state")
    before = checkpoint.read_progress(state).settings if state is not None else {}
    if before:
        require_same(before, this.config, info)


def _is_due(step: int, every: int, steps: int, times: int) -> bool:
    every = every or max(1, round(steps / times))
    return step % every == 0
