"""The graphics cards that trainings may have, one training each."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache

# What says to CUDA which cards there are; the trainer's process is given one of them by it.
VISIBLE = "CUDA_VISIBLE_DEVICES"
_TIMEOUT_S = 20.0


def devices(host_index: int = 0) -> tuple[str, ...]:
    """Names for ``VISIBLE``, one for each card; the host's own, its number ``host_index``, is the last.

    One empty name where there is nothing to choose from: a processor, one card, or cards of a kind that we can't tell
    apart.
    """
    found = _found(os.environ.get(VISIBLE, ""))
    if len(found) < 2:
        return ("",)
    host = found[host_index] if 0 <= host_index < len(found) else found[0]
    return (*(name for name in found if name != host), host)


def number(device: str) -> int:
    """The card's number for a person, counted from 1; 0 where there is nothing to choose from."""
    found = _found(os.environ.get(VISIBLE, "")) if device else ()
    return found.index(device) + 1 if device in found else 0


def environment(inherited: Mapping[str, str], device: str) -> dict[str, str]:
    """The environment variables of a process that is to have this card and no other."""
    return {**inherited, VISIBLE: device} if device else dict(inherited)


@cache
def _found(visible: str) -> tuple[str, ...]:
    # Whoever started us may have chosen among the cards: then there are no others.
    if visible:
        return tuple(name.strip() for name in visible.split(",") if name.strip())
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        # Numbers depend on an order that CUDA and the driver may see differently; these names do not.
        said = subprocess.run(
            [program, "--query-gpu=uuid", "--format=csv,noheader"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        ).stdout
        return tuple(line.strip() for line in said.splitlines() if line.strip().startswith("GPU-"))
    return ()
