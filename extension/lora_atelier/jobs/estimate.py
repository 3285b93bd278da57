"""What a run will cost, told before it starts: time, memory, size of the file.

Times come from the runs that this machine has finished (``rates.json``), before the first one from a table.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .. import atomic, config_files, events, safetensors_header
from ..config import NetworkConfig, TrainConfig
from ..errors import ExtensionError, Message, message
from ..models.detect import ModelInfo, weights_files
from .run_dir import Progress, RunDir

SCHEMA = 1
_BYTES_PER_NUMBER = {"float": 4, "fp16": 2, "bf16": 2}
# Seconds for one picture seen once, at the family's own size. "cpu" is for one core and is divided by their number.
# toy: measured on 2 cores with `demo --headless`; the others: order of magnitude, replaced by the first finished run.
_SECONDS_PER_VIEW = {
    "cpu": {"toy": 0.11, "sd1": 40.0, "sd2": 90.0, "sdxl": 320.0},
    "gpu": {"toy": 0.004, "sd1": 0.25, "sd2": 0.6, "sdxl": 1.1},
}
_FEWEST_VIEWS = 400
_OWN_SIDE = {"toy": 128, "sd1": 512, "sd2": 768, "sdxl": 1024}
_OVERHEAD_S = {"cpu": 30.0, "gpu": 40.0}
_GB = 1_000_000_000
_MEMORY_BYTES = {
    "cpu": {"toy": 1.2 * _GB, "sd1": 9 * _GB, "sd2": 11 * _GB, "sdxl": 24 * _GB},
    "gpu": {"toy": 1.2 * _GB, "sd1": 7 * _GB, "sd2": 9 * _GB, "sdxl": 16 * _GB},
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will take; ``device`` is "cpu" or "gpu"."""

    pictures: int
    steps: int
    seconds: float
    memory_bytes: int
    file_bytes: int
    device: str

    def sentence(self) -> tuple[Message, ...]:
        """The plan in words, to be said one after the other."""
        return (_counted(self.pictures, self.steps), _lasting(self.seconds, self.device), _sized(self.file_bytes))

    def to_table(self) -> dict[str, Any]:
        """The plan as plain values for ``job.toml``."""
        return asdict(self)

    @staticmethod
    def from_table(table: Mapping[str, Any]) -> Plan | None:
        """The plan that ``to_table`` gave; None where there is none or it is incomplete."""
        try:
            return Plan(**{f.name: table[f.name] for f in fields(Plan)})
        except KeyError:
            return None


def _counted(pictures: int, steps: int) -> Message:
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


class Rates:
    """Seconds per picture seen, as measured on this machine; kept in ``rates.json``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def known(self, family: str, pixels: int, device: str) -> tuple[float, float] | None:
        """Seconds per picture seen and seconds around the training, if a run of this kind has finished here."""
        entry = self._read().get(_key(family, pixels, device))
        try:
            return (float(entry["seconds_per_view"]), float(entry["overhead_s"])) if entry else None
        except (KeyError, TypeError, ValueError):
            return None

    def learn(self, run: RunDir) -> None:
        """Take the times of a run that finished in one go; anything unreadable or unwritable teaches nothing."""
        progress = Progress(run).update()
        started, finished = progress.get(events.Started), progress.get(events.Finished)
        if started is None or finished is None or started.resumed_from or finished.train_seconds <= 0:
            return
        try:
            job, config = run.job(), config_files.read(run.path)
        except ExtensionError:
            return
        views = finished.step * _views_per_step(config)
        if views < _FEWEST_VIEWS:  # samples and measurements would count for more than the steps
            return
        key = _key(job.family, _pixels(config), "cpu" if started.device.startswith("cpu") else "gpu")
        measured = {
            "seconds_per_view": finished.train_seconds / views,
            "overhead_s": max(0.0, finished.seconds - finished.train_seconds),
        }
        rates = self._read()
        before = rates.get(key, {})
        rates[key] = {name: (value + before.get(name, value)) / 2 for name, value in measured.items()}
        with contextlib.suppress(OSError):
            atomic.write_text(self.path, json.dumps({"schema": SCHEMA, "rates": rates}, indent=1) + "\n")

    def _read(self) -> dict[str, Any]:
        try:
            rates = json.loads(self.path.read_text(encoding="utf-8"))["rates"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return rates if isinstance(rates, dict) else {}


def _key(family: str, pixels: int, device: str) -> str:
    return f"{family}/{round(math.sqrt(pixels))}/{device}"


def _pixels(config: TrainConfig) -> int:
    sides = [dataset.resolution for dataset in config.data.datasets] or [(512, 512)]
    return max(width * height for width, height in sides)


def _views_per_step(config: TrainConfig) -> int:
    return config.schedule.accumulation * max((d.batch_size for d in config.data.datasets), default=1)


def device() -> str:
    """Where a training would run, "gpu" or "cpu", told without importing torch."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return "gpu" if torch.cuda.is_available() else "cpu"
    return "gpu" if shutil.which("nvidia-smi") else "cpu"


def estimate(config: TrainConfig, info: ModelInfo, *, pictures: int, rates: Rates, device: str) -> Plan:
    """What ``config`` will cost on a model with ``pictures`` pictures."""
    pixels, views = _pixels(config), config.schedule.steps * _views_per_step(config)
    known = rates.known(info.family, pixels, device)
    if known is None:
        per_view = _SECONDS_PER_VIEW[device][info.family] * pixels / _OWN_SIDE[info.family] ** 2
        known = (per_view / (os.cpu_count() or 1) if device == "cpu" else per_view, _OVERHEAD_S[device])
    per_view, overhead = known
    # Each picture is encoded once before the first step, at about half the cost of a training view.
    return Plan(
        pictures=pictures,
        steps=config.schedule.steps,
        seconds=round(overhead + per_view * (views + pictures / 2), 1),
        memory_bytes=int(_MEMORY_BYTES[device][info.family]),
        file_bytes=adapter_bytes(info, config.network, config.output.precision),
        device=device,
    )


def adapter_bytes(info: ModelInfo, network: NetworkConfig, precision: str) -> int:
    """The size of the LoRA file, from the shapes in the model's header; 0 if the header can't be read."""
    try:
        shapes = list(_unet_shapes(info))
    except (OSError, safetensors_header.BrokenFileError, ExtensionError):
        return 0
    numbers = 0
    for key, shape in shapes:
        attention = "transformer_blocks." in key or ".proj_in." in key or ".proj_out." in key
        kernel = math.prod(shape[2:])
        if attention and len(shape) in (2, 4) and kernel == 1:
            numbers += network.rank * (shape[0] + shape[1])
        elif network.conv_rank and len(shape) == 4 and kernel > 1:
            numbers += network.conv_rank * (shape[0] + shape[1] * kernel)
    return numbers * _BYTES_PER_NUMBER[precision]


def _unet_shapes(info: ModelInfo) -> Iterator[tuple[str, tuple[int, ...]]]:
    files = weights_files(info.path / "unet") if info.kind == "diffusers" else [info.path]
    for file in files:
        for key, tensor in safetensors_header.read(file).tensors.items():
            if key.endswith(".weight") and (info.kind == "diffusers" or key.startswith("model.diffusion_model.")):
                yield key, tensor.shape


def total_memory_bytes() -> int | None:
    """The machine's memory, where the system tells it in a simple way."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
