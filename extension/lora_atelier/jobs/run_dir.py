"""The directory of one training run: its files, what was asked for, and what has become of it.

It is the only state there is. The trainer knows the same file names and no code of ours.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from .. import atomic, events, locking
from ..config_files import CONFIG, DATASET, dump_toml, load_toml
from ..errors import JobError

SCHEMA = 1
# A trainer takes its lock in its first second; only a machine under heavy load needs longer.
STARTING_S = 60.0

Status = Literal["waiting", "running", "stopped", "finished", "failed", "died"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What was asked for, as ``job.toml`` says it; ``plan`` is what was foretold then (see ``estimate``).

    ``engine`` is one of ``engines.NAMES``, ``checkout`` the folder of sd-scripts that was named for it, if any.
    """

    id: str
    name: str
    goal: str
    trigger: str
    whose: str
    lora_dir: str
    base_model: str
    pictures: str
    created: float
    quality: str = "good"
    family: str = ""
    engine: str = "native"
    checkout: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def write(self, path: Path) -> None:
        """Write the job to ``path``. Raises OSError."""
        atomic.write_text(path, dump_toml(dataclasses.asdict(self)))

    @staticmethod
    def read(path: Path) -> Job:
        """The job that ``write`` wrote. Raises JobError if it is of a newer version or incomplete, ConfigError if
        the file can't be read."""
        data = load_toml(path)
        if data.get("schema", 1) > SCHEMA:
            raise JobError(
                "The training “{id}” can't be shown.",
                why="It was made by a newer version of LoRA Atelier.",
                todo="Update the extension.",
                id=path.parent.name,
            )
        known = {f.name for f in fields(Job)}
        try:
            return Job(**{key: value for key, value in data.items() if key in known})
        except TypeError as error:
            raise JobError(
                "The training “{id}” can't be shown.",
                why="Its job.toml is incomplete: {reason}.",
                todo="Start the training again.",
                id=path.parent.name,
                reason=str(error),
            ) from error


@dataclass(frozen=True)
class RunDir:
    """Where the files of one run lie."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def job_path(self) -> Path:
        return self.path / "job.toml"

    @property
    def config_path(self) -> Path:
        return self.path / CONFIG

    @property
    def dataset_path(self) -> Path:
        return self.path / DATASET

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    @property
    def samples_dir(self) -> Path:
        return self.path / "samples"

    @property
    def best_dir(self) -> Path:
        return self.path / "best"

    @property
    def state_dir(self) -> Path:
        return self.path / "state"

    @property
    def pictures_dir(self) -> Path:
        return self.path / "pictures"

    @property
    def rights_path(self) -> Path:
        return self.path / "rights.jsonl"

    @property
    def lock_path(self) -> Path:
        return self.path / "lock"

    @property
    def stop_path(self) -> Path:
        return self.path / "stop"

    @property
    def started_path(self) -> Path:
        return self.path / "started"

    @property
    def queued_path(self) -> Path:
        """There as long as the run waits for its turn; holds its place in the queue."""
        return self.path / "queued"

    @property
    def paused_path(self) -> Path:
        """There as long as the run is paused, which holds the queue."""
        return self.path / "paused"

    @property
    def card_path(self) -> Path:
        """Names the graphics card that the run was last given, where there are several."""
        return self.path / "card"

    def card(self) -> str:
        """The graphics card that the run was last given; empty where there was nothing to choose from."""
        try:
            return self.card_path.read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def set_card(self, device: str) -> None:
        """Note which card the run is given; none if ``device`` is empty. Raises OSError."""
        if device:
            atomic.write_text(self.card_path, f"{device}\n")
        else:
            self.card_path.unlink(missing_ok=True)

    @property
    def sample_now_path(self) -> Path:
        """Asks the trainer for samples after this step; it removes the file when it begins with them."""
        return self.path / "sample-now"

    @property
    def save_now_path(self) -> Path:
        """Asks the trainer for a checkpoint after this step; it removes the file when it begins with it."""
        return self.path / "save-now"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    def job(self) -> Job:
        """What was asked for. Raises JobError or ConfigError."""
        return Job.read(self.job_path)

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the trainer's output; empty when there is none."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - 16_384))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def mark_started(self) -> None:
        """Note that a trainer was asked to start now, before it can say so itself. Raises OSError."""
        try:
            said = self.events_path.stat().st_size
        except FileNotFoundError:
            said = 0
        atomic.write_text(self.started_path, f"{time.time()} {said}\n")

    def started(self) -> tuple[float, int]:
        """When a trainer was last asked to start, in seconds since 1970 (0 if never), and how many bytes of events
        there were then: what comes behind them is its own."""
        try:
            at, said = self.started_path.read_text(encoding="ascii").split()
            return float(at), int(said)
        except (OSError, ValueError):
            return 0.0, 0


class Progress:
    """What a run has reported so far; ``update`` reads only what is new since the last call."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.latest: dict[str, events.Timed] = {}
        self.last: events.Timed | None = None
        self.files: list[str] = []
        self._offset = 0

    def update(self) -> Progress:
        """Read the new events and return itself."""
        new, offset = events.read(self.run.events_path, self._offset, every_step=False)
        if offset < self._offset:  # the file is gone or was begun anew
            self.latest, self.last, self.files = {}, None, []
            new, offset = events.read(self.run.events_path, every_step=False)
        self._offset = offset
        for timed in new:
            self.latest[timed.event.kind] = timed
            self.last = timed
            if isinstance(timed.event, events.Saved | events.Finished) and timed.event.file:
                self.files.append(timed.event.file)
        return self

    def get(self, kind: type[Any]) -> Any:
        """The latest event of one class, or None."""
        timed = self.latest.get(kind.kind)
        return timed.event if timed else None

    def spoke(self) -> bool:
        """Whether the trainer that was started last has said anything."""
        return self.last is not None and self._offset > self.run.started()[1]

    def ended(self) -> events.Timed | None:
        """The event that ended the run, unless it was started again since."""
        if self.last is None or not isinstance(self.last.event, events.Stopped | events.Failed | events.Finished):
            return None
        return self.last if self.spoke() else None

    def status(self, *, exited: bool = False) -> Status:
        """What has become of the run. Alive means locked; ``exited`` says that its process is known to have ended."""
        if locking.is_locked(self.run.lock_path):
            return "running"
        # Its last words may have come between our reading and its end.
        ended = self.update().ended()
        if ended is not None and isinstance(ended.event, events.Stopped | events.Failed | events.Finished):
            kinds: dict[str, Status] = {"stopped": "stopped", "failed": "failed", "finished": "finished"}
            return kinds[ended.event.kind]
        started, _ = self.run.started()
        if not started and self.last is None:
            return "waiting"
        # Also one that was asked to stop at once: another must not start beside a process that is still on its way.
        if not exited and not self.spoke() and 0 <= time.time() - started < STARTING_S:
            return "running"
        if self.run.stop_path.exists():
            return "stopped"  # it did not stop by itself in time and was ended
        return "died"


def status(run: RunDir | Path) -> Status:
    """What has become of the run in this directory, told by its files and its lock alone."""
    return Progress(run if isinstance(run, RunDir) else RunDir(run)).status()
