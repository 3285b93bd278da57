"""Loss on pictures that are not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Problem
from .setting import SAME, checked, setting


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Loss on pictures that are not trained on."""

    split: float = setting(
        0.1,
        "Held-out share",
        "Share of the pictures kept for measuring only.",
        kohya="validation_split",
        least=0,
        most=0.9,
        absent=0.0,
    )
    seed: int = setting(1, "Held-out seed", "Chooses those pictures and their noise.", kohya="validation_seed")
    every_n_steps: int = setting(
        0,
        "Measure every",
        "Steps between measurements; 0 makes ten over the run.",
        kohya="validate_every_n_steps",
        least=0,
    )
    validate_every_n_epochs: int = setting(
        0, "Measure every (epochs)", "Epochs between measurements; 0 counts in steps.", kohya=SAME, least=0
    )
    max_validation_steps: int = setting(
        0, "Most held-out batches", "A measurement ends after so many batches; 0 measures all.", kohya=SAME, least=0
    )
    patience: int = setting(
        0,
        "Stop early",
        "The run ends, with its best weights, after so many measurements without a better one; 0 never.",
        least=0,
    )

    memorisation: float = setting(
        0.1,
        "Memorisation test",
        "Share of the training time that may be spent at its end on finding pictures that come back; 0 tests none.",
        least=0,
        most=1,
    )

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong with these settings."""
        yield from checked("validation", self)
