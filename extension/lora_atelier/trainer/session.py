"""A prepared run: model, pictures and network in place; trains them and keeps what comes out."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from ..adapters import file as adapter_file
from ..errors import ExtensionError, message
from ..events import Finished, Sampled, Saved, Started, Stopped
from ..models import detect
from . import checkpoint, samples
from .building import build
from .checkpoint import Progressed
from .loop import Example, Loop, Trainee, validated
from .metadata import metadata
from .pictures import Pictures, plan_of, read_pictures
from .preparation import Preparation
from .run import Run, announce, peak_memory_bytes

# How often, over the run, where the settings say "choose for me".
_CHECKPOINTS, _SAMPLES, _MEASUREMENTS = 10, 5, 10


class Session:
    """A run between its preparation and its end."""

    def __init__(self, this: Run, trainee: Trainee, pictures: Pictures, loop: Loop, heldout: list[Example]) -> None:
        self.this, self.trainee, self.pictures, self.loop = this, trainee, pictures, loop
        self.heldout = heldout
        self.progressed = Progressed()
        self.preview: Path | None = None
        self._sat_down = time.monotonic()

    # ------------------------------------------------------------------------------------------- preparing

    @classmethod
    def prepare(cls, this: Run) -> Session:
        """Read pictures and model, fill the caches, build the network, and take up the last state if there is one."""
        from accelerate import Accelerator

        config = this.config
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
        session.take_up()
        return session

    def take_up(self) -> None:
        """Go on from the last complete state, if there is one."""
        state = checkpoint.latest_state(self.this.path / "state")
        if state is not None:
            self.progressed = checkpoint.load_state(state, self.trainee)
            self.loop.step = self.loop.watch.kept = self.progressed.step
        pictures = sorted((self.this.path / "samples").glob("*.png"))
        self.preview = pictures[-1] if pictures else None

    # -------------------------------------------------------------------------------------------- training

    def train(self) -> bool:
        """Make all steps and write the adapter; returns False if the run was stopped before its end."""
        self._sat_down = time.monotonic()
        if self.loop.step == 0:
            self._measure()
            self._sample()
        self.loop.run(until=self._after_step)
        if self.loop.step < self.this.config.schedule.steps:
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
        return self.this.stop_requested()

    def _measure(self) -> None:
        if not self.this.config.validation.split:
            return
        seed = self.this.config.validation.seed
        self.this.tell(validated(self.trainee, self.heldout, seed=seed, step=self.loop.step))

    def _sample(self) -> None:
        """Make the sample pictures; a failing one is a warning, never the end."""
        with self.trainee.arrived():
            self._draw_samples()

    def _draw_samples(self) -> None:
        config, step = self.this.config, self.loop.step
        self.trainee.network.eval()
        for number, line in enumerate(config.sampling.prompts):
            prompt = samples.parse(line, sampler=config.sampling.sampler)
            name = f"step-{step:06d}-{number + 1:02d}.png"
            path = self.this.path / "samples" / name
            try:
                samples.draw(self.trainee.model, prompt, path, clip_skip=config.model.clip_skip)
            except (ExtensionError, OSError, RuntimeError) as error:
                self.this.warn(message("A sample picture failed: {reason}.", reason=str(error).rstrip(".")))
                continue
            self.preview = path if number == 0 else self.preview
            self.this.tell(Sampled(step=step, file=name, prompt=prompt.text, seed=prompt.seed))
        self.trainee.network.train()

    def _keep(self) -> bool:
        """Write state and adapter of this step; a full disk is a warning, and the next checkpoint tries again."""
        step = self.loop.step
        self.loop.look()
        try:
            state = checkpoint.save_state(
                self.this.path / "state",
                self.trainee,
                self._progress(),
                keep=self.this.config.output.keep_states,
            )
            name = f"{self.this.config.output.name}-s{step:06d}.safetensors"
            self._write_adapter(self.this.path / "checkpoints" / name)
        except OSError as error:
            self.this.warn(
                message(
                    "The checkpoint of step {step} could not be kept: {reason}. Make room; the last one is good.",
                    step=step,
                    reason=error.strerror or str(error),
                )
            )
            return False
        self.loop.watch.kept = step
        self.this.tell(Saved(step=step, file=name, state=state))
        return True

    def _stop(self) -> None:
        self._keep()
        self.this.tell(Stopped(step=self.loop.step))
        print(f"Stopped at step {self.loop.step}.", flush=True)

    def _finish(self) -> None:
        """Write the final state, measure, sample, and put adapter and card into the LoRA folder."""
        # The state first: if the LoRA folder can't be written, nothing has to be trained again.
        self._keep()
        train_seconds = self._progress().train_seconds
        self._measure()
        self._sample()
        output = self.this.config.output
        path = checkpoint.fresh_path(Path(output.folder), output.name)
        model_hash = self._write_adapter(path)
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
        return Progressed(self.loop.step, self.progressed.train_seconds + sat)

    def _write_adapter(self, path: Path) -> str:
        dtype = checkpoint.DTYPES[self.this.config.output.precision]
        described = metadata(
            self.this.config,
            self.trainee.model.info,
            stem=path.stem,
            step=self.loop.step,
            trigger=self.this.job.trigger,
            pictures=len(self.pictures.train),
            regularisation=sum(item.is_reg for item in self.pictures.train),
            batches_per_epoch=self.loop.plan.batches_per_epoch,
            rights=self.pictures.admitted.summary(),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.trainee.arrived():
            return adapter_file.write(path, self.trainee.network.tensors(dtype), described)


# ------------------------------------------------------------------------------------------- model and network


def last_step(run_dir: Path) -> int:
    """The step of the last complete state; 0 where there is none. Raises JobError if it is gone."""
    state = checkpoint.latest_state(run_dir / "state")
    return int(state.name.removeprefix("step-")) if state is not None else 0


def _is_due(step: int, every: int, steps: int, times: int) -> bool:
    every = every or max(1, round(steps / times))
    return step % every == 0
