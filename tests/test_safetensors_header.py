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
