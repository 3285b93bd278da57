"""What a run tells TensorBoard or Weights & Biases, where it is asked to and the package is installed.

They hear the run's events as ``events.jsonl`` does. One that fails is dropped with a warning: curves are never worth a
run. sd-scripts' settings: ``log_with``, and ``logging_dir`` alone means TensorBoard.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import OutputConfig
from ..errors import ConfigError, message, problem
from ..events import Event, Sampled, Stepped, Validated
from .run import Run


class Tracker(ABC):
    """Takes numbers and pictures by name and step."""

    @abstractmethod
    def numbers(self, step: int, values: dict[str, float]) -> None: ...

    @abstractmethod
    def picture(self, step: int, name: str, path: Path) -> None: ...

    @abstractmethod
    def end(self) -> None: ...


class TensorBoard(Tracker):
    """Event files in a folder."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an earlier sitting told of steps that are made again is hidden.
        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step or None, flush_secs=10)  # type: ignore[no-untyped-call]

    def numbers(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as opened:
            self._writer.add_image(name, np.asarray(opened.convert("RGB")), step, dataformats="HWC")

    def end(self) -> None:
        self._writer.close()


class WandB(Tracker):
    """A run of Weights & Biases; the same one in all sittings. Without a key it stays on this machine."""

    def __init__(self, folder: Path, output: OutputConfig, run_id: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._wandb: Any = importlib.import_module("wandb")
        self._run: Any = self._wandb.init(
            project=output.log_tracker_name or "lora-atelier",
            name=output.wandb_run_name or output.name,
            dir=str(folder),
            id=run_id,
            resume="allow",
            mode="online" if os.environ.get("WANDB_API_KEY") else "offline",
        )

    def numbers(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def end(self) -> None:
        self._run.finish()


@dataclass
class Listener:
    """Hands a run's events to a tracker until that fails."""

    this: Run
    name: str
    tracker: Tracker | None

    def hear(self, event: Event) -> None:
        """Take what is a curve or a picture of an event."""
        self._try(lambda tracker: _told(tracker, event, self.this.path / "samples"))

    def end(self) -> None:
        """Write what is left to be written."""
        self._try(lambda tracker: tracker.end())

    def _try(self, do: Callable[[Tracker], None]) -> None:
        if self.tracker is None:
            return
        try:
            do(self.tracker)
        except Exception as error:  # other people's code: whatever it is, the run goes on
            self.tracker = None
            reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
            self.this.warn(message("{name} failed and is told nothing more: {reason}.", name=self.name, reason=reason))


def _told(tracker: Tracker, event: Event, samples: Path) -> None:
    if isinstance(event, Stepped):
        values = {"loss/train": event.loss, "lr": event.learning_rate, "seconds_per_step": event.seconds_per_step}
        tracker.numbers(event.step, values)
    elif isinstance(event, Validated):
        tracker.numbers(event.step, {"loss/heldout": event.loss})
    elif isinstance(event, Sampled):
        number = event.file.rpartition("-")[2].partition(".")[0]
        tracker.picture(event.step, f"sample/{number}", samples / event.file)


_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}
_NAMES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases"}


def wanted(output: OutputConfig) -> tuple[str, ...]:
    """The trackers that the settings ask for."""
    if output.log_with == "all":
        return tuple(_PACKAGES)
    if output.log_with:
        return (output.log_with,)
    return ("tensorboard",) if output.logging_dir else ()


def require_installed(output: OutputConfig) -> Iterator[str]:
    """The trackers that are to be told. Raises ConfigError where one is asked for by name and is not installed."""
    for name in wanted(output):
        if importlib.util.find_spec(_PACKAGES[name]) is not None:
            yield name
        elif output.log_with == name:
            raise ConfigError.from_problems(
                (
                    problem(
                        "output.log_with",
                        "log_with asks for {name}, and the package {package} is not in the trainer's environment. "
                        "Type  {python} -m pip install {package}  or leave log_with out: each run keeps its own "
                        "curves.",
                        name=_NAMES[name],
                        package=_PACKAGES[name],
                        python=sys.executable,
                    ),
                )
            )


def listen(this: Run, first_step: int) -> None:
    """Let the run's trackers hear its events from now on. Raises ConfigError."""
    output = this.config.output
    folder = Path(output.logging_dir) if output.logging_dir else this.path / "logs"
    folder /= f"{output.log_prefix}{this.path.name}"
    for name in require_installed(output):
        listener = Listener(this, _NAMES[name], None)
        try:
            if name == "tensorboard":
                listener.tracker = TensorBoard(folder / (output.log_tracker_name or output.name), first_step)
            else:
                listener.tracker = WandB(folder, output, this.path.name)
        except Exception as error:  # other people's code
            reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
            this.warn(message("{name} failed and is told nothing more: {reason}.", name=_NAMES[name], reason=reason))
            continue
        if name == "wandb" and not os.environ.get("WANDB_API_KEY"):
            this.warn(
                message(
                    "Weights & Biases keeps its log in {folder}: there is no WANDB_API_KEY in the environment.",
                    folder=str(folder),
                )
            )
        this.listeners.append(listener)
