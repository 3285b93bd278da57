"""What sd-scripts prints, as our events, and its failures as sentences. Pure: lines in, events out.

Its lines are progress bars of tqdm (which end with a carriage return), what its logger says, and, where
``kohya_launch`` started it, lines that begin with ``[atelier]``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..errors import (
    DataError,
    DiskFullError,
    ExtensionError,
    JobError,
    ModelError,
    NotEnoughMemoryError,
    TrainerFailedError,
)
from ..events import Event, Preparing, Started, Stepped, Validated
from .kohya_launch import MARK

# tqdm: "steps:  33%|###3 | 4/12 [00:00<00:00, 239.38it/s, avr_loss=1.04]".
_BAR = re.compile(r"(?P<title>[^|]*?):?\s*\d+%\|[^|]*\|\s*(?P<done>\d+)/(?P<total>\d+)\s*\[(?P<rest>[^\]]*)\]?")
_REPORT = re.compile(re.escape(MARK) + r" loss=(?P<loss>\S+) lr=(?P<lr>\S+)")
_HELD_OUT = re.compile(re.escape(MARK) + r" held_out=(\S+)")
_STOPPED = re.compile(re.escape(MARK) + r" stopped after (\d+) steps")
_CHECKPOINT = re.compile(r"saving checkpoint: (.+)")
_STATE = re.compile(r"Saving current state to (.+)")
_STEP_IN_NAME = re.compile(r"-step(\d{8})\.\w+$")
_DEVICE = re.compile(r"accelerator device: (\w+)")
_BATCHES = re.compile(r"num batches per epoch .*: (\d+)")
_PICTURES = re.compile(r"num train images \* repeats .*: (\d+)")
_STAGES = (
    ("prepare images.", "pictures"),
    ("loading model for process", "model"),
    ("caching latents...", "latents"),
    ("caching Text Encoder outputs", "captions"),
    ("caching text encoder outputs", "captions"),
)
_WITH_BAR = ("latents", "captions")
# A step's time is measured over this many, so that one slow step does not change what is left by half.
_WINDOW = 20


@dataclass(frozen=True)
class Wrote:
    """A checkpoint and, behind it, a state are complete on the disk after ``step``: paths as sd-scripts names them."""

    step: int
    checkpoint: str = ""
    state: str = ""


@dataclass
class Translator:
    """Turns the lines of one sitting into events; ``done`` steps were made before it, ``clock`` gives seconds.

    Steps are told of at most every ``every_s`` seconds; the last one always.
    """

    done: int = 0
    pictures: int = 0
    clock: Callable[[], float] = field(default=lambda: 0.0)
    every_s: float = 0.0
    step: int = 0
    steps: int = 0
    batches_per_epoch: int = 0
    stopped: bool = False
    _device: str = ""
    _stage: str = ""
    _told: bool = False
    _losses: list[float] = field(default_factory=list)
    _rate: float = 0.0
    _times: list[tuple[int, float]] = field(default_factory=list)
    _wrote: Wrote | None = None
    _reported: float = -math.inf
    _held_out: float | None = None
    _measured: int = 0

    def __post_init__(self) -> None:
        self.step = self.done

    def line(self, text: str) -> Iterator[Event | Wrote]:
        """The events that one line tells of."""
        text = text.strip()
        report = _REPORT.search(text)
        if report:
            self._losses.append(float(report["loss"]))
            self._rate = float(report["lr"])
            # The launcher speaks behind all that belongs to a step.
            yield from self._complete()
            return
        measured = _HELD_OUT.search(text)
        if measured:
            # The mean of all so far; the bar shows three digits of it.
            self._held_out = float(measured[1])
            self._measured += 1
            return
        bar = _BAR.match(text)
        if bar:
            yield from self._progress(bar["title"].strip(), int(bar["done"]), int(bar["total"]), bar["rest"])
        # A bar leaves its line open for what is said next.
        yield from self._said(text[bar.end() :] if bar else text)

    def end(self) -> Iterator[Event | Wrote]:
        """What is known to be complete once the program has ended well."""
        yield from self._complete()

    def _said(self, text: str) -> Iterator[Event | Wrote]:
        for beginning, stage in _STAGES:
            if text.startswith(beginning):
                # What has a bar is told of with its numbers.
                if stage != self._stage and stage not in _WITH_BAR:
                    yield Preparing(stage=stage)
                self._stage = stage
                return
        for pattern, take in (
            (_DEVICE, self._take_device),
            (_BATCHES, self._take_batches),
            (_PICTURES, self._take_pictures),
            (_CHECKPOINT, self._take_checkpoint),
            (_STATE, self._take_state),
            (_STOPPED, self._take_stop),
        ):
            found = pattern.search(text)
            if found:
                take(found[1])
                return

    def _take_device(self, said: str) -> None:
        self._device = said

    def _take_batches(self, said: str) -> None:
        self.batches_per_epoch = int(said)

    def _take_pictures(self, said: str) -> None:
        self.pictures = self.pictures or int(said)

    def _take_checkpoint(self, said: str) -> None:
        # Said before the bar shows the step that it belongs to; at an epoch's end, after that.
        named = _STEP_IN_NAME.search(said.strip())
        step = self.done + int(named[1]) if named else self.step
        self._wrote = Wrote(step, said.strip(), self._wrote.state if self._wrote else "")

    def _take_state(self, said: str) -> None:
        wrote = self._wrote or Wrote(self.step)
        self._wrote = Wrote(wrote.step, wrote.checkpoint, said.strip())

    def _take_stop(self, said: str) -> None:
        self.stopped = True
        self.step = self.done + int(said)
        # Its state is where it was told to put it.
        self._wrote = None

    def _progress(self, title: str, done: int, total: int, rest: str) -> Iterator[Event | Wrote]:
        if title == "steps":
            yield from self._stepped(self.done + done, self.done + total, rest)
        elif title in ("validation steps", "epoch validation steps"):
            # The bar of the measurement before is drawn once more while this one begins.
            if done == total and self._measured >= total and self._held_out is not None:
                self._measured = 0
                yield Validated(step=self.step, loss=self._held_out)
        elif title == "" and self._stage in _WITH_BAR:
            yield Preparing(stage=self._stage, done=done, total=total)

    def _stepped(self, step: int, steps: int, rest: str) -> Iterator[Event | Wrote]:
        self.step, self.steps, self._stage = step, steps, ""
        if not self._told:
            self._told = True
            self._times = [(step, self.clock())]
            yield Started(steps=steps, resumed_from=self.done, pictures=self.pictures, device=self._device or "cpu")
        average = _number("avr_loss", rest)
        if average is None or step == self._times[-1][0]:
            return
        yield from self._complete()
        self._times = [*self._times, (step, self.clock())][-_WINDOW:]
        (first, began), (last, now) = self._times[0], self._times[-1]
        if now - self._reported < self.every_s and step < steps and math.isfinite(average):
            return
        self._reported = now
        seconds = (now - began) / (last - first)
        losses, self._losses = self._losses or [average], []
        yield Stepped(
            step=step,
            steps=steps,
            loss=sum(losses) / len(losses),
            learning_rate=self._rate,
            seconds_per_step=seconds,
            seconds_left=seconds * (steps - step),
        )

    def _complete(self) -> Iterator[Wrote]:
        if self._wrote is not None:
            wrote, self._wrote = self._wrote, None
            yield wrote


def _number(name: str, text: str) -> float | None:
    found = re.search(rf"{name}=([-+\d.e]+|nan|inf)", text)
    try:
        return float(found[1]) if found else None
    except ValueError:
        return None


# ------------------------------------------------------------------------------------------------ failures


def failure(status: int, log: str, *, log_name: str = "log.txt") -> ExtensionError:
    """What to tell a person of a run that ended with ``status``, from the end of what it printed."""
    for pattern, explain in _FAILURES:
        found = re.search(pattern, log)
        if found:
            return explain(found)
    if status < 0:
        return TrainerFailedError(
            "sd-scripts was ended from outside (signal {number}).",
            why="Most often the computer ran out of memory.",
            todo="Choose a smaller batch or resolution, or close other programs; then press Resume.",
            number=-status,
            exit_code=status,
        )
    kind, reason = _last_error(log)
    return TrainerFailedError(
        "sd-scripts ended with an error: {kind}: {reason}.",
        todo="Its log {log} holds the details.",
        kind=kind or "exit status",
        reason=reason.rstrip(".") or str(status),
        log=log_name,
        exit_code=status,
    )


def _last_error(log: str) -> tuple[str, str]:
    found = re.findall(r"^((?:\w+\.)*\w*(?:Error|Exception|Invalid|Interrupt))(?:: (.*))?$", log, re.MULTILINE)
    kind, reason = found[-1] if found else ("", "")
    return kind.rpartition(".")[2], reason.strip()[:300]


def _memory(found: re.Match[str]) -> ExtensionError:
    return NotEnoughMemoryError(
        "There is not enough memory for this training.",
        why="{reason}.",
        todo="Choose a smaller batch or resolution, turn gradient checkpointing on, or close other programs.",
        reason=found[0].strip().rstrip(".")[:200],
    )


def _no_data(found: re.Match[str]) -> ExtensionError:
    return DataError(
        "sd-scripts found no picture to train on.",
        todo="Check that the folders hold PNG, JPEG or WebP pictures.",
    )


def _package(found: re.Match[str]) -> ExtensionError:
    return JobError(
        "sd-scripts lacks the package {package}.",
        todo="Install it into the environment of sd-scripts:  python -m pip install {package}",
        package={"lycoris": "lycoris-lora", "cv2": "opencv-python-headless"}.get(found[1], found[1]),
    )


def _hub(found: re.Match[str]) -> ExtensionError:
    return JobError(
        "sd-scripts asked for a file that is not on this machine.",
        why="It looks for tokenizers and models on the internet, which LoRA Atelier does not allow it.",
        todo="Give models as files or folders of this machine.",
    )


def _other_model(found: re.Match[str]) -> ExtensionError:
    return ModelError(
        "sd-scripts can't load this base model.",
        why="Its layers are not those of Stable Diffusion 1, 2 or XL.",
        todo="Choose another base model, or our own trainer.",
    )


def _latents(found: re.Match[str]) -> ExtensionError:
    return JobError(
        "The model's VAE gives no numbers in fp16.",
        why="sd-scripts stopped at the first such picture.",
        todo="Set no_half_vae = true, or mixed_precision = bf16.",
    )


def _disk(found: re.Match[str]) -> ExtensionError:
    return DiskFullError("The disk is full.", todo="Make room, then press Resume: it goes on from the last state.")


def _schema(found: re.Match[str]) -> ExtensionError:
    return JobError(
        "sd-scripts does not take an option of the dataset: {where}.",
        todo="Remove it, or use our own trainer.",
        where=found[1],
    )


def _checkout(found: re.Match[str]) -> ExtensionError:
    return JobError(
        "This version of sd-scripts can't go on with a training.",
        why="The function {name} is not in it.",
        todo="Type  python install.py sd-scripts  to fetch the version that is known to work.",
        name=found[1],
    )


# Tried in this order on the end of the log; the first that is found speaks.
_FAILURES: tuple[tuple[str, Callable[[re.Match[str]], ExtensionError]], ...] = (
    (r"(?:CUDA|HIP|XPU) out of memory.*|OutOfMemoryError.*|can't allocate memory.*|MemoryError.*", _memory),
    (r"No data found\. Please verify", _no_data),
    (re.escape(MARK) + r" unknown checkout: it has no (\w+)", _checkout),
    (r"No module named '([\w]+)", _package),
    (r"No space left on device|Errno 28", _disk),
    (r"NaN detected in latents", _latents),
    (r"loading state_dict for (?:UNet2DConditionModel|SdxlUNet|AutoencoderKL|CLIPTextModel)", _other_model),
    (r"extra keys not allowed @ data(\S+)", _schema),
    (r"LocalEntryNotFoundError|OfflineModeIsEnabled|couldn't connect to 'https|Can't load tokenizer", _hub),
)
