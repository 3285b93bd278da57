"""How long a list of 10 000 LoRA files takes, beside a reader that parses every header as AUTOMATIC1111's webui does.

    python benchmarks/catalogue.py [--quick] [--files N] [--json FILE]

The files have headers of about 50 KB (240 layers' keys, kohya's metadata with tag counts) and empty bodies. Everything
is CPU time, scaled to 10 000 files; each list is made in a new process, whose start and imports do not count. Warm:
all is in the page cache, and so is our database. Cold: the page cache was told to drop every file, and there is no
database. The anchor opens each file, reads its header and parses it as JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "extension"), str(ROOT)]

from benchmarks.results import Row, report  # noqa: E402

from lora_atelier.loader.catalogue import Catalogue  # noqa: E402

SCALE = 10_000
WARM_RATIO_BUDGET, COLD_SECONDS_BUDGET, CHANGED_MS_BUDGET = 0.1, 3.0, 10.0
REPEATS = 3
CHANGES = 20


def header(number: int) -> tuple[bytes, int]:
    """The length and header of one SD 1.5 LoRA as kohya writes it, and how many bytes of weights must follow."""
    tags = {f"tag {number % 97} of {at}": at % 40 + 1 for at in range(300)}
    entries: dict[str, object] = {
        "__metadata__": {
            "modelspec.trigger_phrase": f"word{number}",
            "ss_base_model_version": "sd_v1",
            "ss_network_dim": "16",
            "ss_output_name": f"run{number}-last",
            "ss_tag_frequency": json.dumps({"10_figure": tags}),
        }
    }
    at = 0
    for block in ("down_blocks_0", "down_blocks_1", "down_blocks_2", "up_blocks_1", "up_blocks_2", "up_blocks_3"):
        for attention in range(2):
            for layer, width in (
                *((f"attn1_to_{each}", 320) for each in ("k", "out_0", "q", "v")),
                *((f"attn2_to_{each}", 768 if each in "kv" else 320) for each in ("k", "out_0", "q", "v")),
                *(("ff_net_0_proj", 320), ("ff_net_2", 1280)),
            ):
                name = f"lora_unet_{block}_attentions_{attention}_transformer_blocks_0_{layer}"
                for suffix, shape in (("alpha", []), ("lora_down.weight", [16, width]), ("lora_up.weight", [320, 16])):
                    size = 2 * shape[0] * shape[1] if shape else 2
                    entries[f"{name}.{suffix}"] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
                    at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, at


def make_files(folder: Path, count: int) -> float:
    """Write the files, a hundred a folder; return the kilobytes of a header."""
    first = b""
    for number in range(count):
        where = folder / f"{number // 100:03}"
        where.mkdir(exist_ok=True)
        first, body = header(number)
        with (where / f"lora{number:05}.safetensors").open("wb") as file:
            file.write(first)
            file.truncate(len(first) + body)
    return len(first) / 1000


def drop_pages(folder: Path) -> bool:
    """Make the kernel forget the files' content; False where it can't be asked to."""
    if not hasattr(os, "posix_fadvise"):
        return False
    os.sync()
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


# --- what is measured, each in a process of its own


def parse_all(folder: Path, _: Path) -> int:
    """The anchor: every header whole."""
    count = 0
    for where, _folders, names in os.walk(folder):
        for name in names:
            with Path(where, name).open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                count += "__metadata__" in json.loads(file.read(length))
    return count


def list_all(folder: Path, database: Path) -> int:
    """The catalogue."""
    return sum(entry.problem is None for entry in Catalogue([folder], database).list())


WAYS: dict[str, Callable[[Path, Path], int]] = {"anchor": parse_all, "ours": list_all}


def child(way: str, folder: Path, database: Path) -> None:
    """Print the CPU seconds of one list and how many files it found."""
    began = time.process_time()
    count = WAYS[way](folder, database)
    print(json.dumps([time.process_time() - began, count]))


def measure(way: str, folder: Path, database: Path, count: int) -> float:
    """CPU seconds of one list in a new process, scaled."""
    command = [sys.executable, str(Path(__file__)), "--child", way, str(folder), str(database)]
    seconds, found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if found != count:
        raise RuntimeError(f"{way} found {found} of {count} files")
    return float(seconds) * SCALE / count


def pair(folder: Path, database: Path, count: int, prepare: Callable[[], object]) -> tuple[float, float]:
    """Ours and the anchor, the medians of interleaved runs."""
    ours, anchor = [], []
    for _ in range(REPEATS):
        for way, taken in (("ours", ours), ("anchor", anchor)):
            prepare()
            taken.append(measure(way, folder, database, count))
    return statistics.median(ours), statistics.median(anchor)


def changed_rows(folder: Path, database: Path, count: int) -> list[Row]:
    """What one changed file adds to a list in a running process, and what it costs to find it by its name."""
    catalogue = Catalogue([folder], database)
    catalogue.list()
    path = folder / "000" / "lora00000.safetensors"
    same, changed, found = [], [], []

    def timed(work: Callable[[], object]) -> float:
        # One file is a hundredth of a list: what else the interpreter or the machine does in between must not show.
        gc.collect()
        gc.disable()
        began = time.process_time()
        work()
        taken = (time.process_time() - began) * 1000
        gc.enable()
        return taken

    for at in range(CHANGES):
        same.append(timed(catalogue.list))
        os.utime(path, ns=(at, at))
        changed.append(timed(catalogue.list))
        os.utime(path, ns=(at, at + 100))
        found.append(timed(lambda: catalogue.find("lora00000")))
        catalogue.list()  # writes what was found, so that the next one finds nothing new
    more = statistics.median(b - a for a, b in zip(same, changed, strict=True))
    again = statistics.median(found)
    listed = statistics.median(same) * SCALE / count
    return [
        Row(
            "one changed file more", round(more, 2), "CPU ms", None, None, CHANGED_MS_BUDGET, more <= CHANGED_MS_BUDGET
        ),
        Row("a replaced file found by its name", round(again, 2), "CPU ms", None, None, CHANGED_MS_BUDGET, again <= 10),
        Row("list again in the same process", round(listed, 1), "CPU ms per 10 000", None, None, None, None),
    ]


def rows(folder: Path, count: int) -> list[Row]:
    """All results."""
    database = folder.parent / "catalogue.sqlite"
    kilobytes = make_files(folder, count)
    unit = "CPU s per 10 000"

    def make_cold() -> None:
        database.unlink(missing_ok=True)
        drop_pages(folder)

    found = [Row("header", round(kilobytes, 1), "KB", None, None, None, None)]
    for way in WAYS:  # fills the page cache, and the database
        measure(way, folder, database, count)
    ours, anchor = pair(folder, database, count, lambda: None)
    ratio = ours / anchor
    found.append(
        Row(
            *("list, warm, of the anchor", round(ours, 3), unit, round(anchor, 3)),
            *(round(ratio, 4), WARM_RATIO_BUDGET, ratio <= WARM_RATIO_BUDGET),
        )
    )
    size = database.stat().st_size * SCALE / count / 1e6
    found.append(Row("database", round(size, 1), "MB per 10 000", None, None, None, None))
    found += changed_rows(folder, database, count)
    new, anchor = pair(folder, database, count, lambda: database.unlink(missing_ok=True))
    found.append(
        Row(
            "list, no database, pages cached", round(new, 3), unit, round(anchor, 3), round(new / anchor, 4), None, None
        )
    )
    if drop_pages(folder):
        cold, anchor = pair(folder, database, count, make_cold)
        found.append(
            Row(
                *("list, cold", round(cold, 3), unit, round(anchor, 3), round(cold / anchor, 4)),
                *(COLD_SECONDS_BUDGET, cold <= COLD_SECONDS_BUDGET),
            )
        )
    return found


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 000 files")
    parser.add_argument("--files", type=int, metavar="N", help="so many files (10 000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    arguments = parser.parse_args()
    count = arguments.files or (1000 if arguments.quick else SCALE)
    with tempfile.TemporaryDirectory(prefix="lora-atelier-") as temporary:
        folder = Path(temporary, "loras")
        folder.mkdir()
        results = rows(folder, count)
    return report(results, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
