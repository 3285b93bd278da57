"""Lengths that a recipe counts in epochs, in steps: our own trainer counts in nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import Problem, problem
from .train import TrainConfig

# Settings in epochs -> the group and the setting in steps that says the same.
_EVERY = (
    ("output", "save_every_n_epochs", "save_every_n_steps"),
    ("sampling", "sample_every_n_epochs", "every_n_steps"),
    ("validation", "validate_every_n_epochs", "every_n_steps"),
)


def in_steps(config: TrainConfig, steps_per_epoch: int) -> tuple[TrainConfig, tuple[Problem, ...]]:
    """``config`` with nothing counted in epochs, and what to say of the number of steps that came out.

    As in sd-scripts, epochs come before steps where a recipe gives both.
    """
    notes: list[Problem] = []
    epochs = config.schedule.max_train_epochs
    if epochs:
        steps = epochs * steps_per_epoch
        config = _changed(config, "schedule", steps=steps, max_train_epochs=0)
        notes.append(
            problem(
                "schedule.max_train_epochs",
                "{epochs} epochs of these pictures are {steps} steps.",
                epochs=epochs,
                steps=steps,
            )
        )
    for group, by_epochs, by_steps in _EVERY:
        every = getattr(getattr(config, group), by_epochs)
        if every:
            config = _changed(config, group, **{by_steps: every * steps_per_epoch, by_epochs: 0})
    return config, tuple(notes)


def _changed(config: TrainConfig, group: str, **values: Any) -> TrainConfig:
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **values)})
