"""``kill -9`` at any moment: the run goes on from its last state and becomes the LoRA that it would have become."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from tests.trainer.test_resume import adapter, make, same, told

from lora_atelier import events
from lora_atelier.config import OutputConfig, SamplingConfig, ScheduleConfig
from lora_atelier.trainer.run import FINISHED

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork")

KILLED = -signal.SIGKILL
# Operations on the file system of one state with its checkpoint; what is more falls into later ones.
OPERATIONS = 40


class Sittings:
    """Trainers, one at a time; see ``sittings.py``."""

    def __init__(self, log):
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("sittings.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("wb"),
            text=True,
            bufsize=1,
        )
        assert self._process.stdout.readline() == "ready\n", log.read_text(encoding="utf-8")

    def sit(self, run_dir, *, kill_after_s=None, kill_at_operation=0):
        """Train until the end or the kill; returns the exit status."""
        self._process.stdin.write(f"{run_dir}\t{kill_at_operation}\n")
        pid = int(self._process.stdout.readline())
        timer = None
        if kill_after_s is not None:
            timer = threading.Timer(kill_after_s, self._kill, (pid,))
            timer.start()
        status = int(self._process.stdout.readline())
        if timer is not None:
            timer.cancel()
        return status

    def end(self):
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _kill(self, pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def sittings(tmp_path):
    made = Sittings(tmp_path / "log.txt")
    yield made
    made.end()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_at_random_moments_ends_with_the_tensors_of_one_that_was_not(
    tmp_path, tiny_model_folder, pictures, sittings, kills
):
    """Half of the kills come by the clock, in whatever is going on then, half in the middle of keeping a state."""
    settings = {
        "schedule": ScheduleConfig(steps=4 * kills, seed=5),
        "output": OutputConfig(name="momo", folder=str(tmp_path / "loras"), save_every_n_steps=1, precision="float"),
        "sampling": SamplingConfig(prompts=("momo --w 64 --h 64 --s 1",)),
    }
    straight, torn = (make(tmp_path / name, tiny_model_folder, pictures, **settings) for name in ("straight", "torn"))
    began = time.monotonic()
    assert sittings.sit(straight) == FINISHED
    whole_s = time.monotonic() - began
    draw = random.Random(kills)  # the moments differ all the same: the clock is not the seed's

    killed = []
    while len(killed) < kills:
        before = reached(torn)
        if len(killed) % 2:
            status = sittings.sit(torn, kill_at_operation=draw.randint(1, OPERATIONS))
        else:
            status = sittings.sit(torn, kill_after_s=draw.uniform(0, 2 * whole_s / kills))
        if status == FINISHED:  # it was quicker; the same from the beginning
            torn = make(tmp_path / f"torn-{len(killed)}", tiny_model_folder, pictures, **settings)
            continue
        assert status == KILLED
        assert reached(torn) >= before
        killed.append(reached(torn))
    assert sittings.sit(torn) == FINISHED

    assert told(torn, events.Finished)[0].model_hash == told(straight, events.Finished)[0].model_hash
    names = [path.stem for path in (tmp_path / "loras").glob("*.safetensors")]
    assert sorted(names)[:2] == ["momo", "momo-2"]
    results = [Path(told(each, events.Finished)[0].file).stem for each in (straight, torn)]
    assert same(*(adapter(tmp_path, name) for name in results))
    last = [started.resumed_from for started in told(torn, events.Started)]
    assert last == sorted(last) and last[-1] > 0
    assert [path for path in torn.rglob("*.tmp") if "cache" not in path.parts] == []


def reached(run_dir):
    """The step of the last complete state."""
    latest = run_dir / "state" / "latest"
    return int(latest.read_text(encoding="utf-8").removeprefix("step-")) if latest.exists() else 0
