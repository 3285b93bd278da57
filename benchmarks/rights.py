"""What the rights of pictures cost beside a training: the look, the gate, the record, the stamp and the signature.

    python benchmarks/rights.py [--quick] [--json FILE] [--train]

Processor seconds of everything that a training does for the rights of its pictures, the memorisation report aside, for
the repository's example (15 pictures of 128 pixels) and for 50 and 500 photographs of 512 pixels, beside those of a
training of the example, 900 steps. ``--train`` measures that training here; otherwise the figure is the one measured on
two cores in November 2026. For 500 pictures nothing is judged: nobody trains them as shortly as the example.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "extension"), str(ROOT)]

from benchmarks.results import Row, report  # noqa: E402
from PIL import Image, ImageChops  # noqa: E402

from lora_atelier import config_files  # noqa: E402
from lora_atelier.config import DataConfig, ModelConfig, SubsetConfig, recipe  # noqa: E402
from lora_atelier.datasets.items import Item  # noqa: E402
from lora_atelier.rights import credentials, gate, report_html, scanning, signature  # noqa: E402
from lora_atelier.rights import report as counsel  # noqa: E402
from lora_atelier.rights.showings import Showings  # noqa: E402
from lora_atelier.rights.store import Store  # noqa: E402

EXAMPLE = ROOT / "examples" / "figure"
BASE_MODEL = ROOT / "extension" / "lora_atelier" / "embedded" / "base_model"
SIDE = 512
BUDGET = 0.01
# Processor seconds of training the example: 900 steps, its samples and measurements, without the memorisation test.
TRAINING_S = 128.0
# LoRA files of one training: four checkpoints and the result, of Stable Diffusion 1.5's size at rank 16.
FILES, FILE_BYTES, LAYERS = 5, 19_000_000, 384


def photographs(folder: Path, count: int) -> list[Path]:
    """Pictures as people have them: JPEGs of ``SIDE`` pixels, each with its own edges and noise."""
    draw, paths = random.Random(1), []
    for number in range(count):
        x, y, size = draw.uniform(-1.6, -0.2), draw.uniform(-1.0, 0.4), draw.uniform(0.2, 1.4)
        drawn = Image.effect_mandelbrot((SIDE, SIDE), (x, y, x + size, y + size), 60)
        grain = Image.effect_noise((SIDE, SIDE), 24)
        turned = ImageChops.offset(drawn, draw.randrange(SIDE), draw.randrange(SIDE))
        picture = Image.merge("RGB", (drawn, ImageChops.blend(turned, grain, 0.3), grain))
        paths.append(folder / f"{number:04d}.jpg")
        picture.save(paths[-1], quality=90)
    return paths


def took(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of some work, and what it gave."""
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


def tensors() -> list[signature.Stored]:
    """A LoRA's tensors as they are signed: ``FILE_BYTES`` in ``LAYERS`` pieces."""
    size = FILE_BYTES // LAYERS
    data = memoryview(random.Random(0).randbytes(size))
    return [(f"lora_unet_{number}.lora_down.weight", "F16", (size // 2,), data) for number in range(LAYERS)]


def costs(paths: Sequence[Path], data_dir: Path) -> dict[str, float]:
    """Processor seconds by part, for one training of these pictures."""
    folder, names = paths[0].parent, [path.name for path in paths]
    store, run_dir = Store(data_dir), data_dir / "runs" / "20300101-bench"
    run_dir.mkdir(parents=True)
    found: dict[str, float] = {}

    def look() -> None:
        ledger = scanning.scan(folder, names, store=store)
        ledger.state({"basis": "owner", "creators": [{"name": "Ada"}]}, by="Ada")
        scanning.keep(ledger, folder, store)

    def stamp() -> None:
        for _ in range(FILES):
            said = {"atelier_rights": str(admitted.summary())}
            signature.signed(said, weights, data_dir)
        Showings(900, {admitted.sha256(item): 60 for item in admitted.items}).write(run_dir)

    found["look through the folder, once"], _ = took(look)
    items = [Item(path, "", SIDE, SIDE) for path in paths]
    found["gate and record"], admitted = took(lambda: gate.admit(items, run_dir, whose="mine"))
    found["gate again, when it goes on"], _ = took(lambda: gate.admit(items, run_dir, whose="mine"))
    found["hash of each picture as it is opened"], _ = took(
        lambda: [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    )
    weights = tensors()
    found[f"stamp and signature of {FILES} files"], _ = took(stamp)
    return found


def after(data_dir: Path) -> float:
    """Processor seconds of the report for counsel: made when somebody asks, not by a training."""
    run_dir = data_dir / "runs" / "20300101-bench"
    return took(lambda: report_html.render(counsel.gather(run_dir, None, data_dir)))[0]


def training() -> float:
    """Processor seconds of the example's training, in a process of its own, without the memorisation test."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        run_dir.mkdir()
        config = recipe(goal="character", family="toy", num_images=15)
        own = SubsetConfig(image_dir=str(EXAMPLE), class_tokens="figure")
        dataset = dataclasses.replace(config.data.datasets[0], subsets=(own,), resolution=(128, 128))
        config = dataclasses.replace(
            config,
            model=ModelConfig(base_model=str(BASE_MODEL), v_parameterization=True),
            output=dataclasses.replace(config.output, name="bench", folder=str(run_dir / "loras")),
            validation=dataclasses.replace(config.validation, memorisation=0.0),
            data=DataConfig(datasets=(dataset,)),
        )
        config_files.write(config, run_dir)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {"PYTHONPATH": str(ROOT / "extension"), "PATH": "/usr/bin:/bin"}
        subprocess.run(
            [sys.executable, "-m", "lora_atelier.trainer", str(run_dir)],
            check=True,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        (lora,) = (run_dir / "loras").glob("*.safetensors")
        assert credentials.read(lora) is not None
    return now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime


def rows_of(
    name: str, paths: Sequence[Path], data_dir: Path, training_s: float, budget: float | None = BUDGET
) -> list[Row]:
    found = costs(paths, data_dir)
    total = sum(found.values())
    share = total / training_s
    rows = [Row(f"{name}: {part}", seconds, "CPU s") for part, seconds in found.items()]
    is_kept = None if budget is None else share < budget
    rows.append(Row(f"{name}: all of it", total, "CPU s", training_s, share, budget, is_kept))
    rows.append(Row(f"{name}: report for counsel, when asked for", after(data_dir), "CPU s"))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without the 500 pictures")
    parser.add_argument("--train", action="store_true", help="measure the example's training, minutes")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    chosen: Any = parser.parse_args(arguments)
    training_s = training() if chosen.train else TRAINING_S
    rows = [Row("training of the example, 900 steps", training_s, "CPU s")]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        example = work / "example"
        example.mkdir()
        for path in sorted(EXAMPLE.glob("*.png")):
            (example / path.name).write_bytes(path.read_bytes())
        rows += rows_of("the example", sorted(example.glob("*.png")), work / "data of the example", training_s)
        for count in (50,) if chosen.quick else (50, 500):
            folder = work / str(count)
            folder.mkdir()
            budget = BUDGET if count <= 50 else None
            made = photographs(folder, count)
            rows += rows_of(f"{count} pictures", made, work / f"data of {count}", training_s, budget)
    return report(rows, chosen.json)


if __name__ == "__main__":
    raise SystemExit(main())
