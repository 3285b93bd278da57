"""The length of a run that a recipe counts in epochs, in steps: our own trainer counts in nothing else."""

from __future__ import annotations

import dataclasses

from ..errors import Problem, problem
from .train import TrainConfig


def in_steps(config: TrainConfig, steps_per_epoch: int) -> tuple[TrainConfig, tuple[Problem, ...]]:
    """``config`` with its length in steps, and what to say of the number that came out.

    As in sd-scripts, epochs come before steps where a recipe gives both.
    """
    epochs = config.schedule.max_train_epochs
    if not epochs:
        return config, ()
    steps = epochs * steps_per_epoch
    note = problem(
        "schedule.max_train_epochs",
        "{epochs} epochs of these pictures are {steps} steps.",
        epochs=epochs,
        steps=steps,
    )
    schedule = dataclasses.replace(config.schedule, steps=steps, max_train_epochs=0)
    return dataclasses.replace(config, schedule=schedule), (note,)
