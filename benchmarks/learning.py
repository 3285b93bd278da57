"""What an adapter learns on the repository's base model, by its kind, size and optimizer, over several seeds.

    python benchmarks/learning.py [--quick] [--json FILE] [--only VARIANT ...] [--seeds 5] [--work FOLDER]

Each run is the example's: the figure's pictures, the regularisation pictures, the recipe of `config/recipes.py` with
what the variant changes in it. Measured are the share of 20 pictures with the figure at each weight, the share of 40
other prompts that are lost at 0.8, the held-out loss at the end and its least, and the seconds of the training. A
variant that the trainer cannot train yet is named and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "extension"))

from results import Row, report

from lora_atelier import config_files, events
from lora_atelier.config import TrainConfig, unsupported
from lora_atelier.embedded import demo, examples
from lora_atelier.jobs.follow import follow
from lora_atelier.jobs.service import JobForm, Jobs
from lora_atelier.models.detect import inspect

BASE_MODEL = Path(examples.__file__).resolve().parent / "base_model"
# What the example is to reach: at least, at most.
BOUNDS: Mapping[str, tuple[float | None, float | None]] = {
    "figure at 0": (None, 0.05),
    "figure at 0.8": (0.8, None),
    "figure at 1.0": (0.8, None),
    "other prompts lost": (None, 0.05),
}


@dataclass(frozen=True)
class Variant:
    """What differs from the recipe, by group of the configuration."""

    name: str
    network: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)

    def applied(self, config: TrainConfig, seed: int) -> TrainConfig:
        """The recipe with the differences and the seed."""
        return dataclasses.replace(
            config,
            network=dataclasses.replace(config.network, **self.network),
            optimizer=dataclasses.replace(config.optimizer, **self.optimizer),
            schedule=dataclasses.replace(config.schedule, seed=seed, **self.schedule),
        )


VARIANTS = (
    Variant("recipe"),
    *(Variant(f"rank {rank}", {"rank": rank, "alpha": rank / 2}) for rank in (4, 8, 32)),
    Variant("scale 1", {"alpha": 16.0, "conv_alpha": 8.0}),
    Variant("no convolutions", {"conv_rank": 0}),
    Variant("module dropout 0.1", {"module_dropout": 0.1}),
    Variant("DoRA", {"algorithm": "dora"}),
    Variant("LoHa", {"algorithm": "loha"}),
    Variant("LoKr", {"algorithm": "lokr"}),
    Variant("LoRA+ 4", {"loraplus_lr_ratio": 4.0}),
    Variant("rate halved", optimizer={"learning_rate": 1.5e-3}),
    Variant("rate doubled", optimizer={"learning_rate": 6e-3}),
    Variant("Prodigy", optimizer={"optimizer": "Prodigy", "learning_rate": 1.0}),
    Variant("averaged weights", optimizer={"ema_decay": 0.99}),
)
QUICK_STEPS = 80


def train(variant: Variant, seed: int, work: Path, *, steps: int | None) -> dict[str, float]:
    """Train and measure one run; returns its figures by name."""
    jobs = Jobs(work)
    form = JobForm(
        name=examples.CONCEPT_NAME,
        trigger=examples.TRIGGER,
        goal="character",
        whose="mine",
        pictures=examples.example_folder(examples.FIGURE),
        base_model=BASE_MODEL,
        regularisation=examples.example_folder(examples.REGULARISATION),
    )
    run = jobs.create(form)
    config = variant.applied(config_files.read(run.path), seed)
    if steps is not None:
        config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, steps=steps))
    config_files.write(config, run.path)
    jobs.start(run)
    view = follow(jobs, run)
    if view.result is None:
        raise SystemExit(f"{variant.name}: the run ended as {view.status}.")
    said = [timed.event for timed in events.read(run.events_path)[0]]
    heldout = [event.loss for event in said if isinstance(event, events.Validated)]
    finished = next(event for event in said if isinstance(event, events.Finished))
    info = inspect(BASE_MODEL)
    scores = demo.measure(demo.Gallery(demo.host_painter(info, work, view.result.stem), batch_size=8))
    return {
        **{f"figure at {weight}": score for weight, score in scores.concept.items()},
        "other prompts lost": scores.prior_drop,
        "held-out loss, last": heldout[-1],
        "held-out loss, least": min(heldout),
        "training": finished.train_seconds,
        "file": view.result.stat().st_size / 1e6,
    }


def rows_of(variant: Variant, runs: Sequence[Mapping[str, float]], *, judged: bool) -> list[Row]:
    """The mean of each figure over the seeds, and their spread in words."""
    rows = []
    for name in runs[0]:
        values = [run[name] for run in runs]
        mean = statistics.fmean(values)
        least, most = BOUNDS.get(name, (None, None))
        bounded = judged and (least, most) != (None, None)
        ok = (least or 0.0) <= mean <= (1.0 if most is None else most) if bounded else None
        unit = {"training": "s", "file": "MB"}.get(name, "")
        spread = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
        budget = least if least is not None else most
        rows.append(Row(f"{variant.name}: {name}{spread}", mean, unit, None, None, budget if judged else None, ok))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; returns 1 if the recipe misses a bound of the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two variants, one seed, few steps; nothing is judged")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    parser.add_argument("--only", nargs="+", choices=[variant.name for variant in VARIANTS], help="these alone")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds each variant is trained with")
    parser.add_argument("--work", type=Path, help="where runs are kept; else a temporary folder")
    options = parser.parse_args(arguments)
    variants = [v for v in VARIANTS if not options.only or v.name in options.only]
    seeds, steps = options.seeds, None
    if options.quick:
        variants, seeds, steps = variants[:2], 1, QUICK_STEPS
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for variant in variants:
            refused = list(unsupported(variant.applied(TrainConfig(), 1)))
            if refused:
                print(f"{variant.name}: left out. {refused[0]}", file=sys.stderr)
                continue
            runs = []
            for seed in range(1, seeds + 1):
                print(f"{variant.name}, seed {seed}", file=sys.stderr, flush=True)
                runs.append(train(variant, seed, work / f"{variant.name} {seed}", steps=steps))
            rows += rows_of(variant, runs, judged=variant.name == "recipe" and steps is None)
    return report(rows, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
