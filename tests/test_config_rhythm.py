"""When a run is measured, sampled and kept, and which checkpoints stay."""

import dataclasses

import pytest

from lora_atelier.config import OutputConfig, SamplingConfig, ScheduleConfig, TrainConfig, ValidationConfig
from lora_atelier.config.rhythm import Rhythm, Rhythms, outdated

pytestmark = pytest.mark.torchfree


def due(rhythm, steps):
    return [step for step in range(1, steps + 1) if rhythm.is_due(step)]


def rhythms(steps_per_epoch=4, **groups):
    return Rhythms.of(dataclasses.replace(TrainConfig(schedule=ScheduleConfig(steps=20)), **groups), steps_per_epoch)


def test_where_nothing_is_said_there_are_ten_checkpoints_and_measurements_and_five_samples():
    made = rhythms()

    assert due(made.checkpoints, 20) == due(made.measurements, 20) == list(range(2, 21, 2))
    assert due(made.samples, 20) == [4, 8, 12, 16, 20]
    assert (made.checkpoints.count(20), made.samples.count(20)) == (9, 4)  # what is due at the end is done anyway


def test_epochs_and_steps_can_both_be_asked_for():
    made = rhythms(
        output=OutputConfig(save_every_n_epochs=2, save_every_n_steps=7),
        sampling=SamplingConfig(sample_every_n_epochs=3),
        validation=ValidationConfig(validate_every_n_epochs=1),
    )

    assert due(made.checkpoints, 20) == [7, 8, 14, 16]
    assert due(made.samples, 20) == [12]
    assert due(made.measurements, 20) == [4, 8, 12, 16, 20]


@pytest.mark.parametrize(
    ("ratio", "expected"), [(1, [20]), (2, [8, 16]), (5, [4, 8, 12, 16, 20]), (99, [4, 8, 12, 16, 20])]
)
def test_a_ratio_is_so_many_checkpoints_over_the_run_at_ends_of_epochs(ratio, expected):
    made = rhythms(output=OutputConfig(save_n_epoch_ratio=ratio))

    assert due(made.checkpoints, 20) == expected


def test_checkpoints_by_epochs_are_kept_by_number_and_others_by_their_age_in_steps():
    rhythm = Rhythm(every_n_steps=3, every_n_epochs=1, steps_per_epoch=4)
    kept = [3, 4, 6, 8, 9, 12]

    assert outdated(kept, rhythm, last_n_steps=0, last_n_epochs=0) == []
    assert outdated(kept, rhythm, last_n_steps=0, last_n_epochs=2) == [4]
    assert outdated(kept, rhythm, last_n_steps=4, last_n_epochs=0) == [3, 6]
    assert outdated(kept, rhythm, last_n_steps=3, last_n_epochs=1) == [3, 4, 6, 8]
