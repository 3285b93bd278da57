"""What a process gives back to the system."""

import platform
import re
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
