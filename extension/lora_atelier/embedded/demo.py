"""The main job without a page: train on the example pictures, draw with the LoRA, measure, write it all down.

What a person would do in the page, through the same jobs, trainer and host; then a grid to look at and a report.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image, ImageDraw, ImageFont

from .. import __version__, atomic, events, locales, prompt
from ..errors import HostError, Message, message
from ..jobs.estimate import total_memory_bytes
from ..jobs.follow import Bar, follow, stop_and_wait
from ..jobs.service import JobForm, Jobs
from ..jobs.view import RunView
from ..models.detect import ModelInfo, inspect
from . import examples, judge, world

if TYPE_CHECKING:
    from ..loader.session import LoaderSettings

WEIGHTS = (0.0, 0.4, 0.8, 1.0)
# The weight at which the rest of the world is looked at again.
_USUAL = 0.8
_FIRST_SEED = 4000
_STEPS = 20
_GRID_FIGURES = 5
_CELL = 160
_LABEL = 200
_MARGIN = 12
_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "pillow")

T = TypeVar("T")
# Pictures of these prompts, one of each, with these seeds, at this multiplier of the LoRA.
Painter = Callable[[Sequence[str], Sequence[int], float], list[Image.Image]]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the pictures show, each 0–1; ``concept`` by weight. ``prior_drop`` is the share of other prompts lost."""

    base: float
    concept: dict[str, float]
    prior_drop: float


@dataclass
class Gallery:
    """Pictures by (prompt, weight), for the grid; ``draw`` makes those that are missing, in batches, with progress."""

    painter: Painter
    batch_size: int
    made: dict[tuple[str, float], Image.Image] = field(default_factory=dict)

    def draw(
        self, title: str, prompts: Sequence[str], weight: float, first_seed: int = _FIRST_SEED
    ) -> list[Image.Image]:
        """One picture of each prompt at ``weight``; the seed of a prompt is the same at every weight."""
        seeds = [first_seed + number for number in range(len(prompts))]
        bar = Bar(f"  {title}", len(prompts))
        pictures: list[Image.Image] = []
        for start in range(0, len(prompts), self.batch_size):
            part = slice(start, start + self.batch_size)
            pictures += self.painter(prompts[part], seeds[part], weight)
            bar.show(len(pictures))
        bar.close()
        self.made.update({(text, weight): picture for text, picture in zip(prompts, pictures, strict=True)})
        return pictures


def run(output: Path, *, model: Path, data_dir: Path | None = None, loader: LoaderSettings | None = None) -> int:
    """Do the main job and write ``report.json``, ``grid.png`` and the LoRA into ``output``; returns an exit code.

    ``loader`` says how the LoRA is applied for the grid.
    Earlier results in ``output`` stay: a new LoRA gets a fresh name; grid and report are replaced. Raises
    ExtensionError for everything that can be foreseen.
    """
    began = time.monotonic()
    info = inspect(model)
    work = (data_dir or output / "work").resolve()
    jobs = Jobs(work)
    _say(f"1/3  Training on {info.title}")
    view = _train(jobs, info, work)
    if view is None:
        return 130
    result = view.result
    assert result is not None
    _say("2/3  Drawing")
    gallery = Gallery(host_painter(info, work, result.stem, loader), batch_size=8 if info.family == "toy" else 1)
    scores = measure(gallery) if info.family == "toy" else None
    grid = draw_grid(gallery, *_grid_prompts(info, gallery), title=_grid_title(result.stem, info))
    _say("3/3  Writing")
    adapter = _write(lambda: _copy_result(result, output), output)
    _write(lambda: atomic.write_with(output / "grid.png", lambda file: grid.save(file, "PNG")), output)
    report = make_report(jobs, view, info, scores, seconds=time.monotonic() - began)
    text = json.dumps({**report, "adapter": adapter.name}, indent=2, ensure_ascii=False) + "\n"
    _write(lambda: atomic.write_text(output / "report.json", text), output)
    _summarise(report, output, adapter)
    return 0


# ------------------------------------------------------------------------------------------------ training


def _train(jobs: Jobs, info: ModelInfo, work: Path) -> RunView | None:
    """A finished run on the example figure; None if it was stopped by Ctrl-C, with its state kept."""
    pictures, others = example_pictures(work)
    form = JobForm(
        name=examples.CONCEPT_NAME,
        trigger=examples.TRIGGER,
        goal="character",
        whose="mine",
        pictures=pictures,
        base_model=info.path,
        regularisation=others,
    )
    proposal = jobs.propose(form)
    if proposal.plan is not None:
        _say("  " + " ".join(str(part) for part in proposal.plan.sentence()))
    made = jobs.create(form)
    jobs.start(made)
    try:
        return follow(jobs, made)
    except KeyboardInterrupt:
        _say("\n" + _sentence(message("Stopping; the state is being kept …")))
        view = stop_and_wait(jobs, made)
        said = message(
            'Stopped at step {step} of {steps}. Go on with: python install.py resume {id} --data-dir "{folder}"',
            step=view.step,
            steps=view.steps,
            id=made.id,
            folder=str(jobs.data_dir),
        )
        _say(_sentence(said))
        return None


def example_pictures(work: Path) -> tuple[Path, Path]:
    """The folders of the figure and of other pictures; drawn anew where the package has no examples beside it."""
    folders = examples.example_folder(examples.FIGURE), examples.example_folder(examples.REGULARISATION)
    if all(folder.is_dir() for folder in folders):
        return folders
    drawn = work / "examples"
    _write(lambda: examples.write(drawn), drawn)
    return drawn / examples.FIGURE, drawn / examples.REGULARISATION


# ------------------------------------------------------------------------------------------------ drawing


def host_painter(info: ModelInfo, work: Path, name: str, loader: LoaderSettings | None = None) -> Painter:
    """A painter that goes the way of a prompt with ``<lora:name:weight>`` through the embedded host."""
    from ..hosts.embedded import EmbeddedHost
    from ..models.sample import Txt2Img

    host = EmbeddedHost(info.path, work, loader=loader)
    cfg_scale = 3.0 if info.family == "toy" else 7.0

    def paint(prompts: Sequence[str], seeds: Sequence[int], weight: float) -> list[Image.Image]:
        parsed = [prompt.parse(f"{text} <lora:{name}:{weight}>") for text in prompts]
        request = Txt2Img(
            prompts=[each.text for each in parsed],
            steps=_STEPS,
            cfg_scale=cfg_scale,
            width=info.resolution,
            height=info.resolution,
            seeds=seeds,
        )
        pictures, notes = host.draw(request, parsed[0].calls)
        if notes and not host.applied:
            raise HostError(
                "The pictures were made without the new LoRA.",
                why="{reason}.",
                reason=" ".join(str(note) for note in notes).rstrip("."),
            )
        return pictures

    return paint


def measure(gallery: Gallery) -> Scores:
    """Draw everything that the report speaks of, and read it back with the judge of drawn pictures."""
    scenes = world.demo_scenes()
    prompts = [scene.prompt for scene in scenes]
    before = gallery.draw(f"{len(prompts)} other prompts, weight 0", prompts, 0.0)
    after = gallery.draw(f"{len(prompts)} other prompts, weight {_USUAL:g}", prompts, _USUAL)
    concept = {}
    for weight in WEIGHTS:
        pictures = gallery.draw(f"the figure, weight {weight:g}", examples.CONCEPT_PROMPTS, weight)
        concept[_key(weight)] = round(judge.concept_score(pictures), 4)
    return Scores(
        base=round(judge.prompt_score(before, scenes), 4),
        concept=concept,
        prior_drop=round(judge.lost(before, after, scenes), 4),
    )


def _key(weight: float) -> str:
    """A weight as the report's key: "0", "0.4", "0.8", "1.0"."""
    return str(weight) if weight else "0"


def _grid_prompts(info: ModelInfo, gallery: Gallery) -> tuple[list[str], list[float]]:
    """What the grid shows, row by row; pictures that are missing are drawn."""
    if info.family == "toy":
        # Every second of the figure's prompts has it in the centre; a few of them on different backgrounds, then one
        # prompt that the LoRA should leave alone.
        figures = list(examples.CONCEPT_PROMPTS[:: len(examples.CONCEPT_PROMPTS) // _GRID_FIGURES])[:_GRID_FIGURES]
        rows = [*figures, world.demo_scenes()[0].prompt]
    else:
        rows = [f"{examples.TRIGGER} figure on a white background", "a photograph of a house by a lake"]
    for weight in WEIGHTS:
        missing = [text for text in rows if (text, weight) not in gallery.made]
        if missing:
            gallery.draw(f"grid, weight {weight:g}", missing, weight)
    return rows, list(WEIGHTS)


def _grid_title(name: str, info: ModelInfo) -> str:
    return f"<lora:{name}:weight> on {info.title}"


def draw_grid(gallery: Gallery, prompts: Sequence[str], weights: Sequence[float], *, title: str) -> Image.Image:
    """A labelled picture: a row for each prompt, a column for each weight."""
    title_font, font = ImageFont.load_default(20), ImageFont.load_default(15)
    top = 76
    width = _LABEL + len(weights) * (_CELL + _MARGIN) + _MARGIN
    grid = Image.new("RGB", (width, top + len(prompts) * (_CELL + _MARGIN)), "white")
    pen = ImageDraw.Draw(grid)
    pen.text((_MARGIN, _MARGIN), title, fill="black", font=title_font)
    for column, weight in enumerate(weights):
        middle = _LABEL + column * (_CELL + _MARGIN) + _CELL // 2
        pen.text((middle, top - 22), f"weight {weight:g}", fill="black", font=font, anchor="mm")
    for row, text in enumerate(prompts):
        y = top + row * (_CELL + _MARGIN)
        lines = _wrapped(text, font, _LABEL - 2 * _MARGIN)
        pen.multiline_text((_MARGIN, y + _CELL // 2), lines, fill="black", font=font, anchor="lm", spacing=5)
        for column, weight in enumerate(weights):
            cell = gallery.made[text, weight].convert("RGB").resize((_CELL, _CELL), Image.Resampling.BICUBIC)
            x = _LABEL + column * (_CELL + _MARGIN)
            grid.paste(cell, (x, y))
            pen.rectangle((x - 1, y - 1, x + _CELL, y + _CELL), outline=(200, 200, 200))
    return grid


def _wrapped(text: str, font: Any, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ the report


def make_report(jobs: Jobs, view: RunView, info: ModelInfo, scores: Scores | None, *, seconds: float) -> dict[str, Any]:
    """What this run measured; the scores are None where the judge does not apply."""
    said = [timed.event for timed in events.read(view.run.events_path)[0]]
    heldout = [event.loss for event in said if isinstance(event, events.Validated)]
    finished = next(event for event in reversed(said) if isinstance(event, events.Finished))
    peaks = {"trainer": finished.peak_memory_bytes, "host": peak_memory_bytes()}
    return {
        "seconds": round(seconds, 1),
        "train_seconds": round(finished.train_seconds, 1),
        "trainer_seconds": round(finished.seconds, 1),
        "peak_memory_bytes": max(peaks.values()),
        "peak_memory_bytes_by_process": peaks,
        "base_score": scores.base if scores else None,
        "concept_score": scores.concept if scores else {_key(weight): None for weight in WEIGHTS},
        "prior_drop": scores.prior_drop if scores else None,
        "scores_note": ""
        if scores
        else "The judge reads only pictures of the embedded base model's drawn world; look at grid.png.",
        "heldout_loss_first": heldout[0] if heldout else None,
        "heldout_loss_last": heldout[-1] if heldout else None,
        "steps": finished.step,
        "model_hash": finished.model_hash,
        "base_model": {"title": info.title, "family": info.family, "prediction_type": info.prediction_type},
        "sampling": {"steps": _STEPS, "sampler": "DDIM", "first_seed": _FIRST_SEED, "side": info.resolution},
        "versions": versions(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "memory_bytes": total_memory_bytes(),
        },
    }


def versions() -> dict[str, str]:
    """Versions of Python, ours and the libraries' that the result depends on."""
    found = {"python": platform.python_version(), "lora_atelier": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_bytes() -> int:
    """The most memory this process ever held; 0 where the system does not tell."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _copy_result(result: Path, output: Path) -> Path:
    """Copy the LoRA and its card; a name that is taken in ``output`` by another file gets a number."""
    output.mkdir(parents=True, exist_ok=True)
    stem, number = result.stem, 1
    while (output / f"{stem}.safetensors").exists():
        number += 1
        stem = f"{result.stem}-{number}"
    for ending in (".safetensors", ".json", ".png"):
        source = result.with_suffix(ending)
        if source.is_file():
            atomic.write_with(output / f"{stem}{ending}", functools.partial(shutil.copyfile, source))
    return output / f"{stem}.safetensors"


def _write(write: Callable[[], T], folder: Path) -> T:
    try:
        return write()
    except OSError as error:
        raise HostError(
            "The results can't be written into {folder}.",
            why="{reason}.",
            todo="Make room or allow writing there; the LoRA itself is safe in the LoRA folder.",
            folder=str(folder),
            reason=error.strerror or str(error),
        ) from error


def _summarise(report: dict[str, Any], output: Path, adapter: Path) -> None:
    _say("")
    if report["base_score"] is not None:
        shown = ", ".join(f"{weight}: {score:.0%}" for weight, score in report["concept_score"].items())
        _say(f"  the figure is in the picture at weight {shown}")
        _say(f"  other prompts right: {report['base_score']:.0%}; lost with the LoRA: {report['prior_drop']:.0%}")
    else:
        _say(f"  {report['scores_note']}")
    _say(f"  {report['seconds']:.0f} s, of which training {report['train_seconds']:.0f} s")
    for path in (adapter, output / "grid.png", output / "report.json"):
        _say(f"  {path}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _sentence(said: Message) -> str:
    from ..cli import console_language

    return locales.sentence(said, console_language())
