"""What a changed weight was before, read again from the model's files instead of being copied."""

import gc
import math
import os
import shutil
from pathlib import Path

import pytest
import torch

from lora_atelier import memory
from lora_atelier.adapters.full import FullAdapter
from lora_atelier.adapters.lora import LoraAdapter
from lora_atelier.errors import OriginalsLostError
from lora_atelier.loader.originals import Copied, Reread, _ranges, blocks
from lora_atelier.loader.patching import Patch, WeightPatcher
from lora_atelier.models import layers, load
from lora_atelier.models.stored import StoredModel


class LoadedHost:
    def __init__(self, folder, dtype=torch.float32):
        self.model = load.load(folder, dtype=dtype)
        self._layers = layers.layers(self.model)

    def layers(self):
        return self._layers

    def bits(self):
        return {name: layer.view("weight").clone() for name, layer in self._layers.items()}

    def patches(self, multiplier, seed=1):
        generator = torch.Generator().manual_seed(seed)
        targets = layers.target_layers(self.model.unet, conv=True) | layers.target_layers(self.model.text_encoders[0])
        for name, module in targets.items():
            out, *rest = module.weight.shape
            down = torch.randn((2, *rest), generator=generator)
            up = torch.randn((out, 2, *[1] * (len(rest) - 1)), generator=generator)
            yield Patch(name, "weight", LoraAdapter(down, up, 1.0), multiplier, f"{seed:064}")


@pytest.fixture
def folder(tiny_model_folder, tmp_path):
    return shutil.copytree(tiny_model_folder, tmp_path / "モデル")


@pytest.fixture(params=[torch.float32, torch.float16], ids=str)
def host(folder, request):
    return LoadedHost(folder, request.param)


def reread(host):
    return WeightPatcher(host, StoredModel(host.model), mode="reread")


def same(host, before):
    return all(torch.equal(weight, before[name]) for name, weight in host.bits().items())


def weights_file(folder):
    return next((folder / "unet").glob("*.safetensors"))


def test_every_bit_comes_back_from_the_file_and_no_copy_was_kept(host):
    before, patcher = host.bits(), reread(host)

    patcher.apply(host.patches(0.8))
    originals = {type(touched.original) for touched in patcher._touched.values()}
    assert not same(host, before)
    patcher.apply(host.patches(-0.3, seed=2))
    patcher.restore()

    assert originals == {Reread}
    assert same(host, before)


def test_the_weights_are_the_same_as_with_copies(folder):
    low, default = LoadedHost(folder, torch.float16), LoadedHost(folder, torch.float16)

    reread(low).apply(low.patches(0.8))
    WeightPatcher(default, StoredModel(default.model), mode="copy").apply(default.patches(0.8))

    assert same(low, default.bits())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list a process's open files")
def test_no_file_is_open_or_mapped_between_two_uses(host, folder):
    patcher = reread(host)
    patcher.apply(host.patches(0.8))
    gc.collect()

    opened = {os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()}
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")

    assert not any(str(folder) in path for path in opened)
    assert str(folder) not in mapped


def test_a_weight_that_is_not_the_files_is_copied(host):
    name, layer = next(item for item in host.layers().items() if item[0].endswith("to_q"))
    layer.view("weight").mul_(1.5)
    before, patcher = host.bits(), reread(host)

    patcher.apply(host.patches(0.8))
    kinds = {place[0]: type(touched.original) for place, touched in patcher._touched.items()}
    patcher.restore()

    assert kinds.pop(name) is Copied
    assert set(kinds.values()) == {Reread}
    assert same(host, before)


def spoil_by_replacing(path, other):
    shutil.copy(other, path.with_name("new"))
    path.with_name("new").replace(path)


def spoil_by_truncating(path, _other):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def spoil_by_deleting(path, _other):
    path.unlink()


def spoil_in_place(path, _other):
    with path.open("r+b") as file:
        file.seek(-4000, os.SEEK_END)
        file.write(os.urandom(4000))


@pytest.mark.parametrize("spoil", [spoil_by_replacing, spoil_by_truncating, spoil_by_deleting, spoil_in_place])
def test_a_file_that_was_spoilt_while_a_lora_is_on_is_noticed_before_anything_is_written(
    host, folder, spoil, save_model, tmp_path
):
    save_model(tmp_path / "other", seed=7)
    clean, patcher = host.bits(), reread(host)
    patcher.apply(host.patches(0.8))
    on = host.bits()
    path, kept = weights_file(folder), tmp_path / "kept"
    shutil.copy2(path, kept)

    spoil(path, weights_file(tmp_path / "other"))

    with pytest.raises(OriginalsLostError, match="has to be loaded again"):
        patcher.apply(host.patches(0.5))
    assert same(host, on)
    with pytest.raises(OriginalsLostError):
        patcher.restore()
    assert same(host, on)
    # The file is put back: nothing was lost.
    shutil.copy2(kept, path)
    patcher.restore()
    assert same(host, clean)


def test_a_file_that_only_has_a_new_time_is_still_the_original(host, folder):
    before, patcher = host.bits(), reread(host)
    patcher.apply(host.patches(0.8))

    os.utime(weights_file(folder), ns=(1, 1))
    patcher.apply(host.patches(0.4))
    patcher.restore()

    assert same(host, before)


def test_norms_and_biases_are_compared_with_their_own_numbers_in_the_file(host, folder):
    """A norm's weight has one axis, as a bias has: only the name of the parameter tells them apart."""
    before, patcher = host.bits(), reread(host)
    name = "lora_unet_mid_block_resnets_0_norm1"
    host_layer = host.layers()[name]
    bias = host_layer.view("bias").clone()
    patches = [
        Patch(name, parameter, FullAdapter(torch.full_like(host_layer.view(parameter), 0.5)), 1.0)
        for parameter in ("weight", "bias")
    ]
    patcher.apply(patches)
    assert {type(touched.original) for touched in patcher._touched.values()} == {Reread}

    os.utime(weights_file(folder), ns=(1, 1))
    patcher.restore()

    assert same(host, before)
    assert torch.equal(host_layer.view("bias"), bias)


@pytest.mark.parametrize(("free", "kind"), [(1 << 40, Copied), (1 << 10, Reread), (None, Copied)])
def test_the_free_memory_decides_between_copies_and_the_file(host, monkeypatch, free, kind):
    monkeypatch.setattr(memory, "available_bytes", lambda device=None: free)
    patcher = WeightPatcher(host, StoredModel(host.model), mode="auto")

    patcher.apply(host.patches(0.8))

    assert {type(touched.original) for touched in patcher._touched.values()} == {kind}


def test_the_free_memory_of_this_machine_is_known():
    assert memory.available_bytes() > 50_000_000


def test_a_single_files_weights_are_found_too_also_query_key_and_value_in_one(tmp_path):
    """SD 2.x keeps the three in one weight; each is read as its third of the rows."""
    from safetensors.torch import save_file

    from lora_atelier.models.load import Stored
    from lora_atelier.models.stored import StoredRows
    from lora_atelier.safetensors_tensors import Buffer, TensorFile

    fused = torch.arange(36.0).reshape(9, 4)
    save_file({"in_proj_weight": fused}, tmp_path / "a.safetensors")
    with TensorFile(tmp_path / "a.safetensors") as file:
        rows = StoredRows.of(Stored(file, "in_proj_weight", third=1), Buffer())

        assert (rows.count, rows.columns) == (3, 4)
        assert torch.equal(rows.read(1, 3), fused[4:6])
        assert torch.equal(Stored(file, "in_proj_weight", third=2).read(), fused[6:9])
        assert StoredRows.of(Stored(file, "in_proj_weight", transposed=True), Buffer()) is None


@pytest.mark.parametrize("shape", [(1,), (320,), (1280, 23040), (10240, 1280), (100, 1 << 21), (3, 5), (0, 4)])
def test_a_weights_pieces_are_all_of_it_in_order_and_of_about_one_size(shape):
    rows, columns = shape[0], math.prod(shape[1:])

    pieces = blocks(torch.empty(shape, device="meta"))
    cpu = _ranges(rows, columns, 1 << 20)

    for ranges in (pieces, cpu):
        assert [row for start, stop in ranges for row in range(start, stop)] == list(range(rows))
    sizes = [(stop - start) * columns for start, stop in cpu]
    assert max(sizes, default=0) <= max(columns, 1.5 * (1 << 20) + 16 * columns)
    assert len({stop - start for start, stop in cpu[:-1]}) <= 1
