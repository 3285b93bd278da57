"""Which edited copies the guard finds, beside pHash and plain PDQ, with which false alarms, and what it costs.

    python benchmarks/guard.py [--quick] [--json FILE]

Training pictures: the repository's photographs and drawings of four kinds (``drawings.py``). Negatives: other drawings
of the same kinds, the same characters in other poses, and the photographs' and drawings' own edits against all training
pictures but the one they were made from. pHash and PDQ are given the best threshold that they can have: just below
their nearest negative. The guard runs as it does at generation, with the limits that the pictures set.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "extension"), str(ROOT)]
# Processor seconds are of one thread: a second one that waits for the first would be counted as well.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import numpy as np  # noqa: E402
from benchmarks import drawings  # noqa: E402
from benchmarks.results import Row, report  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps  # noqa: E402

from lora_atelier.rights import calibration, fingerprints, guard, pdq  # noqa: E402
from lora_atelier.rights.references import References  # noqa: E402
from lora_atelier.rights.registry import Registry  # noqa: E402

PHOTOGRAPHS = ROOT / "examples" / "photographs"
SIDE = 512
Edit = Callable[[Image.Image, random.Random], Image.Image]
RECALL_BUDGET, STAGE_1_MS, STAGE_2_MS, REGISTRY_MS, BYTES_BUDGET = 0.98, 50.0, 300.0, 50.0, 416.0
REGISTRY_SIZE = 1_000_000


# ------------------------------------------------------------------------------------------------- the edits


def cropped(picture: Image.Image, share: float, rng: random.Random) -> Image.Image:
    width, height = round(picture.width * share), round(picture.height * share)
    left, top = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
    return picture.crop((left, top, left + width, top + height))


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=quality)
    return Image.open(io.BytesIO(kept.getvalue())).convert("RGB")


def with_text(picture: Image.Image) -> Image.Image:
    picture = picture.copy()
    pen, height = ImageDraw.Draw(picture), picture.height
    pen.rectangle((0, int(height * 0.84), picture.width, height), fill="black")
    pen.text((10, int(height * 0.88)), "Somebody else's words", fill="white")
    return picture


def recoloured(picture: Image.Image) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    turned = Image.merge("HSV", (hue.point([(at + 90) % 256 for at in range(256)]), saturation, value)).convert("RGB")
    return ImageEnhance.Contrast(turned).enhance(1.3)


def pasted(picture: Image.Image, share: float, rng: random.Random) -> Image.Image:
    ground = drawings.draw(rng.choice(drawings.KINDS), 9000 + rng.randrange(40), 256).resize(picture.size)
    small = picture.resize((int(picture.width * share), int(picture.height * share)))
    place = rng.randint(0, ground.width - small.width), rng.randint(0, ground.height - small.height)
    ground.paste(small, place)
    return ground


def redrawn(picture: Image.Image, pixels: float, rng: random.Random) -> Image.Image:
    """The picture as a diffusion model might draw it again: warped, with soft noise, tinted, a little blurred."""
    generator = np.random.default_rng(rng.randrange(1 << 30))
    values = np.asarray(picture.resize((SIDE, SIDE)), dtype=np.float64)

    def soft(side: int) -> NDArray[np.float64]:
        noise = Image.fromarray(generator.normal(size=(side, side)).astype(np.float32), mode="F")
        return np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)

    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    for at in (x, y):
        field = soft(6)
        at += field / np.abs(field).max() * pixels * 2
    values = values[np.clip(y, 0, SIDE - 1).astype(int), np.clip(x, 0, SIDE - 1).astype(int)]
    values = (values + soft(128)[..., None] * (6 + pixels)) * (1 + generator.uniform(-0.1, 0.1, 3))
    made = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8), "RGB")
    return made.filter(ImageFilter.GaussianBlur(0.5 + 0.15 * pixels))


EVERYDAY: dict[str, Edit] = {
    "itself": lambda picture, rng: picture,
    "JPEG quality 30": lambda picture, rng: as_jpeg(picture, 30),
    "half size": lambda picture, rng: picture.resize((picture.width // 2, picture.height // 2)),
    "blur 2 px": lambda picture, rng: picture.filter(ImageFilter.GaussianBlur(2)),
    "colour and contrast": lambda picture, rng: recoloured(picture),
    "greyscale": lambda picture, rng: picture.convert("L").convert("RGB"),
    "text bar": lambda picture, rng: with_text(picture),
    "crop 90 %": lambda picture, rng: cropped(picture, 0.9, rng),
    "crop 80 %": lambda picture, rng: cropped(picture, 0.8, rng),
    "border 20 %": lambda picture, rng: ImageOps.expand(picture, picture.width // 5, "white"),
    "squeezed 4:3": lambda picture, rng: picture.resize((picture.width, picture.height * 3 // 4)),
    "mirrored": lambda picture, rng: ImageOps.mirror(picture),
    "mirrored, crop 90 %": lambda picture, rng: ImageOps.mirror(cropped(picture, 0.9, rng)),
    "turned 10 degrees": lambda picture, rng: picture.rotate(10),
    "turned 90 degrees": lambda picture, rng: picture.rotate(90, expand=True),
    "redrawn, 2 px": lambda picture, rng: redrawn(picture, 2, rng),
}
HARD: dict[str, Edit] = {
    "crop 60 %": lambda picture, rng: cropped(picture, 0.6, rng),
    "pasted at 50 %": lambda picture, rng: pasted(picture, 0.5, rng),
    "pasted at 33 %": lambda picture, rng: pasted(picture, 0.33, rng),
    "redrawn, 5 px": lambda picture, rng: redrawn(picture, 5, rng),
    "redrawn, 10 px": lambda picture, rng: redrawn(picture, 10, rng),
}


# ----------------------------------------------------------------------------------------------- the pictures


@dataclass
class Pictures:
    """Training pictures, and others that are copies of none."""

    training: list[tuple[str, Image.Image]]
    others: list[tuple[str, Image.Image]]


def pictures(*, quick: bool) -> Pictures:
    seeds, more = (range(3), range(100, 106)) if quick else (range(8), range(100, 125))
    photographs = [(path.stem, Image.open(path).convert("RGB")) for path in sorted(PHOTOGRAPHS.glob("*.jpg"))]
    photographs = [(name, fingerprints.shrunk(picture, SIDE)) for name, picture in photographs]
    training = photographs + [(f"{k} {seed}", drawings.draw(k, seed, SIDE)) for k in drawings.KINDS for seed in seeds]
    others = [(f"{kind} {seed}", drawings.draw(kind, seed, SIDE)) for kind in drawings.KINDS for seed in more]
    # Trained characters in other poses: the ground and the ornaments stay where they were.
    poses = range(900, 903 if quick else 920)
    others += [
        (f"character {seed}, pose {pose}", drawings.draw("character", seed, SIDE, pose=pose))
        for seed in seeds
        for pose in poses
    ]
    return Pictures(training, others)


def phash(picture: Image.Image) -> NDArray[np.bool_]:
    """The usual 64-bit perceptual hash: signs of the 8 × 8 lowest frequencies of 32 × 32 pixels about their median.

    Source: Krawetz 2011, Looks Like It (hackerfactor.com), as the package ImageHash does it.
    """
    small = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=float)
    at = np.arange(32)
    cosines = np.cos(np.pi / 64 * np.arange(8)[:, None] * (2 * at[None] + 1))
    low = cosines @ small @ cosines.T
    return np.asarray(low > np.median(low)).ravel()


# ----------------------------------------------------------------------------------------------- the measures


def distances_phash(asked: Image.Image, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.asarray((known != phash(asked)).sum(axis=1))


def distances_pdq(asked: Image.Image, known: pdq.Bits) -> NDArray[np.int16]:
    return pdq.distances(pdq.standard(fingerprints.brightness(asked)).bits[None], known)[0]


def recall(pictures: Pictures, known: References, edits: dict[str, Edit], everyday: bool) -> list[Row]:
    """A row for each edit: the guard's recall, with that of PDQ as the anchor; pHash beside it as a row of its own."""
    hashes = np.stack([phash(picture) for _, picture in pictures.training])
    plain = np.stack([pdq.standard(fingerprints.brightness(picture)).bits for _, picture in pictures.training])
    limit_phash = min(int(distances_phash(picture, hashes).min()) for _, picture in pictures.others)
    limit_pdq = min(int(distances_pdq(picture, plain).min()) for _, picture in pictures.others)
    rows, all_found, false, asked = [], [], 0, 0
    for name, edit in edits.items():
        found: dict[str, list[bool]] = {"pHash": [], "PDQ": [], "guard": []}
        for at, (title, picture) in enumerate(pictures.training):
            if not known.pictures[at].whole:
                continue
            edited = edit(picture, random.Random(f"{name} {title}"))
            found["pHash"].append(bool(distances_phash(edited, hashes)[at] < limit_phash))
            found["PDQ"].append(bool(distances_pdq(edited, plain)[at] < limit_pdq))
            finding = guard.compare(guard.Output(edited), [("a", known)])
            hit = finding.verdict != "nothing found"
            found["guard"].append(hit and finding.near is not None and finding.near.at == at)
            asked += 1
            false += hit and finding.near is not None and finding.near.at != at
        share = {method: statistics.fmean(each) for method, each in found.items()}
        all_found += found["guard"]
        rows.append(Row(f"{name}: pHash", share["pHash"], "share"))
        rows.append(Row(f"{name}: PDQ", share["PDQ"], "share"))
        rows.append(Row(f"{name}: guard", share["guard"], "share", share["PDQ"]))
        print(f"  {name:22} pHash {share['pHash']:.2f}  PDQ {share['PDQ']:.2f}  guard {share['guard']:.2f}", flush=True)
    total = statistics.fmean(all_found)
    kind = "everyday edits" if everyday else "hard edits"
    budget = RECALL_BUDGET if everyday else None
    rows.append(Row(f"{kind}: found", total, "share", budget=budget, ok=total >= RECALL_BUDGET if everyday else None))
    rows.append(Row(f"{kind}: wrong picture named", false, f"of {asked}"))
    return rows


def false_alarms(pictures: Pictures, known: References) -> Row:
    alarms = 0
    for name, picture in pictures.others:
        finding = guard.compare(guard.Output(picture), [("a", known)])
        if finding.verdict != "nothing found":
            alarms += 1
            print(f"  false alarm: {name}: {finding.verdict} {finding.near}", flush=True)
    return Row("false alarms", alarms, f"of {len(pictures.others)}", budget=0, ok=alarms == 0)


def costs(pictures: Pictures, known: References) -> list[Row]:
    """CPU milliseconds for one output of 512 pixels against one LoRA; the median of several."""
    hundred = _repeated(known, 100)
    outputs = [picture.resize((SIDE, SIDE)) for _, picture in pictures.others[:7]]
    first, second = [], []
    for output in outputs:
        began = time.process_time()
        guard.compare(guard.Output(output), [("a", hundred)], second_look=False)
        first.append((time.process_time() - began) * 1000)
    few = _repeated(known, 40)
    guard.compare(guard.Output(outputs[0]), [("a", few)])  # the corners of training pictures are found once
    for output in outputs:
        began = time.process_time()
        guard.compare(guard.Output(output), [("a", few)])
        second.append((time.process_time() - began) * 1000)
    prepared = []
    for _, picture in pictures.training[:7]:
        began = time.process_time()
        calibration.prepare("", "", picture)
        prepared.append((time.process_time() - began) * 1000)
    views = known.views[0].nbytes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kept.npz"
        known.write(path)
        whole = path.stat().st_size / len(known)
    one, two = statistics.median(first), statistics.median(second)
    return [
        Row("first look, LoRA of 100 pictures", one, "ms", budget=STAGE_1_MS, ok=one <= STAGE_1_MS),
        Row("both looks, LoRA of 40 pictures", two, "ms", budget=STAGE_2_MS, ok=two <= STAGE_2_MS),
        Row("fingerprint of a training picture", statistics.median(prepared), "ms"),
        Row("bytes of a fingerprint", views, "bytes", budget=BYTES_BUDGET, ok=views <= BYTES_BUDGET),
        Row("bytes kept of a picture, its small copy included", whole, "bytes"),
    ]


def _repeated(known: References, count: int) -> References:
    at = [number % len(known) for number in range(count)]
    return References(
        known.model_hash,
        tuple(known.pictures[each] for each in at),
        known.views[at],
        known.strips[at],
        tuple(known.copies[each] for each in at),
    )


def registry(count: int) -> list[Row]:
    """Milliseconds to find one hash among ``count`` on disk, exactly, at up to 31 bits."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    began = time.process_time()
    built = Registry.build(hashes)
    seconds = time.process_time() - began
    with tempfile.TemporaryDirectory() as folder:
        built.write(Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / count
        opened = Registry.open(Path(folder))
        took, right = [], 0
        for number in range(30):
            bits = np.unpackbits(hashes[number * 1000 % count])
            bits[rng.choice(256, 31, replace=False)] ^= 1
            began = time.process_time()
            found = opened.search(np.packbits(bits)[None])
            took.append((time.process_time() - began) * 1000)
            right += [each.entry for each in found] == [number * 1000 % count]
        del opened
    middle = statistics.median(took)
    return [
        Row(f"registry of {count}: search", middle, "ms", budget=REGISTRY_MS, ok=middle <= REGISTRY_MS),
        Row(f"registry of {count}: found at 31 bits", right / 30, "share", budget=1.0, ok=right == 30),
        Row(f"registry of {count}: bytes each", size, "bytes"),
        Row(f"registry of {count}: built", seconds, "s"),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pictures")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    chosen: Any = parser.parse_args(arguments)
    given = pictures(quick=chosen.quick)
    known = calibration.build("", (calibration.prepare(name, name, picture) for name, picture in given.training))
    silent = [each.name for each in known.pictures if not each.whole]
    print(
        f"{len(known)} training pictures, {len(given.others)} others; too plain to tell: {', '.join(silent) or 'none'}"
    )
    rows = recall(given, known, EVERYDAY, True) + recall(given, known, HARD, False)
    rows += [false_alarms(given, known), *costs(given, known), *registry(REGISTRY_SIZE)]
    return report(rows, chosen.json)


if __name__ == "__main__":
    raise SystemExit(main())
