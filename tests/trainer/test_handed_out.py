import json
import os
import threading
import time

import pytest

from lora_atelier.trainer.handed_out import FRESH_S, HandedOut, Wanted
from lora_atelier.trainer.samples import parse


@pytest.fixture
def handed(tmp_path):
    """What a run hands out; its adapter is a file that says its step."""

    def write(path, step):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"adapter of {step}")

    return HandedOut(tmp_path, write)


def ready(handed, age_s=0.0):
    """Somebody said that they draw, so long ago."""
    handed.folder.mkdir(exist_ok=True)
    (handed.folder / "ready").touch()
    os.utime(handed.folder / "ready", (time.time() - age_s,) * 2)


def wanted(tmp_path, step=20, count=2):
    (tmp_path / "samples").mkdir(exist_ok=True)
    prompt = parse("momo --n dog --w 64 --h 96 --d 7 --s 4 --l 5 --ss euler_a")
    return [Wanted(step, tmp_path / "samples" / f"step-{step:06d}-{at:02d}.png", prompt) for at in range(1, count + 1)]


def test_where_nobody_draws_nothing_is_handed_out(handed, tmp_path):
    assert not handed.hand_out(wanted(tmp_path))

    ready(handed, age_s=2 * FRESH_S)

    assert not handed.hand_out(wanted(tmp_path))
    assert [path.name for path in handed.folder.iterdir()] == ["ready"]


def test_what_is_to_be_drawn_lies_beside_the_adapter_as_it_was(handed, tmp_path):
    ready(handed)

    assert handed.hand_out(wanted(tmp_path))

    assert (handed.folder / "step-000020.safetensors").read_text() == "adapter of 20"
    said = json.loads((handed.folder / "step-000020.json").read_text())
    assert said["step"] == 20 and [each["file"] for each in said["pictures"]][1] == "step-000020-02.png"
    assert said["pictures"][0] | {"file": ""} == {
        "file": "", "prompt": "momo", "negative_prompt": "dog", "width": 64, "height": 96, "seed": 7, "steps": 4,
        "cfg_scale": 5.0, "sampler": "Euler a",
    }  # fmt: skip


def test_pictures_arrive_one_by_one_and_failures_with_their_reason(handed, tmp_path):
    ready(handed)
    one, two = wanted(tmp_path)
    handed.hand_out([one, two])
    assert list(handed.arrived()) == []

    one.path.write_bytes(b"picture")
    assert list(handed.arrived()) == [(one, "")] and handed.pending == [two]

    (handed.folder / f"{two.path.name}.failed").write_text("no memory\n")
    assert list(handed.arrived()) == [(two, "no memory")] and handed.pending == []


def test_the_picture_of_an_earlier_sitting_is_not_taken_for_the_new_one(handed, tmp_path):
    ready(handed)
    (one,) = wanted(tmp_path, count=1)
    one.path.write_bytes(b"of the sitting before")

    handed.hand_out([one])

    assert list(handed.arrived()) == []


def test_waiting_ends_with_the_last_picture_or_with_whoever_drew(handed, tmp_path):
    ready(handed)
    one, two = wanted(tmp_path)
    handed.hand_out([one, two])
    threading.Timer(0.3, lambda: one.path.write_bytes(b"picture")).start()
    threading.Timer(0.6, lambda: ready(handed, age_s=2 * FRESH_S)).start()

    assert list(handed.wait()) == [(one, "")]
    assert handed.take_back() == [two] and handed.pending == []
    assert not list(handed.folder.glob("step-*"))


def test_a_full_disk_lets_the_trainer_draw_itself(handed, tmp_path):
    ready(handed)

    def full(path, step):
        raise OSError(28, "No space left on device")

    handed.write_adapter = full

    assert not handed.hand_out(wanted(tmp_path)) and handed.pending == []


def test_what_an_earlier_sitting_handed_out_is_taken_back(handed, tmp_path):
    ready(handed)
    handed.hand_out(wanted(tmp_path))

    HandedOut(tmp_path, handed.write_adapter).sweep()

    assert [path.name for path in handed.folder.iterdir()] == ["ready"]
