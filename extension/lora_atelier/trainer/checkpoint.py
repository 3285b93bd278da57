"""Complete states to go on from, and adapter files: each appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from .. import atomic
from ..adapters.card import fresh_path as fresh_path
from ..adapters.card import write_card as write_card
from ..errors import JobError
from . import optimizers, watch
from .best import Best
from .trainee import Trainee

# 2: with the settings that the run began with, and the best measurement.
SCHEMA = 2
LATEST = "latest"
_PROBE_BYTES = 1_000_000
DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Progressed:
    """How far a state is: steps made, seconds of training in all sittings, the best measurement.

    ``settings`` are those that decide the tensors (``settings.decisive``); empty where the state is older than they.
    """

    step: int = 0
    train_seconds: float = 0.0
    best: Best = Best()
    settings: Mapping[str, Any] = field(default_factory=dict)


def save_state(states: Path, trainee: Trainee, progressed: Progressed, *, keep: int) -> str:
    """Write ``states/step-000800``, then point ``states/latest`` at it; returns the folder's name.

    Raises OSError (disk full), and DataError where a weight or a moment of the optimizer is no number; the states
    before are then as they were. Older states than ``keep`` are removed last. A complete state of this step is left as
    it is: every draw is a function of the step, so it says the same.
    """
    if not are_numbers(trainee):
        before = latest_state(states)
        raise watch.diverged(progressed.step, kept=step_of(before) if before is not None else 0)
    name = f"step-{progressed.step:06d}"

    def fill(folder: Path) -> None:
        # ``save_file`` of safetensors has errors of its own for a full disk.
        (folder / "adapter.safetensors").write_bytes(save(trainee.network.tensors(torch.float32)))
        _write(folder / "optimizer.pt", trainee.optimizer.state_dict())
        if trainee.average is not None:
            _write(folder / "average.pt", trainee.average.state_dict())
        said = {
            "schema": SCHEMA,
            "step": progressed.step,
            "train_seconds": progressed.train_seconds,
            "best": progressed.best.to_json(),
            "settings": dict(progressed.settings),
        }
        (folder / "state.json").write_text(json.dumps(said), encoding="utf-8")

    if not _is_complete(states / name):
        atomic.write_folder(states / name, fill)
    atomic.write_text(states / LATEST, name)
    for old in sorted(states.glob("step-*"), key=step_of)[:-keep]:
        if old.name != name:
            shutil.rmtree(old, ignore_errors=True)
    return name


def latest_state(states: Path) -> Path | None:
    """The folder that ``latest`` names, or the newest complete one where that is gone; None where there is none yet.

    Raises JobError if there was one and all are gone.
    """
    try:
        name = (states / LATEST).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        name = ""
    if name and _is_complete(states / name):
        return states / name
    complete = [folder for folder in states.glob("step-*") if _is_complete(folder)]
    if complete:
        return max(complete, key=step_of)
    if not name:
        return None
    raise JobError(
        "The training can't go on.",
        why="Its last state, {state}, is gone.",
        todo="Start a new training with the same pictures.",
        state=name,
    )


def step_of(state: Path) -> int:
    """The step of a state's folder; -1 for a name that is none of ours."""
    digits = state.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1


def _is_complete(state: Path) -> bool:
    # A folder gets its name when all is in it, so what lacks a file was taken apart by someone.
    return all((state / name).is_file() for name in ("state.json", "adapter.safetensors", "optimizer.pt"))


def are_numbers(trainee: Trainee) -> bool:
    """Whether no weight, no average and no moment of the optimizer is NaN or infinite.

    A loss tells only what the weights were before its own step, so nothing but the weights themselves can say that
    they are good.
    """
    tensors = [*trainee.network.parameters(), *tensors_of(trainee.optimizer.state_dict())]
    if trainee.average is not None:
        tensors += tensors_of(trainee.average.state_dict())
    finite = [tensor.isfinite().all().to(trainee.device) for tensor in tensors if tensor.is_floating_point()]
    return not finite or bool(torch.stack(finite).all())


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested dictionaries and sequences."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors_of(inner)


def read_progress(state: Path) -> Progressed:
    """How far a state is. Raises JobError if it was written by a newer version or can't be read."""
    try:
        said: dict[str, Any] = json.loads((state / "state.json").read_text(encoding="utf-8"))
        schema = int(said["schema"])
        if schema <= SCHEMA:
            return Progressed(
                int(said["step"]),
                float(said["train_seconds"]),
                Best.from_json(said.get("best", {})),
                said.get("settings", {}),
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobError(
            "The training can't go on.",
            why="Its state {state} can't be read.",
            todo="Delete that folder: it goes on from the one before, if there is one.",
            state=str(state),
        ) from error
    raise JobError(
        "The training can't go on.",
        why="Its state was written by a newer version of LoRA Atelier.",
        todo="Update the extension.",
    )


def load_state(state: Path, trainee: Trainee) -> Progressed:
    """Put a state into what is trained. Raises JobError if it does not fit the settings or is newer."""
    progressed = read_progress(state)
    try:
        trainee.network.load(load_file(state / "adapter.safetensors"))
        optimizers.load_state(trainee.optimizer, _read(state / "optimizer.pt"))
        if trainee.average is not None:
            trainee.average.load_state_dict(_read(state / "average.pt"))
    except (FileNotFoundError, KeyError, ValueError, RuntimeError) as error:
        raise JobError(
            "The training can't go on.",
            why="Its state does not fit its settings: {reason}.",
            todo="Undo the change of its config.toml, or start a new training.",
            reason=str(error),
        ) from error
    return progressed


def _write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state of tensors. Raises OSError, which torch's own writer never does: on a full disk it speaks of
    positions in an archive."""
    try:
        torch.save(state, path)
    except RuntimeError as error:
        is_full = shutil.disk_usage(path.parent).free < _PROBE_BYTES
        raise OSError(*((errno.ENOSPC, os.strerror(errno.ENOSPC)) if is_full else (errno.EIO, str(error)))) from error


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def require_writable(*folders: Path) -> None:
    """Raise JobError if nothing can be written into one of ``folders``; they are made where they are missing."""
    for folder in folders:
        probe = folder / f".atelier-{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # On a full disk a file can be made, but holds nothing.
            probe.write_bytes(bytes(_PROBE_BYTES))
            probe.unlink()
        except OSError as error:
            with contextlib.suppress(OSError):
                probe.unlink()
            raise JobError(
                "The folder {folder} can't be written to.",
                why="{reason}.",
                todo="Make room on the disk or allow writing there, or choose another folder; then start it again.",
                folder=str(folder),
                reason=error.strerror or str(error),
            ) from error
