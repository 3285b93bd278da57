"""What is changed so that a training fits, and in which order."""

import dataclasses

import pytest

from lora_atelier.config import (
    DataConfig,
    DatasetConfig,
    ModelConfig,
    SamplingConfig,
    ScheduleConfig,
    SubsetConfig,
    TrainConfig,
)
from lora_atelier.jobs import footprint, overlay
from lora_atelier.jobs.estimate import Plan
from lora_atelier.jobs.fitting import make_fit
from lora_atelier.models.detect import inspect

pytestmark = pytest.mark.torchfree

GB = 1_000_000_000


def config_of(base_model, *, batch=4, precision="no", checkpointing=False, side=512):
    dataset = DatasetConfig(subsets=(SubsetConfig(image_dir="pictures"),), resolution=(side, side), batch_size=batch)
    return TrainConfig(
        model=ModelConfig(base_model=str(base_model)),
        schedule=ScheduleConfig(mixed_precision=precision, gradient_checkpointing=checkpointing),
        sampling=SamplingConfig(prompts=()),
        data=DataConfig(datasets=(dataset,)),
    )


def plan_of(config, info, free, device="gpu"):
    parts = footprint.memory_parts(config, info, pictures=10, device=device)
    return Plan(pictures=10, steps=1, seconds=1.0, memory_bytes=sum(parts.values()), file_bytes=1, device=device,
                memory=parts, free_bytes=free)  # fmt: skip


def test_what_fits_or_is_not_known_is_left_alone(base_model):
    info, config = inspect(base_model), config_of(base_model)

    assert make_fit(plan_of(config, info, 100 * GB), config, info) is None
    assert make_fit(plan_of(config, info, 0), config, info) is None


@pytest.mark.parametrize(
    ("device", "short", "places"),
    [
        ("gpu", 0.9, ["schedule.mixed_precision"]),
        ("gpu", 0.55, ["schedule.mixed_precision", "schedule.gradient_checkpointing"]),
        ("cpu", 0.97, ["schedule.gradient_checkpointing"]),
    ],
)
def test_no_more_is_changed_than_is_needed_and_the_mildest_first(base_model, device, short, places):
    info, config = inspect(base_model), config_of(base_model)
    plan = plan_of(config, info, 1, device)
    program = plan.memory["program"]
    plan = dataclasses.replace(plan, free_bytes=program + round((plan.memory_bytes - program) * short))

    fit = make_fit(plan, config, info)

    assert fit.fits and list(fit.changes) == places
    changed, wrong = overlay.changed(config, fit.changes)
    assert wrong == () and plan_of(changed, info, plan.free_bytes, device).fits
    assert len(list(fit.sentences())) == len(places) + 1


def test_a_step_sees_as_many_pictures_as_before(base_model):
    info, config = inspect(base_model), config_of(base_model, precision="bf16", checkpointing=True, batch=6)
    plan = plan_of(config, info, 1)
    least = dataclasses.replace(plan, free_bytes=plan.memory_bytes - plan.memory["activations"] // 2)

    fit = make_fit(least, config, info)

    assert fit.changes["dataset.batch_size"] * fit.changes["schedule.accumulation"] >= 6
    assert fit.fits and fit.changes["dataset.batch_size"] == 3


def test_where_nothing_suffices_it_goes_as_far_as_it_can_and_says_so(base_model):
    info, config = inspect(base_model), config_of(base_model)

    fit = make_fit(plan_of(config, info, 1), config, info)

    assert not fit.fits and fit.changes["dataset.batch_size"] == 1
    assert fit.changes["dataset.resolution"] == [256, 256]
    assert "close other programs" in str(list(fit.sentences())[-1])
    changed, wrong = overlay.changed(config, fit.changes)
    assert wrong == () and plan_of(changed, info, 1).memory_bytes == fit.memory_bytes


def test_what_was_measured_shrinks_as_it_was_foretold_to(base_model):
    info, config = inspect(base_model), config_of(base_model)
    plan = plan_of(config, info, 1)
    twice = {name: 2 * size for name, size in plan.memory.items()}
    measured = dataclasses.replace(plan, memory=twice, memory_bytes=2 * plan.memory_bytes, measured=True)

    assert make_fit(measured, config, info).memory_bytes == pytest.approx(2 * make_fit(plan, config, info).memory_bytes)
