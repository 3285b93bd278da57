"""The sample pictures of a run: drawn at fixed seeds with the weights that a person would get."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ExtensionError, message
from ..events import Sampled
from . import samples
from .run import Run
from .samples import SamplePrompt
from .trainee import Trainee
from .watch import Watch


@dataclass
class Gallery:
    """Draws the sample prompts of a run into its folder ``samples``; one that fails is only a warning.

    ``preview`` is the newest picture of the first prompt, that of an earlier sitting included.
    """

    this: Run
    trainee: Trainee
    watch: Watch
    preview: Path | None = None

    def take_up(self) -> None:
        """Find what an earlier sitting drew."""
        pictures = sorted(self._folder.glob("*-01.png"))
        self.preview = pictures[-1] if pictures else None

    def show(self, step: int, *, bleed: bool = False) -> None:
        """Draw each prompt, with ``bleed`` also the first one that has the trigger without it."""
        sampling, trigger = self.this.config.sampling, self.this.job.trigger
        prompts = [samples.parse(line, sampler=sampling.sampler) for line in sampling.prompts]
        if not prompts:
            return
        plain = [samples.without_trigger(prompt, trigger) for prompt in prompts] if bleed else []
        with self.drawing():
            for number, prompt in enumerate(prompts, 1):
                self._draw(step, number, prompt)
            for prompt in [each for each in plain if each is not None][:1]:
                self._draw(step, len(prompts) + 1, prompt, trigger=False)

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Within, the model draws as it will with the finished LoRA, whose numbers are float32 beside it."""
        with self.trainee.arrived(), self.trainee.accelerator.autocast():
            self.trainee.network.eval()
            try:
                yield
            finally:
                self.trainee.network.train()

    @property
    def _folder(self) -> Path:
        return self.this.path / "samples"

    def _draw(self, step: int, number: int, prompt: SamplePrompt, *, trigger: bool = True) -> None:
        path = self._folder / f"step-{step:06d}-{number:02d}.png"
        try:
            contrast = samples.draw(self.trainee.model, prompt, path, clip_skip=self.this.config.model.clip_skip)
        except (ExtensionError, OSError, RuntimeError) as error:
            self.this.warn(message("A sample picture failed: {reason}.", reason=str(error).rstrip(".")))
            return
        if number == 1:
            self.preview = path
        self.this.tell(Sampled(step=step, file=path.name, prompt=prompt.text, seed=prompt.seed, trigger=trigger))
        for said in self.watch.sampled(path.name, f"{prompt.text} {prompt.seed}", contrast):
            self.this.warn(said)
