"""The command ``train``: its options, what is said before the start, and the run that is made."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import engines, locales
from .config import GOALS, TrainConfig
from .errors import Message, message
from .jobs import dry_run
from .jobs.run_dir import RunDir
from .jobs.service import WHOSE, Jobs
from .models.detect import FAMILY_NAMES

if TYPE_CHECKING:
    from .train_check import Findings, Said

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
    parser.add_argument(
        "--dry-run", action="store_true", help="make a few steps to measure what it would take; make nothing else"
    )
    parser.add_argument("--trigger", default="", help="the word that calls the LoRA in a prompt")
    parser.add_argument("--goal", choices=GOALS, default="character")
    parser.add_argument("--whose", choices=WHOSE, default="mine", help="whose pictures these are")


def look(options: argparse.Namespace, jobs: Jobs) -> Findings:
    """Everything about the training that the options describe; nothing is written.

    Raises ConfigError or AdapterError for a file that can't be read at all.
    """
    # Before our environment is made nothing but the standard library is there, and ``check demo`` runs then.
    from .train_check import examine
    from .train_files import Sources, gather

    sources = Sources(
        config_file=options.config_file,
        dataset_config=options.dataset_config,
        preset=options.preset,
        like=options.like,
        words=options.words,
    )
    return examine(gather(sources), jobs, engine=options.engine, checkout=options.sd_scripts, trigger=options.trigger)


def measure(found: Findings, options: argparse.Namespace, jobs: Jobs) -> None:
    """Replace the plan of a training that has nothing wrong by what a dry run measures. Raises ExtensionError.

    Only our own trainer can be measured.
    """
    if found.wrong or found.plan is None:
        return
    if found.engine != "native":
        found.remark(message("Only our own trainer can be measured; this is what a table says."), found.engine)
        return
    config = named(found.config, jobs)
    found.plan = dry_run.measure(jobs.data_dir, config, found.plan, trigger=found.trigger, whose=options.whose)


def named(config: TrainConfig, jobs: Jobs) -> TrainConfig:
    """``config`` with the folder that its LoRA will be written to."""
    output = dataclasses.replace(config.output, folder=config.output.folder or str(jobs.lora_dir))
    return dataclasses.replace(config, output=output)


def add(found: Findings, options: argparse.Namespace, jobs: Jobs) -> RunDir:
    """Make the run that was examined and has nothing wrong. Raises ExtensionError if it can't be made."""
    return jobs.add(
        found.config,
        trigger=found.trigger,
        whose=options.whose,
        goal=options.goal,
        engine=found.engine,
        checkout=found.checkout,
        plan=found.plan,
    )


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


def _lines(said: Sequence[Said], lang: str) -> Iterator[str]:
    for where, parts in said:
        text = ("" if lang == "ja" else " ").join(locales.sentence(part, lang) for part in parts)
        yield f"{where}: {text}" if where else text


_DEVICES = {
    "cuda": message("the NVIDIA graphics card (CUDA)"),
    "rocm": message("the AMD graphics card (ROCm)"),
    "mps": message("the Apple graphics processor (MPS)"),
    "xpu": message("the Intel graphics card (XPU)"),
    "cpu": message("the processor (CPU)"),
}


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
    print(("、" if lang == "ja" else ", ").join(say(part) for part in found.plan.memory_sentence()), end="")
    print("。" if lang == "ja" else ".", end="" if lang == "ja" else " ")
    print(say(found.plan.disk_sentence()))
    if found.plan.measured:
        print(say(message("Measured in a dry run.")))
    for part in dry_run.shortage(found.plan, config):
        print(say(part))
    if not found.wrong:
        print(say(message("Nothing is wrong. Nothing was made; leave --check and --dry-run out to train.")))


def _sayer(lang: str) -> Callable[[Message], str]:
    return lambda said: locales.sentence(said, lang)
