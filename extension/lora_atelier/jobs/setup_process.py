"""Runs ``install.py trainer`` for a page and writes down how far it is. Standard library only.

    python -m lora_atelier.jobs.setup_process FOLDER COMMAND...

A process of its own, on the Python of whoever serves the page: it outlives that one, so that a webui's restart ends
nothing. In FOLDER are ``progress.json`` (how far it is, replaced whole), ``log.txt`` (all that was said), ``lock``
(held as long as it works) and, from the page, ``stop``.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from .. import atomic
from ..errors import ExtensionError, JobError
from ..locking import FileLock

LOCK, STOP, LOG, PROGRESS = "lock", "stop", "log.txt", "progress.json"
# As ``install.py`` has them: it must stand alone.
REPORTS, SIGN = "LORA_ATELIER_REPORTS", "\x1e"
STAGES = ("starting", "environment", "torch", "packages", "checking")
_SCHEMA = 1
_POLL_S = 0.2
_WRITE_EVERY_S = 0.4
_PATIENCE_S = 10.0
_LAST_LINES = 12


@dataclass
class SetupProgress:
    """How far it is: ``state`` is "running", "finished", "failed" or "stopped"; ``done`` of ``total`` bytes of ``item``
    (a package, its version and size) have arrived, 0 where that is not known; ``unpacking``: the stage's all have."""

    state: str = "running"
    stage: str = "starting"
    item: str = ""
    done: int = 0
    total: int = 0
    unpacking: bool = False
    started: float = 0.0
    error: dict[str, Any] | None = None

    def write(self, folder: Path) -> None:
        """Replace the file that pages are told from. Raises OSError."""
        atomic.write_text(folder / PROGRESS, json.dumps({"schema": _SCHEMA, **asdict(self)}) + "\n")

    @classmethod
    def read(cls, folder: Path) -> SetupProgress | None:
        """What was last written; None if there is nothing that can be read."""
        try:
            said = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
            if said.pop("schema") != _SCHEMA:
                return None
            return cls(**said)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def take(self, report: dict[str, Any]) -> None:
        """Note one report of the installer's."""
        kind = report.get("kind")
        if kind == "stage" and report.get("stage") in STAGES:
            self.stage, self.item, self.done, self.total, self.unpacking = str(report["stage"]), "", 0, 0, False
        elif kind == "item":
            self.unpacking = bool(report.get("unpacking"))
            self.item, self.done, self.total = "" if self.unpacking else str(report.get("said", "")), 0, 0
        elif kind == "bytes":
            self.done, self.total = int(report.get("done", 0)), int(report.get("total", 0))
        elif kind == "failed":
            self.error = _error(report).to_json()


def _error(report: dict[str, Any]) -> ExtensionError:
    """The sentence for what an installation failed of."""
    if isinstance(report.get("error"), dict):
        return ExtensionError.from_json(report["error"])
    what = "The trainer's environment could not be completed."
    reason = report.get("reason")
    if reason == "disk":
        return JobError(what, why="The disk is full.", todo="Make room (about 10 GB), then go on here.")
    if reason == "network":
        return JobError(
            what,
            why="The packages could not be fetched.",
            todo="Check the internet connection, then go on here; packages that arrived whole are kept.",
        )
    if reason == "no torch":
        return JobError(
            what,
            why="There is no PyTorch for this system and this Python.",
            todo="Install Python 3.12 with 64 bits, then go on here.",
        )
    if reason == "python":
        return JobError(
            what,
            why="It needs Python 3.11, 3.12 or 3.13, and none was found on this machine.",
            todo="Install Python 3.12 from https://www.python.org/downloads/ (the webui goes on with its own), "
            "then go on here.",
        )
    if reason == "venv":
        return JobError(
            what,
            why="The Python that was found can't make environments: its venv module is missing.",
            todo="Install Python 3.12 from https://www.python.org/downloads/, or on Debian and Ubuntu the package "
            "python3-venv, then go on here.",
        )
    if reason == "folder":
        return JobError(
            what,
            why="Its folder can't be written to.",
            todo="Allow writing in the extension's folder, then go on here.",
        )
    return JobError(
        what, why="The installer gave up.", todo="Go on here; if it fails in the same place, the log says why."
    )


def unexplained(code: int) -> JobError:
    """The error of an installer that ended without a word."""
    return JobError(
        "The trainer's environment could not be completed.",
        why="The installer ended with code {code} and no reason.",
        todo="Go on here; if it fails in the same place, the log says why.",
        code=code,
    )


def main(arguments: Sequence[str]) -> int:
    """Let ``arguments`` (a folder, then a command) run; returns 0 if that ended well, 2 if another one is at work."""
    folder = Path(arguments[0])
    lock = FileLock(folder / LOCK)
    if not lock.acquire():
        return 2
    try:
        return _Work(folder, list(arguments[1:])).run()
    finally:
        lock.release()


class _Work:
    def __init__(self, folder: Path, command: list[str]) -> None:
        self._folder, self._command = folder, command
        self._progress = SetupProgress(started=time.time())
        self._written, self._is_new = 0.0, False

    def run(self) -> int:
        self._progress.write(self._folder)
        environment = {**os.environ, REPORTS: "1", "PYTHONUNBUFFERED": "1"}
        with (self._folder / LOG).open("a", encoding="utf-8") as log:
            child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=os.name != "nt",
            )
            was_stopped = self._follow(child, log)
            code = child.wait()
        progress = self._progress
        if was_stopped:
            progress.state, progress.error = "stopped", None
        elif code == 0:
            progress.state, progress.error = "finished", None
        else:
            progress.state = "failed"
            progress.error = progress.error or unexplained(code).to_json()
        progress.write(self._folder)
        return code

    def _follow(self, child: subprocess.Popen[bytes], log: IO[str]) -> bool:
        """Take what the child says until it ends; return whether it was ended because somebody asked for it."""
        said: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=_read, args=(child, said), daemon=True).start()
        deadline = 0.0
        while True:
            if not deadline and (self._folder / STOP).exists():
                _end(child, force=False)
                deadline = time.monotonic() + _PATIENCE_S
            elif deadline and time.monotonic() > deadline:
                _end(child, force=True)
                deadline = time.monotonic() + _PATIENCE_S
            try:
                line = said.get(timeout=_POLL_S)
            except queue.Empty:
                self._write()
                continue
            if line is None:
                return bool(deadline)
            self._take(line.decode("utf-8", "replace").rstrip("\r\n"), log)

    def _take(self, line: str, log: IO[str]) -> None:
        if not line.startswith(SIGN):
            log.write(line + "\n")
            log.flush()
            return
        before = self._progress.stage, self._progress.item
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            self._progress.take(json.loads(line[len(SIGN) :]))
        self._is_new = True
        if (self._progress.stage, self._progress.item) != before or time.monotonic() - self._written > _WRITE_EVERY_S:
            self._write()

    def _write(self) -> None:
        if self._is_new:
            self._is_new, self._written = False, time.monotonic()
            with contextlib.suppress(OSError):  # a full disk: the installer will say so itself
                self._progress.write(self._folder)


def _read(child: subprocess.Popen[bytes], said: queue.Queue[bytes | None]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        said.put(line)
    said.put(None)


def _end(child: subprocess.Popen[bytes], *, force: bool) -> None:
    """End the installer with the pip that it runs."""
    if os.name == "nt":
        kill = ["taskkill", "/T", "/F", "/PID", str(child.pid)]
        subprocess.run(kill, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return
    with contextlib.suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL if force else signal.SIGTERM)


def log_tail(folder: Path, lines: int = _LAST_LINES) -> str:
    """The last lines that were said; empty where there are none."""
    try:
        text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(re.sub(r"[^\S\n]+$", "", text, flags=re.MULTILINE).splitlines()[-lines:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
