"""What the jobs know of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Message, Problem


@dataclass(frozen=True)
class Asked:
    """A job as an engine judges it before it starts: the contents of its two files, the model's family, our data
    folder, the checkout that the user named for it, and whether it will run on a "gpu" or the "cpu"."""

    main: Mapping[str, Any]
    dataset: Mapping[str, Any]
    family: str = ""
    data_dir: Path = Path()
    checkout: Path | None = None
    device: str = "gpu"


@dataclass(frozen=True)
class Judged:
    """What stands against running a job on an engine, and what a person should know of it."""

    problems: tuple[Problem, ...] = ()
    warnings: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Engine:
    """``module`` is run in the trainer's environment with the run's directory as its only argument: it trains, or
    starts and supervises what does. ``judge`` says what would go wrong."""

    name: str
    module: str
    judge: Callable[[Asked], Judged]
