"""The trainer's environment as a page sees it: whether it is there, making it in a process of its own, what is wrong.

``install.py`` does the work (``setup_process`` runs it); nothing is remembered here that is not on disk. Standard
library only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import locking
from ..errors import AlreadyRunningError, ExtensionError, JobError, Message, message
from . import setup, setup_process
from .doctor import Finding, Level
from .environment import PACKAGE_PARENT, ROOT, trainer_python
from .process import detached
from .setup_process import LOCK, LOG, PROGRESS, SIGN, STOP, SetupProgress

# "missing": nobody has tried yet; "died": it ended without a word, as when the machine was switched off.
State = Literal["ready", "missing", "running", "failed", "stopped", "died"]
FOLDER = "environment"
_DOCTOR_TIMEOUT_S = 240.0
_LEVELS: tuple[Level, ...] = ("ok", "warning", "problem")
# An embedded Python (webuis for Windows have one) reads no PYTHONPATH.
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from lora_atelier.jobs import setup_process; sys.exit(setup_process.main(sys.argv[1:]))"
)
# What a webui sets for its own Python and its own packages.
_SCRUBBED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "COMMANDLINE_ARGS", "__PYVENV_LAUNCHER__")


@dataclass(frozen=True)
class SetupView:
    """How the environment stands; ``progress`` is of the last attempt, ``log`` its last lines where it failed."""

    state: State
    progress: SetupProgress
    error: ExtensionError | None = None
    log: str = ""


class TrainerSetup:
    """The environment in ``root/.venv``; what is written while it is made is in ``data_dir/environment``."""

    def __init__(
        self, data_dir: Path, *, for_webui: bool = False, root: Path = ROOT, command: Sequence[str] | None = None
    ) -> None:
        """``for_webui`` says that this Python is a webui's, whose PyTorch may be used; ``command`` stands for
        ``install.py`` and its words (tests)."""
        self._folder = data_dir / FOLDER
        self._runs = data_dir / "runs"
        self._root = root
        webui = ["--webui", sys.executable] if for_webui else []
        self._command = [*(command or [sys.executable, str(root / "install.py")])]
        self._webui = webui
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def view(self) -> SetupView:
        """How the environment stands now."""
        progress = SetupProgress.read(self._folder) or SetupProgress(state="missing")
        if self._is_working():
            return SetupView("running", progress)
        if self.is_ready():
            return SetupView("ready", progress)
        if progress.state == "failed" and progress.error is not None:
            return SetupView("failed", progress, ExtensionError.from_json(progress.error), self.log_tail())
        if progress.state == "stopped":
            return SetupView("stopped", progress)
        # It says that it is complete and is not, or that it is at work and nobody is.
        return SetupView("missing" if progress.state == "missing" else "died", progress)

    def is_ready(self) -> bool:
        """Whether a training could start."""
        try:
            trainer_python(self._root)
        except JobError:
            return False
        return True

    def log_tail(self) -> str:
        """The last lines that the installer said."""
        return setup_process.log_tail(self._folder)

    def start(self) -> None:
        """Begin, or go on where the last attempt ended. Raises AlreadyRunningError, JobError."""
        with self._lock:
            if self._is_working():
                raise AlreadyRunningError("The environment is being made already.")
            setup.refuse_while_training(self._runs)
            self._refuse_full_disk()
            command = [sys.executable, "-c", _PROGRAM, str(PACKAGE_PARENT), str(self._folder)]
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                for name in (STOP, PROGRESS, LOG):
                    (self._folder / name).unlink(missing_ok=True)
                SetupProgress().write(self._folder)
                # Until it holds its lock the page must not take it for dead.
                self._child = subprocess.Popen(
                    [*command, *self._command, "trainer", *self._webui],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=self._folder,
                    env=_environment(),
                    **detached(sys.platform),
                )
            except OSError as error:
                raise JobError(
                    "The environment can't be made.",
                    why="{reason}.",
                    todo="Check that the folder {folder} may be written to and that the disk has room.",
                    reason=error.strerror or str(error),
                    folder=str(self._folder),
                ) from error

    def stop(self) -> None:
        """Ask it to end; what has arrived is kept. Returns at once; harmless where nothing is at work."""
        if self._is_working():
            (self._folder / STOP).write_text("stop\n", encoding="ascii")

    def examine(self) -> list[Finding]:
        """What ``install.py doctor`` finds; takes some seconds. Raises JobError."""
        try:
            done = subprocess.run(
                [*self._command, "doctor", *self._webui],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_DOCTOR_TIMEOUT_S,
                env={**_environment(), setup_process.REPORTS: "1"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise JobError("The environment can't be examined.", why="{reason}.", reason=str(error)) from error
        # Not ``splitlines``, for which the sign is the end of a line.
        lines = [line.rstrip() for line in done.stdout.decode("utf-8", "replace").split("\n") if line.strip()]
        found = [each for line in lines if line.startswith(SIGN) and (each := _finding(line)) is not None]
        if not found:
            raise JobError(
                "The environment can't be examined.",
                why="{reason}",
                todo="Type  python install.py doctor  in {folder}.",
                reason=lines[-1] if lines else "-",
                folder=str(self._root),
            )
        return found

    def _is_working(self) -> bool:
        if locking.is_locked(self._folder / LOCK):
            return True
        # Started by us just now, and not yet at its lock; once it has ended the lock is all that counts.
        return self._child is not None and self._child.poll() is None

    def _refuse_full_disk(self) -> None:
        least_bytes = 2_000_000_000
        try:
            free = shutil.disk_usage(self._root).free
        except OSError:
            return
        if free < least_bytes:
            raise JobError(
                "The disk has {free} GB left; the environment needs at least {needed} GB.",
                todo="Make room first.",
                free=round(free / 1e9, 1),
                needed=round(least_bytes / 1e9),
            )


def _environment() -> dict[str, str]:
    """Our environment variables without what belongs to the webui's Python. Pip's own sources are the person's."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in _SCRUBBED and not name.upper().startswith("UV_")
    }


def _finding(line: str) -> Finding | None:
    try:
        told: dict[str, Any] = json.loads(line[len(SIGN) :])
        if told.get("kind") != "finding" or told["level"] not in _LEVELS:
            return None
        return Finding(told["level"], Message.from_json(told["said"]), Message.from_json(told["mend"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def sentence(view: SetupView) -> Message:
    """What to say of it in one sentence; nothing where all is well or its error says it."""
    if view.state == "missing":
        return message(
            "LoRA Atelier trains with packages of its own, so that the webui's are never touched. They are not "
            "installed yet: 1 to 5 GB are fetched once; PyTorch is taken from the webui where that can be used."
        )
    if view.state == "stopped":
        return message("Stopped. Packages that arrived whole are kept.")
    if view.state == "died":
        return message(
            "It ended unexpectedly, as when the machine is switched off. Packages that arrived whole are kept."
        )
    return Message("")
