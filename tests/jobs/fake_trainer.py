"""A trainer that trains nothing: it does what ``behave`` in its run directory says, with the real lock and events."""

import os
import signal
import sys
import time
from pathlib import Path

from lora_atelier import config_files, events
from lora_atelier.locking import FileLock


def main(run: Path) -> int:
    behave = (run / "behave").read_text() if (run / "behave").exists() else "finish"
    if behave == "crash at once":
        raise RuntimeError("no module named torch")
    lock = FileLock(run / "lock")
    assert lock.acquire()
    say = events.Appender(run / "events.jsonl").add
    config = config_files.read(run)
    steps, name = config.schedule.steps, config.output.name
    say(events.Started(steps=steps, pictures=3, resumed_from=3 if (run / "state" / "latest").exists() else 0))
    (run / "saw").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    (run / "state").mkdir(exist_ok=True)
    (run / "state" / "latest").write_text("step-000003")
    say(events.Saved(step=3, file="", state="step-000003"))
    say(events.Stepped(step=3, steps=steps, loss=0.5, learning_rate=1e-4, seconds_per_step=0.1, seconds_left=9.0))
    if behave == "fail":
        what = "The disk is full."
        say(events.Failed(error={"type": "JobError", "what": what, "why": "", "todo": "Make room.", "values": {}}))
        return 1
    if behave == "ignore stop":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behave != "finish":
        while behave == "ignore stop" or not (run / "stop").exists():
            time.sleep(0.05)
        say(events.Stopped(step=3))
        return 3
    file = Path(config.output.folder) / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"adapter")
    say(
        events.Finished(
            step=steps,
            file=str(file),
            model_hash="0" * 64,
            seconds=20.0,
            train_seconds=10.0,
            peak_memory_bytes=1,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
