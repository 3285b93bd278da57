"""At which steps a run is measured, sampled and kept, and which of its checkpoints stay. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .train import TrainConfig

# How often, over the run, where the settings say "choose for me".
CHECKPOINTS, SAMPLES, MEASUREMENTS = 10, 5, 10


@dataclass(frozen=True)
class Rhythm:
    """Something that is done every so many steps, and at the end of every so many epochs; 0 is never."""

    every_n_steps: int
    every_n_epochs: int
    steps_per_epoch: int

    @classmethod
    def of(cls, by_steps: int, by_epochs: int, *, steps: int, steps_per_epoch: int, times: int) -> Rhythm:
        """As the settings say it; where they say nothing, ``times`` over the run."""
        if not by_steps and not by_epochs:
            by_steps = max(1, round(steps / times))
        return cls(by_steps, by_epochs, steps_per_epoch)

    def is_due(self, step: int) -> bool:
        """Whether it is done after ``step`` steps."""
        return self._by_steps(step) or self.is_due_by_epoch(step)

    def is_due_by_epoch(self, step: int) -> bool:
        """Whether ``step`` ends an epoch after which it is done."""
        return self.every_n_epochs > 0 and step % (self.every_n_epochs * self.steps_per_epoch) == 0

    def count(self, steps: int) -> int:
        """How often it is done in a run of ``steps``, its end apart: what is due there is done in any case."""
        return sum(map(self.is_due, range(1, steps)))

    def _by_steps(self, step: int) -> bool:
        return self.every_n_steps > 0 and step % self.every_n_steps == 0


@dataclass(frozen=True)
class Rhythms:
    """The three of a run."""

    checkpoints: Rhythm
    samples: Rhythm
    measurements: Rhythm

    @classmethod
    def of(cls, config: TrainConfig, steps_per_epoch: int) -> Rhythms:
        """Those of ``config``, whose length is counted in steps."""
        output, sampling, validation, steps = config.output, config.sampling, config.validation, config.schedule.steps
        by_epochs = output.save_every_n_epochs
        if output.save_n_epoch_ratio:
            # As in sd-scripts: at least so many checkpoints, at equal distances.
            by_epochs = max(1, -(-steps // steps_per_epoch) // output.save_n_epoch_ratio)

        def rhythm(by_steps: int, by_epochs: int, times: int) -> Rhythm:
            return Rhythm.of(by_steps, by_epochs, steps=steps, steps_per_epoch=steps_per_epoch, times=times)

        return cls(
            rhythm(output.save_every_n_steps, by_epochs, CHECKPOINTS),
            rhythm(sampling.every_n_steps, sampling.sample_every_n_epochs, SAMPLES),
            rhythm(validation.every_n_steps, validation.validate_every_n_epochs, MEASUREMENTS),
        )


def outdated(kept: Sequence[int], rhythm: Rhythm, *, last_n_steps: int, last_n_epochs: int) -> list[int]:
    """Which of the checkpoints ``kept`` (their steps) are to go once the newest of them is there.

    Those by epochs go when there are ``last_n_epochs`` newer ones; the others when the newest is more than
    ``last_n_steps`` ahead. 0 keeps all.
    """
    newest = max(kept, default=0)
    by_epochs = sorted(step for step in kept if rhythm.is_due_by_epoch(step))
    gone = by_epochs[:-last_n_epochs] if last_n_epochs else []
    if last_n_steps:
        gone += [step for step in kept if step not in by_epochs and newest - step > last_n_steps]
    return sorted(gone)
