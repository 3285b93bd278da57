"""How well the embedded base model draws what 200 prompts say that it never saw, and how fast.

    python benchmarks/base_model.py [--quick] [--json FILE] [--pictures FILE] [--model FOLDER]

Each prompt is drawn once, its number as the seed, and read by ``lora_atelier.embedded.judge``, whose own accuracy on
drawn pictures is measured in the same run. A score counts the prompts that say that thing: "plain" is never said.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "extension"), str(ROOT)]

from benchmarks.results import Row, report  # noqa: E402
from PIL import Image  # noqa: E402

from lora_atelier.embedded import judge, world  # noqa: E402
from lora_atelier.models.load import Model, load  # noqa: E402
from lora_atelier.models.sample import Txt2Img, sample  # noqa: E402

BASE_MODEL = ROOT / "extension" / "lora_atelier" / "embedded" / "base_model"
BATCH, STEPS, CFG_SCALE = 8, 20, 3.0
# The least share of right pictures; None where a score is only reported.
BUDGETS: dict[str, float | None] = {
    "colour": 0.98,
    "background": 0.98,
    "shape": 0.92,
    "colour, background and shape": 0.90,
    "position": 0.90,
    "size": None,
    "texture": None,
}
JUDGE_BUDGET = 0.99
SECONDS_BUDGET = 12.0


def score(name: str, value: float, budget: float | None) -> Row:
    """A share, which must be at least its budget."""
    return Row(name, round(value, 4), "share", None, None, budget, None if budget is None else value >= budget)


def draw(model: Model, prompts: Sequence[str]) -> tuple[list[Image.Image], float]:
    """One picture a prompt, and the median of the seconds that a full batch took."""
    pictures, seconds = [], []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        seeds = range(start, start + len(batch))
        began = time.perf_counter()
        pictures += sample(
            model,
            Txt2Img(prompts=batch, steps=STEPS, cfg_scale=CFG_SCALE, width=world.SIDE, height=world.SIDE, seeds=seeds),
        )
        seconds.append(time.perf_counter() - began)
        print(f"\r{len(pictures)} of {len(prompts)} pictures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return pictures, sorted(seconds)[len(seconds) // 2]


def accuracy(readings: Sequence[judge.Reading], scenes: Sequence[world.Scene]) -> dict[str, float]:
    """The share of pictures that show what their scenes say, thing by thing."""
    pairs = list(zip(readings, scenes, strict=True))
    shares = {
        name: judge.mean(getattr(seen, name) == getattr(scene, name) for seen, scene in pairs)
        for name in ("colour", "background", "shape", "position", "size")
    }
    shares["texture"] = judge.mean(s.texture == scene.texture for s, scene in pairs if scene.texture != "plain")
    shares["colour, background and shape"] = judge.mean(
        (seen.colour, seen.background, seen.shape) == (scene.colour, scene.background, scene.shape)
        for seen, scene in pairs
    )
    return {name: shares[name] for name in BUDGETS}


def judge_rows(count: int) -> list[Row]:
    """The judge's own accuracy on ``count`` drawn pictures."""
    rng = random.Random(1)
    scenes = [world.random_scene(rng) for _ in range(count)]
    shares = accuracy([judge.read(world.draw(scene)) for scene in scenes], scenes)
    return [score(f"judge: {name}", share, JUDGE_BUDGET if BUDGETS[name] else None) for name, share in shares.items()]


def model_rows(folder: Path, scenes: Sequence[world.Scene], sheet: Path | None) -> list[Row]:
    """The base model's scores on the scenes' prompts, and its speed."""
    model = load(folder)
    pictures, seconds = draw(model, [scene.prompt for scene in scenes])
    if sheet is not None:
        save_sheet(pictures, sheet)
    shares = accuracy([judge.read(picture) for picture in pictures], scenes)
    rows = [score(name, share, BUDGETS[name]) for name, share in shares.items()]
    fast = seconds <= SECONDS_BUDGET
    return [*rows, Row(f"batch of {BATCH}, {STEPS} steps", round(seconds, 2), "s", None, None, SECONDS_BUDGET, fast)]


def save_sheet(pictures: Sequence[Image.Image], path: Path) -> None:
    """All pictures in one, ten a row, in the order of the prompts."""
    sheet = Image.new("RGB", (10 * world.SIDE, -(-len(pictures) // 10) * world.SIDE))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % 10 * world.SIDE, number // 10 * world.SIDE))
    sheet.save(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 prompts and 200 drawn pictures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--pictures", type=Path, metavar="FILE", help="save all pictures in one")
    parser.add_argument("--model", type=Path, default=BASE_MODEL, metavar="FOLDER", help="another base model")
    arguments = parser.parse_args()
    scenes = world.benchmark_scenes()[: 40 if arguments.quick else None]
    rows = [
        *judge_rows(200 if arguments.quick else 1000),
        *model_rows(arguments.model, scenes, arguments.pictures),
    ]
    return report(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
