"""What to change in settings that take more memory than is free, so that they fit: the mildest changes first.

What memory they would take is foretold part by part (``footprint``). Where it was measured, each part is taken to
shrink as it was foretold to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..config import TrainConfig
from ..errors import Message, message
from ..models.detect import ModelInfo
from . import footprint, overlay
from .estimate import Plan

# Resolutions are multiples of this; below the least one a model has nothing to learn from.
_STRIDE, _LEAST_SIDE = 64, 256


@dataclass(frozen=True)
class Fit:
    """Changes to settings (as ``overlay`` takes them), each in words, and the memory that the run would take then."""

    changes: Mapping[str, Any]
    said: tuple[Message, ...]
    memory_bytes: int
    fits: bool

    def sentences(self) -> Iterator[Message]:
        """What would be changed, and what comes of it."""
        yield from self.said
        needed = round(self.memory_bytes / 1e9, 1)
        if self.fits:
            yield message("Then it takes about {gb} GB.", gb=needed)
        else:
            yield message(
                "It would still take about {gb} GB: close other programs, or choose a smaller base model.", gb=needed
            )


def make_fit(plan: Plan, config: TrainConfig, info: ModelInfo) -> Fit | None:
    """The changes after which ``config``, of which ``plan`` was foretold or measured, fits; as far as it goes where
    nothing suffices. None where it fits already, where nobody knows, or where there is nothing to change."""
    if plan.fits is not False:
        return None
    foretold = footprint.memory_parts(config, info, pictures=plan.pictures, device=plan.device)
    changes: dict[str, Any] = {}
    said: dict[str, Message] = {}
    best, changed = plan.memory_bytes, config
    for place, more, words in _steps(config, plan.device):
        tried, wrong = overlay.changed(changed, more)
        if wrong:
            continue
        needed = _needed(
            plan, foretold, footprint.memory_parts(tried, info, pictures=plan.pictures, device=plan.device)
        )
        if needed >= best:
            continue
        changes |= more
        said[place] = words
        best, changed = needed, tried
        if best <= plan.free_bytes:
            break
    return Fit(changes, tuple(said.values()), best, best <= plan.free_bytes) if changes else None


def _needed(plan: Plan, before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """The memory of ``plan`` with each part changed as it is foretold to."""
    known = plan.memory or before
    return round(sum(size * after[part] / before[part] if before.get(part) else size for part, size in known.items()))


def _steps(config: TrainConfig, device: str) -> Iterator[tuple[str, dict[str, Any], Message]]:
    """Changes that save memory: what each is about, its places, and its words; those that change no result first."""
    schedule = config.schedule
    bf16 = (
        "precision",
        {"schedule.mixed_precision": "bf16"},
        message("Numbers of 16 bits (bf16): the base model and a step take half."),
    )
    if device == "gpu" and schedule.mixed_precision == "no":
        yield bf16
    if not schedule.gradient_checkpointing:
        yield (
            "checkpointing",
            {"schedule.gradient_checkpointing": True},
            message("Gradient checkpointing: the same result, a step takes about a third longer."),
        )
    batch, times = overlay.get(config, "dataset.batch_size") or 1, schedule.accumulation
    while batch > 1:
        # As many pictures in a step as before: halves, twice as often.
        smaller = -(-batch // 2)
        times, batch = times * -(-batch // smaller), smaller
        words = message("{batch} pictures at a time, {times} times before each step.", batch=batch, times=times)
        if batch == 1:
            words = message("One picture at a time, {times} times before each step.", times=times)
        yield "batch", {"dataset.batch_size": batch, "schedule.accumulation": times}, words
    # A processor computes slowly in bf16, and not each one can.
    if device == "cpu" and schedule.mixed_precision == "no":
        yield bf16
    yield from _smaller(config)


def _smaller(config: TrainConfig) -> Iterator[tuple[str, dict[str, Any], Message]]:
    size = overlay.get(config, "dataset.resolution")
    if size is None:
        return
    width, height = size
    scale = 0.75
    while min(width, height) * scale >= _LEAST_SIDE:
        smaller = tuple(max(_STRIDE, round(side * scale / _STRIDE) * _STRIDE) for side in (width, height))
        words = message(
            "Pictures of {width} × {height} pixels: it learns less of their details.",
            width=smaller[0],
            height=smaller[1],
        )
        yield "resolution", {"dataset.resolution": list(smaller)}, words
        scale *= 0.75
