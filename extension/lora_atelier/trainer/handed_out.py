"""Sample pictures that the webui draws with its own sampler, where it keeps its model while a training goes on.

Whoever draws touches ``previews/ready`` every few seconds. The trainer then puts its adapter as it is into
``previews``, with what is to be drawn beside it, and goes on; pictures appear in ``samples``, each as a whole or not at
all. Where nobody is ready, or is no more, the trainer draws itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .. import atomic
from .samples import SAMPLERS, SamplePrompt

FOLDER, READY, SCHEMA = "previews", "ready", 1
# Whoever draws says so every two seconds; a machine that pages needs longer.
FRESH_S = 30.0
_POLL_S = 0.2


@dataclass(frozen=True)
class Wanted:
    """One picture that is to be drawn."""

    step: int
    path: Path
    prompt: SamplePrompt
    trigger: bool = True


@dataclass
class HandedOut:
    """The pictures of one run that somebody else draws; ``write_adapter`` writes what was trained as it is now."""

    run_dir: Path
    write_adapter: Callable[[Path, int], object]
    pending: list[Wanted] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where what is to be drawn lies."""
        return self.run_dir / FOLDER

    def somebody_draws(self) -> bool:
        """Whether somebody is there who draws with a model of their own."""
        try:
            return time.time() - (self.folder / READY).stat().st_mtime < FRESH_S
        except OSError:
            return False

    def hand_out(self, wanted: list[Wanted]) -> bool:
        """Let these pictures, of one step, be drawn; returns False where nobody can or the adapter can't be written."""
        if not wanted or not self.somebody_draws():
            return False
        name = f"step-{wanted[0].step:06d}"
        asked = {"schema": SCHEMA, "step": wanted[0].step, "pictures": [_asked(each) for each in wanted]}
        try:
            for each in wanted:  # of a sitting that came as far before
                each.path.unlink(missing_ok=True)
                self._failed(each).unlink(missing_ok=True)
            self.write_adapter(self.folder / f"{name}.safetensors", wanted[0].step)
            # The last file to be written: without it nothing is asked for.
            atomic.write_text(self.folder / f"{name}.json", json.dumps(asked, ensure_ascii=False) + "\n")
        except OSError:
            (self.folder / f"{name}.safetensors").unlink(missing_ok=True)
            return False
        self.pending += wanted
        return True

    def arrived(self) -> Iterator[tuple[Wanted, str]]:
        """Those that are there now, and those that could not be drawn with the reason why."""
        for wanted in list(self.pending):
            failed = self._failed(wanted)
            if wanted.path.is_file():
                self.pending.remove(wanted)
                yield wanted, ""
            elif failed.is_file():
                self.pending.remove(wanted)
                yield wanted, failed.read_text(encoding="utf-8", errors="replace").strip() or "?"

    def wait(self) -> Iterator[tuple[Wanted, str]]:
        """Those that are still to come, as they come, for as long as somebody draws."""
        while self.pending and self.somebody_draws():
            yield from self.arrived()
            time.sleep(_POLL_S)
        yield from self.arrived()

    def take_back(self) -> list[Wanted]:
        """What was not drawn by whoever was to: it is nobody's any more."""
        left, self.pending = self.pending, []
        for step in {each.step for each in left}:
            for suffix in (".json", ".safetensors"):
                (self.folder / f"step-{step:06d}{suffix}").unlink(missing_ok=True)
        return left

    def sweep(self) -> None:
        """Take back what an earlier sitting had handed out."""
        for suffix in ("json", "safetensors", "failed"):
            for path in self.folder.glob(f"*.{suffix}"):
                path.unlink(missing_ok=True)

    def _failed(self, wanted: Wanted) -> Path:
        return self.folder / f"{wanted.path.name}.failed"


def _asked(wanted: Wanted) -> dict[str, object]:
    said = asdict(wanted.prompt)
    text, negative = said.pop("text"), said.pop("negative")
    return {**said, "file": wanted.path.name, "prompt": text, "negative_prompt": negative,
            "sampler": SAMPLERS.get(wanted.prompt.sampler, "")}  # fmt: skip
