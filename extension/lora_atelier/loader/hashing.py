"""The hashes by which webuis and Civitai know a file, made in a background thread that gets out of everybody's way."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import safetensors_header
from ..safetensors_header import BrokenFileError

# Read in one go; the file is closed in between, so that on Windows it can be replaced at any moment.
_PIECE_BYTES = 4 << 20


@dataclass(frozen=True)
class Identity:
    """What tells one version of a file from the next: a file replaced under the same name has another identity."""

    path: str
    size_bytes: int
    modified_ns: int


def identify(path: Path) -> Identity:
    """Return the identity of the file as it is now. Raises OSError."""
    stat = path.stat()
    return Identity(str(path), stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True)
class Hashes:
    """``content_hash``: of everything behind the header, as ``adapters.hashes`` defines it. ``file_hash``: of the whole
    file (AutoV2: its first 10 digits). Both are SHA-256, 64 hex digits. Or, instead of both, what is wrong with the
    header.
    """

    content_hash: str = ""
    file_hash: str = ""
    problem: BrokenFileError | None = None


def hash_file(identity: Identity, stop: threading.Event, *, rest: float = 0.0) -> Hashes | None:
    """Return a file's hashes, or None if it changed or ``stop`` was set on the way. Raises OSError.

    After each piece the thread rests ``rest`` times as long as the piece took.
    """
    path = Path(identity.path)
    if identify(path) != identity:
        return None
    try:
        start = safetensors_header.read(path).data_offset
    except BrokenFileError as error:
        return Hashes(problem=error) if identify(path) == identity else None
    whole, content = hashlib.sha256(), hashlib.sha256()
    buffer = memoryview(bytearray(_PIECE_BYTES))
    at = 0
    while at < identity.size_bytes:
        began = time.perf_counter()
        with path.open("rb", buffering=0) as file:
            file.seek(at)
            count = file.readinto(buffer)
        if not count:
            return None
        whole.update(buffer[:count])
        content.update(buffer[max(0, min(count, start - at)) : count])
        at += count
        if stop.wait(rest * (time.perf_counter() - began)) and at < identity.size_bytes:
            return None
    return Hashes(content.hexdigest(), whole.hexdigest()) if identify(path) == identity else None


class Hasher:
    """Hashes files one after the other in a daemon thread, which ends when there is nothing left to do."""

    def __init__(self, known: Callable[[Identity], bool], keep: Callable[[Identity, Hashes], None]) -> None:
        """``known`` says whether a file's hashes have been found meanwhile, ``keep`` takes those that are new."""
        self._known = known
        self._keep = keep
        self._lock = threading.Lock()
        self._waiting: dict[Identity, None] = {}
        self._failed: set[Identity] = set()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def offer(self, files: Iterable[Identity]) -> None:
        """Hash exactly these files, in this order; those that were waiting before are forgotten."""
        with self._lock:
            self._waiting = dict.fromkeys(file for file in files if file not in self._failed)
            if self._waiting and (self._thread is None or not self._thread.is_alive()):
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._stop,), name="lora-atelier-hashing", daemon=True
                )
                self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread after the piece that it is reading; harmless when there is none."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._waiting = {}
            self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything is hashed; return whether it is."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def _run(self, stop: threading.Event) -> None:
        _low_priority()
        while not stop.is_set():
            with self._lock:
                if stop is not self._stop or stop.is_set():
                    return
                file = next(iter(self._waiting), None)
                if file is None:
                    self._thread = None
                    return
                del self._waiting[file]
            if self._known(file):
                continue
            try:
                # Half of the disk's and a core's time at most.
                hashes = hash_file(file, stop, rest=1.0)
            except OSError:
                hashes = None
            if hashes is not None:
                self._keep(file, hashes)
            elif not stop.is_set():
                # Changed or gone (the next list offers its new version), or not to be read: not asked for again.
                with self._lock:
                    self._failed.add(file)


if sys.platform == "win32":
    import ctypes

    def _low_priority() -> None:
        # THREAD_MODE_BACKGROUND_BEGIN: processor, disk and memory after everybody else.
        kernel32 = ctypes.windll.kernel32
        kernel32.SetThreadPriority(kernel32.GetCurrentThread(), 0x00010000)

else:

    def _low_priority() -> None:
        try:
            if sys.platform == "darwin":
                os.setpriority(3, 0, 0x1000)  # PRIO_DARWIN_THREAD, this thread, PRIO_DARWIN_BG
            else:
                # On Linux a nice value is a thread's own.
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        except OSError:
            pass
