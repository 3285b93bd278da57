"""The learning rate over the steps, as a share of its peak: a pure function of the step.

Names and curves are those of sd-scripts, which takes them from transformers (``optimization.py``). One thing differs:
the warm-up ends where theirs does but does not begin at 0: a step at a learning rate of 0 is a step for nothing.
"""

from __future__ import annotations

import functools
import importlib
import math
import warnings

import torch

from ..config import ScheduleConfig
from ..config.arguments import parsed
from ..errors import ConfigError

# Where transformers' polynomial schedule ends: a learning rate, not a share.
_POLYNOMIAL_END = 1e-7
_INVERSE_SQRT_TIMESCALE = 10_000


def factor(step: int, schedule: ScheduleConfig, *, learning_rate: float = 1e-4) -> float:
    """The learning rate at ``step``, counted from 0, as a share of its peak ``learning_rate``.

    Raises ConfigError where the schedule is a class that can't be had.
    """
    if schedule.lr_scheduler_type:
        table = _of_class(schedule.lr_scheduler_type, schedule.lr_scheduler_args, schedule.steps, learning_rate)
        return table[min(step, len(table) - 1)]
    steps, warmup = schedule.steps, _counted(schedule.warmup, schedule.steps)
    floor, name = schedule.floor, schedule.scheduler
    if name == "piecewise_constant":
        return _piecewise(step, str(parsed(schedule.lr_scheduler_args)["step_rules"]))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, steps - warmup)
    cycles = schedule.lr_scheduler_num_cycles
    if name == "cosine":
        return _above(floor, 0.5 * (1 + math.cos(math.pi * done)))
    if name == "cosine_with_min_lr":
        return _above(floor, 0.5 * (1 + math.cos(math.pi * cycles * done)))
    if name == "cosine_with_restarts":
        return _above(floor, 0.5 * (1 + math.cos(math.pi * (cycles * done % 1))) if done < 1 else 0.0)
    if name == "linear":
        return _above(floor, 1 - done)
    if name == "polynomial":
        end = floor or min(1.0, _POLYNOMIAL_END / learning_rate)
        return _above(end, max(0.0, 1 - done) ** schedule.lr_scheduler_power)
    if name == "inverse_sqrt":
        timescale = schedule.lr_scheduler_timescale or warmup or _INVERSE_SQRT_TIMESCALE
        return math.sqrt(timescale / (step - warmup + timescale))
    if name == "warmup_stable_decay":
        decay = _counted(schedule.lr_decay_steps, steps)
        fallen = max(0.0, step - (steps - decay)) / max(1.0, decay)
        return _above(floor, 0.5 * (1 + math.cos(math.pi * cycles * min(1.0, fallen))))
    return 1.0  # constant, constant_with_warmup, adafactor


def _counted(number: float, steps: int) -> float:
    """A number of steps; below 1 it is a share of all."""
    return number * steps if number < 1 else number


def _above(floor: float, share: float) -> float:
    return floor + (1 - floor) * share


def _piecewise(step: int, rules: str) -> float:
    """diffusers' rules: "1:10,0.1:20,0.01" is 1 before step 10, 0.1 before step 20, 0.01 from there on."""
    *parts, last = rules.split(",")
    ends = sorted((int(end), float(share)) for share, end in (part.split(":") for part in parts))
    return next((share for end, share in ends if step < end), float(last))


@functools.lru_cache(maxsize=4)
def _of_class(name: str, arguments: tuple[str, ...], steps: int, rate: float) -> tuple[float, ...]:
    """The factors of a scheduler class, by step, from an optimizer of one number that is stepped through beforehand.

    So they are a function of the step, and a run that goes on needs no state of the scheduler.
    """
    module, _, last = name.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module or "torch.optim.lr_scheduler"), last)
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate, momentum=0.9)
        scheduler = cls(optimizer, **parsed(arguments))
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimizer itself is never stepped
            for _ in range(steps):
                found.append(float(optimizer.param_groups[0]["lr"]) / rate)
                scheduler.step()
    except (ImportError, AttributeError, TypeError, ValueError, KeyError) as error:
        raise ConfigError(
            "The schedule {name} can't be used.",
            why="{reason}.",
            todo="Correct lr_scheduler_type and lr_scheduler_args, or choose one of the named ones (lr_scheduler). "
            "Schedules that look at the loss are not possible.",
            name=name,
            reason=str(error).rstrip("."),
        ) from error
    return tuple(found)
