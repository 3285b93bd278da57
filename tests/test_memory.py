"""What a process gives back to the system."""

import gc
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lora_atelier import memory


def private_bytes():
    said = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"RssAnon:\s+(\d+) kB", said)[1]) * 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep little of what is freed")
def test_freed_memory_in_the_middle_of_the_heap_is_the_systems_again():
    pieces = [bytearray(b"x" * 50_000) for _ in range(1000)]
    last = bytearray(b"x" * 50_000)
    full = private_bytes()

    del pieces
    memory.give_back()

    assert private_bytes() < full - 30_000_000
    assert last


def test_giving_back_is_harmless_where_there_is_nothing():
    memory.give_back()
    memory.give_back()


FAULTS = """
import resource, sys
from lora_atelier import memory
if sys.argv[1] == "kept":
    memory.keep_freed()
for round in range(20):
    if round == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * (9 << 20) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
memory.give_back()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other limits")
def test_blocks_that_are_asked_for_again_and_again_come_from_the_system_once():
    """Counted are the pages that the system has to give, 2304 a block where each comes anew."""
    environment = {**os.environ, "PYTHONPATH": str(Path(memory.__file__).parents[1])}

    def faults(name):
        command = [sys.executable, "-c", FAULTS, name]
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    found = {name: faults(name) for name in ("kept", "as usual")}

    assert found["kept"] < 500 < found["as usual"]


def test_nothing_is_collected_within_and_afterwards_it_is_as_before():
    assert gc.isenabled()
    with memory.uncollected():
        assert not gc.isenabled()
        with memory.uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()

    with pytest.raises(ImportError), memory.uncollected():
        raise ImportError
    assert gc.isenabled()
