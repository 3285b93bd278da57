"""Files that are broken, foreign or hostile: each is refused in a sentence, quickly, and the model stays as it was."""

import json
import os
import pickle
import struct
import time

import pytest
import torch
from torch import nn

from lora_atelier.adapters import file
from lora_atelier.errors import AdapterFormatError, AdapterMismatchError, AdapterNotFoundError
from lora_atelier.loader.fitting import fit
from lora_atelier.models.layers import Layer

FIRST, SECOND = "lora_unet_down_blocks_0_attentions_0_proj_in", "lora_unet_mid_block_resnets_0_conv1"
# No file here takes long to refuse: the bound only catches work that grows faster than the file.
BOUND_S = 20


class FakeHost:
    """Two layers of a U-Net, in half precision."""

    def __init__(self):
        torch.manual_seed(0)
        made = {FIRST: nn.Linear(12, 8), SECOND: nn.Conv2d(6, 8, 3)}
        self._layers = {name: Layer(module.half().requires_grad_(False)) for name, module in made.items()}

    def layers(self):
        return self._layers

    def aliases(self):
        return {}

    def family(self):
        return "sd1"

    def bits(self):
        modules = (layer.module for layer in self._layers.values())
        return [p.detach().clone().view(torch.int16) for module in modules for p in module.parameters()]


def lora(rank=2):
    return {
        f"{FIRST}.lora_down.weight": torch.ones(rank, 12),
        f"{FIRST}.lora_up.weight": torch.ones(8, rank),
        f"{FIRST}.alpha": torch.tensor(1.0),
        f"{SECOND}.lora_down.weight": torch.ones(rank, 6, 3, 3),
        f"{SECOND}.lora_up.weight": torch.ones(8, rank, 1, 1),
    }


@pytest.fixture
def host():
    return FakeHost()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cat.safetensors"


def refused(host, path, kind, *words, partly=False):
    """Assert that the file is refused with these words, in time and without a trace in the model; return the error."""
    before, began = host.bits(), time.process_time()

    with pytest.raises(kind) as caught:
        fit("cat", path, host, partly=partly)

    assert time.process_time() - began < BOUND_S
    assert all(torch.equal(a, b) for a, b in zip(before, host.bits(), strict=True))
    said = str(caught.value)
    assert caught.value.todo
    assert "cat" in said
    for each in words:
        assert each in said
    return caught.value


def raw(path, header, data=b"", length=None):
    """Write a .safetensors file of any header, JSON or text, and any length that it claims to have."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(begin, end, shape=None, dtype="F32"):
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def test_a_whole_file_is_fitted(host, path):
    """Else the refusals below would prove nothing."""
    file.write(path, lora(), {})

    assert set(fit("cat", path, host).adapters) == {(FIRST, "weight"), (SECOND, "weight")}


def test_a_file_that_was_cut_off_anywhere_is_refused(host, path):
    file.write(path, lora(), {"ss_output_name": "cat"})
    whole = path.read_bytes()

    for length in {*range(0, len(whole), 61), len(whole) - 1, 7, 8, 9}:
        path.write_bytes(whole[:length])
        refused(host, path, AdapterFormatError, "broken or incomplete", "again")


def test_a_header_that_is_longer_than_its_file_is_refused(host, path):
    raw(path, {}, length=1000)

    refused(host, path, AdapterFormatError, "the header is cut off")


@pytest.mark.parametrize("length", [100_000_001, 2**63, 2**64 - 1])
def test_a_header_beyond_the_formats_limit_is_not_read(host, path, length):
    """A sparse file, so that only the first of these can have as many bytes as it says."""
    raw(path, {}, length=length)
    if length < 2**30:
        with path.open("r+b") as sparse:
            sparse.truncate(length + 100)

    error = refused(host, path, AdapterFormatError, "broken or incomplete")

    assert "header" in str(error)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"3", "not a JSON object"),
        ({"__metadata__": [1]}, "metadata"),
        ({"a": 3}, "the entry of a makes no sense"),
        ({"a": {}}, "the entry of a makes no sense"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, "the entry of a makes no sense"),
        ({"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}, "the entry of a makes no sense"),
        ({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}, "unknown number format F4"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "size of a does not match"),
        ({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, "size of a does not match"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "the file ends before a"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_header_that_makes_no_sense_is_refused(host, path, header, words):
    raw(path, header, b"\0" * 4)

    refused(host, path, AdapterFormatError, "broken or incomplete", words)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "1" * 5000], ids=lambda text: text[:8])
def test_a_header_with_numbers_that_are_none_is_refused(host, path, number):
    text = '{"a": {"dtype": "F32", "shape": [0, NUMBER], "data_offsets": [0, 0]}}'
    raw(path, text.replace("NUMBER", number).encode())

    refused(host, path, AdapterFormatError, "broken or incomplete")


def test_tensors_that_share_bytes_are_refused(host, path):
    raw(path, {"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12)

    refused(host, path, AdapterFormatError, "broken or incomplete", "share bytes")


def test_a_key_that_stands_twice_in_a_header_is_refused(host, path):
    once = json.dumps(entry(0, 4))
    raw(path, f'{{"a": {once}, "a": {once}}}'.encode(), b"\0" * 4)

    refused(host, path, AdapterFormatError, "broken or incomplete", "twice")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30], ids=str)
@pytest.mark.parametrize("key", [f"{FIRST}.lora_down.weight", f"{FIRST}.alpha", f"{SECOND}.lora_up.weight"])
def test_values_that_are_no_numbers_are_refused(host, path, key, value):
    tensors = lora()
    tensors[key].reshape(-1)[-1] = value
    file.write(path, tensors, {})

    refused(host, path, AdapterFormatError, "values that are not numbers or far too large", key, "learning rate")
    refused(host, path, AdapterFormatError, "values that are not numbers", partly=True)


def test_infinities_that_cancel_each_other_are_found(host, path):
    tensors = lora()
    tensors[f"{FIRST}.lora_up.weight"][0] = torch.tensor([float("inf"), -float("inf")])
    file.write(path, {key: tensor.half() for key, tensor in tensors.items()}, {})

    refused(host, path, AdapterFormatError, "values that are not numbers")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64], ids=str)
def test_values_that_are_no_numbers_are_found_in_every_format(host, path, dtype):
    tensors = lora()
    tensors[f"{FIRST}.lora_up.weight"][3, 1] = float("nan")
    file.write(path, {key: tensor.to(dtype) for key, tensor in tensors.items()}, {})

    refused(host, path, AdapterFormatError, "values that are not numbers", f"{FIRST}.lora_up.weight")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("value", "is_refused"), [(9e7, False), (-9e7, False), (2e8, True), (-2e8, True)])
def test_a_number_is_too_large_whatever_its_sign_and_format(host, path, dtype, value, is_refused):
    tensors = lora()
    tensors[f"{FIRST}.lora_up.weight"][3, 1] = value
    file.write(path, {key: tensor.to(dtype) for key, tensor in tensors.items()}, {})

    if is_refused:
        refused(host, path, AdapterFormatError, "far too large")
    else:
        assert fit("a", path, host).adapters


@pytest.mark.parametrize("key", [f"{FIRST}.lora_down.weight", f"{FIRST}.lora_up.weight", f"{SECOND}.lora_down.weight"])
def test_a_tensor_without_axes_is_refused(host, path, key):
    file.write(path, {**lora(), key: torch.tensor(1.0)}, {})

    refused(host, path, AdapterFormatError, "1 of 2 layers are of a kind that can't be read", key.partition(".")[0])


def test_a_tensor_without_axes_is_refused_beside_pefts_configuration_too(host, path):
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 1})}
    file.write(path, {**lora(), f"{SECOND}.lora_down.weight": torch.tensor(1.0)}, metadata)

    refused(host, path, AdapterFormatError, "of a kind that can't be read", SECOND)


def test_a_rank_of_zero_is_refused(host, path):
    nothing = {f"{FIRST}.lora_down.weight": torch.ones(0, 12), f"{FIRST}.lora_up.weight": torch.ones(8, 0)}
    file.write(path, lora() | nothing, {})

    refused(host, path, AdapterFormatError, "of a kind that can't be read", FIRST)


def test_shapes_of_another_model_are_refused_with_the_name_of_its_family(host, path):
    attention = "lora_unet_down_blocks_0_attn2_to_k"
    tensors = {
        **lora(),
        f"{FIRST}.lora_down.weight": torch.ones(2, 13),
        f"{attention}.lora_down.weight": torch.ones(2, 2048),
        f"{attention}.lora_up.weight": torch.ones(8, 2),
    }
    file.write(path, tensors, {})

    words = ("1 of 3 layers have another shape", FIRST, "(8, 13)", "(8, 12)", "trained for Stable Diffusion XL")
    refused(host, path, AdapterMismatchError, *words)


def test_a_file_of_which_half_is_unknown_is_refused(host, path):
    elsewhere = {f"lora_unet_elsewhere_{key.removeprefix('lora_unet_')}": tensor for key, tensor in lora().items()}
    file.write(path, lora() | elsewhere, {})

    refused(host, path, AdapterMismatchError, "2 of 4 layers are not in the model", "lora_unet_elsewhere_")


def test_a_file_without_a_single_key_that_can_be_read_is_refused(host, path):
    file.write(path, {f"model.layers.{at}.weight": torch.ones(4) for at in range(9)}, {})

    refused(host, path, AdapterFormatError, "None of its 9 keys", "model.layers.0.weight", "kohya's format")


def test_a_file_without_any_key_is_refused(host, path):
    raw(path, {})

    refused(host, path, AdapterFormatError, "None of its 0 keys")


@pytest.mark.parametrize(
    ("key", "base"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "Flux"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "Stable Diffusion 3"),
    ],
)
def test_files_for_models_that_can_not_be_used_are_refused_by_name(host, path, key, base):
    file.write(path, {**lora(), key: torch.ones(2, 12)}, {})

    refused(host, path, AdapterMismatchError, f"It is for {base}", "the model is Stable Diffusion 1")


def test_a_pickle_by_the_name_of_a_safe_file_is_refused_without_being_opened(host, path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(path.with_name("boom")),)

    path.write_bytes(pickle.dumps(Bomb()) + b"\0" * 64)

    refused(host, path, AdapterFormatError, "broken or incomplete", "safetensors header")
    torch.save(lora(), path)
    refused(host, path, AdapterFormatError, "broken or incomplete")
    assert not path.with_name("boom").exists()


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".pth", ".bin", ".PT"])
def test_pickles_are_not_opened(host, tmp_path, suffix):
    path = tmp_path / f"cat{suffix}"
    torch.save(lora(), path)

    refused(host, path, AdapterFormatError, suffix, "can run any program", ".safetensors version")


def test_a_file_that_went_away_after_it_was_listed_is_refused(host, path):
    refused(host, path, AdapterNotFoundError, "no longer there", "Refresh the list")


def test_a_folder_by_the_name_of_a_file_is_refused(host, path):
    path.mkdir()

    with pytest.raises(AdapterFormatError, match="can't be read"):
        fit("cat", path, host)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything may be read here")
def test_a_file_that_may_not_be_read_is_refused(host, path):
    file.write(path, lora(), {})
    path.chmod(0)

    with pytest.raises(AdapterFormatError, match="Permission denied"):
        fit("cat", path, host)


def test_a_disk_that_fails_is_a_sentence(host, path, monkeypatch):
    def failing(_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(file, "TensorFile", failing)

    with pytest.raises(AdapterFormatError, match=r"can't be read.*Permission denied"):
        fit("cat", path, host)


def test_a_file_of_more_keys_than_any_model_has_is_refused(host, path):
    header = {f"lora_unet_{at}.alpha": entry(4 * at, 4 * at + 4, []) for at in range(100_000)}
    raw(path, header, b"\0" * 400_000)

    refused(host, path, AdapterFormatError, "It has 100000 keys, more than any model has layers")


@pytest.mark.parametrize(
    "tensors",
    [
        {"diff": torch.ones(8, 12), "diff_b": torch.ones(9)},
        {"weight": torch.ones(9), "on_input": torch.tensor(0)},
        {"oft_blocks": torch.zeros(3, 3, 3)},
        {"lokr_w1": torch.ones(2, 3), "lokr_w2": torch.ones(4, 5)},
        {"w_norm": torch.ones(8)},
    ],
    ids=lambda tensors: next(iter(tensors)),
)
def test_any_familys_shape_of_another_layer_is_refused(host, path, tensors):
    file.write(path, {f"{FIRST}.{suffix}": tensor for suffix, tensor in tensors.items()}, {})

    refused(host, path, AdapterMismatchError, "1 of 1 layers have another shape than the model", FIRST)


def test_partly_applies_the_rest_of_a_file_and_says_so(host, path):
    file.write(path, {**lora(), f"{FIRST}.lora_down.weight": torch.ones(2, 13)}, {})

    fitted = fit("cat", path, host, partly=True)

    assert set(fitted.adapters) == {(SECOND, "weight")}
    assert [str(note) for note in fitted.notes] == [
        "LoRA “cat”: 1 of 2 layers do not fit the model or can't be read, and were left out."
    ]
