"""Whether what is told before a training comes true: time and memory, as foretold after a dry run, beside the real run.

    python benchmarks/estimate.py [--quick] [--json FILE] [--work FOLDER]

Two models: the repository's base model, and one of Stable Diffusion 1.5's size with random weights, at 256 px. Each is
trained by our own trainer in its own process on one thread (`OMP_NUM_THREADS=1`), at once after its dry run. The ratio
is that of the larger to the smaller: 1.15 says that the run took 15 % more or less than foretold. Other work on the
machine between the two falsifies it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from results import Row, report
from trainer import Case, configuration, make_data

from lora_atelier import config_files, events
from lora_atelier.cli import BASE_MODEL
from lora_atelier.config import SamplingConfig, TrainConfig
from lora_atelier.jobs import dry_run, estimate
from lora_atelier.jobs.environment import trainer_environment
from lora_atelier.jobs.service import JobForm, Jobs
from lora_atelier.models.detect import inspect

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "figure"
BUDGET = 1.15


def base_model(jobs: Jobs, *, quick: bool) -> TrainConfig:
    """What the page makes of the example pictures: samples, held-out pictures and all."""
    form = JobForm(
        name="figure",
        trigger="mokofu",
        goal="character",
        whose="mine",
        pictures=EXAMPLES,
        base_model=BASE_MODEL,
        quality="draft",
    )
    run = jobs.create(form)
    config = config_files.read(run.path)
    return _of_steps(config, 60) if quick else config


def full_size(work: Path, *, precision: str, steps: int) -> TrainConfig:
    """A LoRA of rank 16 on a U-Net of SD 1.5's size, with samples at the start and the end.

    Without the test for pictures that come back, which takes as long as sixty steps.
    """
    config = _of_steps(configuration(Case(256, 1, precision, 0), work), steps)
    sampling = SamplingConfig(prompts=("sks photo --w 256 --h 256 --s 6 --d 1",), every_n_steps=steps)
    validation = dataclasses.replace(config.validation, memorisation=0.0)
    return dataclasses.replace(config, sampling=sampling, validation=validation)


def _of_steps(config: TrainConfig, steps: int) -> TrainConfig:
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, steps=steps))


def compare(name: str, config: TrainConfig, jobs: Jobs) -> list[Row]:
    """A dry run, then the run itself."""
    shutil.rmtree(jobs.data_dir / "cache", ignore_errors=True)
    info = inspect(Path(config.model.base_model))
    folder = Path(config.data.datasets[0].subsets[0].image_dir)
    pictures = sum(path.suffix in (".png", ".jpg") for path in folder.iterdir())
    guessed = estimate.estimate(config, info, pictures=pictures, rates=jobs.rates, device="cpu")
    plan = dry_run.measure(jobs.data_dir, config, guessed, trigger="sks")
    run = jobs.add(config, trigger="sks")
    with run.log_path.open("wb") as log:
        subprocess.run(
            [sys.executable, "-m", "lora_atelier.trainer", str(run.path)],
            check=True,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=trainer_environment(),
        )
    done = next(t.event for t in events.read(run.events_path)[0] if isinstance(t.event, events.Finished))
    print(f"{name}: {json.dumps(plan.to_table())}", file=sys.stderr)
    return [
        row(f"{name}: time after a dry run beside the run", plan.seconds, "s", done.seconds),
        row(
            f"{name}: peak memory after a dry run beside the run",
            plan.memory_bytes / 1e6,
            "MB",
            done.peak_memory_bytes / 1e6,
        ),
        row(
            f"{name}: peak memory before any run beside the run",
            guessed.memory_bytes / 1e6,
            "MB",
            done.peak_memory_bytes / 1e6,
            budget=None,
        ),
    ]


def row(name: str, foretold: float, unit: str, found: float, budget: float | None = BUDGET) -> Row:
    """A row whose ratio is at least 1: foretold too much is as wrong as too little."""
    ratio = max(foretold / found, found / foretold)
    return Row(
        name=name,
        value=foretold,
        unit=unit,
        anchor=found,
        ratio=ratio,
        budget=budget,
        ok=None if budget is None else ratio <= budget,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns 1 if a budget was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, ends in about 3 minutes")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    parser.add_argument("--work", type=Path, help="where the data is made and kept; else a temporary folder")
    parser.add_argument("--only", choices=("base model", "fp32", "bf16"), help="this model alone")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        jobs = Jobs(work / "data-estimate")
        if options.only in (None, "base model"):
            rows += compare("base model", base_model(jobs, quick=options.quick), jobs)
        cases = [name for name in ("fp32", "bf16") if options.only in (None, name)]
        if cases and not (work / "tokenizer").is_dir():
            make_data(work)
        for name in cases:
            precision = {"fp32": "no"}.get(name, name)
            config = full_size(work, precision=precision, steps=6 if options.quick else 20)
            rows += compare(f"SD 1.5 size, 256 px, {name}", config, jobs)
    return report(rows, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
