"""A lock that the operating system releases when its holder dies: alive means locked."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import IO

# The locked byte lies far behind the file's content, so that Windows, whose locks forbid reading, still lets
# anyone read what the holder wrote into the file.
_LOCKED_BYTE = 1 << 30
_ATTEMPTS = 5
_PAUSE_S = 0.02


class FileLock:
    """An exclusive lock on a file; it is held until ``release`` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Take the lock and return True, or return False if another process or object holds it."""
        if self._file is not None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab")
        if not _lock_soon(file):
            file.close()
            return False
        file.truncate(0)
        file.write(str(os.getpid()).encode("ascii"))
        file.flush()
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._file is not None:
            _unlock(self._file)
            self._file.close()
            self._file = None


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock on ``path``; a file that does not exist is not locked."""
    try:
        file = path.open("rb+")
    except FileNotFoundError:
        return False
    with file:
        try:
            _lock(file)
        except OSError:
            return True
        _unlock(file)
        return False


def holder(path: Path) -> int | None:
    """The process id that the holder wrote into the lock file; only of use while ``is_locked`` is true."""
    try:
        return int(path.read_bytes().decode("ascii"))
    except (OSError, ValueError):
        return None


def _lock_soon(file: IO[bytes]) -> bool:
    # Whoever asks ``is_locked`` holds the lock for an instant, and a page asks every second.
    for _ in range(_ATTEMPTS):
        try:
            _lock(file)
            return True
        except OSError:
            time.sleep(_PAUSE_S)
    return False


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _unlock(file: IO[bytes]) -> None:
        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
