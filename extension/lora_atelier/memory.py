"""How much memory is free, asked of the system without any package; and giving back what is not used any more."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def available_bytes(device: torch.device | None = None) -> int | None:
    """Return the memory that a program can still take without swapping, or None where the system does not say.

    With a CUDA ``device``, the memory that is free on that card.
    """
    if device is not None and device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    if sys.platform == "win32":
        return _windows()
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        # macOS has neither.
        return None


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Within, Python does not look for garbage: where packages are imported, which make hundreds of thousands of
    objects that all stay, that took a quarter of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def give_back() -> None:
    """Let the C library hand memory that was freed to the system; it may otherwise keep it for later.

    Only glibc keeps much: it frees in the middle of its heap what others ask of the system one by one.
    """
    if sys.platform == "linux":
        # Other C libraries of Linux do not have it.
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


# mallopt(3): from which size on a block is asked of the system and handed back at once, at most 32 MiB; and how much
# may be free at the heap's end before that is handed back.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_LARGEST_KEPT, _NEVER_TRIMMED = 32 << 20, (1 << 31) - 1


def keep_freed() -> None:
    """Let the C library keep memory that was freed for what is asked for next, until ``give_back``.

    A training step on a processor asks for the same blocks again and again. With glibc's own limits each came anew from
    the system, which clears it page by page: a fifth of the step's time.
    """
    if sys.platform == "linux":
        # Other C libraries of Linux do not have it.
        with contextlib.suppress(AttributeError, OSError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
            libc.mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIMMED)


class _MemoryStatus(ctypes.Structure):
    """Windows' MEMORYSTATUSEX."""

    _fields_ = (
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        ("total", ctypes.c_ulonglong),
        ("available", ctypes.c_ulonglong),
        *((f"unused_{at}", ctypes.c_ulonglong) for at in range(5)),
    )


def _windows() -> int | None:
    status = _MemoryStatus()
    status.length = ctypes.sizeof(status)
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - absent elsewhere, and mypy checks on Linux
    return int(status.available) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else None
