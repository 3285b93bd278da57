"""Everything that is wrong with a training, with its files, model, pictures, engine and machine, before it is made."""

from __future__ import annotations

import errno
import math
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import engines
from .config import DatasetConfig, TrainConfig, model_problems, notes, to_kohya, unsupported
from .config.epochs import in_steps
from .config.keys import name_of
from .datasets import buckets, processing
from .datasets.checks import common_trigger, few_pictures, surely_long_captions
from .datasets.items import Item, read_items
from .engines.base import Asked
from .errors import ExtensionError, JobError, Message, ModelError, Problem, problem
from .jobs import estimate, machine
from .jobs.environment import trainer_python
from .jobs.service import Jobs, free_bytes, needed_bytes
from .models.detect import FAMILY_NAMES, ModelInfo, inspect
from .train_files import Recipe

# Where something was found, and what is to be said of it, one sentence after the other.
Said = tuple[str, tuple[Message, ...]]


@dataclass
class Findings:
    """What was found out about a training before it starts. ``wrong`` must be put right, ``notes`` are only said."""

    config: TrainConfig
    engine: str
    checkout: Path | None
    trigger: str
    wrong: list[Said] = field(default_factory=list)
    notes: list[Said] = field(default_factory=list)
    info: ModelInfo | None = None
    items: list[list[Item]] = field(default_factory=list)
    device: str = ""
    steps_per_epoch: int = 0
    plan: estimate.Plan | None = None

    def refuse(self, found: Problem | ExtensionError, where: str = "") -> None:
        """Note something that must be put right, once."""
        self._add(self.wrong, found, where)

    def remark(self, found: Problem | Message, where: str = "") -> None:
        """Note something that is only to be said, once."""
        self._add(self.notes, found, where)

    def _add(self, to: list[Said], found: Problem | Message | ExtensionError, where: str) -> None:
        said: Said
        if isinstance(found, ExtensionError):
            said = (where, found.parts())
        elif isinstance(found, Problem):
            said = (name_of(found.field), (found.message,))
        else:
            said = (where, (found,))
        if said not in to:
            to.append(said)


def examine(recipe: Recipe, jobs: Jobs, *, engine: str, checkout: Path | None, trigger: str) -> Findings:
    """Everything about a training, on one of ``engines.NAMES``; nothing is written."""
    found = Findings(recipe.config, engine, checkout, trigger.strip() or recipe.trigger)
    found.device = device()
    _look_at_words(found, recipe)
    _look_at_model(found)
    _look_at_pictures(found)
    _look_at_length(found)
    _look_at_settings(found, jobs)
    _look_at_machine(found, jobs)
    _look_at_files(found, jobs)
    return found


def _look_at_words(found: Findings, recipe: Recipe) -> None:
    for each in recipe.problems:
        found.refuse(each)
    for note in recipe.notes:
        found.remark(note)
    for said in common_trigger(found.trigger):
        found.remark(said, "--trigger")


def _look_at_model(found: Findings) -> None:
    config = found.config
    if not config.model.base_model:
        return  # the settings' own problem
    try:
        found.info = info = inspect(Path(config.model.base_model))
    except ModelError as error:
        found.refuse(error, "pretrained_model_name_or_path")
        return
    said = model_problems(config, family=info.family, prediction_type=info.prediction_type)
    for each in said:
        # Our trainer takes these two from the model itself; sd-scripts believes the recipe.
        if found.engine == "native" or each.field not in ("model.v2", "model.v_parameterization"):
            found.refuse(each)
        else:
            found.remark(each)


def _look_at_pictures(found: Findings) -> None:
    for index, dataset in enumerate(found.config.data.datasets):
        items: list[Item] = []
        if any(subset.image_dir or subset.metadata_file for subset in dataset.subsets):
            try:
                items, remarks = read_items(dataset, fallback=found.trigger, index=index)
            except ExtensionError as error:
                found.refuse(error, f"datasets[{index}]")
            else:
                for remark in remarks:
                    found.remark(remark, f"datasets[{index}]")
        found.items.append(items)
    own = [item for items in found.items for item in items if not item.is_reg]
    if own:
        for said in few_pictures(len(own)):
            found.remark(said, "datasets")
    # The tokenizer is the trainer's; a word is a token at least, so that what is said here is true in any case.
    captions = {processing.process(item.caption, item.rules, None): item.path.name for item in reversed(own)}
    for said in surely_long_captions(captions, limit=found.config.model.max_token_length):
        found.remark(said, "datasets")


def _look_at_length(found: Findings) -> None:
    """Count the run in steps where the recipe counts it in epochs; the trainer does so when it has the pictures."""
    batches = sum(map(_batches, found.config.data.datasets, found.items))
    found.steps_per_epoch = math.ceil(batches / max(1, found.config.schedule.accumulation))
    if found.steps_per_epoch:
        counted, said = in_steps(found.config, found.steps_per_epoch)
        for note in said:
            found.remark(note)
        if found.config.schedule.max_train_epochs:  # what is wrong with its steps is said only where they are known
            for each in counted.schedule.problems():
                found.refuse(each)


def _batches(dataset: DatasetConfig, items: Sequence[Item]) -> int:
    """Batches of one epoch: those of each bucket, the last one short; as many regularisation pictures as others."""
    size = max(1, dataset.batch_size)
    own: Counter[buckets.Size] = Counter()
    for item in items:
        if not item.is_reg:
            own[item.bucket or buckets.frame(item.width, item.height, dataset).bucket] += item.num_repeats
    regularisation = math.ceil(sum(own.values()) / size) if any(item.is_reg for item in items) else 0
    return sum(math.ceil(count / size) for count in own.values()) + regularisation


def _look_at_settings(found: Findings, jobs: Jobs) -> None:
    config = found.config
    problems = list(config.problems())
    main, dataset = to_kohya(config)
    family = found.info.family if found.info is not None else ""
    asked = Asked(main, dataset, family, jobs.data_dir, found.checkout, device=_cpu_or_gpu(found))
    judged = engines.get(found.engine).judge(asked)
    problems += judged.problems
    if found.engine == "native":
        problems += unsupported(config)
        for note in notes(config):
            found.remark(note)
    for each in problems:
        found.refuse(each)
    for warning in judged.warnings:
        found.remark(warning, found.engine)


def _look_at_files(found: Findings, jobs: Jobs) -> None:
    """Files that are named and not there, a folder that can't be written to, a disk that is too full."""
    model, network, output = found.config.model, found.config.network, found.config.output
    named = [("model.vae", model.vae), *(("model.base_weights", path) for path in model.base_weights)]
    if not output.metadata_thumbnail.startswith("data:"):
        named.append(("output.metadata_thumbnail", output.metadata_thumbnail))
    for place, path in (*named, ("network.network_weights", network.network_weights)):
        if path and not Path(path).exists():
            found.refuse(problem(place, "There is no file {path}.", path=path))
    for place, folder in (
        ("output.folder", Path(output.folder) if output.folder else jobs.lora_dir),
        ("--data-dir", jobs.runs_dir),
    ):
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        reason = errno.ENOTDIR if not there.is_dir() else 0 if os.access(there, os.W_OK) else errno.EACCES
        if reason:
            found.refuse(
                problem(
                    place,
                    "The folder {folder} can't be written to ({reason}). Allow it, or choose another folder.",
                    folder=str(folder),
                    reason=os.strerror(reason),
                )
            )
        elif (
            place == "output.folder"
            and found.plan is not None
            and (free := free_bytes(folder)) < (needed := needed_bytes(found.plan))
        ):
            found.refuse(
                problem(
                    place,
                    "The disk has {free} MB left and the training needs about {needed} MB. Make room, then try again.",
                    free=free // 1_000_000,
                    needed=needed // 1_000_000,
                )
            )


def _look_at_machine(found: Findings, jobs: Jobs) -> None:
    config = found.config
    precision = config.schedule.mixed_precision
    if found.device == "cpu" and precision == "fp16":
        found.refuse(
            problem(
                "schedule.mixed_precision",
                "fp16 can't be computed on a processor; set mixed_precision = bf16, or no.",
            )
        )
    elif found.device != "cpu" and precision == "no":
        found.remark(
            problem(
                "schedule.mixed_precision",
                "Everything is computed in float32; mixed_precision = bf16 takes half the memory and less time.",
            )
        )
    try:
        trainer_python()
    except ExtensionError as error:
        found.refuse(error, "--engine")
    if found.info is not None and found.info.family in FAMILY_NAMES:
        pictures = sum(not item.is_reg for items in found.items for item in items)
        counted, _ = in_steps(config, max(1, found.steps_per_epoch))
        found.plan = estimate.estimate(
            counted, found.info, pictures=pictures, rates=jobs.rates, device=_cpu_or_gpu(found)
        )


# ------------------------------------------------------------------------------------------------ the machine


def device() -> str:
    """What a training would run on: "cuda", "rocm", "mps", "xpu" or "cpu", as the trainer's PyTorch is built for it."""
    try:
        about = machine.about([str(trainer_python())])
    except JobError:
        about = None
    build = about.torch.partition("+")[2] if about is not None else ""
    if build in ("cpu", "xpu"):
        return build
    card = machine.card()
    if card is not None:
        return card.kind
    return "mps" if platform.system() == "Darwin" and platform.machine() == "arm64" else "cpu"


def _cpu_or_gpu(found: Findings) -> str:
    return "cpu" if found.device == "cpu" else "gpu"
