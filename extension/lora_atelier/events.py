"""What a training run reports: one JSON object a line in ``events.jsonl``, only ever appended."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Started:
    """The trainer is alive: how many steps it will make, from which step, on what device, from how many pictures.

    ``steps_per_epoch`` is 0 where the program does not say it.
    """

    kind: ClassVar[str] = "started"
    steps: int
    resumed_from: int = 0
    pictures: int = 0
    device: str = "cpu"
    steps_per_epoch: int = 0


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """Work before the first step: ``stage`` is "model", "pictures", "latents", "captions" or "samples"."""

    kind: ClassVar[str] = "preparing"
    stage: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """Progress after ``step`` of ``steps``; ``loss`` is the mean since the last such event."""

    kind: ClassVar[str] = "stepped"
    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds_per_step: float
    seconds_left: float
    peak_memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Validated:
    """Loss on the held-out pictures with fixed noise and timesteps."""

    kind: ClassVar[str] = "validated"
    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A picture made in between; ``file`` lies in the run's ``samples`` folder.

    ``trigger`` is false where the trigger word was taken out of the prompt: what was learned should not be there.
    """

    kind: ClassVar[str] = "sampled"
    step: int
    file: str
    prompt: str
    seed: int
    trigger: bool = True


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint: the adapter's file name, and the state folder's ("" if only the adapter was written)."""

    kind: ClassVar[str] = "saved"
    step: int
    file: str
    state: str = ""


@dataclass(frozen=True, kw_only=True)
class Best:
    """The lowest loss so far on the held-out pictures; ``file`` is the adapter of that step, in the folder ``best``."""

    kind: ClassVar[str] = "best"
    step: int
    loss: float
    file: str


@dataclass(frozen=True, kw_only=True)
class Warned:
    """Something a person should know that does not end the run: a message as ``Message.to_json`` gives it."""

    kind: ClassVar[str] = "warned"
    message: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The run was asked to stop and kept its state at ``step``."""

    kind: ClassVar[str] = "stopped"
    step: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The run ended with an error, as ``ExtensionError.to_json`` gives it."""

    kind: ClassVar[str] = "failed"
    error: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run is complete: the adapter's path, its tensor hash, and what it cost."""

    kind: ClassVar[str] = "finished"
    step: int
    file: str
    model_hash: str
    seconds: float
    train_seconds: float
    peak_memory_bytes: int


Event = Started | Preparing | Stepped | Validated | Sampled | Saved | Best | Warned | Stopped | Failed | Finished
KINDS: dict[str, type[Any]] = {
    cls.kind: cls
    for cls in (Started, Preparing, Stepped, Validated, Sampled, Saved, Best, Warned, Stopped, Failed, Finished)
}
_FIELDS = {kind: frozenset(f.name for f in fields(cls)) for kind, cls in KINDS.items()}


@dataclass(frozen=True)
class Timed:
    """An event and when it happened, in seconds since 1970."""

    at: float
    event: Event


def to_line(event: Event, at: float) -> str:
    """The event as one line of JSON, with its newline."""
    return json.dumps({"schema": SCHEMA, "at": round(at, 3), "kind": event.kind, **asdict(event)}) + "\n"


def from_line(line: str) -> Timed | None:
    """The event that ``to_line`` wrote; None for a kind or schema that this version does not know.

    Fields it does not know are dropped, so that a newer trainer can be followed. Raises ValueError for a line
    that is no event at all.
    """
    data = json.loads(line)
    if not isinstance(data, dict) or "kind" not in data:
        raise ValueError("not an event")
    cls = KINDS.get(data["kind"])
    if cls is None or data.get("schema", 1) > SCHEMA:
        return None
    known = _FIELDS[data["kind"]]
    try:
        return Timed(float(data.get("at", 0.0)), cls(**{k: v for k, v in data.items() if k in known}))
    except TypeError as error:
        raise ValueError(str(error)) from error


@dataclass
class Appender:
    """Appends events to a file, one line each; a line is written in one call, so readers never see half of one."""

    path: Path
    _repaired: bool = field(default=False, repr=False)

    def add(self, event: Event) -> None:
        """Append ``event`` with the present time. Raises OSError, for example when the disk is full."""
        line = to_line(event, time.time())
        if not self._repaired:
            self._end_torn_line()
            self._repaired = True
        with self.path.open("ab") as file:
            file.write(line.encode("utf-8"))

    def _end_torn_line(self) -> None:
        # A trainer that was killed in the middle of a write leaves half a line; ours must not be glued to it.
        try:
            with self.path.open("rb") as file:
                file.seek(0, os.SEEK_END)
                if file.tell() == 0:
                    return
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
        except FileNotFoundError:
            return
        if torn:
            with self.path.open("ab") as file:
                file.write(b"\n")


def read(path: Path, since: int = 0, *, every_step: bool = True) -> tuple[list[Timed], int]:
    """The whole events behind byte ``since``, and the offset to ask from next.

    A line that is still being written is left for the next call; one that was torn by a kill is passed over.
    A file that does not exist has no events. Without ``every_step`` only the last of steps in a row is read, which
    takes a hundredth of the time.
    """
    try:
        with path.open("rb") as file:
            file.seek(since)
            data = file.read()
    except FileNotFoundError:
        return [], 0
    whole = data.rfind(b"\n") + 1
    events = []
    lines = data[:whole].splitlines()
    for number, line in enumerate(lines):
        if not every_step and _is_step(line) and number + 1 < len(lines) and _is_step(lines[number + 1]):
            continue
        try:
            timed = from_line(line.decode("utf-8"))
        except ValueError:
            continue
        if timed is not None:
            events.append(timed)
    return events, since + whole


def _is_step(line: bytes) -> bool:
    # As ``to_line`` writes it, before anything that a person typed.
    return b'"kind": "stepped"' in line[:80]
