"""A run shown on a console: one line that moves where there is a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

from ..errors import ExtensionError, JobError
from .run_dir import RunDir
from .service import Jobs
from .view import RunView

_WIDTH = 24
_POLL_S = 0.25


@dataclass
class Bar:
    """``title [####....] done/total note``; rewritten in place on a terminal, else said at each tenth."""

    title: str
    total: int
    out: TextIO = field(default_factory=lambda: sys.stderr)
    _said: str = field(default="", repr=False)
    _tenth: int = field(default=-1, repr=False)

    def show(self, done: int, note: str = "") -> None:
        """Say that ``done`` of the total is done."""
        share = min(1.0, done / self.total) if self.total else 0.0
        bar = "#" * round(share * _WIDTH)
        line = f"{self.title} [{bar:.<{_WIDTH}}] {done}/{self.total} {note}".rstrip()
        if line == self._said:
            return
        if self.out.isatty():
            self.out.write("\r" + line.ljust(len(self._said)))
            self.out.flush()
        elif int(share * 10) != self._tenth:
            print(line, file=self.out, flush=True)
        self._said, self._tenth = line, int(share * 10)

    def close(self) -> None:
        """End the line."""
        if self._said and self.out.isatty():
            self.out.write("\n")
            self.out.flush()
        self._said = ""


def follow(jobs: Jobs, run: RunDir, out: TextIO | None = None) -> RunView:
    """Show a started run until it ends, and return what has become of it.

    Raises its error if it failed or died. KeyboardInterrupt passes through; the run goes on then.
    """
    out = out or sys.stderr
    bar, stage = Bar("", 1, out), ""
    try:
        while True:
            view = jobs.view(run)
            total = view.steps if view.stage == "training" else view.stage_total
            if view.stage and view.stage != stage:
                bar.close()
                stage, bar = view.stage, Bar(_title(view.stage), total, out)
                if stage != "training" and not total:
                    print(f"{_title(stage)} ...", file=out, flush=True)
            if stage == "training" and view.status == "running":
                bar.show(view.step, _note(view))
            elif total:
                bar.show(view.stage_done)
            if view.status != "running":
                if view.status == "finished":
                    bar = bar if stage == "training" else Bar(_title("training"), view.steps, out)
                    bar.show(view.step, _note(view))
                break
            time.sleep(_POLL_S)
    finally:
        bar.close()
    if view.error is not None:
        raise view.error
    return view


def _title(stage: str) -> str:
    return f"  {stage:<10}"


def _note(view: RunView) -> str:
    loss = f"loss {view.loss:.4f}" if view.loss is not None else ""
    if not view.seconds_left:
        return loss
    minutes, seconds = divmod(round(view.seconds_left), 60)
    return f"{loss}, {minutes}:{seconds:02d} left"


def stop_and_wait(jobs: Jobs, run: RunDir, timeout_s: float | None = None) -> RunView:
    """Stop a run and return how it stands when it has ended. Raises JobError if it does not end in time: by itself, or
    ended after that."""
    timeout_s = timeout_s or 2.2 * jobs.stop_timeout_s(run)
    try:
        jobs.stop(run)
    except ExtensionError:
        return jobs.view(run)  # it ended by itself just now
    deadline = time.monotonic() + timeout_s
    while (view := jobs.view(run)).status == "running":
        if time.monotonic() > deadline:
            raise JobError("The training does not stop.", todo="Its process can be ended without harm.")
        time.sleep(_POLL_S)
    return view
