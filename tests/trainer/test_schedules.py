"""The learning rate over the steps, against transformers' and diffusers' own schedules, which sd-scripts uses."""

import math

import pytest
import torch
from diffusers.optimization import get_piecewise_constant_schedule
from transformers import optimization

from lora_atelier.config import ScheduleConfig
from lora_atelier.config.schedule import SCHEDULERS
from lora_atelier.errors import ConfigError
from lora_atelier.trainer.schedules import factor

STEPS, RATE = 60, 1e-4


def transformers_factors(schedule, *, warmup, decay):
    """The factors of the schedule that sd-scripts would make (train_util.get_scheduler_fix, 48d368fa)."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    cycles, stable = schedule.lr_scheduler_num_cycles, STEPS - warmup - decay
    timescale = schedule.lr_scheduler_timescale or None
    made = {
        "constant": lambda: optimization.get_constant_schedule(optimizer),
        "constant_with_warmup": lambda: optimization.get_constant_schedule_with_warmup(optimizer, warmup),
        "linear": lambda: optimization.get_linear_schedule_with_warmup(optimizer, warmup, STEPS),
        "cosine": lambda: optimization.get_cosine_schedule_with_warmup(optimizer, warmup, STEPS),
        "cosine_with_restarts": lambda: optimization.get_cosine_with_hard_restarts_schedule_with_warmup(
            optimizer, warmup, STEPS, cycles
        ),
        "polynomial": lambda: optimization.get_polynomial_decay_schedule_with_warmup(
            optimizer, warmup, STEPS, power=schedule.lr_scheduler_power
        ),
        "inverse_sqrt": lambda: optimization.get_inverse_sqrt_schedule(optimizer, warmup, timescale),
        "cosine_with_min_lr": lambda: optimization.get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, warmup, STEPS, cycles / 2, min_lr_rate=schedule.floor
        ),
        "warmup_stable_decay": lambda: optimization.get_wsd_schedule(
            optimizer,
            warmup,
            decay,
            num_stable_steps=stable,
            num_cycles=cycles / 2,
            min_lr_ratio=schedule.floor,
        ),
    }[schedule.scheduler]()
    return factors_of(made, optimizer)


def factors_of(scheduler, optimizer):
    found = []
    for _ in range(STEPS):
        found.append(scheduler.get_last_lr()[0] / RATE)
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("constant", {"warmup": 0}),
        ("constant_with_warmup", {}),
        ("linear", {}),
        ("cosine", {}),
        ("cosine_with_restarts", {"lr_scheduler_num_cycles": 3}),
        ("polynomial", {"lr_scheduler_power": 2.0}),
        ("inverse_sqrt", {}),
        ("inverse_sqrt", {"lr_scheduler_timescale": 7}),
        ("inverse_sqrt", {"warmup": 0}),
        ("cosine_with_min_lr", {"floor": 0.1}),
        ("cosine_with_min_lr", {"floor": 0.1, "lr_scheduler_num_cycles": 3}),
        ("warmup_stable_decay", {"lr_decay_steps": 20, "floor": 0.2}),
        ("warmup_stable_decay", {"lr_decay_steps": 0.5, "warmup": 0}),
    ],
)
def test_after_the_warm_up_a_schedule_is_what_sd_scripts_makes(name, options):
    schedule = ScheduleConfig(**{"steps": STEPS, "scheduler": name, "warmup": 10, **options})
    warmup = int(schedule.warmup)
    decay = int(schedule.lr_decay_steps * STEPS if schedule.lr_decay_steps < 1 else schedule.lr_decay_steps)

    wanted = transformers_factors(schedule, warmup=warmup, decay=decay)
    found = [factor(step, schedule, learning_rate=RATE) for step in range(STEPS)]

    assert found[warmup:] == pytest.approx(wanted[warmup:], abs=1e-12)
    # Their first step has a learning rate of 0; ours rises as evenly and is never a step for nothing.
    assert found[:warmup] == pytest.approx([(step + 1) / (warmup + 1) for step in range(warmup)])


def test_piecewise_rules_are_diffusers_rules():
    rules = "1:10,0.1:20,0.01:30,0.005"
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    schedule = ScheduleConfig(
        steps=STEPS, scheduler="piecewise_constant", warmup=10, lr_scheduler_args=(f"step_rules='{rules}'",)
    )

    wanted = factors_of(get_piecewise_constant_schedule(optimizer, rules), optimizer)

    assert [factor(step, schedule) for step in range(STEPS)] == pytest.approx(wanted)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_rises_over_a_warm_up_that_is_a_share_and_stays_between_floor_and_peak(name):
    rules = ("step_rules='1:60,0.2'",) if name == "piecewise_constant" else ()
    schedule = ScheduleConfig(steps=100, scheduler=name, warmup=0.1, floor=0.2, lr_scheduler_args=rules)
    rates = [factor(step, schedule) for step in range(100)]

    if not rules:
        assert rates[:10] == sorted(rates[:10]) and 0 < rates[0] < 0.2
    assert math.isclose(rates[10], 1.0)
    assert all(0 < rate <= 1 for rate in rates)
    assert all(rate >= 0.2 - 1e-9 for rate in rates[10:])


@pytest.mark.parametrize(
    ("name", "arguments", "make"),
    [
        ("StepLR", ("step_size=7", "gamma=0.5"), lambda o: torch.optim.lr_scheduler.StepLR(o, 7, 0.5)),
        (
            "torch.optim.lr_scheduler.OneCycleLR",
            (f"max_lr={RATE}", f"total_steps={STEPS + 1}"),
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, RATE, STEPS + 1),
        ),
    ],
)
def test_a_class_gives_the_same_rates_as_when_it_is_stepped_along(name, arguments, make):
    schedule = ScheduleConfig(steps=STEPS, lr_scheduler_type=name, lr_scheduler_args=arguments)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE, momentum=0.9)
    wanted = factors_of(make(optimizer), optimizer)

    found = [factor(step, schedule, learning_rate=RATE) for step in reversed(range(STEPS))][::-1]

    assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("StepLRR", (), "StepLRR"),
        ("no_such_package.Schedule", (), "no_such_package"),
        ("StepLR", ("gama=1",), "gama"),
        ("ReduceLROnPlateau", (), "loss"),
    ],
)
def test_a_class_that_can_not_be_used_is_a_sentence(name, arguments, words):
    schedule = ScheduleConfig(steps=5, lr_scheduler_type=name, lr_scheduler_args=arguments)

    with pytest.raises(ConfigError, match=words):
        factor(0, schedule, learning_rate=RATE)
