"""The helper process as others ask it: started with the first question, in the trainer's environment."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import JobError
from .environment import trainer_environment, trainer_python

TIMEOUT_S = 30.0
# The first question waits for the interpreter and the package as well.
_STARTING_S = 60.0


class Helper:
    """Asks one helper process at a time; it ends by itself, or with us.

    ``command`` replaces the interpreter and module (tests). Once it can't be started, or what it needs is missing, it
    is not tried again.
    """

    def __init__(self, command: Sequence[str] | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._command = command
        self._timeout_s = timeout_s
        self._child: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()
        self._lock = threading.Lock()
        self._asked = 0
        self.is_usable = True

    def ask(self, question: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The result that the helper gives, or ``{"error": …}``; None where there is none, or it lacks its package.

        A question that takes too long, or that the helper dies of, is an error too. Never raises.
        """
        with self._lock:
            if not self.is_usable:
                return None
            self._asked += 1
            try:
                return self._answer({**question, "id": self._asked})
            except (OSError, JobError, ValueError):
                self.close()
                self.is_usable = False
                return None

    def _answer(self, question: Mapping[str, Any]) -> Mapping[str, Any] | None:
        wait = self._timeout_s
        if self._child is None or self._child.poll() is not None:
            self._start()
            wait += _STARTING_S
        assert self._child is not None and self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(question) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:  # it ended, idle, in this very moment
            self._start()
            self._child.stdin.write(json.dumps(question) + "\n")
            self._child.stdin.flush()
        while True:
            try:
                line = self._answers.get(timeout=wait)
            except queue.Empty:
                self.close()
                return {"error": "no answer in time"}
            if not line:
                self.close()
                return {"error": "the helper ended"}
            said = json.loads(line)
            if said.get("id") == question["id"]:
                break
        if "missing" in said:
            self.is_usable = False
            self.close()
            return None
        return {"error": str(said["error"])} if "error" in said else dict(said["result"])

    def _start(self) -> None:
        self.close()
        command = self._command or [str(trainer_python()), "-m", "lora_atelier.helper"]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=trainer_environment(),
            encoding="utf-8",
            errors="replace",
            # Without this a webui without a console would show a black window.
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0) if sys.platform == "win32" else 0,
        )
        answers: queue.Queue[str] = queue.Queue()

        def listen() -> None:
            assert child.stdout is not None
            with contextlib.suppress(OSError, ValueError):
                for line in child.stdout:
                    answers.put(line)
            answers.put("")

        threading.Thread(target=listen, daemon=True).start()
        self._child, self._answers = child, answers

    def close(self) -> None:
        """End the helper, if it runs."""
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(OSError):
            child.kill()
        for stream in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                if stream is not None and not stream.closed:
                    stream.close()
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            child.wait(timeout=5)
