"""Why a trainer ended that could not say so itself: told by the disk, the end of its log and its exit code."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from .. import events
from ..errors import DiskFullError, ExtensionError, Message, NotEnoughMemoryError, TrainerFailedError, message
from .environment import ROOT
from .run_dir import Progress, RunDir

# With less than this nothing that a trainer writes fits, not even its last word.
_FULL_BYTES = 1_000_000
# SIGKILL, which Windows has no name for: nobody but the system and a person sends it.
_KILLED = -9
_MEMORY = re.compile(r"^.*(?:out of memory|can't allocate memory|MemoryError|bad_alloc).*$", re.MULTILINE)
_ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception)\b.*$", re.MULTILINE)
_PACKAGE = ("ModuleNotFoundError", "ImportError")


def why_died(run: RunDir, progress: Progress, exit_code: int | None) -> ExtensionError:
    """What to tell a person of a run whose trainer is gone.

    ``exit_code`` is None where nobody knows it; below 0 it is the signal that ended the process.
    """
    if _is_full(run.path):
        return DiskFullError(
            "The disk is full, and the training ended with it.",
            why="There is no room left where {folder} lies.",
            todo="Make room, then press Resume.",
            folder=str(run.path),
        )
    tail = run.log_tail()
    said = _MEMORY.findall(tail)
    if said:
        return NotEnoughMemoryError(
            "There is not enough memory for this training.",
            why="{reason}.",
            todo="Choose a smaller batch or resolution, turn gradient checkpointing on, or close other programs.",
            reason=said[-1].strip().rstrip(".")[:200],
        )
    todo = _again(progress)
    if exit_code == _KILLED:
        return NotEnoughMemoryError(
            "The training ended without a last word.",
            why="The system killed its process, which it does when memory runs out: close other programs first.",
            todo=todo.template,
            **todo.values,
        )
    errors = _ERROR.findall(tail)
    if errors and not progress.spoke():
        return _never_spoke(errors[-1].strip().rstrip(".")[:300], tail)
    return TrainerFailedError(
        "The training ended without a last word.",
        why="Its process was ended from outside, or the computer was switched off or ran out of memory.",
        todo=todo.template,
        log_tail=tail,
        **todo.values,  # type: ignore[arg-type]  # the exit code is not among them
    )


def _again(progress: Progress) -> Message:
    saved = progress.get(events.Saved)
    if saved is not None and saved.state:
        return message("Press Resume: it goes on from step {step}.", step=saved.step)
    return message("Press Resume to start it again.")


def _never_spoke(reason: str, tail: str) -> TrainerFailedError:
    """Its program could not even begin: what it printed last says why."""
    if reason.startswith(_PACKAGE):
        return TrainerFailedError(
            "The training can't start: its environment is not complete.",
            why="{reason}.",
            todo="Type  python install.py trainer  once in {folder}, then press Resume.",
            log_tail=tail,
            reason=reason,
            folder=str(ROOT),
        )
    return TrainerFailedError(
        "The training could not be started.",
        why="{reason}.",
        todo="Its log holds the details.",
        log_tail=tail,
        reason=reason,
    )


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _FULL_BYTES
    except OSError:
        return False
