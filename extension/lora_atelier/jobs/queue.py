"""Runs that wait for their turn, one after the other on each card: their order, and the thread that starts the next.

Nothing is remembered here that is not on disk. A waiting run has a file ``queued`` in its directory that holds its
place; one that was paused has a file ``paused``, and as long as there is one, the queue holds, because whoever pauses
wants the machine for something else. Several processes on one data folder are harmless: one of them starts runs.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import atomic
from ..errors import ExtensionError, JobError
from ..events import Appender, Failed
from ..locking import FileLock
from .forms import JobForm
from .run_dir import RunDir
from .service import Jobs

_POLL_S = 1.0
_log = logging.getLogger(__name__)

# Told whether a training goes on where the host draws, whenever that changes and at the beginning: the host frees its
# memory then. Where it answers False to the question whether one may start, that is asked again a second later.
OnBusy = Callable[[bool], bool | None]


class Queue:
    """The waiting runs of ``jobs``. ``start`` lets a thread see to them; without it ``tick`` does when it is called."""

    def __init__(self, jobs: Jobs, on_busy: OnBusy | None = None, on_end: Callable[[], None] | None = None) -> None:
        """``on_end`` is told whenever a run has ended, whoever started it."""
        self.jobs = jobs
        self._on_busy, self._on_end = on_busy, on_end
        self._busy: bool | None = None
        self._going: frozenset[Path] = frozenset()
        # Whether the next run waits for nothing but a picture that is being drawn.
        self.waits_for_picture = False
        self._driver = FileLock(jobs.data_dir / "queue.lock")
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------------------------------- the order

    def waiting(self) -> list[RunDir]:
        """The runs that wait for their turn, the next one first."""
        found = []
        with contextlib.suppress(OSError):
            for path in self.jobs.runs_dir.glob("*/queued"):
                with contextlib.suppress(OSError, ValueError):
                    found.append((float(path.read_text(encoding="ascii")), path.parent.name, RunDir(path.parent)))
        return [run for _, _, run in sorted(found, key=lambda each: each[:2]) if run.job_path.is_file()]

    def is_held(self) -> bool:
        """Whether a paused run holds the queue."""
        return any(view.paused for view in self.jobs.list())

    def submit(self, form: JobForm) -> RunDir:
        """Make a run of a form and put it at the end. It starts now if nothing else does.

        What it will train on is decided now: a later change of the pictures' captions in the page, of the form or of
        the recipe changes nothing in it. Raises as ``Jobs.create`` does, and JobError where it can't be started at all.
        """
        with self._lock:
            self.jobs.require_trainer()
            return self.add(self.jobs.create(form), is_new=True)

    def add(self, run: RunDir, *, first: bool = False, is_new: bool = False) -> RunDir:
        """Put a run at the end, or at the front; start it now if nothing else is going on. Raises JobError.

        ``is_new``: it was made for this, and goes again if it can't be started.
        """
        with self._lock:
            run.job()  # says so if it can't be read
            with contextlib.suppress(OSError):
                run.paused_path.unlink(missing_ok=True)
            order = [each for each in self.waiting() if each.path != run.path]
            self._write([run, *order] if first else [*order, run])
            if order and not first:
                self._wake.set()
                return run
            try:
                self._start_next(loud=True)
            except ExtensionError:
                self.remove(run)
                if is_new:
                    # Nobody asked for a run that waits; without this its name would count as taken.
                    shutil.rmtree(run.path, ignore_errors=True)
                raise
            return run

    def remove(self, run: RunDir) -> None:
        """Take a run out of the queue; its directory stays, so that it can be started later."""
        with self._lock, contextlib.suppress(OSError):
            run.queued_path.unlink(missing_ok=True)

    def move(self, run: RunDir, to: int) -> None:
        """Give a waiting run the place ``to``, 0 for the next. Raises JobError if it does not wait."""
        with self._lock:
            order = self.waiting()
            if run.path not in [each.path for each in order]:
                raise JobError("This training does not wait any more.", todo="Reload the page.")
            rest = [each for each in order if each.path != run.path]
            at = max(0, min(to, len(rest)))
            self._write([*rest[:at], run, *rest[at:]])

    def _write(self, order: Sequence[RunDir]) -> None:
        try:
            for place, run in enumerate(order):
                atomic.write_text(run.queued_path, f"{place}\n")
        except OSError as error:
            raise JobError(
                "The queue could not be written.",
                why="{reason}.",
                todo="Make room on the disk or allow writing there, then try again.",
                reason=error.strerror or str(error),
            ) from error

    # ------------------------------------------------------------------------------------------- pause, resume

    def pause(self, run: RunDir) -> None:
        """Let a run keep its state and end, so that its memory is free, and hold the queue. Raises JobError."""
        with self._lock:
            self.jobs.stop(run)
            with contextlib.suppress(OSError):
                atomic.write_text(run.paused_path, "paused\n")

    def stop(self, run: RunDir) -> None:
        """Let a running run keep its state and end, or take a waiting one out; the queue goes on. Raises JobError."""
        with self._lock:
            if run.queued_path.exists():
                self.remove(run)
                return
            if run.paused_path.exists():
                run.paused_path.unlink(missing_ok=True)
                if self.jobs.view(run).status != "running":
                    return
            self.jobs.stop(run)

    def resume(self, run: RunDir) -> None:
        """Let a run go on: now, or as the next one where another is going on. Raises JobError."""
        with self._lock:
            self.jobs.require_resumable(run)
            self.add(run, first=True)

    # ------------------------------------------------------------------------------------------- its thread

    def start(self) -> None:
        """Begin to see to the queue in a thread; harmless when it does already."""
        if self._thread is None or not self._thread.is_alive():
            self._ended.clear()
            self._thread = threading.Thread(target=self._drive, name="atelier-queue", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """End the thread; what runs goes on, and what waits waits for the next start."""
        self._ended.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._driver.release()

    def _drive(self) -> None:
        while not self._ended.is_set():
            try:
                self.tick()
            except Exception:  # the thread's edge: the next tick tries again
                _log.exception("the queue could not be seen to")
            self._wake.wait(_POLL_S)
            self._wake.clear()

    def tick(self) -> None:
        """Start the next run if its turn has come."""
        with self._lock:
            try:
                if self._driver.acquire():
                    self._start_next()
            except OSError as error:
                _log.warning("the queue's lock can't be taken: %s", error)
            self._tell()

    def _start_next(self, *, loud: bool = False) -> None:
        """Start runs as long as there are cards for them."""
        self.waits_for_picture = False
        for run in self.waiting():
            device = self.jobs.free_device()
            if device is None or self.is_held():
                return
            if device == self.jobs.devices[-1] and not self._make_room():
                self.waits_for_picture = True
                return
            self._start(run, loud=loud)

    def _start(self, run: RunDir, *, loud: bool) -> None:
        try:
            self.jobs.start(run)
        except ExtensionError as error:
            if loud:
                raise
            # Nobody is there to hear it: the run itself says it, and the next one has its turn.
            with contextlib.suppress(OSError):
                run.mark_started()
                Appender(run.events_path).add(Failed(error=error.to_json()))
        self.remove(run)

    def _make_room(self) -> bool:
        """Let the host make room for a run; returns whether it has."""
        if self._busy or self._on_busy is None:
            return True
        if self._on_busy(True) is False:
            return False
        self._busy = True
        return True

    def _tell(self) -> None:
        """Tell what has changed since the last time."""
        running = self.jobs.all_running()
        going = frozenset(view.run.path for view in running)
        ended, self._going = self._going - going, going
        if self._on_end is not None and ended:
            self._on_end()
        if self._on_busy is None:
            return
        busy = bool(running) and any(view.card not in self.jobs.devices[:-1] for view in running)
        if busy != self._busy and self._on_busy(busy) is not False:
            self._busy = busy
