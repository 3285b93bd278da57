"""The trainer's process: started so that it outlives us, stopped by a file, found again by its lock."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import engines, locking
from ..errors import AlreadyRunningError, JobError
from . import devices
from .environment import trainer_environment, trainer_python
from .run_dir import RunDir

STOP_TIMEOUT_S = 30.0
# Trainers that this very process started; only to know sooner that one has ended. Nothing depends on it.
_children: dict[Path, subprocess.Popen[bytes]] = {}


def start(run: RunDir, command: Sequence[str] | None = None, *, device: str = "") -> None:
    """Start the trainer on ``run`` in a process that goes on when this one ends; resuming is the same call.

    ``command`` replaces the interpreter and module (tests); ``device`` is the card it is to have, where there are
    several. Raises AlreadyRunningError if the run is alive, JobError
    if there is no environment or engine for it or the system refuses to start it.
    """
    if locking.is_locked(run.lock_path):
        raise AlreadyRunningError(
            "“{name}” is being trained already.", todo="Wait until it ends, or stop it.", name=run.job().name
        )
    if command is None:
        command = [str(trainer_python()), "-m", engines.get(run.job().engine).module]
    argv = [*command, str(run.path)]
    try:
        run.stop_path.unlink(missing_ok=True)
        run.mark_started()
        run.set_card(device)
        with run.log_path.open("ab") as log:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=run.path,
                env=devices.environment(trainer_environment(), device),
                **detached(sys.platform),
            )
    except OSError as error:
        with contextlib.suppress(OSError):
            run.started_path.unlink()  # nobody works on it: it is what it was before
        raise JobError(
            "The training could not be started.",
            why="{reason}.",
            todo="Check that the folder {folder} may be written to and that the disk has room.",
            reason=str(error),
            folder=str(run.path),
        ) from error
    _children[run.path] = child


def detached(platform: str) -> dict[str, Any]:
    # Without its own session or group, Ctrl-C in the webui's console would end the training too.
    if platform == "win32":
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200)
        return {"creationflags": group | getattr(subprocess, "CREATE_NO_WINDOW", 0x08000000)}
    return {"start_new_session": True}


def is_alive(run: RunDir) -> bool:
    """Whether some trainer works on this run, whoever started it."""
    return locking.is_locked(run.lock_path)


def has_exited(run: RunDir) -> bool:
    """Whether we know that the run's process has ended: true only for one that this very process started."""
    child = _children.get(run.path)
    return child is not None and child.poll() is not None


def exit_code(run: RunDir) -> int | None:
    """How the run's process ended, where this very process started it and it has ended: a signal is below 0."""
    child = _children.get(run.path)
    return child.poll() if child is not None else None


def stop(run: RunDir, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Ask the trainer to keep its state and end; one that still runs after ``timeout_s`` is terminated, and
    killed after as long again.

    Returns at once. Raises OSError when the stop file can't be written.
    """
    run.stop_path.write_text("stop\n", encoding="ascii")
    threading.Thread(target=_end, args=(run, timeout_s), name="atelier-stop", daemon=True).start()


def _end(run: RunDir, timeout_s: float) -> None:
    # First politely: a trainer that waits for something may still keep its state.
    for force in (False, True):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if has_exited(run) or (not is_alive(run) and run.path not in _children):
                return
            time.sleep(0.2)
        # A file that is gone means that the run was resumed in the meantime: then it is not ours to end.
        if not run.stop_path.exists():
            return
        terminate(run, force=force)


def terminate(run: RunDir, *, force: bool = False) -> None:
    """Tell the trainer to end, or with ``force`` end it; its last complete state stays. Harmless if there is none."""
    # Windows knows only the second way.
    number = getattr(signal, "SIGKILL", signal.SIGTERM) if force else signal.SIGTERM
    child = _children.get(run.path)
    if child is not None and child.poll() is None:
        child.send_signal(number)
        return
    pid = locking.holder(run.lock_path)
    # Read the number first: it is its holder's only if the lock is still held afterwards.
    if pid is not None and is_alive(run):
        with contextlib.suppress(OSError):
            os.kill(pid, number)
