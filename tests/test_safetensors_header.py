import json
import struct

import pytest

from lora_atelier import safetensors_header
from lora_atelier.safetensors_header import BrokenFileError

pytestmark = pytest.mark.torchfree


def test_a_header_says_names_shapes_and_metadata(tmp_path, write_header):
    path = write_header(tmp_path / "猫.safetensors", {"a.weight": (2, 3), "scalar": ()}, {"ss_note": "日本語"})

    header = safetensors_header.read(path)

    assert header.metadata == {"ss_note": "日本語"}
    assert header.tensors["a.weight"].shape == (2, 3)
    assert header.tensors["scalar"].size_bytes == 2
    assert header.tensors["scalar"].offset + 2 == path.stat().st_size


def test_a_file_that_was_cut_short_says_how_much_is_missing(tmp_path, write_header):
    path = write_header(tmp_path / "cut.safetensors", {"a": (8, 8)}, cut=5)

    with pytest.raises(BrokenFileError, match="ends before a; it is 5 bytes"):
        safetensors_header.read(path)


def _with_header(entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 a zip is a pickle",
        b"<html><body>404 not found</body></html>",
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 4) + b"\xff\xfe\xff\xfe",
        struct.pack("<Q", 2) + b"[]",
        _with_header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}),
        _with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}),
        _with_header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}),
        _with_header({"a": {"dtype": "F32"}}),
        _with_header({"a": 3}),
        _with_header({"__metadata__": [1]}),
        _with_header({"half \ud83d": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
    ],
)
def test_whatever_is_no_safetensors_file_is_a_broken_file(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)

    with pytest.raises(BrokenFileError):
        safetensors_header.read(path)


@pytest.mark.parametrize(
    "read", [lambda path: safetensors_header.read(path).metadata, safetensors_header.read_metadata]
)
@pytest.mark.parametrize(
    "metadata", [{}, {"ss_note": '日本語 "}{ '}, {"a": "1", "b": "x" * 5000}], ids=["none", "odd", "big"]
)
def test_metadata_is_the_same_whether_read_fast_or_whole(tmp_path, write_header, metadata, read):
    path = write_header(tmp_path / "a.safetensors", {f"{at}.weight": (2, 3) for at in range(200)}, metadata)

    assert read(path) == metadata


@pytest.mark.parametrize("cut", [1, 500])
def test_a_file_that_was_cut_short_is_broken_to_the_fast_way_too(tmp_path, write_header, cut):
    path = write_header(tmp_path / "a.safetensors", {f"{at}.weight": (2, 3) for at in range(200)}, {"a": "b"}, cut=cut)

    with pytest.raises(BrokenFileError, match="ends before"):
        safetensors_header.read_metadata(path)


def test_metadata_that_does_not_come_first_is_found_all_the_same(tmp_path):
    entries = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"x": "y"}}
    text = json.dumps(entries).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))

    assert safetensors_header.read_metadata(tmp_path / "a.safetensors") == {"x": "y"}


def _entry(begin, end):
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


@pytest.mark.parametrize("read", [safetensors_header.read, safetensors_header.skim])
def test_half_a_character_in_the_metadata_is_read_as_a_question_mark(tmp_path, write_header, read):
    path = write_header(tmp_path / "x.safetensors", {"a": (2,)}, {"note \ud83d": "cat \udc31", "whole": "猫"})

    assert read(path).metadata == {"note ?": "cat ?", "whole": "猫"}


def test_two_tensors_that_share_bytes_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(_with_header({"b": _entry(8, 64), "a": _entry(0, 9), "empty": _entry(4, 4)}))

    with pytest.raises(BrokenFileError, match="a and b share bytes"):
        safetensors_header.read(path)


def test_tensors_without_bytes_share_none(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(_with_header({"a": _entry(0, 64), "empty": _entry(0, 0), "inside": _entry(4, 4)}))

    assert set(safetensors_header.read(path).tensors) == {"a", "empty", "inside"}


def test_a_key_that_stands_in_the_header_twice_is_named(tmp_path):
    text = json.dumps({"a": _entry(0, 8), "b": _entry(8, 16)}).replace('"b"', '"a"').encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))

    with pytest.raises(BrokenFileError, match="names a twice"):
        safetensors_header.read(path)


@pytest.mark.parametrize("read", [safetensors_header.read, safetensors_header.read_metadata])
def test_a_header_that_is_longer_than_the_file_says_how_much_is_missing(tmp_path, read):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 100) + b"{}")

    with pytest.raises(BrokenFileError, match="98 of its 100 bytes are missing"):
        read(path)


@pytest.mark.parametrize("read", [safetensors_header.read, safetensors_header.read_metadata])
def test_a_header_above_the_formats_limit_is_not_read(tmp_path, read):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 123_000_000))
        file.truncate(200_000_000)  # a hole, not bytes on the disk

    with pytest.raises(BrokenFileError, match="its header is 123 MB long"):
        read(path)


def test_a_header_that_is_longer_than_one_piece_is_read_whole(tmp_path, write_header):
    shapes = {f"{at}.weight": (2, 3) for at in range(2000)}
    path = write_header(tmp_path / "a.safetensors", shapes, {"x": "y"})

    assert len(safetensors_header.read(path).tensors) == 2000
    assert safetensors_header.skim(path).metadata == {"x": "y"}


def test_skimming_leaves_the_entries_and_no_metadata_in_the_text(tmp_path, write_header):
    first = write_header(tmp_path / "a.safetensors", {"猫.weight": (2, 3)}, {"x": "in the metadata"})
    text = json.dumps({"猫.weight": _entry(0, 12), "__metadata__": {"x": "in the metadata"}}).encode()
    odd = tmp_path / "b.safetensors"
    odd.write_bytes(struct.pack("<Q", len(text)) + text + bytes(12))
    text = json.dumps({"猫.weight": _entry(0, 12)}, ensure_ascii=False).encode()
    bare = tmp_path / "c.safetensors"
    bare.write_bytes(struct.pack("<Q", len(text)) + text + bytes(12))

    for path, metadata in ((first, {"x": "in the metadata"}), (odd, {"x": "in the metadata"}), (bare, {})):
        skimmed = safetensors_header.skim(path)
        assert skimmed.metadata == metadata
        assert ".weight" in skimmed.entries
        assert "in the metadata" not in skimmed.entries
