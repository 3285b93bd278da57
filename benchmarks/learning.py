"""What an adapter learns on the repository's base model, by its kind, size and optimizer, over several seeds.

    python benchmarks/learning.py [--quick] [--json FILE] [--only VARIANT ...] [--seeds 5] [--work FOLDER]
                                  [--kept]

Each run is the example's: the figure's pictures, the regularisation pictures, the recipe of `config/recipes.py` with
what the variant changes in it (`learning_variants.py`). Measured are the share of 20 pictures with the figure at each
weight, the share of 40 other prompts that are lost at 0.8, the held-out loss at the end and its least, the seconds of
the training, the most memory of its process, and the size of what it writes. Full fine-tuning trains all weights of
the U-Net in the same runs (`learning_full.py`); it has no weight, so its figures stand at 1.0 and its other prompts
are looked at with the model that came out.

sd-scripts can't load this base model (its U-Net's sizes are constants); the variants "as sd-scripts" are its way of
training in our trainer, which comes to the same numbers (`tests/trainer/test_parity.py`). Its best held-out loss is
that of the best of these; the steps until another variant reaches it are put beside its own. How long a step takes is
measured by `trainer.py`.

A variant that can't be trained here (a package is missing) is named and left out. What a run came to is kept in
``--work``, and not made again: all variants and seeds take many hours on a CPU. ``--kept`` trains nothing and reports
what is there.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "extension"))

from learning_variants import QUICK, VARIANTS, Variant
from PIL import Image
from results import Row, report

from lora_atelier import atomic, config_files, events
from lora_atelier.config import TrainConfig, unsupported
from lora_atelier.config.recipes import recipe
from lora_atelier.embedded import demo, examples, judge, world
from lora_atelier.errors import ConfigError
from lora_atelier.hosts.embedded import EmbeddedHost
from lora_atelier.jobs.follow import follow
from lora_atelier.jobs.forms import JobForm
from lora_atelier.jobs.run_dir import RunDir
from lora_atelier.jobs.service import Jobs
from lora_atelier.models.detect import inspect
from lora_atelier.models.sample import Txt2Img
from lora_atelier.trainer import optimizers

BASE_MODEL = Path(examples.__file__).resolve().parent / "base_model"
# What the example is to reach: at least, at most.
BOUNDS: Mapping[str, tuple[float | None, float | None]] = {
    "figure at 0": (None, 0.05),
    "figure at 0.8": (0.8, None),
    "figure at 1": (0.8, None),
    "other prompts lost": (None, 0.05),
}
UNITS: Mapping[str, str] = {"training": "s", "file": "MB", "memory": "MB"}
# Of the steps that sd-scripts takes to its best held-out loss.
BUDGET = 0.5
# However many pictures there are.
RECIPE_STEPS = recipe(goal="character", family="toy", num_images=1).schedule.steps
# The weight at which the other prompts are looked at.
_USUAL = 0.8


@dataclass(frozen=True)
class Made:
    """One run: its figures by name, and the held-out loss by the share of the training that was done."""

    figures: Mapping[str, float]
    losses: Sequence[tuple[float, float]]

    @property
    def least(self) -> float:
        """The least held-out loss."""
        return min(loss for _, loss in self.losses)

    def share_to(self, loss: float) -> float | None:
        """The share of the steps until the held-out loss was as small; None if it never was."""
        return next((done for done, found in self.losses if found <= loss), None)


@dataclass(frozen=True)
class Effort:
    """How much is trained, measured and drawn; ``steps`` of None are the recipe's."""

    steps: int | None = None
    measurements: int = 30
    weights: Sequence[float] = demo.WEIGHTS
    pictures: int | None = None

    @property
    def concepts(self) -> Sequence[str]:
        """Prompts with the figure."""
        return examples.CONCEPT_PROMPTS[: self.pictures]

    @property
    def scenes(self) -> Sequence[world.Scene]:
        """What the other prompts describe."""
        return world.demo_scenes()[: self.pictures]

    @property
    def prompts(self) -> Sequence[str]:
        """Prompts without the figure."""
        return [scene.prompt for scene in self.scenes]


FULLY = Effort()
QUICKLY = Effort(steps=24, measurements=4, weights=(0.0, 1.0), pictures=4)


def train(variant: Variant, seed: int, work: Path, effort: Effort) -> Made:
    """Train and measure one run."""
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
    schedule = dataclasses.replace(config.schedule, steps=effort.steps or config.schedule.steps)
    validation = dataclasses.replace(config.validation, every_n_steps=max(1, schedule.steps // effort.measurements))
    if variant.is_full:
        # Whether pictures come back is asked of an adapter at weights that a whole U-Net does not have.
        validation = dataclasses.replace(validation, memorisation=0.0)
    config_files.write(dataclasses.replace(config, schedule=schedule, validation=validation), run.path)
    if variant.is_full:
        script = Path(__file__).with_name("learning_full.py")
        subprocess.run([sys.executable, script, run.path], check=True, stdout=subprocess.DEVNULL)
    else:
        jobs.start(run)
        view = follow(jobs, run)
        if view.result is None:
            raise SystemExit(f"{variant.name}: the run ended as {view.status}.")
    said = [timed.event for timed in events.read(run.events_path)[0]]
    heldout = [event for event in said if isinstance(event, events.Validated)]
    finished = next(event for event in said if isinstance(event, events.Finished))
    file = Path(finished.file)
    figures = {
        **(_full_scores if variant.is_full else _scores)(file, work, effort),
        "held-out loss, last": heldout[-1].loss,
        "held-out loss, least": min(event.loss for event in heldout),
        "training": finished.train_seconds,
        "memory": finished.peak_memory_bytes / 1e6,
        "file": file.stat().st_size / 1e6,
    }
    _forget(run)
    return Made(figures, [(event.step / finished.step, event.loss) for event in heldout])


def trained(variant: Variant, seed: int, work: Path, effort: Effort, *, only_kept: bool) -> Made | None:
    """What a run came to: as kept from before, else trained now and kept; None if it is ``only_kept`` and is not."""
    folder = work / f"{variant.name} {seed}"
    kept = work / f"{folder.name}.json"
    if kept.exists():
        said = json.loads(kept.read_text(encoding="utf-8"))
        return Made(said["figures"], [(share, loss) for share, loss in said["losses"]])
    if only_kept:
        return None
    print(f"{variant.name}, seed {seed}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was broken off
    made = train(variant, seed, folder, effort)
    atomic.write_text(kept, json.dumps(dataclasses.asdict(made)))
    shutil.rmtree(folder)
    return made


def _scores(file: Path, work: Path, effort: Effort) -> dict[str, float]:
    """What the base model draws with the LoRA at each weight."""
    painter = demo.host_painter(inspect(BASE_MODEL), work, file.stem)
    gallery = demo.Gallery(painter, batch_size=8)
    figures = {
        f"figure at {weight:g}": judge.concept_score(gallery.draw(f"the figure at {weight:g}", effort.concepts, weight))
        for weight in effort.weights
    }
    before, after = (gallery.draw(f"other prompts at {at:g}", effort.prompts, at) for at in (0.0, _USUAL))
    return {**figures, "other prompts lost": judge.lost(before, after, effort.scenes)}


def _full_scores(file: Path, work: Path, effort: Effort) -> dict[str, float]:
    """What the base model and the one with the U-Net of ``file`` draw."""
    tuned = work / "tuned"
    shutil.copytree(BASE_MODEL, tuned)
    shutil.copyfile(file, next((tuned / "unet").glob("*.safetensors")))
    pictures, figures = [], []
    for name, model in (("before", BASE_MODEL), ("after", tuned)):
        gallery = demo.Gallery(_plain_painter(model, work), batch_size=8)
        pictures.append(gallery.draw(f"other prompts, {name}", effort.prompts, 0.0))
        figures.append(judge.concept_score(gallery.draw(f"the figure, {name}", effort.concepts, 0.0)))
    lost = judge.lost(pictures[0], pictures[1], effort.scenes)
    return {"figure at 0": figures[0], "figure at 1": figures[1], "other prompts lost": lost}


def _plain_painter(model: Path, work: Path) -> demo.Painter:
    """A painter without any LoRA, with the settings of ``demo.host_painter``."""
    info = inspect(model)
    host = EmbeddedHost(model, work)

    def paint(prompts: Sequence[str], seeds: Sequence[int], weight: float) -> list[Image.Image]:
        side = info.resolution
        request = Txt2Img(prompts=list(prompts), steps=20, cfg_scale=3.0, width=side, height=side, seeds=seeds)
        return host.draw(request, ())[0]

    return paint


def _forget(run: RunDir) -> None:
    """Remove what is large and not looked at again."""
    for name in ("state", "checkpoints", "best"):
        shutil.rmtree(run.path / name, ignore_errors=True)


def rows_of(variant: Variant, runs: Sequence[Made], *, judged: bool) -> list[Row]:
    """The mean of each figure over the seeds, and their spread in words."""
    rows = []
    for name in runs[0].figures:
        values = [run.figures[name] for run in runs]
        mean = statistics.fmean(values)
        least, most = BOUNDS.get(name, (None, None))
        bounded = judged and (least, most) != (None, None)
        ok = (least or 0.0) <= mean <= (1.0 if most is None else most) if bounded else None
        spread = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
        budget = least if least is not None else most
        unit = UNITS.get(name, "")
        rows.append(Row(f"{variant.name}: {name}{spread}", mean, unit, None, None, budget if judged else None, ok))
    return rows


def rows_beside_kohya(made: Mapping[Variant, Sequence[Made]], effort: Effort) -> list[Row]:
    """The steps to sd-scripts' best held-out loss of every variant that was trained; only the recipe is judged.

    A run that does not come to it counts with all of its steps.
    """

    def steps(variant: Variant) -> int:
        return effort.steps or variant.schedule.get("steps", RECIPE_STEPS)

    peers = {
        variant: statistics.fmean(run.least for run in runs) for variant, runs in made.items() if variant.is_kohyas
    }
    if not peers:
        return []
    best = min(peers, key=peers.__getitem__)
    target = peers[best]
    anchor = statistics.fmean((run.share_to(run.least) or 1.0) * steps(best) for run in made[best])
    rows = [Row(f"best held-out loss of sd-scripts' settings: {best.name}", target, "")]
    for variant, runs in made.items():
        if variant.is_kohyas:
            continue
        shares = [run.share_to(target) for run in runs]
        count = sum(share is not None for share in shares)
        done = [1.0 if share is None else share for share in shares]
        mean = statistics.fmean(done) * steps(variant)
        name = f"{variant.name}: to that loss ({count} of {len(runs)} seeds)"
        is_judged = effort is FULLY and variant.name == "recipe"
        ok = count == len(runs) and mean / anchor <= BUDGET if is_judged else None
        rows.append(Row(name, mean, "steps", anchor, mean / anchor, BUDGET if is_judged else None, ok))
    return rows


def refused(variant: Variant) -> str:
    """Why a variant can't be trained here; empty if it can."""
    config = variant.applied(TrainConfig(), 1)
    problems = list(unsupported(config))
    try:
        optimizers.described(config.optimizer)
    except ConfigError as error:
        return str(error)
    return str(problems[0]) if problems else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; returns 1 if the recipe misses a bound of the example or the budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="three variants, one seed, few steps and pictures; nothing is judged"
    )
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="VARIANT", help=f"these alone: {', '.join(names)}")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds each variant is trained with")
    parser.add_argument("--work", type=Path, help="where the runs' results are kept; else a temporary folder")
    parser.add_argument("--kept", action="store_true", help="train nothing, report what is in --work")
    options = parser.parse_args(arguments)
    variants = [v for v in VARIANTS if not options.only or v.name in options.only]
    seeds, effort = options.seeds, FULLY
    if options.quick:
        variants, seeds, effort = [v for v in VARIANTS if v.name in (options.only or QUICK)], 1, QUICKLY
    rows: list[Row] = []
    made: dict[Variant, list[Made]] = {}
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for variant in variants:
            if why := refused(variant):
                print(f"{variant.name}: left out. {why}", file=sys.stderr)
                continue
            found = (trained(variant, seed, work, effort, only_kept=options.kept) for seed in range(1, seeds + 1))
            if runs := [run for run in found if run is not None]:
                made[variant] = runs
                rows += rows_of(variant, runs, judged=variant.name == "recipe" and effort is FULLY)
    rows += rows_beside_kohya(made, effort)
    return report(rows, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
