"""A dry run: a few steps on the largest batch, from which the time and the memory of the whole run are reckoned.

All that a run does is done once: pictures read, some encoded, the model loaded, steps made, held-out loss measured, a
sample drawn with two steps, a state written. Nothing is kept but what is in the cache anyway. The result is
``measured.json`` in the run's directory; ``jobs.dry_run`` reads it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import atomic, memory
from ..config import TrainConfig
from ..errors import JobError
from ..models import detect
from ..rights import memorisation_cost
from . import samples
from .batches import BatchPlan, Place
from .checkpoint import Progressed, tensors_of
from .examiner import is_drawable, pass_seconds
from .heldout import heldout_loss
from .pictures import Pictures, plan_of, read_pictures
from .preparation import Preparation
from .run import Run, announce, peak_memory_bytes
from .session import Session, count_in_steps

FILE = "measured.json"
SCHEMA = 1
STEPS = 3
# Short steps are measured for so long, so that one that was disturbed does not count for much; and so many at most.
_LEAST_S, _MOST_STEPS = 3.0, 30
# The first steps allocate and choose algorithms; they are not measured.
_WARM_UP = 2
_SAMPLE_STEPS = 2
# Pictures that are encoded to see how long it takes: the first one takes longer.
_ENCODED = 2


class _SameBatch(BatchPlan):
    """Every step sees the same batch."""

    places: Sequence[Place]

    @classmethod
    def of(cls, plan: BatchPlan, places: Sequence[Place]) -> _SameBatch:
        """``plan`` with ``places`` for every step."""
        made = cls(**{f.name: getattr(plan, f.name) for f in dataclasses.fields(plan) if not f.name.startswith("_")})
        made.places = places
        return made

    def batch(self, number: int) -> list[Place]:
        return list(self.places)


@dataclass
class _Peak:
    """The most memory that was in use between ``begin`` and ``end``, in bytes: resident, or reserved on the card."""

    device: torch.device
    _most: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def begin(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def end(self) -> int:
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_reserved(self.device))
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        return self._most

    def _follow(self) -> None:
        while not self._ended.wait(0.01):
            self._most = max(self._most, now_bytes(self.device))


def now_bytes(device: torch.device) -> int:
    """What this process holds now: resident in main memory, or reserved on the card."""
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    try:
        # In pages: whole size, resident.
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        import psutil

        return int(psutil.Process().memory_info().rss)


def measure(this: Run) -> None:
    """Make the dry run of ``this`` and write what it foretells. Raises as a run does."""
    from accelerate import Accelerator

    if (this.path / "state").exists():
        raise JobError("This training has begun; only one that has not can be measured.")
    accelerator = Accelerator(mixed_precision=this.config.schedule.mixed_precision)
    free = memory.available_bytes(accelerator.device) or 0
    began = time.monotonic()
    pictures = read_pictures(this)
    reading_s = time.monotonic() - began
    steps_per_epoch = count_in_steps(this, pictures)
    announce(this, pictures.warnings)
    info = detect.inspect(Path(this.config.model.base_model))
    missing = Preparation(this, pictures, info, accelerator.device).missing()
    start_s = time.monotonic() - this.began - reading_s
    program = now_bytes(accelerator.device)
    some = Preparation(this, _some(this.config, pictures, missing), info, accelerator.device, at_once=True)
    began = time.monotonic()
    session = Session.build(this, some, accelerator, steps_per_epoch)
    took = some.took
    built_s = time.monotonic() - began - took.model - took.pictures - sum(took.encoding) - took.texts
    measured = _Measured(this, pictures, session)
    steps_s, peak = measured.steps()
    seconds = {
        "start": start_s + built_s + took.model,
        "pictures": reading_s + took.pictures / max(1, len(list(some.pictures))) * len(missing),
        # Those that were encoded now are in the cache of the run.
        "latents": _encoding_s(took.encoding, len(missing) - len(took.encoding)),
        "captions": took.texts / max(1, took.captions) * measured.captions(),
        "steps": steps_s,
        "measurements": measured.measurements(),
        "samples": measured.samples(),
        "files": measured.files(),
    }
    training = sum(seconds[name] for name in ("steps", "measurements", "samples", "files"))
    seconds["memorisation"] = measured.memorisation(training, steps_s / this.config.schedule.steps)
    parts = measured.parts(program, peak, len(list(some.pictures)))
    said = {
        "schema": SCHEMA,
        "device": accelerator.device.type,
        "steps": this.config.schedule.steps,
        "pictures": len(pictures.train) + len(pictures.heldout),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "seconds_per_step": round(steps_s / this.config.schedule.steps, 4),
        "memory": parts,
        # What was held at another moment than in the steps counts as well: pictures are encoded, weights read.
        "peak_bytes": max(sum(parts.values()), peak_memory_bytes()),
        "free_bytes": free,
        "file_bytes": measured.file_bytes,
        "state_bytes": measured.state_bytes,
        "cache_bytes": parts["caches"] if missing else 0,
    }
    atomic.write_text(this.path / FILE, json.dumps(said))


def _some(config: TrainConfig, pictures: Pictures, missing: Sequence[Any]) -> Pictures:
    """The pictures of the largest batch, some that are not encoded yet, one that is held out."""
    plan = plan_of(config, pictures)
    chosen = [pictures.train[place.index] for place in _largest(plan)]
    heldout = pictures.heldout[:1]
    chosen += [item for item in missing if item in pictures.train][:_ENCODED]
    train = [item for item in pictures.train if item in set(chosen)]
    if all(item.is_reg for item in train):
        train += [item for item in pictures.train if not item.is_reg][:1]
    return dataclasses.replace(pictures, train=train, heldout=heldout, warnings=())


def _largest(plan: BatchPlan) -> list[Place]:
    """The batch of the first epoch that has the most pixels."""
    return max((plan.batch(number) for number in range(plan.batches_per_epoch)), key=plan.pixels)


def _encoding_s(encoded: Sequence[float], count: int) -> float:
    """How long it takes to encode ``count`` pictures, the first of which takes longer."""
    if not encoded or count <= 0:
        return 0.0
    return encoded[0] + statistics.median(encoded[1:] or encoded) * (count - 1)


@dataclass
class _Measured:
    """What is measured with a session that is ready for its first step, each time for the whole run."""

    this: Run
    pictures: Pictures
    session: Session
    file_bytes: int = 0
    state_bytes: int = 0

    @property
    def _config(self) -> TrainConfig:
        return self.this.config

    def steps(self) -> tuple[float, int]:
        """Seconds of all steps, and the most memory in use while some are made."""
        session, loop = self.session, self.session.loop
        own = loop.plan
        places = _largest(own)
        loop.plan = _SameBatch.of(own, places)
        schedule = dataclasses.replace(self._config.schedule, steps=max(_MOST_STEPS, self._config.schedule.steps))
        loop.config = dataclasses.replace(self._config, schedule=schedule)
        peak, times = _Peak(session.trainee.device), [time.monotonic()]

        def until(step: int) -> bool:
            if session.trainee.device.type == "cuda":
                torch.cuda.synchronize(session.trainee.device)
            times.append(time.monotonic())
            self.this.preparing("steps", min(step, _WARM_UP + STEPS), _WARM_UP + STEPS)
            long_enough = times[-1] - times[min(_WARM_UP, step)] >= _LEAST_S
            return step >= _WARM_UP + STEPS and (long_enough or step >= _MOST_STEPS)

        peak.begin()
        loop.run(until=until)
        most = peak.end()
        each = statistics.median(b - a for a, b in zip(times[_WARM_UP:], times[_WARM_UP + 1 :], strict=False))
        mean = plan_of(self._config, self.pictures).mean_pixels()
        return each * mean / own.pixels(places) * self._config.schedule.steps, most

    def captions(self) -> int:
        """Different captions of all pictures, and the empty one."""
        return len({item.caption for item in self.pictures}) + 1

    def measurements(self) -> float:
        """Seconds of all measurements on held-out pictures."""
        config, session = self._config, self.session
        if not config.validation.split:
            return 0.0
        began = time.monotonic()
        heldout_loss(session.trainee, session.heldout[:1], seed=config.validation.seed)
        each = time.monotonic() - began
        own = sum(not item.is_reg for item in self.pictures.train)
        most = config.validation.max_validation_steps * max(each.batch_size for each in config.data.datasets)
        count = len(self.pictures.heldout) or min(4, own)
        times = 2 + session.rhythms.measurements.count(config.schedule.steps)
        return each * min(count, most or count) * times

    def samples(self) -> float:
        """Seconds of all sample pictures."""
        config, session = self._config, self.session
        prompts = [samples.parse(line, sampler=config.sampling.sampler) for line in config.sampling.prompts]
        if not prompts:
            return 0.0
        first = prompts[0]
        calls = _Calls(session.trainee.model.unet)
        began = time.monotonic()
        with session.gallery.drawing():
            path = self.this.path / "samples" / "measured.png"
            shown = dataclasses.replace(first, steps=_SAMPLE_STEPS)
            samples.draw(session.trainee.model, shown, path, clip_skip=config.model.clip_skip)
        around = time.monotonic() - began - calls.end()
        per_step = calls.seconds / _SAMPLE_STEPS

        def seconds(prompt: samples.SamplePrompt) -> float:
            larger = prompt.width * prompt.height / (first.width * first.height)
            return (around + per_step * prompt.steps) * larger

        times = 1 + config.sampling.sample_at_first + session.rhythms.samples.count(config.schedule.steps)
        plain = [each for each in prompts if samples.without_trigger(each, self.this.job.trigger)][:1]
        return sum(map(seconds, prompts)) * times + sum(map(seconds, plain)) * (1 + config.sampling.sample_at_first)

    def memorisation(self, training_s: float, step_s: float) -> float:
        """Seconds of the test for pictures that come back."""
        share, pictures = self._config.validation.memorisation, self.pictures
        pixel_s = pass_seconds(self._config, plan_of(self._config, pictures), step_s)
        sizes = [pictures.framing(item).bucket for item in pictures.train if not item.is_reg]
        passes = [pixel_s * width * height for width, height in sizes if is_drawable((width, height))]
        return memorisation_cost.foretell(share * training_s, passes).seconds

    def files(self) -> float:
        """Seconds of all states and checkpoints."""
        session = self.session
        began = time.monotonic()
        session.results.keep(Progressed(1, settings=session.settings))
        each = time.monotonic() - began
        self.state_bytes = _bytes_in(self.this.path / "state")
        self.file_bytes = _bytes_in(self.this.path / "checkpoints")
        return each * (2 + session.rhythms.checkpoints.count(self._config.schedule.steps))

    def parts(self, program: int, peak: int, seen: int) -> dict[str, int]:
        """The most memory of the whole run by part, in bytes; ``peak`` is that of the steps with ``seen`` pictures."""
        trainee = self.session.trainee
        model = trainee.model
        modules = [module for module in (model.unet, model.vae, *model.text_encoders) if module is not None]
        trained = list(trainee.network.parameters())
        own = {id(parameter) for parameter in trained}
        weights = _nbytes(p for module in modules for p in module.parameters() if id(p) not in own)
        adapter = 2 * _nbytes(trained)  # with the gradients
        optimizer = _nbytes(tensors_of(trainee.optimizer.state_dict()))
        if trainee.average is not None:
            optimizer += _nbytes(tensors_of(trainee.average.state_dict()))
        pictures = _nbytes(p for example in self.session.loop.examples for p in example.posteriors)
        text = trainee.condition([""])
        caption = (
            0
            if self._config.network.train_te
            else text.context.nbytes + _nbytes([text.pooled] if text.pooled is not None else [])
        )
        known = program + weights + adapter + optimizer + pictures
        count = len(self.pictures.train) + len(self.pictures.heldout)
        return {
            "program": program,
            "weights": weights,
            "adapter": adapter,
            "optimizer": optimizer,
            "activations": max(0, peak - known),
            "caches": round(pictures / max(1, seen) * count) + caption * self.captions(),
        }


class _Calls:
    """Seconds that a module spends in its calls until ``end``."""

    def __init__(self, module: Any) -> None:
        self.seconds = 0.0
        self._began = 0.0
        self._hooks = [module.register_forward_pre_hook(self._before), module.register_forward_hook(self._after)]

    def end(self) -> float:
        for hook in self._hooks:
            hook.remove()
        return self.seconds

    def _before(self, *_: object) -> None:
        self._began = time.monotonic()

    def _after(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._began


def _nbytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
