"""How long, how fast over time, in which precision, from which seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Problem, problem
from .arguments import argument_problems
from .setting import SAME, checked, setting

SCHEDULERS = (
    "cosine",
    "cosine_with_min_lr",
    "constant",
    "constant_with_warmup",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
    "piecewise_constant",
    "adafactor",
    "linear",
)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How long, how fast over time, in which precision, from which seed."""

    steps: int = setting(
        1000, "Steps", "Optimizer steps of the whole run.", kohya="max_train_steps", least=1, absent=1600
    )
    max_train_epochs: int = setting(
        0, "Epochs", "Passes over all pictures instead of a number of steps; 0 counts in steps.", kohya=SAME, least=0
    )
    scheduler: str = setting(
        "cosine",
        "Learning rate over time",
        "cosine falls smoothly to the floor, constant stays.",
        kohya="lr_scheduler",
        choices=SCHEDULERS,
        absent="constant",
    )
    warmup: float = setting(
        0.05,
        "Warm-up",
        "Steps of rising learning rate; below 1 a share of all.",
        kohya="lr_warmup_steps",
        least=0,
        absent=0.0,
    )
    floor: float = setting(
        0.0,
        "Floor",
        "The learning rate ends at this share of its peak.",
        kohya="lr_scheduler_min_lr_ratio",
        least=0,
        most=1,
    )
    lr_decay_steps: float = setting(
        0.0,
        "Decay",
        "warmup_stable_decay: steps of falling learning rate; below 1 a share of all.",
        kohya=SAME,
        least=0,
    )
    lr_scheduler_num_cycles: int = setting(
        1, "Cycles", "cosine_with_restarts: how often the learning rate starts anew.", kohya=SAME, least=1
    )
    lr_scheduler_power: float = setting(
        1.0, "Power", "polynomial: how the learning rate falls; 1 is a straight line.", kohya=SAME, least=0
    )
    lr_scheduler_timescale: int = setting(
        0, "Time scale", "inverse_sqrt: steps until it falls; 0 takes those of the warm-up.", kohya=SAME, least=0
    )
    lr_scheduler_type: str = setting(
        "", "Scheduler class", "A class of torch.optim.lr_scheduler or a dotted path, instead of the names.", kohya=SAME
    )
    lr_scheduler_args: tuple[str, ...] = setting(
        (), "Its arguments", "Arguments of the scheduler, each written name=value.", kohya=SAME
    )
    accumulation: int = setting(
        1, "Accumulation", "Batches per optimizer step.", kohya="gradient_accumulation_steps", least=1
    )
    mixed_precision: str = setting(
        "no",
        "Precision of the computation",
        "bf16 on recent cards; no means float32.",
        kohya=SAME,
        choices=("no", "fp16", "bf16"),
    )
    gradient_checkpointing: bool = setting(
        False, "Gradient checkpointing", "Less memory, a third more time.", kohya=SAME
    )
    seed: int = setting(1, "Seed", "The same seed and pictures give the same LoRA.", kohya=SAME)

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong with these settings."""
        yield from checked("schedule", self)
        yield from argument_problems("schedule.lr_scheduler_args", self.lr_scheduler_args)
        if not self.max_train_epochs:
            yield from self._length_problems()
        names = {argument.partition("=")[0].strip() for argument in self.lr_scheduler_args}
        if self.scheduler == "piecewise_constant" and not self.lr_scheduler_type and "step_rules" not in names:
            yield problem(
                "schedule.lr_scheduler_args",
                "piecewise_constant needs its rules: lr_scheduler_args = [\"step_rules='1:100,0.1'\"] learns at the "
                "full rate for 100 steps, then at a tenth of it.",
            )
        if not 0 <= self.seed < 2**63:
            yield problem("schedule.seed", "The seed is {seed}; it must be a whole number from 0.", seed=self.seed)

    def _length_problems(self) -> Iterator[Problem]:
        # Both count in steps, or below 1 as a share of all.
        warmup, decay = (n * self.steps if n < 1 else n for n in (self.warmup, self.lr_decay_steps))
        if warmup > self.steps:
            yield problem(
                "schedule.warmup",
                "The warm-up takes {warmup} steps and the run has {steps}; the learning rate would never be reached.",
                warmup=warmup,
                steps=self.steps,
            )
        elif self.scheduler == "warmup_stable_decay" and warmup + decay > self.steps:
            yield problem(
                "schedule.lr_decay_steps",
                "Warm-up and decay take {taken} steps and the run has {steps}; shorten one of them.",
                taken=warmup + decay,
                steps=self.steps,
            )
