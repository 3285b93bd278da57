"""A dry run from outside: started, asked how it stands, its plan taken, its folder removed."""

import dataclasses
import json
import sys

import pytest
from tests.jobs.fakes import draw_pictures, write_model_headers

from lora_atelier.config import (
    DataConfig,
    DatasetConfig,
    ModelConfig,
    OutputConfig,
    ScheduleConfig,
    SubsetConfig,
    TrainConfig,
)
from lora_atelier.errors import ExtensionError, JobError, TrainerFailedError
from lora_atelier.jobs.dry_run import DryRun, shortage
from lora_atelier.jobs.estimate import Plan, Rates, estimate
from lora_atelier.models.detect import inspect

pytestmark = pytest.mark.torchfree

SAID = {
    "schema": 1,
    "device": "cpu",
    "steps": 300,
    "pictures": 6,
    "seconds": {"start": 4.0, "steps": 90.0, "samples": 6.0},
    "seconds_per_step": 0.3,
    "memory": {"program": 200, "weights": 1000, "activations": 500, "adapter": 20, "optimizer": 20, "caches": 60},
    "peak_bytes": 2000,
    "free_bytes": 5000,
    "file_bytes": 10,
    "state_bytes": 30,
    "cache_bytes": 60,
}
# Trainers that do nothing but leave what a dry run would.
WRITES = "import sys, pathlib; pathlib.Path(sys.argv[2], 'measured.json').write_text({said!r})"
FAILS = (
    "import sys, pathlib, json; pathlib.Path(sys.argv[2], 'events.jsonl').write_text(json.dumps("
    "{'schema': 1, 'at': 1, 'kind': 'failed', 'error': {'type': 'DataError', 'what': 'No pictures.', 'why': '',"
    " 'todo': '', 'values': {}}}) + '\\n'); sys.exit(1)"
)


@pytest.fixture
def config(tmp_path):
    subset = SubsetConfig(image_dir=str(draw_pictures(tmp_path / "pictures")))
    return TrainConfig(
        model=ModelConfig(base_model=str(write_model_headers(tmp_path / "base"))),
        output=OutputConfig(name="momo", folder=str(tmp_path / "loras"), save_every_n_steps=100),
        schedule=ScheduleConfig(steps=300),
        data=DataConfig(datasets=(DatasetConfig(subsets=(subset,), resolution=(128, 128)),)),
    )


@pytest.fixture
def before(config, tmp_path):
    info = inspect(config.model.base_model)
    return estimate(config, info, pictures=6, rates=Rates(tmp_path / "rates.json"), device="cpu")


def start(tmp_path, config, before, program):
    return DryRun.start(tmp_path / "data", config, before, trigger="momo", command=[sys.executable, "-c", program])


def test_what_was_measured_takes_the_place_of_what_was_guessed(tmp_path, config, before):
    dry = start(tmp_path, config, before, WRITES.format(said=json.dumps(SAID)))

    plan = dry.plan()
    dry.end()

    assert (plan.seconds, plan.steps, plan.measured) == (100.0, 300, True)
    assert plan.memory_bytes == 2000 == sum(plan.memory.values())  # it held more for a moment than in the steps
    assert plan.memory["activations"] == 700 and plan.fits
    # Two checkpoints on the way and one at the end, the LoRA, the best one; two states and one that is being written.
    assert plan.disk_bytes == 5 * 10 + 3 * 30 + 60
    assert Plan.from_table(plan.to_table()) == plan
    assert list((tmp_path / "data").iterdir()) == []


def test_what_stands_against_the_training_is_said(tmp_path, config, before):
    failing = start(tmp_path, config, before, FAILS)
    with pytest.raises(ExtensionError, match="No pictures"):
        failing.plan()
    failing.end()

    silent = start(tmp_path, config, before, "import sys; print('Killed'); sys.exit(9)")
    with pytest.raises(TrainerFailedError, match="last word"):
        silent.plan()
    silent.end()

    newer = start(tmp_path, config, before, WRITES.format(said=json.dumps({**SAID, "schema": 2})))
    with pytest.raises(JobError, match="another version"):
        newer.plan()
    newer.end()


def test_one_that_is_not_wanted_any_more_is_ended_and_leaves_nothing(tmp_path, config, before):
    dry = start(tmp_path, config, before, "import time; time.sleep(60)")
    assert not dry.is_done and dry.stage() == ("starting", 0, 0)

    dry.end()

    assert list((tmp_path / "data").iterdir()) == []


def test_a_data_folder_that_takes_nothing_is_said(tmp_path, config, before):
    (tmp_path / "data").write_text("a file")

    with pytest.raises(JobError, match="could not be measured"):
        start(tmp_path, config, before, "")


@pytest.mark.parametrize(
    ("changes", "parts", "remedy"),
    [
        ({}, {"activations": 9}, "bf16"),
        ({"mixed_precision": "bf16"}, {"activations": 9}, "gradient_checkpointing"),
        ({"mixed_precision": "bf16", "gradient_checkpointing": True}, {"activations": 9}, "smaller resolution"),
        ({"mixed_precision": "bf16"}, {"activations": 1, "weights": 9}, "smaller base model"),
    ],
)
def test_a_training_that_does_not_fit_is_said_with_what_helps_most(config, before, changes, parts, remedy):
    schedule = dataclasses.replace(config.schedule, **changes)
    config = dataclasses.replace(config, schedule=schedule)
    plan = dataclasses.replace(before, memory_bytes=9_000_000_000, free_bytes=4_000_000_000, memory=parts)

    what, todo = shortage(plan, config)

    assert "about 9.0 GB" in str(what) and "4.0 GB" in str(what) and remedy in str(todo)
    assert shortage(dataclasses.replace(plan, free_bytes=0), config) == ()  # nobody knows what is free
    assert shortage(dataclasses.replace(plan, free_bytes=10_000_000_000), config) == ()


def test_the_memory_is_told_by_part_from_the_largest_on(before):
    parts = {"weights": 1_700_000_000, "activations": 400_000_000, "adapter": 1_000}
    plan = dataclasses.replace(before, memory=parts, memory_bytes=2_100_000_000, free_bytes=20_000_000_000)

    said = ", ".join(str(part) for part in plan.memory_sentence())

    assert said == "About 2.1 GB of memory, the base model 1.7 GB, what a step computes 0.4 GB, 20.0 GB are free"
