import os
import time

import pytest
from PIL import Image
from tests.jobs.fakes import wait_for

from lora_atelier.errors import AlreadyRunningError, HostError, JobError
from lora_atelier.jobs import checkpoints, process
from lora_atelier.jobs.compare import FOLDER, Comparison

pytestmark = pytest.mark.torchfree


@pytest.fixture
def finished(jobs, form):
    """A run that ended, with three checkpoints on its way; the second was the best."""
    run = jobs.create(form)
    process.start(run, jobs._command)
    wait_for(jobs, run, "finished")
    for folder, step in ((run.checkpoints_dir, 10), (run.checkpoints_dir, 20), (run.best_dir, 20)):
        folder.mkdir(exist_ok=True)
        (folder / f"momo-s{step:06d}.safetensors").write_bytes(bytes([step]))
    run.samples_dir.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(run.samples_dir / "step-000020-01.png")
    return run


def until(comparison, run, *states):
    deadline = time.monotonic() + 10
    while (grid := comparison.state(run, "en"))["state"] not in states:
        assert time.monotonic() < deadline, grid
        time.sleep(0.02)
    return grid


def test_all_steps_are_found_once_and_the_best_is_known(jobs, finished):
    found = checkpoints.checkpoints(jobs.view(finished))

    assert [(each.step, each.kind) for each in found[:2]] == [(10, "checkpoint"), (20, "best")]
    assert found[-1].kind == "result"


def test_a_few_of_many_are_the_best_the_last_and_some_between(tmp_path):
    many = [checkpoints.Checkpoint(step, tmp_path, "best" if step == 3 else "checkpoint") for step in range(20)]

    steps = [each.step for each in checkpoints.spread(many, 5)]

    assert len(steps) == 5 and {3, 19} <= set(steps)
    assert checkpoints.spread(many[:2], 5) == many[:2]


def test_a_step_becomes_a_lora_of_its_own_with_its_card_and_nothing_is_overwritten(jobs, finished):
    first, second = (checkpoints.keep(jobs.view(finished), 20) for _ in range(2))

    assert (first.stem, second.stem) == ("momo-s000020", "momo-s000020-2")
    assert first.read_bytes() == bytes([20]) and first.with_suffix(".png").is_file()
    assert '"activation text": "momo"' in first.with_suffix(".json").read_text(encoding="utf-8")
    with pytest.raises(JobError, match="no checkpoint of step 7"):
        checkpoints.keep(jobs.view(finished), 7)


def test_the_grid_is_checkpoints_by_weights_of_one_prompt_and_seed(jobs, finished):
    asked, refreshed = [], []

    def paint(prompt, seed):
        asked.append((prompt, seed, sorted(path.name for path in jobs.lora_dir.rglob("atelier-compare-*.safetensors"))))
        return Image.new("RGB", (8, 8), "blue")

    comparison = Comparison(paint, jobs.lora_dir, lambda: refreshed.append(1))
    comparison.start(jobs.view(finished), prompt="momo in a hat", weights=[0.5, 1, 0.5], seed=7)
    grid = until(comparison, finished, "finished")

    assert grid["weights"] == [0.5, 1] and len(grid["steps"]) == 3 and grid["done"] == len(asked) == 6
    assert all(prompt.startswith("momo in a hat <lora:atelier-compare-") and seed == 7 for prompt, seed, _ in asked)
    # Each is there under the name that its prompt says, and gone afterwards.
    assert all(f"{prompt.split(':')[1]}.safetensors" in names for prompt, _, names in asked)
    assert not list(jobs.lora_dir.rglob("atelier-compare-*")) and len(refreshed) == 2
    with Image.open(finished.path / FOLDER / "grid.png") as sheet:
        assert sheet.size == (16, 24)


def test_a_second_grid_waits_and_one_that_is_ended_keeps_what_is_drawn(jobs, finished):
    comparison = Comparison(lambda prompt, seed: slow(), jobs.lora_dir, lambda: None)

    def slow():
        time.sleep(0.1)
        return Image.new("RGB", (8, 8))

    comparison.start(jobs.view(finished), prompt="", weights=[1, 0.5])
    with pytest.raises(AlreadyRunningError):
        comparison.start(jobs.view(finished), prompt="", weights=[1])
    comparison.cancel()

    assert until(comparison, finished, "ended")["done"] < 6


def test_names_that_a_program_left_which_was_ended_are_swept(jobs, finished):
    old, new = jobs.lora_dir / "atelier-compare-old", jobs.lora_dir / "atelier-preview-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "x.safetensors").touch()
    os.utime(old, (1, 1))
    comparison = Comparison(lambda prompt, seed: Image.new("RGB", (8, 8)), jobs.lora_dir, lambda: None)

    comparison.start(jobs.view(finished), prompt="", weights=[1])
    until(comparison, finished, "finished")

    assert not old.exists() and new.exists()


def test_a_host_that_can_not_draw_is_heard(jobs, finished):
    def paint(prompt, seed):
        raise HostError("There is no model.", todo="Choose one.")

    comparison = Comparison(paint, jobs.lora_dir, lambda: None)
    comparison.start(jobs.view(finished), prompt="", weights=[1])

    grid = until(comparison, finished, "failed")

    assert grid["error"] == "There is no model. Choose one."
    # Another process, or the next start, does not think that it is still being drawn.
    assert Comparison(paint, jobs.lora_dir, lambda: None).state(finished, "en")["state"] == "failed"


def test_a_run_without_checkpoints_has_nothing_to_compare(jobs, form):
    comparison = Comparison(lambda prompt, seed: Image.new("RGB", (8, 8)), jobs.lora_dir, lambda: None)

    with pytest.raises(JobError, match="no checkpoint"):
        comparison.start(jobs.view(jobs.create(form)), prompt="", weights=[1])
