"""The learning rate over the steps, as a share of its peak: a pure function of the step.

Names and curves are those of sd-scripts, which takes them from transformers (``optimization.py``). One thing differs:
the warm-up ends where theirs does but does not begin at 0: a step at a learning rate of 0 is a step for nothing.
"""

from __future__ import annotations

import math

from ..config import ScheduleConfig
from ..config.arguments import parsed

# Where transformers' polynomial schedule ends: a learning rate, not a share.
_POLYNOMIAL_END = 1e-7
_INVERSE_SQRT_TIMESCALE = 10_000


def factor(step: int, schedule: ScheduleConfig, *, learning_rate: float = 1e-4) -> float:
    """The learning rate at ``step``, counted from 0, as a share of its peak ``learning_rate``."""
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
