"""One process of sd-scripts, from its start to its end: its lines read, told to stop, its pictures taken over."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import re
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..engines.kohya_output import Translator, Wrote
from ..errors import DataError
from ..events import Event, Sampled, Stepped
from .environment import trainer_environment

_POLL_S = 0.2
_END_S = 10.0
# A bar's lines in the log would fill the disk.
_BAR_EVERY_S = 10.0
# name_000006_00_20261125204451_1.png, or e000001 for an epoch's; the last number is the seed, where one was given.
_SAMPLE = re.compile(r"_(e?)(\d{6})_(\d+)_\d{14}(?:_(\d+))?\.png$")


@dataclass
class Sitting:
    """``command`` run in ``folder``; ``tell`` gets its events, ``keep`` what it has written. ``stop`` is the file that
    ends it after a step; ``asked`` says whether someone wants that."""

    command: Sequence[str]
    folder: Path
    stop: Path
    translator: Translator
    tell: Callable[[Event], None]
    keep: Callable[[Wrote], None]
    asked: Callable[[], bool]
    samples: Callable[[], None] = lambda: None
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=400))

    def run(self) -> int:
        """Follow the process to its end and return its exit status, negative for a signal.

        Raises DataError if its loss is no number, OSError if it can't be started. It never outlives this call.
        """
        self.stop.unlink(missing_ok=True)
        child = subprocess.Popen(
            self.command,
            # A pipe that closes with us, whatever ends us: it ends then too.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env=environment(),
        )
        try:
            self._follow(child)
            return child.wait()
        finally:
            _end(child)

    def _follow(self, child: subprocess.Popen[bytes]) -> None:
        said: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(child, said), daemon=True).start()
        shown = 0.0
        while True:
            if self.asked():
                if not self.translator.steps:
                    return  # nothing was trained yet: there is nothing to keep
                self.stop.touch()
            try:
                line = said.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if line is None:
                return
            is_bar = "%|" in line
            if line.strip() and (not is_bar or time.monotonic() - shown > _BAR_EVERY_S):
                shown = time.monotonic() if is_bar else shown
                print(line, flush=True)
            # A bar leaves its line open for what is said next.
            self.tail.append(line.rpartition("]")[2] if is_bar else line)
            for event in self.translator.line(line):
                self._take(event)

    def _take(self, event: Event | Wrote) -> None:
        if isinstance(event, Wrote):
            self.keep(event)
            return
        self.tell(event)
        if isinstance(event, Stepped):
            if not math.isfinite(event.loss):
                raise DataError(
                    "The training went wrong at step {step}: its loss is no longer a number.",
                    why="The learning rate may be too high, or the precision of the computation too low.",
                    todo="Halve the learning rate, or choose bf16 or no mixed precision, and train again.",
                    step=event.step,
                )
            self.samples()


def environment(inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables of sd-scripts: as a trainer of ours has them, without our package."""
    kept = trainer_environment(dict(inherited) if inherited is not None else None)
    del kept["PYTHONPATH"]
    return kept


def take_samples(source: Path, target: Path, prompts: Sequence[str], done: int, step: int) -> Iterator[Sampled]:
    """Move the pictures that sd-scripts drew to where ours lie, under our names; ``done`` steps were made before this
    sitting, ``step`` so far."""
    for path in sorted(source.glob("*.png")):
        found = _SAMPLE.search(path.name)
        if found is None:
            continue
        # Numbered by epochs it is of now, or of before the first one.
        at = int(found[2])
        made = done + at if not found[1] or not at else step
        number = int(found[3])
        name = f"step-{made:06d}-{number + 1:02d}.png"
        target.mkdir(exist_ok=True)
        shutil.move(path, target / name)
        prompt = prompts[number].partition(" --")[0] if number < len(prompts) else ""
        yield Sampled(step=made, file=name, prompt=prompt, seed=int(found[4] or 0))


def _read(child: subprocess.Popen[bytes], said: queue.Queue[str | None]) -> None:
    """Put every line that a program prints into ``said``, and None at its end; a bar's lines end with a return."""
    assert child.stdout is not None
    rest = b""
    with contextlib.suppress(OSError, ValueError):
        while block := os.read(child.stdout.fileno(), 1 << 16):
            *lines, rest = re.split(rb"[\r\n]+", rest + block)
            for line in lines:
                said.put(line.decode("utf-8", errors="replace"))
    if rest:
        said.put(rest.decode("utf-8", errors="replace"))
    said.put(None)


def _end(child: subprocess.Popen[bytes]) -> None:
    """See to it that the process has ended."""
    if child.stdin is not None:
        with contextlib.suppress(OSError):
            child.stdin.close()
    for end in (child.terminate, child.kill):
        try:
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            end()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()
