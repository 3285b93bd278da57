"""The settings that a run began with, so that it goes on with the same ones or says which are others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..config.setting import absent, key_of
from ..config.support import ALWAYS, NOT_READ
from ..datasets.cache import CacheFolder
from ..errors import JobError
from ..models.detect import ModelInfo
from .parts import CONTENT, contents

# They decide when something is looked at or kept, and where: the tensors are the same whatever they say. What the
# pictures and captions are is another list's part (``datasets.record``), so folders may have another place.
_WITHOUT_EFFECT = frozenset(
    {
        *ALWAYS,
        *NOT_READ,
        "schedule.gradient_checkpointing",
        "validation.every_n_steps",
        "validation.validate_every_n_epochs",
        "validation.max_validation_steps",
        "validation.patience",
        "validation.memorisation",
        "model.base_model",
    }
)
_GROUPS_WITHOUT_EFFECT = ("output", "sampling", "data")


def decisive(config: TrainConfig, info: ModelInfo, folder: CacheFolder) -> dict[str, Any]:
    """What decides the tensors of a run, by the names in its files, as plain JSON; files' contents by their hashes."""
    found = {"model": f"{info.path.name} ({_size_bytes(info.path)} bytes)", **contents(config.model, folder)}
    for group in fields(config):
        if group.name in _GROUPS_WITHOUT_EFFECT:
            continue
        values = getattr(config, group.name)
        for f in fields(values):
            if f.metadata and f"{group.name}.{f.name}" not in _WITHOUT_EFFECT:
                found[key_of(f)] = getattr(values, f.name)
    for number, dataset in enumerate(config.data.datasets):
        for f in fields(dataset):
            if f.metadata:
                found[f"datasets.{number}.{key_of(f)}"] = getattr(dataset, f.name)
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def require_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise JobError, with every difference, if the decisive settings ``before`` are not those of ``now``.

    A setting that is newer than ``before`` had its default; of a file's content that it does not know, nothing is said.
    """
    differences = list(_differences(before, now, _defaults()))
    if differences:
        raise JobError(
            "The training can't go on: its settings are not those that it began with.",
            why="{listed}.",
            todo="Put them back as they were and press Resume, or start a new training.",
            listed=", ".join(f"{name}: {json.dumps(old)} → {json.dumps(new)}" for name, old, new in differences),
        )


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    for name, value in now.items():
        if name.startswith(CONTENT) and name not in before:
            continue
        old = before.get(name, defaults.get(name.rpartition(".")[2]))
        if old != value:
            yield name, old, value
    yield from ((name, old, None) for name, old in before.items() if name.startswith("datasets.") and name not in now)


def _defaults() -> dict[str, Any]:
    config = TrainConfig()
    groups = [getattr(config, group.name) for group in fields(config)]
    found = {key_of(f): absent(f) for group in groups for f in fields(group) if f.metadata}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _size_bytes(path: Path) -> int:
    files = [path] if path.is_file() else list(path.glob("unet/*.safetensors"))
    return sum(file.stat().st_size for file in files)
