"""The command ``train``: everything that is wrong with a training said at once, what it will take, and its start."""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import engines, locales
from .config import GOALS, DatasetConfig, TrainConfig, model_problems, notes, to_kohya, unsupported
from .config.epochs import in_steps
from .config.keys import name_of
from .datasets import buckets
from .datasets.checks import common_trigger, few_pictures
from .datasets.items import Item, read_items
from .engines.base import Asked
from .errors import ExtensionError, JobError, Message, ModelError, Problem, message, problem
from .jobs import estimate, machine
from .jobs.environment import trainer_python
from .jobs.run_dir import RunDir
from .jobs.service import WHOSE, Jobs
from .models.detect import FAMILY_NAMES, ModelInfo, inspect
from .train_files import Recipe, Sources, gather

_EPILOG = "Every option of sd-scripts is an option here too, for example --network_dim 16 --unet_lr 1e-4; it replaces \
what the files say."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options; all others are sd-scripts'."""
    parser.allow_abbrev = False
    parser.epilog = _EPILOG
    parser.add_argument("--config_file", type=Path, metavar="TOML", help="options of the training")
    parser.add_argument("--dataset_config", type=Path, metavar="TOML", help="folders of pictures (.json works too)")
    parser.add_argument("--preset", type=Path, metavar="JSON", help="a preset that kohya_ss' GUI saved")
    parser.add_argument("--like", type=Path, metavar="LORA", help="train again as this LoRA was trained")
    parser.add_argument("--engine", choices=engines.NAMES, default="native", help="who trains (default: native)")
    parser.add_argument("--sd-scripts", type=Path, metavar="DIR", help="the checkout of sd-scripts to train with")
    parser.add_argument(
        "--check", dest="only_check", action="store_true", help="only say what is wrong and what it would take"
    )
    parser.add_argument("--trigger", default="", help="the word that calls the LoRA in a prompt")
    parser.add_argument("--goal", choices=GOALS, default="character")
    parser.add_argument("--whose", choices=WHOSE, default="mine", help="whose pictures these are")


@dataclass
class Findings:
    """What was found out about a training before it starts. ``wrong`` must be put right, ``notes`` are only said."""

    config: TrainConfig
    engine: str
    checkout: Path | None
    trigger: str
    wrong: list[tuple[str, Message]] = field(default_factory=list)
    notes: list[tuple[str, Message]] = field(default_factory=list)
    info: ModelInfo | None = None
    items: list[list[Item]] = field(default_factory=list)
    device: str = ""
    plan: estimate.Plan | None = None

    def refuse(self, found: Problem | ExtensionError, where: str = "") -> None:
        """Note something that must be put right, once."""
        self._add(self.wrong, found, where)

    def remark(self, found: Problem | Message, where: str = "") -> None:
        """Note something that is only to be said, once."""
        self._add(self.notes, found, where)

    def _add(self, to: list[tuple[str, Message]], found: Problem | Message | ExtensionError, where: str) -> None:
        if isinstance(found, ExtensionError):
            said = [(where, part) for part in found.parts()]
        else:
            said = [(name_of(found.field), found.message) if isinstance(found, Problem) else (where, found)]
        to += [each for each in said if each not in to]


def add(found: Findings, options: argparse.Namespace, jobs: Jobs) -> RunDir:
    """Make the run that was examined and has nothing wrong. Raises ExtensionError if it can't be made."""
    return jobs.add(
        found.config,
        trigger=found.trigger,
        whose=options.whose,
        goal=options.goal,
        engine=found.engine,
        checkout=found.checkout,
    )


def examine(options: argparse.Namespace, jobs: Jobs) -> Findings:
    """Everything about the training that the options describe; nothing is written."""
    recipe = gather(
        Sources(
            config_file=options.config_file,
            dataset_config=options.dataset_config,
            preset=options.preset,
            like=options.like,
            words=options.words,
        )
    )
    found = Findings(recipe.config, options.engine, options.sd_scripts, options.trigger.strip() or recipe.trigger)
    found.device = device()
    _look_at_words(found, recipe)
    _look_at_model(found)
    _look_at_pictures(found)
    _look_at_length(found)
    _look_at_settings(found, jobs)
    _look_at_machine(found, jobs)
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
    count = sum(not item.is_reg for items in found.items for item in items)
    if count:
        for said in few_pictures(count):
            found.remark(said, "datasets")


def _look_at_length(found: Findings) -> None:
    """Count in steps what the recipe counts in epochs, which our own trainer does not know."""
    batches = sum(map(_batches, found.config.data.datasets, found.items))
    if found.engine == "native" and batches:
        steps = math.ceil(batches / max(1, found.config.schedule.accumulation))
        found.config, said = in_steps(found.config, steps)
        for note in said:
            found.remark(note)


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
        found.plan = estimate.estimate(
            config, found.info, pictures=pictures, rates=jobs.rates, device=_cpu_or_gpu(found)
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


_DEVICES = {
    "cuda": message("the NVIDIA graphics card (CUDA)"),
    "rocm": message("the AMD graphics card (ROCm)"),
    "mps": message("the Apple graphics processor (MPS)"),
    "xpu": message("the Intel graphics card (XPU)"),
    "cpu": message("the processor (CPU)"),
}


def _cpu_or_gpu(found: Findings) -> str:
    return "cpu" if found.device == "cpu" else "gpu"


# ------------------------------------------------------------------------------------------------ saying it


def report(found: Findings, lang: str, *, plan: bool = False) -> int:
    """Print all that was found, and what it would take if ``plan``; returns 1 if something is wrong, else 0."""
    for line in _lines(found.notes, lang):
        print(locales.text("Note: {text}", lang, text=line), file=sys.stderr)
    if plan:
        _print_plan(found, lang)
    if found.wrong:
        _print_wrong(found, lang)
    return 1 if found.wrong else 0


def _print_wrong(found: Findings, lang: str) -> None:
    count = len(found.wrong)
    head = message("This training can't be started; {count} things have to be put right:", count=count)
    if count == 1:
        head = message("This training can't be started; one thing has to be put right:")
    print(locales.sentence(head, lang), file=sys.stderr)
    for line in _lines(found.wrong, lang):
        print(f"- {line}", file=sys.stderr)


def _lines(said: Sequence[tuple[str, Message]], lang: str) -> Iterator[str]:
    for where, what in said:
        text = locales.sentence(what, lang)
        yield f"{where}: {text}" if where else text


def _print_plan(found: Findings, lang: str) -> None:
    if found.info is None or found.plan is None:
        return
    config, say = found.config, _sayer(lang)
    print(
        say(
            message(
                "“{name}”: {algorithm} of rank {rank} and alpha {alpha} for {family} (“{model}”).",
                name=config.output.name,
                algorithm=config.network.algorithm,
                rank=config.network.rank,
                alpha=config.network.alpha,
                family=FAMILY_NAMES[found.info.family],
                model=found.info.title,
            )
        )
    )
    print(
        say(
            message(
                "Trained by {engine} on {device}, computed in {precision}.",
                engine=found.engine,
                device=say(_DEVICES[found.device]),
                precision={"no": "float32"}.get(config.schedule.mixed_precision, config.schedule.mixed_precision),
            )
        )
    )
    print(("" if lang == "ja" else " ").join(say(part) for part in found.plan.sentence()))
    if not found.wrong:
        print(say(message("Nothing is wrong. Nothing was made; leave --check out to train.")))


def _sayer(lang: str) -> Callable[[Message], str]:
    return lambda said: locales.sentence(said, lang)
