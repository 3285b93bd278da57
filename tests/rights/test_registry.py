import numpy as np
import pytest

from lora_atelier.errors import RightsError
from lora_atelier.rights import pdq
from lora_atelier.rights.registry import Registry

pytestmark = pytest.mark.torchfree


def hashes(count, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, 32)).astype(np.uint8)


def changed(one, count, seed=0):
    bits = np.unpackbits(one)
    bits[np.random.RandomState(seed).choice(256, count, replace=False)] ^= 1
    return np.packbits(bits)


def test_all_entries_within_31_bits_are_found_and_no_others():
    # Clouds of hashes around a few centres, so that there are distances on both sides of the limit.
    centres = hashes(5, seed=1)
    entries = np.stack([changed(centres[n % 5], n % 60, seed=n) for n in range(3000)])
    asked = np.concatenate([centres, hashes(3, seed=2)])
    apart = pdq.distances(asked, entries)

    found = Registry.build(entries).search(asked)

    assert {(each.asked, each.entry): each.distance for each in found} == {
        (int(row), int(entry)): int(apart[row, entry]) for row, entry in np.argwhere(apart <= 31)
    }
    assert [each.distance for each in found] == sorted(each.distance for each in found)


@pytest.mark.parametrize("bits", [0, 1, 16, 31])
def test_a_registry_on_disk_finds_what_was_changed_by_at_most_31_bits(tmp_path, bits):
    entries = hashes(5000)
    Registry.build(entries).write(tmp_path)

    found = Registry.open(tmp_path).search(np.stack([changed(entries[4321], bits), changed(entries[7], 40)]))

    assert [(each.asked, each.entry, each.distance) for each in found] == [(0, 4321, bits)]


def test_the_same_hash_may_be_there_often_or_nothing_at_all():
    one = hashes(1)

    assert [each.entry for each in Registry.build(np.repeat(one, 4, axis=0)).search(one)] == [0, 1, 2, 3]
    assert Registry.build(np.empty((0, 32), np.uint8)).search(one) == []
    assert Registry.build(one).search(np.empty((0, 32), np.uint8)) == []


def test_a_wider_search_is_refused_because_it_would_miss_some():
    with pytest.raises(ValueError, match="40"):
        Registry.build(hashes(3)).search(hashes(1), within=40)


@pytest.mark.parametrize("damage", ["missing", "newer", "cut", "mixed", "no json"])
def test_a_damaged_registry_is_said(tmp_path, damage):
    Registry.build(hashes(10)).write(tmp_path)
    if damage == "missing":
        (tmp_path / "order.npy").unlink()
    elif damage == "newer":
        (tmp_path / "about.json").write_text('{"schema": 99, "count": 10}')
    elif damage == "cut":
        (tmp_path / "hashes.npy").write_bytes(b"\x93NUM")
    elif damage == "mixed":
        (tmp_path / "about.json").write_text('{"schema": 1, "count": 11}')
    else:
        (tmp_path / "about.json").write_text("[1]")

    with pytest.raises(RightsError, match="registry"):
        Registry.open(tmp_path)
