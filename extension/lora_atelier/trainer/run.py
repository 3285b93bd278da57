"""One run from its directory to its adapter file, and every way it can end."""

from __future__ import annotations

import contextlib
import errno
import gc
import shutil
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .. import config_files, memory
from ..config import TrainConfig, unsupported
from ..config_files import load_toml
from ..errors import (
    AlreadyRunningError,
    DiskFullError,
    ExtensionError,
    JobError,
    Message,
    NotEnoughMemoryError,
    message,
)
from ..events import Appender, Event, Failed, Preparing, Stopped, Warned
from ..locking import FileLock

FINISHED, FAILED, STOPPED = 0, 1, 3
# No space left, and no more of a person's share of it; Windows' own number becomes the first of them.
_NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@dataclass
class Job:
    """What ``job.toml`` says that is not a training setting; ``created`` is in seconds since 1970."""

    trigger: str = ""
    whose: str = "mine"
    goal: str = "character"
    created: float = field(default_factory=time.time)

    @classmethod
    def read(cls, run_dir: Path) -> Job:
        """The job of a run; one without ``job.toml`` (written by hand) has the defaults."""
        path = run_dir / "job.toml"
        said = load_toml(path) if path.exists() else {}
        trigger, whose, goal = (str(said.get(name, getattr(cls, name))) for name in ("trigger", "whose", "goal"))
        return cls(trigger, whose, goal, float(said.get("created", 0)) or time.time())


class Listening(Protocol):
    """Someone who is told of the run as its events are."""

    def hear(self, event: Event) -> None: ...

    def end(self) -> None: ...


@dataclass
class Run:
    """The directory, what it asks for, and how it speaks and is spoken to."""

    path: Path
    config: TrainConfig
    job: Job
    events: Appender
    began: float = field(default_factory=time.monotonic)
    listeners: list[Listening] = field(default_factory=list)
    _asked_to_stop: threading.Event = field(default_factory=threading.Event)
    _prepared: float = 0.0

    def tell(self, event: Event) -> None:
        """Report an event. A full disk must not end a run that could still save its state later."""
        try:
            self.events.add(event)
        except OSError as error:
            print(f"An event was lost: {error}", file=sys.stderr)
        for listener in self.listeners:
            listener.hear(event)

    def warn(self, said: Message) -> None:
        """Report something that does not end the run."""
        print(f"Warning: {said}", flush=True)
        self.tell(Warned(message=said.to_json()))

    def preparing(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Report preparation, at most five times a second."""
        now = time.monotonic()
        if now - self._prepared > 0.2 or done in (0, total):
            self._prepared = now
            self.tell(Preparing(stage=stage, done=done, total=total))

    def stop_requested(self) -> bool:
        """Whether the file ``stop`` is there or a signal came."""
        return self._asked_to_stop.is_set() or (self.path / "stop").exists()

    def asked(self, name: str) -> bool:
        """Whether somebody asked for something by a file of this name; it is removed, so that it is done once."""
        try:
            (self.path / name).unlink()
        except OSError:
            return False
        return True

    def stop_on_signals(self) -> None:
        """Let SIGTERM and Ctrl-C ask for a stop instead of ending the process at once."""
        for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is not None:
                signal.signal(number, lambda *_: self._asked_to_stop.set())


class StopRequestedError(Exception):
    """Raised between preparations when the run is to stop before its first step."""


def run(run_dir: Path, *, dry: bool = False) -> int:
    """Train, or go on with, what ``run_dir`` describes; returns the exit status (see ``__main__``).

    A ``dry`` run makes a few steps and writes down what the whole would take.
    """
    # Paths in the configuration were made absolute by whoever wrote them; ours must not depend on the folder we are in.
    run_dir = run_dir.resolve()
    lock = FileLock(run_dir / "lock")
    if not lock.acquire():
        print(AlreadyRunningError("This training is running already.", todo="Wait until it ends, or stop it."))
        return FAILED
    _sweep(run_dir)
    events = Appender(run_dir / "events.jsonl")
    try:
        config = config_files.read(run_dir)
        problems = (*config.problems(), *unsupported(config))
        if problems:
            from ..errors import ConfigError

            raise ConfigError.from_problems(problems)
        this = Run(run_dir, config, Job.read(run_dir), events)
        this.stop_on_signals()
        return _work(this, dry=dry)
    except ExtensionError as error:
        return _fail(events, error)
    except MemoryError as error:
        return _fail(events, _out_of_memory(error))
    except Exception as error:  # the process's edge: whatever it is, the page must learn of it
        traceback.print_exc()
        return _fail(events, _unexpected(error, run_dir))
    finally:
        lock.release()


def _sweep(run_dir: Path) -> None:
    """Remove half-written files of an earlier sitting that was killed: the lock is ours, so nobody writes them now."""
    for folder in (run_dir, *(run_dir / name for name in ("state", "checkpoints", "best", "samples"))):
        for path in folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _work(this: Run, *, dry: bool) -> int:
    with memory.uncollected():
        from .session import Session, last_step
    try:
        if dry:
            from .measure import measure

            measure(this)
            return FINISHED
        session = Session.prepare(this)
        # What is there now stays to the end: it need not be looked through for garbage again and again.
        gc.freeze()
    except StopRequestedError:
        this.tell(Stopped(step=last_step(this.path)))
        return STOPPED
    try:
        return FINISHED if session.train() else STOPPED
    finally:
        for listener in this.listeners:
            listener.end()


def _fail(events: Appender, error: ExtensionError) -> int:
    print(f"Failed: {error}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):  # a full disk: the log on the console is what is left
        events.add(Failed(error=error.to_json()))
    return FAILED


def _unexpected(error: Exception, run_dir: Path) -> ExtensionError:
    text = str(error) or type(error).__name__
    if _is_out_of_memory(error, text):
        return _out_of_memory(error)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return DiskFullError("The disk is full.", todo="Make room, then press Resume: it goes on from the last state.")
    if isinstance(error, OSError):
        return JobError(
            "The training can't read or write its files.",
            why="{reason}.",
            todo="Make room on the disk or allow writing there, then press Resume.",
            reason=text,
        )
    return JobError(
        "The training ended with an error that nobody foresaw.",
        why="{kind}: {reason}.",
        todo="Its log {log} holds the details; please report them.",
        kind=type(error).__name__,
        reason=text.splitlines()[0][:300],
        log=str(run_dir / "log.txt"),
    )


def _is_out_of_memory(error: Exception, text: str) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text or "out of memory" in text


def _out_of_memory(error: BaseException) -> ExtensionError:
    return NotEnoughMemoryError(
        "There is not enough memory for this training.",
        why="{reason}.",
        todo="Choose a smaller batch or resolution, turn gradient checkpointing on, or close other programs.",
        reason=(str(error) or type(error).__name__).splitlines()[0][:200],
    )


def announce(this: Run, messages: list[Message] | tuple[Message, ...], *, most: int = 20) -> None:
    """Warn of each message, and of how many more there are."""
    for said in messages[:most]:
        this.warn(said)
    if len(messages) > most:
        this.warn(message("… and {count} more pictures with problems.", count=len(messages) - most))


def peak_memory_bytes() -> int:
    """The most memory this process has held: resident on the CPU, plus what torch reserved on a GPU."""
    peak = 0
    try:
        import resource

        # Kilobytes on Linux, bytes on macOS.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    except ImportError:  # Windows
        import psutil

        info: Any = psutil.Process().memory_info()
        peak = int(getattr(info, "peak_wset", info.rss))
    import torch

    return peak + (torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0)
