"""What sd-scripts writes, kept as our own trainer keeps it: complete states to go on from, and adapter files that tell
nothing private.

Its states get our names and lie where ours do: it counts steps anew in each sitting, so that its own names repeat.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__, atomic
from ..config import TrainConfig
from ..errors import JobError, Message
from ..rights import signature
from .run_dir import Job, RunDir

_SCHEMA = 1
_LATEST = "latest"
# Captions, and names of folders and files: they stay with the person.
_PRIVATE = frozenset({"ss_tag_frequency", "ss_dataset_dirs", "ss_reg_dataset_dirs", "ss_datasets", "ss_session_id"})
_HASHES = frozenset({"sshs_model_hash", "sshs_legacy_hash"})


@dataclass(frozen=True)
class Kept:
    """A complete state: where it is, steps made, seconds of training in all sittings, whether they were all steps."""

    path: Path | None = None
    step: int = 0
    train_seconds: float = 0.0
    complete: bool = False


def keep_state(run: RunDir, source: Path, kept: Kept, *, keep: int) -> str:
    """Move the state folder ``source`` into the run's states, point ``latest`` at it, and remove older ones than
    ``keep``; returns its name. Raises OSError; the states before are then as they were."""
    name = f"step-{kept.step:06d}"
    said = {
        "schema": _SCHEMA,
        "engine": "sd-scripts",
        "step": kept.step,
        "train_seconds": kept.train_seconds,
        "complete": kept.complete,
    }
    run.state_dir.mkdir(exist_ok=True)
    target = run.state_dir / name
    if _latest(run) == name:
        # The same step was kept a moment ago, as a checkpoint that was due: that one is good.
        shutil.rmtree(source, ignore_errors=True)
        atomic.write_text(target / "state.json", json.dumps(said))
        return name
    (source / "state.json").write_text(json.dumps(said), encoding="utf-8")
    for file in source.rglob("*"):
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
    if target.exists():
        # Made in an earlier sitting that was killed before ``latest`` named it.
        shutil.rmtree(target)
    atomic.replace(source, target)
    atomic.write_text(run.state_dir / _LATEST, name)
    for old in sorted(run.state_dir.glob("step-*"))[: -max(1, keep)]:
        if old.name != name:
            shutil.rmtree(old, ignore_errors=True)
    return name


def latest_state(run: RunDir) -> Kept:
    """The state to go on from; one at step 0 without a path where there is none. Raises JobError if it is gone, or was
    made by our own trainer."""
    name = _latest(run)
    if not name:
        return Kept()
    try:
        said: dict[str, Any] = json.loads((run.state_dir / name / "state.json").read_text(encoding="utf-8"))
        kept = Kept(run.state_dir / name, int(said["step"]), float(said["train_seconds"]), bool(said.get("complete")))
    except (OSError, ValueError, KeyError) as error:
        raise JobError(
            "The training can't go on.",
            why="Its last state, {state}, is gone.",
            todo="Start a new training with the same pictures.",
            state=name,
        ) from error
    if said.get("engine") != "sd-scripts":
        raise JobError(
            "The training can't go on.",
            why="Its state was made by another trainer.",
            todo="Let the trainer go on that it began with, or start a new training.",
        )
    return kept


def _latest(run: RunDir) -> str:
    try:
        return (run.state_dir / _LATEST).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def write_adapter(
    source: Path, target: Path, said: Mapping[str, str], data_dir: Path, *, step: int
) -> tuple[str, Message | None]:
    """Write the adapter file that sd-scripts made as ``target``, without what is private in it and with ``said``.

    It is signed with the key in ``data_dir``. Returns its hash, and why it is unsigned if it is. Needs torch.
    Raises AdapterFormatError, OSError.
    """
    from ..adapters import file as adapter_file

    read = adapter_file.read(source)
    metadata = {**public(read.metadata, stem=target.stem, step=step), **said}
    metadata, unsigned = signature.signed(metadata, adapter_file.stored(read.tensors), data_dir)
    return adapter_file.write(target, read.tensors, metadata), unsigned


def public(metadata: Mapping[str, str], *, stem: str, step: int) -> dict[str, str]:
    """sd-scripts' metadata without what is private, with the file's own name and the steps of all sittings."""
    kept = {key: text for key, text in metadata.items() if key not in _PRIVATE | _HASHES}
    if kept.get("modelspec.title") in (None, metadata.get("ss_output_name")):
        kept["modelspec.title"] = stem
    if "ss_steps" in kept:
        kept["ss_steps"] = str(step)
    if "ss_output_name" in kept:
        kept["ss_output_name"] = stem
    return kept


def own_metadata(config: TrainConfig, job: Job, rights: Mapping[str, Any]) -> dict[str, str]:
    """What we add: rights and trigger as in our own files, and what sd-scripts leaves out beside a dataset file."""
    dataset = config.data.datasets[0]
    said = {
        "atelier_version": __version__,
        "atelier_rights": json.dumps(rights, ensure_ascii=False, sort_keys=True),
    }
    if not config.output.metadata_trigger_phrase and job.trigger:
        said["modelspec.trigger_phrase"] = job.trigger
    if config.output.no_metadata:
        return said
    accumulated = dataset.batch_size * config.schedule.accumulation
    return said | {
        "ss_resolution": f"({dataset.resolution[0]}, {dataset.resolution[1]})",
        "ss_enable_bucket": str(dataset.enable_bucket),
        "ss_min_bucket_reso": str(dataset.min_bucket_reso),
        "ss_max_bucket_reso": str(dataset.max_bucket_reso),
        "ss_batch_size_per_device": str(dataset.batch_size),
        "ss_total_batch_size": str(accumulated),
    }
