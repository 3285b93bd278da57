import hashlib
import json
import struct
import threading

import pytest
import safetensors.torch
import torch

from lora_atelier.adapters import file
from lora_atelier.errors import AdapterFormatError, AdapterNotFoundError
from lora_atelier.loader import facts, hashing


@pytest.fixture
def tensors():
    """A megabyte and more, in several dtypes, so that kohya's older hash has something to cover."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for at in range(40):
        made[f"lora_unet_x_{at}.lora_down.weight"] = torch.randn((16, 320), generator=generator).half()
        made[f"lora_unet_x_{at}.lora_up.weight"] = torch.randn((320, 16), generator=generator)
        made[f"lora_unet_x_{at}.alpha"] = torch.tensor(8.0).bfloat16()
    return made


METADATA = {"ss_output_name": "猫", "modelspec.title": "cat", "ss_steps": "12"}


def test_both_hashes_are_those_that_kohya_computes(tmp_path, tensors):
    """sd-scripts train_util.precalculate_safetensors_hashes: over the library's bytes with only ss_ metadata."""
    ss_only = {key: text for key, text in METADATA.items() if key.startswith("ss_")}
    theirs = safetensors.torch.save(tensors, ss_only)
    (header_bytes,) = struct.unpack("<Q", theirs[:8])

    written = file.write(tmp_path / "x.safetensors", tensors, METADATA)

    read = file.read(tmp_path / "x.safetensors")
    assert written == read.metadata["sshs_model_hash"] == hashlib.sha256(theirs[8 + header_bytes :]).hexdigest()
    assert read.metadata["sshs_legacy_hash"] == hashlib.sha256(theirs[0x100000:0x110000]).hexdigest()[:8]
    assert read.content_hash == file.model_hash(read.tensors) == written


def test_what_is_written_is_read_back_by_us_and_by_the_library(tmp_path, tensors):
    path = tmp_path / "猫 v1.0.safetensors"
    file.write(path, tensors, METADATA)

    ours, theirs = file.read(path), safetensors.torch.load_file(path)

    assert ours.tensors.keys() == theirs.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert torch.equal(ours.tensors[key], tensor)
        assert torch.equal(theirs[key], tensor)
    assert ours.metadata.items() >= METADATA.items()


def test_the_same_content_gives_the_same_bytes_with_the_metadata_first(tmp_path, tensors):
    backwards = dict(reversed(tensors.items()))
    file.write(tmp_path / "a.safetensors", tensors, METADATA)
    file.write(tmp_path / "b.safetensors", backwards, dict(reversed(METADATA.items())))

    content = (tmp_path / "a.safetensors").read_bytes()

    assert content == (tmp_path / "b.safetensors").read_bytes()
    assert content[8:].startswith(b'{"__metadata__":')
    assert struct.unpack("<Q", content[:8])[0] % 8 == 0


def test_a_tensor_that_needs_gradients_or_is_a_view_is_written_as_it_is(tmp_path):
    parameter = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))

    file.write(tmp_path / "x.safetensors", {"a": parameter.T}, {})

    assert torch.equal(file.read(tmp_path / "x.safetensors").tensors["a"], parameter.detach().T)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, tensors, monkeypatch):
    path = tmp_path / "x.safetensors"
    file.write(path, {"a": torch.ones(2)}, {})
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        file.write(path, tensors, {})

    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_said_hash_is_believed_only_if_it_looks_like_one(tmp_path):
    tensors = {"a": torch.ones(2)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.torch.save(tensors, {"sshs_model_hash": "None"}))

    assert file.read(path).content_hash == file.model_hash(tensors)


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("x.pt", b"PK", AdapterFormatError, "pickles, which can run any program"),
        ("x.safetensors", b"<html>", AdapterFormatError, "broken or incomplete"),
        ("x.safetensors", b"", AdapterFormatError, "broken or incomplete"),
        ("x.safetensors", None, AdapterNotFoundError, "no longer there"),
    ],
)
def test_what_can_not_be_read_is_said_in_a_sentence(tmp_path, name, content, error, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(error, match=said):
        file.read(path)


def test_a_file_cut_at_any_place_is_a_broken_file(tmp_path):
    path = tmp_path / "x.safetensors"
    file.write(path, {"a": torch.ones(4), "b": torch.ones(4).half()}, {"ss_a": json.dumps({"x": 1})})
    whole = path.read_bytes()

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(AdapterFormatError):
            file.read(path)


@pytest.mark.parametrize("said", [{}, {"sshs_model_hash": "a" * 64}], ids=["computed", "said"])
def test_a_file_has_one_hash_whoever_asks_also_if_it_is_no_librarys(tmp_path, said):
    """Tensors out of order, bytes between them that are nobody's, and some behind them."""
    path = tmp_path / "x.safetensors"
    entries = {
        "lora_unet_b.alpha": {"dtype": "F16", "shape": [2], "data_offsets": [8, 12]},
        "lora_unet_a.alpha": {"dtype": "F16", "shape": [1], "data_offsets": [2, 4]},
    }
    header = json.dumps({"__metadata__": said, **entries}).encode()
    content = bytes(range(20))
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)
    identity = hashing.identify(path)

    read = file.read(path).content_hash

    background = hashing.hash_file(identity, threading.Event()).content_hash
    assert background == hashlib.sha256(content).hexdigest()
    assert read == (said.get("sshs_model_hash") or background)
    assert facts.read_facts(path).content_hash == (read if said else "")
