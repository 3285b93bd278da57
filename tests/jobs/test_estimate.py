import dataclasses
import sys
from types import SimpleNamespace

import pytest

from lora_atelier.config import NetworkConfig, SamplingConfig, recipe
from lora_atelier.jobs import footprint
from lora_atelier.jobs.estimate import Plan, Rates, adapter_bytes, estimate
from lora_atelier.models.detect import inspect

pytestmark = pytest.mark.torchfree

PLAN = Plan(pictures=24, steps=400, seconds=185.0, memory_bytes=1, file_bytes=1_230_000, device="cpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "24 pictures, 400 steps, about 3 minutes on this computer's processor; the file takes 1.2 MB."),
        (
            {"device": "gpu", "seconds": 47.0, "pictures": 1},
            "1 picture, 400 steps, about 50 seconds on this computer's graphics card; the file takes 1.2 MB.",
        ),
        (
            {"seconds": 2.34 * 3600, "file_bytes": 37_600_000},
            "24 pictures, 400 steps, about 2.3 hours on this computer's processor; the file takes 38 MB.",
        ),
    ],
)
def test_a_plan_is_said_as_a_person_would_say_it(changes, said):
    plan = dataclasses.replace(PLAN, **changes)

    assert " ".join(str(part) for part in plan.sentence()) == said
    assert Plan.from_table(plan.to_table()) == plan


def test_a_plan_of_another_version_is_none():
    assert Plan.from_table({"steps": 3}) is None


def test_the_file_size_is_that_of_the_pairs_of_all_attention_layers(base_model):
    info = inspect(base_model)

    assert adapter_bytes(info, NetworkConfig(rank=16), "fp16") == 16 * (8 + 4) * 2
    assert adapter_bytes(info, NetworkConfig(rank=16), "float") == 16 * (8 + 4) * 4


def test_more_pictures_seen_take_longer_and_a_graphics_card_is_faster(base_model, tmp_path):
    info, rates = inspect(base_model), Rates(tmp_path / "rates.json")

    def seconds(quality, device):
        config = recipe(goal="character", family="toy", num_images=20, quality=quality)
        return estimate(config, info, pictures=20, rates=rates, device=device).seconds

    assert seconds("draft", "cpu") < seconds("good", "cpu") < seconds("best", "cpu")
    assert seconds("good", "gpu") < seconds("good", "cpu")


def test_damaged_rates_are_as_none(tmp_path):
    (tmp_path / "rates.json").write_text("[1")

    assert Rates(tmp_path / "rates.json").known("toy", 128 * 128, "cpu") is None


def test_the_memory_is_the_sum_of_its_parts_and_less_is_kept_in_half_precision_and_with_checkpoints(
    base_model, tmp_path
):
    """Program and steps alone of 605 MB that such a run took (``benchmarks/estimate.py``, torch 2.13 on Linux)."""
    info = inspect(base_model)
    config = recipe(goal="character", family="toy", num_images=16)
    config = dataclasses.replace(config, sampling=SamplingConfig(prompts=("momo",)))

    plan = estimate(config, info, pictures=16, rates=Rates(tmp_path / "rates.json"), device="cpu")

    assert sum(plan.memory.values()) == plan.memory_bytes
    assert 450e6 < plan.memory_bytes < 605e6
    half = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, mixed_precision="bf16"))
    less = dataclasses.replace(half, schedule=dataclasses.replace(half.schedule, gradient_checkpointing=True))
    sizes = [estimate(c, info, pictures=16, rates=Rates(tmp_path / "r"), device="cpu") for c in (config, half, less)]
    assert [each.memory["activations"] for each in sizes] == sorted(
        (each.memory["activations"] for each in sizes), reverse=True
    )


def test_the_test_for_pictures_that_come_back_is_in_the_time_as_far_as_there_is_time_for_it(base_model, tmp_path):
    info, rates = inspect(base_model), Rates(tmp_path / "rates.json")

    def seconds(steps, share):
        config = recipe(goal="character", family="toy", num_images=20)
        config = dataclasses.replace(
            config,
            schedule=dataclasses.replace(config.schedule, steps=steps),
            validation=dataclasses.replace(config.validation, memorisation=share),
        )
        return estimate(config, info, pictures=20, rates=rates, device="cpu").seconds

    def training_and_test(steps):
        return seconds(2 * steps, 0.0) - seconds(steps, 0.0), seconds(steps, 0.1) - seconds(steps, 0.0)

    assert training_and_test(2)[1] == 0
    training, test = training_and_test(1000)
    assert 0.05 * training < test <= 0.1 * training + 0.1
    # There are no more pictures to be drawn.
    assert training_and_test(100_000)[1] == pytest.approx(training_and_test(50_000)[1], abs=0.2)


@pytest.mark.parametrize(
    ("said", "held", "free"),
    [
        ("1000\n", 0, 1000),
        ("1000\n", 7000, 8000),
        ("1000\n6000\n", 7000, 8000),
        ("1000\n9000\n", 7000, 9000),
        ("", 0, 0),
    ],
)
def test_what_the_webui_holds_on_the_card_counts_as_free_for_a_training(monkeypatch, said, held, free):
    """It gives it back before a training starts; the plan is made while its model is still there."""
    mib = 1024 * 1024
    cuda = SimpleNamespace(is_initialized=lambda: True, memory_reserved=lambda: held * mib)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    answer = SimpleNamespace(stdout=said)
    monkeypatch.setattr(footprint.subprocess, "run", lambda *args, **options: answer)

    assert footprint.free_bytes("gpu") == free * mib
