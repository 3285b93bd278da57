"""Jobs with the real trainer in its real process, on a tiny random model."""

import dataclasses
import os
import signal

import pytest

pytest.importorskip("diffusers")

from tests.jobs.fakes import draw_pictures, wait_for

from lora_atelier import events, locking
from lora_atelier.config import (
    DataConfig,
    DatasetConfig,
    ModelConfig,
    NetworkConfig,
    OutputConfig,
    SamplingConfig,
    ScheduleConfig,
    SubsetConfig,
    TrainConfig,
)
from lora_atelier.jobs.service import Jobs
from lora_atelier.loader.catalogue import Catalogue

STEPS = 120


@pytest.fixture
def jobs(tmp_path):
    return Jobs(tmp_path / "ジョブ data")


@pytest.fixture
def config(tiny_model_folder, tmp_path):
    subset = SubsetConfig(image_dir=str(draw_pictures(tmp_path / "pictures", 9)))
    dataset = DatasetConfig(subsets=(subset,), resolution=(64, 64), batch_size=2, min_bucket_reso=64)
    return TrainConfig(
        model=ModelConfig(base_model=str(tiny_model_folder), v_parameterization=True),
        output=OutputConfig(name="もも", save_every_n_steps=10, precision="float"),
        network=NetworkConfig(rank=2),
        schedule=ScheduleConfig(steps=STEPS),
        sampling=SamplingConfig(prompts=("momo --w 64 --h 64 --s 2",), every_n_steps=60),
        data=DataConfig(datasets=(dataset,)),
    )


def finish(jobs, run):
    view = wait_for(jobs, run, "finished", "failed", "died", seconds=120)
    assert view.status == "finished", f"{view.error} {run.log_tail()}"
    (done,) = [t.event for t in events.read(run.events_path)[0] if isinstance(t.event, events.Finished)]
    return view, done


def test_a_run_that_was_killed_goes_on_to_the_very_lora_it_would_have_become(jobs, config):
    undisturbed = jobs.add(config, trigger="momo")
    jobs.start(undisturbed)
    view, wanted = finish(jobs, undisturbed)
    assert view.result.is_file() and view.step == STEPS
    assert [entry.name for entry in Catalogue([jobs.lora_dir]).list()] == ["もも"]

    killed = jobs.add(config, trigger="momo")
    jobs.start(killed)
    while jobs.view(killed).step < 15:
        assert jobs.view(killed).status == "running", killed.log_tail()
    if os.name == "posix":
        os.kill(locking.holder(killed.lock_path), signal.SIGKILL)
        assert "goes on from step" in str(wait_for(jobs, killed, "died", seconds=20).error.todo)
    else:
        jobs.stop(killed)
        wait_for(jobs, killed, "stopped", seconds=60)

    jobs.resume(killed)
    view, done = finish(jobs, killed)
    assert done.model_hash == wanted.model_hash
    assert view.result.name == "もも-2.safetensors"


def test_pictures_that_can_not_be_trained_on_end_a_run_with_a_sentence(jobs, config, tmp_path):
    for picture in (tmp_path / "pictures").glob("*.png"):
        picture.write_bytes(b"a text")

    run = jobs.add(dataclasses.replace(config), trigger="momo")
    jobs.start(run)

    view = wait_for(jobs, run, "failed", "finished", "died", seconds=60)
    assert view.status == "failed"
    assert "no picture to train on" in str(view.error)
