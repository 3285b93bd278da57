"""The sample pictures of a run: drawn at fixed seeds with the weights that a person would get."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..errors import ExtensionError, message
from ..events import Sampled
from . import samples
from .handed_out import HandedOut, Wanted
from .run import Run
from .trainee import Trainee
from .watch import Watch


@dataclass
class Gallery:
    """Draws the sample prompts of a run into its folder ``samples``; one that fails is only a warning.

    ``preview`` is the newest picture of the first prompt, that of an earlier sitting included. Where the webui keeps
    its model it draws them (``handed_out``), and they arrive while the training goes on.
    """

    this: Run
    trainee: Trainee
    watch: Watch
    write_adapter: Callable[[Path, int], object]
    preview: Path | None = None
    _handed_out: HandedOut = field(init=False)

    def __post_init__(self) -> None:
        self._handed_out = HandedOut(self.this.path, self.write_adapter)

    def take_up(self) -> None:
        """Find what an earlier sitting drew; what it had handed out is nobody's any more."""
        self._handed_out.sweep()
        pictures = sorted(self._folder.glob("*-01.png"))
        self.preview = pictures[-1] if pictures else None

    def show(self, step: int, *, bleed: bool = False) -> None:
        """Draw each prompt, with ``bleed`` also the shortest one that has the trigger without it."""
        sampling, trigger = self.this.config.sampling, self.this.job.trigger
        prompts = [samples.parse(line, sampler=sampling.sampler) for line in sampling.prompts]
        plain = [samples.without_trigger(prompt, trigger) for prompt in prompts] if bleed else []
        # What else a prompt says may rightly look like what was learned.
        bare = sorted((each for each in plain if each is not None), key=lambda prompt: len(prompt.text))
        shown = [*prompts, *bare[:1]]
        wanted = [
            Wanted(step, self._folder / f"step-{step:06d}-{number:02d}.png", prompt, number <= len(prompts))
            for number, prompt in enumerate(shown, 1)
        ]
        if wanted and not self._handed_out.hand_out(wanted):
            self._draw_all(wanted)

    def collect(self) -> None:
        """Tell of the pictures that somebody else has drawn in the meantime."""
        if self._handed_out.pending:
            self._take(self._handed_out.arrived())

    def finish(self, step: int) -> None:
        """Wait for those that are still to come; those of ``step``, as which the weights still are, are drawn here if
        nobody does it."""
        self._take(self._handed_out.wait())
        self._draw_all([each for each in self._handed_out.take_back() if each.step == step])

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

    def _take(self, arrived: Iterator[tuple[Wanted, str]]) -> None:
        for wanted, reason in arrived:
            if reason:
                self._failed(reason)
                continue
            try:
                with Image.open(wanted.path) as picture:
                    self._drawn(wanted, samples.contrast(picture))
            except OSError as error:
                self._failed(str(error))

    def _draw_all(self, wanted: list[Wanted]) -> None:
        if not wanted:
            return
        with self.drawing():
            for each in wanted:
                try:
                    contrast = samples.draw(
                        self.trainee.model, each.prompt, each.path, clip_skip=self.this.config.model.clip_skip
                    )
                except (ExtensionError, OSError, RuntimeError) as error:
                    self._failed(str(error))
                else:
                    self._drawn(each, contrast)

    def _failed(self, reason: str) -> None:
        self.this.warn(message("A sample picture failed: {reason}.", reason=reason.rstrip(".")))

    def _drawn(self, wanted: Wanted, contrast: float) -> None:
        prompt = wanted.prompt
        if wanted.path.stem.endswith("-01"):
            self.preview = wanted.path
        self.this.tell(
            Sampled(
                step=wanted.step, file=wanted.path.name, prompt=prompt.text, seed=prompt.seed, trigger=wanted.trigger
            )
        )
        for said in self.watch.sampled(wanted.path.name, f"{prompt.text} {prompt.seed}", contrast):
            self.this.warn(said)
