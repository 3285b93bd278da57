"""Stands for install.py: says what one that installs would say, as ``FAKE_INSTALLER`` in the environment asks."""

import json
import os
import sys
import time
from pathlib import Path


def report(kind, **values):
    print("\x1e" + json.dumps({"kind": kind, **values}), flush=True)


def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.02)


def trainer(root, way):
    print("Setting up LoRA Atelier", flush=True)
    report("stage", stage="environment")
    report("stage", stage="torch")
    report("item", said="torch 2.13.0 (200 MB)", unpacking=False)
    report("bytes", done=50_000_000, total=200_000_000)
    if way.startswith("waits"):
        wait_for(root / "go on")
    if way == "crashes":
        print("Traceback: nobody foresaw this", flush=True)
        return 70
    if not way.endswith("well"):
        print("ERROR: pip gave up", flush=True)
        error = {"what": "The driver is too old.", "why": "", "todo": "Update it.", "values": {}, "type": "JobError"}
        report("failed", reason=way, text="...", error=error if way == "said" else None)
        return 1
    report("item", said="unpacking 3 packages ...", unpacking=True)
    report("stage", stage="packages")
    report("stage", stage="checking")
    python = root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python.parent.mkdir(parents=True)
    python.touch()
    (root / ".venv" / "lora-atelier.json").write_text('{"trainer": "x"}')
    return 0


def doctor(way):
    if way == "crashes":
        print("There is no Python.", flush=True)
        return 1
    report("finding", level="ok", said={"template": "Its {count} packages are there.", "values": {"count": 9}},
           mend={"template": "", "values": {}})  # fmt: skip
    report("finding", level="problem", said={"template": "The trainer's environment was not completed.", "values": {}},
           mend={"template": "Make room first.", "values": {}})  # fmt: skip
    print("and so on", flush=True)
    return 1


if __name__ == "__main__":
    root, way, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    sys.exit(doctor(way) if command == "doctor" else trainer(root, way))
