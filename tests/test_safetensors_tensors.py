import pytest
import torch

from lora_atelier.adapters import file
from lora_atelier.safetensors_header import BrokenFileError
from lora_atelier.safetensors_tensors import TensorFile, read_all


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64, torch.bool]
)
def test_every_dtype_comes_back_as_it_was_written(tmp_path, dtype):
    tensors = {"m": (torch.randn(3, 5) * 10).to(dtype), "scalar": torch.tensor(1).to(dtype), "empty": torch.zeros(0, 4)}
    file.write(tmp_path / "x.safetensors", tensors, {})

    read, _ = read_all(tmp_path / "x.safetensors")

    assert all(torch.equal(read[key], tensor) and read[key].dtype == tensor.dtype for key, tensor in tensors.items())


def test_what_was_read_does_not_depend_on_the_file_any_more(tmp_path):
    path = tmp_path / "x.safetensors"
    file.write(path, {"a": torch.ones(1000)}, {})
    tensors, _ = read_all(path)

    path.unlink()

    assert tensors["a"].sum() == 1000


def test_a_file_that_gets_shorter_while_it_is_read_is_a_broken_file(tmp_path):
    path = tmp_path / "x.safetensors"
    file.write(path, {"a": torch.ones(1000)}, {})

    with TensorFile(path) as opened:
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(BrokenFileError):
            opened.read("a")
