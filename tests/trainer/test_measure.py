"""A dry run foretells what the run then takes, and leaves nothing of itself."""

import json

import pytest
from tests.trainer.test_resume import adapter, make, same, told

from lora_atelier import events
from lora_atelier.config import SamplingConfig, ScheduleConfig, ValidationConfig
from lora_atelier.trainer.run import FAILED, FINISHED, run


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("lora_atelier.trainer.measure._LEAST_S", 0.0)


PROMPT = "momo --w 64 --h 64 --s 4"


def measured(run_dir):
    return json.loads((run_dir / "measured.json").read_text(encoding="utf-8"))


def test_a_dry_run_says_time_and_memory_of_each_part_and_makes_no_lora(tmp_path, tiny_model_folder, pictures):
    sampling = SamplingConfig(prompts=(PROMPT,))
    validation = ValidationConfig(split=0.2, every_n_steps=3, memorisation=1.0)
    made = make(tmp_path / "run", tiny_model_folder, pictures, sampling=sampling, validation=validation)

    assert run(made, dry=True) == FINISHED

    said = measured(made)
    assert set(said["seconds"]) == {
        *("start", "pictures", "latents", "captions", "steps", "measurements", "samples", "files", "memorisation")
    }
    # The text encoder is trained here: no caption is read beforehand.
    assert [name for name, seconds in said["seconds"].items() if seconds <= 0] == ["captions"]
    assert said["memory"]["weights"] > 100_000 and said["memory"]["adapter"] > 0 and said["memory"]["optimizer"] > 0
    assert said["peak_bytes"] >= sum(said["memory"].values())
    assert (said["steps"], said["pictures"]) == (6, 9)
    assert not (made / "loras").exists() and told(made, events.Finished) == []


def test_a_dry_run_encodes_some_pictures_and_counts_those_that_are_still_to_be(tmp_path, tiny_model_folder, pictures):
    # So many steps that every picture is seen, plain and mirrored.
    schedule = ScheduleConfig(steps=40, seed=5)
    made = make(tmp_path / "data" / "dry runs" / "1", tiny_model_folder, pictures, schedule=schedule)
    real = make(tmp_path / "data" / "runs" / "1", tiny_model_folder, pictures, schedule=schedule)
    alone = make(tmp_path / "alone", tiny_model_folder, pictures, schedule=schedule)

    assert run(made, dry=True) == FINISHED
    kept = len(list((tmp_path / "data" / "cache" / "latents").glob("*/*")))
    assert run(real) == run(alone) == FINISHED

    assert 0 < kept < len(list((tmp_path / "data" / "cache" / "latents").glob("*/*")))
    assert same(adapter(real), adapter(alone))
    again = make(tmp_path / "data" / "dry runs" / "2", tiny_model_folder, pictures, schedule=schedule)
    assert run(again, dry=True) == FINISHED
    assert measured(again)["seconds"]["latents"] == 0 and measured(again)["cache_bytes"] == 0


def test_all_steps_of_all_epochs_are_counted(tmp_path, tiny_model_folder, pictures):
    schedule = ScheduleConfig(max_train_epochs=100, seed=5)
    made = make(tmp_path / "run", tiny_model_folder, pictures, schedule=schedule)

    assert run(made, dry=True) == FINISHED

    said = measured(made)
    assert (
        said["steps"] == 300
    )  # of nine pictures two are held out; five of one shape and two of another: 2 + 1 batches
    assert said["seconds"]["steps"] == pytest.approx(300 * said["seconds_per_step"], rel=0.05)


def test_a_run_that_has_begun_is_not_measured_as_that_would_overwrite_its_state(tmp_path, tiny_model_folder, pictures):
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    assert run(made) == FINISHED
    before = sorted((path, path.stat().st_mtime_ns) for path in (made / "state").rglob("*"))

    assert run(made, dry=True) == FAILED

    assert sorted((path, path.stat().st_mtime_ns) for path in (made / "state").rglob("*")) == before


def test_what_stands_against_a_run_stands_against_its_dry_run(tmp_path, tiny_model_folder, pictures):
    for picture in pictures.glob("*.png"):
        picture.write_bytes(b"a text")
    made = make(tmp_path / "run", tiny_model_folder, pictures)

    assert run(made, dry=True) == FAILED

    assert "no picture to train on" in str(told(made, events.Failed)[0].error)
