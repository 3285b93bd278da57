import os
import subprocess
import sys
import threading
import time

import pytest

from lora_atelier.locking import FileLock, holder, is_locked

pytestmark = pytest.mark.torchfree

HOLD = "import sys; from pathlib import Path; from lora_atelier.locking import FileLock; \
lock = FileLock(Path(sys.argv[1])); assert lock.acquire(); print('held', flush=True); sys.stdin.read()"


def test_a_lock_is_seen_by_others_and_gone_with_its_holders_life(tmp_path):
    path = tmp_path / "lock"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert child.stdout is not None and child.stdout.readline().strip() == b"held"

    assert is_locked(path)
    assert holder(path) == child.pid
    assert not FileLock(path).acquire()

    child.kill()
    child.wait()
    child.stdout.close()
    child.stdin.close()
    assert not is_locked(path)
    assert FileLock(path).acquire()


def test_a_lock_that_was_released_can_be_taken_again(tmp_path):
    lock = FileLock(tmp_path / "lock")

    assert lock.acquire() and lock.acquire()
    lock.release()
    lock.release()

    assert not is_locked(tmp_path / "lock")


def test_a_file_that_does_not_exist_is_not_locked_and_is_not_made(tmp_path):
    assert not is_locked(tmp_path / "lock")
    assert list(tmp_path.iterdir()) == []


def test_asking_whether_it_is_locked_never_keeps_anyone_from_taking_it(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    asking = threading.Event()

    def ask():
        while not asking.is_set():
            is_locked(path)
            time.sleep(0.001)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    taken = []
    for _ in range(50):
        lock = FileLock(path)
        taken.append(lock.acquire())
        lock.release()
    asking.set()
    for thread in threads:
        thread.join()

    # Two threads that ask a thousand times a second are far worse than any page.
    assert sum(taken) >= 45
