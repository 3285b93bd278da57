import dataclasses

import pytest

from lora_atelier import config_files
from lora_atelier.errors import JobError
from lora_atelier.jobs.remedies import less_memory, take_less_memory

pytestmark = pytest.mark.torchfree


@pytest.fixture
def run(jobs, form):
    return jobs.create(form)


def batches(config):
    return [dataset.batch_size for dataset in config.data.datasets], config.schedule.accumulation


def test_gradient_checkpointing_comes_first_then_smaller_batches_then_nothing(run):
    before = config_files.read(run.path)
    assert not before.schedule.gradient_checkpointing and batches(before) == ([8], 1)

    take_less_memory(run)
    once = config_files.read(run.path)
    assert once.schedule.gradient_checkpointing and batches(once) == ([8], 1)

    take_less_memory(run)
    assert batches(config_files.read(run.path)) == ([1], 8)
    with pytest.raises(JobError, match="on already"):
        take_less_memory(run)


def test_nothing_else_is_changed(run):
    before = config_files.read(run.path)

    take_less_memory(run)

    schedule = dataclasses.replace(before.schedule, gradient_checkpointing=True)
    assert config_files.read(run.path) == dataclasses.replace(before, schedule=schedule)


def test_a_training_that_made_steps_keeps_its_batches(run):
    """Which pictures meet in a step would be others: it would not be the same training any more."""
    take_less_memory(run)
    config = config_files.read(run.path)

    assert less_memory(config, has_state=True) is None
    assert less_memory(config, has_state=False) is not None
