"""What a run will cost, told before it starts: time, memory by part, room on the disk.

Times come from the runs that this machine has finished (``rates``), before the first one from a table; memory from the
shapes in the model's header (``footprint``). A dry run (``dry_run``) replaces both by what it measured.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..config import TrainConfig
from ..config.rhythm import Rhythms
from ..errors import Message, message
from ..models.detect import ModelInfo
from ..rights import memorisation_cost
from . import footprint
from .footprint import adapter_bytes as adapter_bytes
from .rates import Rates as Rates
from .rates import pixels_of, views_per_step

# Seconds for one picture seen once, at the family's own size. "cpu" is for one core and is divided by their number.
# toy: measured on 2 cores with `demo --headless`; the others: order of magnitude, replaced by the first finished run.
_SECONDS_PER_VIEW = {
    "cpu": {"toy": 0.11, "sd1": 40.0, "sd2": 90.0, "sdxl": 320.0},
    "gpu": {"toy": 0.004, "sd1": 0.25, "sd2": 0.6, "sdxl": 1.1},
}
_OWN_SIDE = {"toy": 128, "sd1": 512, "sd2": 768, "sdxl": 1024}
_OVERHEAD_S = {"cpu": 30.0, "gpu": 40.0}
# Parts that are not worth a word.
_SMALL_BYTES = 50_000_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will take; ``device`` is "cpu" or "gpu".

    ``memory`` is the most that is held at once, by part (``footprint.PARTS``), on the device that computes;
    ``free_bytes`` what that had free (0: the system does not say), ``disk_bytes`` the room that all files of the run
    take. ``measured`` says that a dry run measured it. ``given`` are the pictures that the person chose, where some of
    them won't be trained on (0: all will).
    """

    pictures: int
    steps: int
    seconds: float
    memory_bytes: int
    file_bytes: int
    device: str
    memory: Mapping[str, int] = field(default_factory=dict)
    free_bytes: int = 0
    disk_bytes: int = 0
    measured: bool = False
    given: int = 0

    def sentence(self) -> tuple[Message, ...]:
        """The plan in words, to be said one after the other."""
        return (
            _counted(self.pictures, self.given, self.steps),
            _lasting(self.seconds, self.device),
            _sized(self.file_bytes),
        )

    def memory_sentence(self) -> tuple[Message, ...]:
        """The memory in words, to be listed: how much, its parts from the largest on, what is free."""
        said = [message("About {gb} GB of memory", gb=_gb(self.memory_bytes))]
        said += [part for _, part in self.part_sentences()]
        if self.free_bytes:
            said.append(message("{gb} GB are free", gb=_gb(self.free_bytes)))
        return tuple(said)

    def part_sentences(self) -> tuple[tuple[str, Message], ...]:
        """The parts of the memory that are worth a word, from the largest on, each with its name."""
        parts = sorted(self.memory.items(), key=lambda part: -part[1])
        return tuple(
            (name, Message(footprint.PARTS[name].template, {"gb": _gb(size)}))
            for name, size in parts
            if size >= _SMALL_BYTES
        )

    def fit_sentence(self) -> Message:
        """Whether it fits, where it does or nobody knows; ``dry_run.shortage`` says it where it does not."""
        if not self.free_bytes:
            return message("It takes about {needed} GB of memory.", needed=_gb(self.memory_bytes))
        if self.device == "gpu":
            return message(
                "It takes about {needed} GB of the {free} GB that are free on the graphics card: it fits.",
                needed=_gb(self.memory_bytes),
                free=_gb(self.free_bytes),
            )
        return message(
            "It takes about {needed} GB of the {free} GB of memory that are free: it fits.",
            needed=_gb(self.memory_bytes),
            free=_gb(self.free_bytes),
        )

    def disk_sentence(self) -> Message:
        """The room on the disk in words."""
        return message("About {megabytes} MB on the disk.", megabytes=max(1, round(self.disk_bytes / 1e6)))

    @property
    def fits(self) -> bool | None:
        """Whether the memory is there; None where the system does not say how much is free."""
        return self.memory_bytes <= self.free_bytes if self.free_bytes else None

    def to_table(self) -> dict[str, Any]:
        """The plan as plain values for ``job.toml``."""
        return asdict(self)

    @staticmethod
    def from_table(table: Mapping[str, Any]) -> Plan | None:
        """The plan that ``to_table`` gave; None where there is none or it is incomplete."""
        try:
            return Plan(**{f.name: table[f.name] for f in fields(Plan) if f.name in table})
        except TypeError:
            return None


def _counted(pictures: int, given: int, steps: int) -> Message:
    if given > pictures:
        return message("{pictures} of {given} pictures, {steps} steps,", pictures=pictures, given=given, steps=steps)
    if pictures == 1:
        return message("1 picture, {steps} steps,", steps=steps)
    return message("{pictures} pictures, {steps} steps,", pictures=pictures, steps=steps)


def _lasting(seconds: float, device: str) -> Message:
    cpu = device == "cpu"
    if seconds < 90:
        shown = max(10, round(seconds / 10) * 10)
        if cpu:
            return message("about {seconds} seconds on this computer's processor;", seconds=shown)
        return message("about {seconds} seconds on this computer's graphics card;", seconds=shown)
    if seconds < 90 * 60:
        minutes = round(seconds / 60)
        if cpu:
            return message("about {minutes} minutes on this computer's processor;", minutes=minutes)
        return message("about {minutes} minutes on this computer's graphics card;", minutes=minutes)
    hours = round(seconds / 3600) if seconds > 10 * 3600 else round(seconds / 360) / 10
    if cpu:
        return message("about {hours} hours on this computer's processor;", hours=hours)
    return message("about {hours} hours on this computer's graphics card;", hours=hours)


def _sized(file_bytes: int) -> Message:
    megabytes = file_bytes / 1e6
    return message(
        "the file takes {megabytes} MB.", megabytes=round(megabytes) if megabytes >= 10 else round(megabytes, 1)
    )


def _gb(size_bytes: int) -> float:
    return round(size_bytes / 1e9, 1 if size_bytes > 500_000_000 else 2)


def device() -> str:
    """Where a training would run, "gpu" or "cpu", told without importing torch."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return "gpu" if torch.cuda.is_available() else "cpu"
    return "gpu" if shutil.which("nvidia-smi") else "cpu"


def estimate(config: TrainConfig, info: ModelInfo, *, pictures: int, rates: Rates, device: str) -> Plan:
    """What ``config`` will cost on a model with ``pictures`` pictures."""
    pixels, views = pixels_of(config), config.schedule.steps * views_per_step(config)
    known = rates.known(info.family, pixels, device)
    if known is None:
        per_view = _SECONDS_PER_VIEW[device][info.family] * pixels / _OWN_SIDE[info.family] ** 2
        known = (per_view / (os.cpu_count() or 1) if device == "cpu" else per_view, _OVERHEAD_S[device])
    per_view, overhead = known
    parts = footprint.memory_parts(config, info, pictures=pictures, device=device)
    file_bytes = adapter_bytes(info, config.network, config.output.precision)
    # Each picture is encoded once, at about half the cost of a training view.
    training, encoding = per_view * views, per_view * pictures / 2
    return Plan(
        pictures=pictures,
        steps=config.schedule.steps,
        seconds=round(overhead + encoding + training + _testing_s(config, training, per_view, pictures), 1),
        memory_bytes=sum(parts.values()),
        file_bytes=file_bytes,
        device=device,
        memory=parts,
        free_bytes=footprint.free_bytes(device),
        disk_bytes=disk_bytes(config, file_bytes, parts["adapter"] // 2 + parts["optimizer"], parts["caches"]),
    )


def _testing_s(config: TrainConfig, training_s: float, per_view: float, pictures: int) -> float:
    """Seconds of the test for pictures that come back."""
    passes = memorisation_cost.step_passes(gradient_checkpointing=config.schedule.gradient_checkpointing)
    share_s = config.validation.memorisation * training_s
    return memorisation_cost.foretell(share_s, [per_view / passes] * pictures).seconds


def disk_bytes(config: TrainConfig, file_bytes: int, state_bytes: int, cache_bytes: int) -> int:
    """The room that the files of a run take: checkpoints, states, the finished LoRA and the best one, the cache."""
    output, steps = config.output, config.schedule.steps
    checkpoints = 1 + Rhythms.of(config, steps_per_epoch=steps).checkpoints.count(steps)
    # A new state is complete before an old one is removed.
    return file_bytes * (checkpoints + 2) + state_bytes * (output.keep_states + 1) + cache_bytes


def total_memory_bytes() -> int | None:
    """The machine's memory, where the system tells it in a simple way."""
    return footprint.total_memory_bytes()
