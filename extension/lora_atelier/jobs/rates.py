"""How long a picture takes on this machine, as the runs that finished here showed; kept in ``rates.json``."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

from .. import atomic, config_files, events
from ..config import TrainConfig
from ..errors import ExtensionError
from ..rights import memorisation_cost
from .run_dir import Progress, RunDir

SCHEMA = 1
_FEWEST_VIEWS = 400


class Rates:
    """Seconds per picture seen, as measured on this machine; kept in ``rates.json``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def known(self, family: str, pixels: int, device: str) -> tuple[float, float] | None:
        """Seconds per picture seen and seconds around the training, if a run of this kind has finished here."""
        entry = self._read().get(_key(family, pixels, device))
        try:
            return (float(entry["seconds_per_view"]), float(entry["overhead_s"])) if entry else None
        except (KeyError, TypeError, ValueError):
            return None

    def learn(self, run: RunDir) -> None:
        """Take the times of a run that finished in one go; anything unreadable or unwritable teaches nothing."""
        progress = Progress(run).update()
        started, finished = progress.get(events.Started), progress.get(events.Finished)
        if started is None or finished is None or started.resumed_from or finished.train_seconds <= 0:
            return
        try:
            job, config = run.job(), config_files.read(run.path)
        except ExtensionError:
            return
        views = finished.step * views_per_step(config)
        if views < _FEWEST_VIEWS:  # samples and measurements would count for more than the steps
            return
        key = _key(job.family, pixels_of(config), "cpu" if started.device.startswith("cpu") else "gpu")
        measured = {
            "seconds_per_view": finished.train_seconds / views,
            # The test for pictures that come back is foretold by itself.
            "overhead_s": max(0.0, finished.seconds - finished.train_seconds - memorisation_cost.seconds_of(run.path)),
        }
        rates = self._read()
        before = rates.get(key, {})
        rates[key] = {name: (value + before.get(name, value)) / 2 for name, value in measured.items()}
        with contextlib.suppress(OSError):
            atomic.write_text(self.path, json.dumps({"schema": SCHEMA, "rates": rates}, indent=1) + "\n")

    def _read(self) -> dict[str, Any]:
        try:
            rates = json.loads(self.path.read_text(encoding="utf-8"))["rates"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return rates if isinstance(rates, dict) else {}


def _key(family: str, pixels: int, device: str) -> str:
    return f"{family}/{round(math.sqrt(pixels))}/{device}"


def pixels_of(config: TrainConfig) -> int:
    """Pixels of the largest pictures that are trained on."""
    sides = [dataset.resolution for dataset in config.data.datasets] or [(512, 512)]
    return max(width * height for width, height in sides)


def views_per_step(config: TrainConfig) -> int:
    """Pictures that one optimizer step sees."""
    return config.schedule.accumulation * max((d.batch_size for d in config.data.datasets), default=1)
