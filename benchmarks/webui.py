"""How long a real webui takes from a prompt to the first sampling step with a LoRA, and what its start costs with us.

    LORA_ATELIER_WEBUI_PYTHON=… python benchmarks/webui.py --webui DIR [--small] [--json FILE]

The webui in DIR (AUTOMATIC1111 or one of the Forges) is started twice on the CPU with a random model of SD 1.5's size
(``--small``: the one of ``tests/webui``) and a LoRA of rank 16: once with our loader, once with its own. Seconds are
processor time of the thread that draws, on one thread, from the activation of the prompt's LoRAs to the end of the
first step, less the same without a LoRA: some loaders do their work inside of that step. Memory is resident. A small
extension of this benchmark's own takes the times inside of the webui, through its callbacks. Callbacks are registered
in a thread of its own, so that "registering" is no part of "import".
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from results import Row, report

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "extension"), str(ROOT)]

START_BUDGET_S = 0.2
# Asked in this order of a webui that was just started, after three pictures without a LoRA; of what is asked again and
# again the median counts.
ROUNDS = 5
STEPS = (
    ("first LoRA", "a cat <lora:bench:0.8>"),
    *ROUNDS
    * (
        ("same again", "a cat <lora:bench:0.8>"),
        ("another weight", "a cat <lora:bench:0.5>"),
        ("taken off", "a cat"),
        ("put on again", "a cat <lora:bench:0.8>"),
    ),
)
LOADERS = {"ours": "LoRA Atelier", "its own": "webui"}

# Runs inside of the webui, before our extension: folders are read in the order of their names.
PROBE = """
import json, os, time
from modules import extra_networks, script_callbacks, script_loading

FILE = os.environ["ATELIER_PROBE"]
AT_START = ("on_before_ui", "on_ui_settings", "on_ui_tabs", "on_app_started")
state = {}


def write(**values):
    with open(FILE, "a") as file:
        file.write(json.dumps(values) + chr(10))


def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


activate = extra_networks.activate


def timed_activate(p, data):
    state.update(began=time.thread_time(), wall=time.time(), before=resident(), steps=0)
    return activate(p, data)


def predicted(params):
    if state.get("steps") == 0:
        state["steps"] = 1
        write(cpu=time.thread_time() - state["began"], wall=time.time() - state["wall"],
              before=state["before"], after=resident())


extra_networks.activate = timed_activate
script_callbacks.on_cfg_after_cfg(predicted)

load_module = script_loading.load_module


def timed_load(path):
    if "lora-atelier" not in str(path):
        return load_module(path)
    began = time.thread_time()
    try:
        return load_module(path)
    finally:
        write(start=time.thread_time() - began, of="import")


script_loading.load_module = timed_load


def timed(name, register):
    def wrapped(callback, **more):
        if not (getattr(callback, "__module__", "") or "").startswith("lora_atelier"):
            return register(callback, **more)

        def call(*args):
            began = time.thread_time()
            try:
                return callback(*args)
            finally:
                if name in AT_START:
                    write(start=time.thread_time() - began, of=name)

        began = time.thread_time()
        try:
            return register(call, **more)
        finally:
            write(start=time.thread_time() - began, of="registering")

    return wrapped


for name in [name for name in dir(script_callbacks) if name.startswith("on_")]:
    setattr(script_callbacks, name, timed(name, getattr(script_callbacks, name)))
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--webui", type=Path, required=True, help="the folder of a webui")
    parser.add_argument("--small", action="store_true", help="a small model")
    parser.add_argument("--work", type=Path, help="a folder on a disk with some gigabytes")
    parser.add_argument("--json", type=Path, help="write the rows there")
    args = parser.parse_args(argv)
    work = Path(tempfile.mkdtemp(prefix="lora-atelier-webui-", dir=args.work))
    try:
        measured = {name: _measure(args.webui.resolve(), work, value, full=not args.small)
                    for name, value in LOADERS.items()}  # fmt: skip
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report(_rows(args.webui.name, measured), args.json)


def _measure(folder: Path, work: Path, loader: str, *, full: bool) -> dict[str, Any]:
    """Start the webui, draw with one loader, and return what the probe wrote."""
    from tests.webui import formats, models
    from tests.webui.install import Webui

    webui = Webui(folder, work)
    notes = work / f"{loader.replace(' ', '-')}.jsonl"
    os.environ |= {"ATELIER_PROBE": str(notes), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if not (work / "extensions").exists():
        webui.install()
        probe = work / "extensions" / "aa-benchmark-probe" / "scripts"
        probe.mkdir(parents=True)
        (probe / "probe.py").write_text(PROBE, encoding="utf-8")
        base = models.write(webui.kind, webui.models, folder, name="first", seed=0, full=full)
        formats.write_lora(webui.lora_dir / "bench.safetensors", models.places(base), seed=1, rank=16)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as people have it: Python keeps what it compiled
    webui.start()
    try:
        webui.set(atelier_loader=loader)
        for prompt in ("a cat",) * 3 + tuple(prompt for _, prompt in STEPS):
            webui.draw(prompt, steps=1)
    finally:
        webui.stop()
    lines = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()]
    start = [line for line in lines if "start" in line]
    drawn = [line for line in lines if "cpu" in line]
    parts = {name: sum(line["start"] for line in start if line["of"] == name) for name in {at["of"] for at in start}}
    return {"start": parts, "plain": drawn[1:3], "steps": drawn[3:]}


def _rows(name: str, measured: dict[str, dict[str, Any]]) -> list[Row]:
    ours, theirs = measured["ours"], measured["its own"]
    rows = []
    plain = {key: statistics.median(each["cpu"] for each in measured[key]["plain"]) for key in LOADERS}
    for step in dict.fromkeys(name for name, _ in STEPS):
        places = [at for at, (name, _) in enumerate(STEPS) if name == step]
        a, b = (
            max(0.0, statistics.median(each["steps"][at]["cpu"] for at in places) - plain[key])
            for key, each in measured.items()
        )
        rows.append(Row(f"{name}: {step}", a, "CPU s", b, a / b if b > 0.05 else None))
    for what, at in (("memory, first LoRA", 0), ("memory, in the end", len(STEPS) - 1)):
        a, b = (each["steps"][at]["after"] - each["plain"][-1]["after"] for each in (ours, theirs))
        rows.append(Row(f"{name}: {what}", a, "MiB", b, a / b if b > 10 else None))
    # The first start after an installation also compiles our Python files, once.
    first, later = (each["start"] for each in measured.values())
    ok = sum(later.values()) <= START_BUDGET_S
    rows.append(Row(f"{name}: start with the extension", sum(later.values()), "CPU s", budget=START_BUDGET_S, ok=ok))
    rows += [Row(f"{name}: of it, {part}", seconds, "CPU s") for part, seconds in sorted(later.items())]
    rows.append(Row(f"{name}: first start after the installation", sum(first.values()), "CPU s"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
