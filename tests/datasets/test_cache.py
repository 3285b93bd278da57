import os
import time

import pytest

from lora_atelier.datasets.cache import LATENTS, TEXTS, CacheFolder

pytestmark = pytest.mark.torchfree

DAY = 86_400


@pytest.fixture
def keep(tmp_path):
    """A function that puts a file into the cache: its name, its size, how many days ago it was used."""
    folder = CacheFolder(tmp_path / "cache")

    def put(name, size, days_ago=0.0, kind=LATENTS):
        path = folder.path(kind, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
        os.utime(path, (time.time() - days_ago * DAY,) * 2)
        return path

    put.folder = folder
    return put


def test_runs_share_one_cache_and_a_run_alone_has_its_own(tmp_path):
    assert CacheFolder.of_run(tmp_path / "runs" / "1").root == CacheFolder.of_run(tmp_path / "runs" / "2").root
    assert CacheFolder.of_run(tmp_path / "alone").root == tmp_path / "alone" / "cache"


def test_what_was_not_used_for_three_months_goes(keep):
    old, new = keep("aa1", 10, days_ago=91), keep("bb1", 10, days_ago=89, kind=TEXTS)

    assert keep.folder.clean() == 10

    assert not old.exists() and new.exists()


def test_the_least_used_files_make_room_for_the_others(keep):
    files = [keep(f"aa{at}", 100, days_ago=at) for at in range(5)]

    assert keep.folder.clean(most_bytes=250) == 300

    assert [file.exists() for file in files] == [True, True, False, False, False]
    assert keep.folder.size_bytes() == 200


def test_what_a_run_uses_stays_whatever_it_takes(keep):
    began = time.time() - DAY
    used, other = keep("aa1", 100, days_ago=0.5), keep("aa2", 100, days_ago=2)

    keep.folder.clean(most_bytes=50, used_since=began)

    assert used.exists() and not other.exists()


def test_a_file_that_is_used_again_is_the_last_to_go(keep):
    first, second = keep("aa1", 100, days_ago=9), keep("aa2", 100, days_ago=5)
    keep.folder.touch(first)

    keep.folder.clean(most_bytes=100)

    assert first.exists() and not second.exists()


def test_what_a_killed_process_left_half_written_goes_after_a_day(keep):
    left, writing = keep(".aa1.safetensors.7.tmp", 10, days_ago=2), keep(".aa2.safetensors.8.tmp", 10)

    keep.folder.clean()

    assert not left.exists() and writing.exists()
