"""Pictures made during training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Problem
from .setting import SAME, checked, setting


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Pictures made during training."""

    every_n_steps: int = setting(
        0,
        "Sample every",
        "Steps between samples; 0 makes five over the run.",
        kohya="sample_every_n_steps",
        least=0,
    )
    sample_every_n_epochs: int = setting(
        0, "Sample every (epochs)", "Epochs between samples; 0 counts in steps.", kohya=SAME, least=0
    )
    # sd-scripts' default is off.
    sample_at_first: bool = setting(True, "Sample at first", "Also before the first step, to compare with.", kohya=SAME)
    sampler: str = setting(
        "ddim", "Sampler of the samples", "As in the prompt files of sd-scripts.", kohya="sample_sampler"
    )
    # Lines of sd-scripts' prompt file: "text --n negative --w 512 --h 512 --d seed --s steps --l cfg".
    prompts: tuple[str, ...] = setting(
        (), "Sample prompts", "One prompt a line; empty makes none.", kohya="sample_prompts"
    )

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong with these settings."""
        yield from checked("sampling", self)
