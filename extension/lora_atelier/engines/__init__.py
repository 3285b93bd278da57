"""The programs that can do a job: our own trainer, and kohya's sd-scripts where the user has it.

An engine turns a job into files and a command, and what the program says into our events. Which process does the work
and how it is started, stopped and found again is the same for all (``jobs.process``).
"""

from __future__ import annotations

from ..errors import JobError
from . import native, sd_scripts
from .base import Engine

NAMES = ("native", "sd-scripts")


def get(name: str) -> Engine:
    """The engine of this name. Raises JobError for one that we don't know."""
    engines = {engine.name: engine for engine in (native.ENGINE, sd_scripts.ENGINE)}
    if name not in engines:
        raise JobError(
            "There is no engine “{engine}”.",
            todo="Choose one of: {engines}.",
            engine=name,
            engines=", ".join(NAMES),
        )
    return engines[name]
