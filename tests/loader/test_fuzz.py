"""Whatever the bytes of a file: it is fitted, or refused in a sentence, and costs no more memory than a few files.

    python -m tests.loader.test_fuzz --minutes 10 [--seed N]

runs for longer than the test does (PYTHONPATH=extension). It prints the seed of every failure, which
``LORA_ATELIER_FUZZ_SEED`` replays.
"""

import argparse
import json
import os
import random
import struct
import sys
import tempfile
import time
import traceback
import tracemalloc
from pathlib import Path

import pytest
import torch
from torch import nn

from lora_atelier.adapters import file
from lora_atelier.errors import ExtensionError
from lora_atelier.loader.fitting import fit
from lora_atelier.loader.patching import Patch, WeightPatcher
from lora_atelier.models.layers import Layer

# Seeds of the ordinary run; each is one file. They take a few seconds.
CASES = 400
# A Python object of a header's entry is some twenty times as large as its text; what torch's own objects need for
# small tensors is not in tracemalloc's books.
FEW, SLACK_BYTES = 40, 2_000_000

LINEAR, CONV, NORM = "lora_unet_down_blocks_0_proj_in", "lora_unet_mid_block_conv1", "lora_unet_mid_block_norm1"
DTYPES = [
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int8, torch.uint8, torch.int64, torch.int32, torch.bool),
]
FORMATS = (
    "F32",
    "F16",
    "BF16",
    "F64",
    "I8",
    "U8",
    "I16",
    "I64",
    "U16",
    "U32",
    "U64",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "X",
)


class FakeHost:
    def __init__(self):
        torch.manual_seed(0)
        made = {LINEAR: nn.Linear(12, 8), CONV: nn.Conv2d(6, 8, 3), NORM: nn.GroupNorm(2, 8)}
        self._layers = {name: Layer(module.requires_grad_(False)) for name, module in made.items()}

    def layers(self):
        return self._layers

    def aliases(self):
        return {"lora_unet_alias": LINEAR}

    def family(self):
        return "sd1"

    def bits(self):
        modules = (layer.module for layer in self._layers.values())
        return [p.detach().clone().view(torch.int32) for module in modules for p in module.parameters()]


# What a layer of each family has, for the linear layer and the convolution: the mutations start from these.
SEEDS = [
    (LINEAR, {"lora_down.weight": (2, 12), "lora_up.weight": (8, 2), "alpha": ()}),
    (LINEAR, {"lora_down.weight": (2, 12), "lora_up.weight": (8, 2), "dora_scale": (8, 1), "diff_b": (8,)}),
    (
        LINEAR,
        {
            "lora_down.weight": (2, 12),
            "lora_up.weight": (8, 2),
            "bias_indices": (2, 3),
            "bias_values": (3,),
            "bias_size": (2,),
        },
    ),
    (CONV, {"lora_down.weight": (2, 6, 1, 1), "lora_mid.weight": (2, 2, 3, 3), "lora_up.weight": (8, 2, 1, 1)}),
    (LINEAR, {"hada_w1_a": (8, 2), "hada_w1_b": (2, 12), "hada_w2_a": (8, 2), "hada_w2_b": (2, 12), "alpha": ()}),
    (
        CONV,
        {f"hada_w{n}_a": (2, 8) for n in (1, 2)}
        | {f"hada_w{n}_b": (2, 6) for n in (1, 2)}
        | {f"hada_t{n}": (2, 2, 3, 3) for n in (1, 2)},
    ),
    (LINEAR, {"lokr_w1": (2, 3), "lokr_w2": (4, 4)}),
    (LINEAR, {"lokr_w1_a": (2, 2), "lokr_w1_b": (2, 3), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 4), "alpha": ()}),
    (CONV, {"lokr_w1": (2, 3), "lokr_w2_a": (2, 4), "lokr_w2_b": (2, 2), "lokr_t2": (2, 2, 3, 3)}),
    (CONV, {"diff": (8, 6, 3, 3), "diff_b": (8,)}),
    (NORM, {"w_norm": (8,), "b_norm": (8,)}),
    (LINEAR, {"weight": (8,), "on_input": ()}),
    (CONV, {"weight": (1, 6, 1, 1), "on_input": ()}),
    (LINEAR, {"oft_blocks": (2, 4, 4), "alpha": (), "rescale": (8, 1)}),
    (LINEAR, {"oft_diag": (2, 4, 4)}),
    (LINEAR, {"oft_blocks": (2, 2, 4, 4), "alpha": ()}),
    (LINEAR, {"a1.weight": (12, 2), "a2.weight": (2, 12), "b1.weight": (8, 2), "b2.weight": (2, 12)}),
    (
        CONV,
        {
            "a1.weight": (6, 2, 1, 1),
            "a2.weight": (2, 6, 1, 1),
            "b1.weight": (8, 2, 1, 1),
            "b2.weight": (2, 6, 1, 1),
            "bm.weight": (2, 2, 3, 3),
        },
    ),
]
PREFIXES = ["unet.down_blocks.0.proj_in", "base_model.model.down_blocks.0.proj_in", "lora_unet_alias", "bundle_emb.cat"]
SUFFIXES = sorted(
    {suffix for _, shapes in SEEDS for suffix in shapes} | {"lora_magnitude_vector", "lora_A.weight", "x"}
)


def tensors_of(random_):
    """A file's tensors: some layers, most of them of a family, with a few things changed."""
    made = {}
    for _ in range(random_.randint(1, 3)):
        layer, shapes = random_.choice(SEEDS)
        shapes = dict(shapes)
        for _ in range(random_.choice((0, 0, 0, 0, 1, 1, 2, 4))):
            _change(shapes, random_)
        prefix = random_.choice(PREFIXES) if random_.random() < 0.1 else layer
        for suffix, shape in shapes.items():
            made[f"{prefix}.{suffix}"] = _tensor(shape, random_)
    return made


def _change(shapes, random_):
    suffix = random_.choice([*shapes, *random_.sample(SUFFIXES, 2)])
    shape = list(shapes.get(suffix, (random_.choice((1, 2, 8, 12)),)))
    what = random_.randrange(6)
    if what == 0:
        shapes.pop(suffix, None)
        return
    if what == 1 and shape:
        shape[random_.randrange(len(shape))] = random_.choice((0, 1, 2, 3, 6, 8, 12, 13))
    elif what == 2:
        shape.insert(random_.randrange(len(shape) + 1), random_.choice((0, 1, 2, 3)))
    elif what == 3 and shape:
        shape.pop(random_.randrange(len(shape)))
    elif what == 4:
        shape.reverse()
    shapes[suffix] = tuple(shape)


def _tensor(shape, random_):
    generator = torch.Generator().manual_seed(random_.getrandbits(32))
    scale = random_.choice((0.0, 1e3, 1e7, 1e9, 1e30)) if random_.random() < 0.05 else 0.1
    dtype = random_.choice(DTYPES) if random_.random() < 0.2 else torch.float32
    tensor = torch.randn(shape, generator=generator) * scale
    if tensor.numel() and random_.random() < 0.01:
        tensor.reshape(-1)[0] = random_.choice((float("nan"), float("inf"), -0.0, 3e38))
    return (tensor if dtype.is_floating_point else tensor.nan_to_num().clamp(-100, 100)).to(dtype)


METADATA = [
    {},
    {"ss_base_model_version": "sdxl_base_v1-0"},
    {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 1, "unet.use_rslora": True})},
    {"lora_adapter_metadata": json.dumps({"unet.r": 0, "unet.alpha_pattern": {".*proj": 3}})},
    {"lora_adapter_metadata": "[" * 5000},
    {"lora_adapter_metadata": '{"unet.r": 1e999}'},
    {"sshs_model_hash": "0" * 64},
]


def file_of(seed, path):
    """Write the file of a seed: a good one, or one whose tensors, header or bytes were changed."""
    random_ = random.Random(seed)
    file.write(path, tensors_of(random_), random_.choice(METADATA))
    kind = random_.randrange(6)
    if kind == 0:
        path.write_bytes(_bytes_changed(bytearray(path.read_bytes()), random_))
    elif kind == 1:
        path.write_bytes(_header_changed(path.read_bytes(), random_))


def _bytes_changed(content, random_):
    for _ in range(random_.randint(1, 8)):
        at = random_.randrange(max(1, len(content)))
        what = random_.randrange(4)
        if what == 0:
            content[at : at + 1] = bytes([random_.randrange(256)])
        elif what == 1:
            del content[at : at + random_.randint(1, 64)]
        elif what == 2:
            content[at:at] = random_.randbytes(random_.randint(1, 64))
        else:
            content[: min(8, len(content))] = struct.pack("<Q", random_.choice((0, 1, 10**6, 10**9, 2**63, 2**64 - 1)))
    return bytes(content)


def _header_changed(content, random_):
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    for _ in range(random_.randint(1, 3)):
        key = random_.choice(list(header) or ["a"])
        entry = header.get(key)
        if not isinstance(entry, dict) or random_.random() < 0.15:
            header[key] = random_.choice((None, [], {}, 3, "x", {"dtype": "F32"}))
            continue
        if random_.random() < 0.1:
            header[random_.choice(("\ud800", "\0", "a" * 5000, "lora_unet_" + "." * 300))] = header.pop(key)
            continue
        field = random_.choice(("dtype", "shape", "data_offsets"))
        entry[field] = random_.choice(_ODD[field])
    text = json.dumps(header)
    if random_.random() < 0.1:
        text = text.replace("0", random_.choice(("1e999", "-1", "0.5", "NaN", "9" * 30, "9" * 5000)), 1)
    return struct.pack("<Q", len(text)) + text.encode() + data


_HUGE = 10**30
_ODD = {
    "dtype": (*FORMATS, None, 3, ["F32"]),
    "shape": ([], [0], [1], [-1], [2, -1, -1], [0, _HUGE], [_HUGE, 0], [1] * 100, [2**32, 2**32], None, "12", [None],
              [1.5], [True], {"2": 1}, [[2]], [0] * 70),
    "data_offsets": ([0, 0], [0, 4], [4, 0], [-4, 0], [0, _HUGE], [_HUGE, _HUGE], [0], [0, 1, 2], None, "04", [0.5, 4]),
}  # fmt: skip


def check(seed, path):
    """Read and apply the file of a seed. Raises what must not happen: an error that is none of ours, or a trace."""
    file_of(seed, path)
    host = FakeHost()
    before = host.bits()
    patcher = WeightPatcher(host)
    began = time.process_time()
    tracemalloc.start()
    try:
        fitted = fit("x", path, host, partly=seed % 2 == 0)
        str(list(fitted.notes))
    except ExtensionError as error:
        assert str(error)
        fitted = None
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < FEW * path.stat().st_size + SLACK_BYTES, f"{most} bytes for a file of {path.stat().st_size}"
    assert time.process_time() - began < 10
    assert all(torch.equal(a, b) for a, b in zip(before, host.bits(), strict=True))
    if fitted is not None:
        # What was fitted can be applied, and taken back.
        patcher.apply([Patch(*place, adapter, 0.7) for place, adapter in fitted.adapters.items()])
        patcher.restore()
        assert all(torch.equal(a, b) for a, b in zip(before, host.bits(), strict=True))
    return fitted is not None


def seeds():
    replayed = os.environ.get("LORA_ATELIER_FUZZ_SEED")
    return [int(replayed)] if replayed else range(CASES)


def test_any_file_is_fitted_or_refused_in_a_sentence(tmp_path):
    path, fitted = tmp_path / "x.safetensors", 0

    for seed in seeds():
        try:
            fitted += check(seed, path)
        except BaseException as error:
            pytest.fail(f"LORA_ATELIER_FUZZ_SEED={seed}: {type(error).__name__}: {error}\n{traceback.format_exc()}")

    if len(seeds()) > 1:
        # Neither of both ways out is the only one that is taken.
        assert CASES // 10 < fitted < CASES * 9 // 10


def main(arguments):
    parser = argparse.ArgumentParser(description="Fuzz the reading and fitting of adapter files.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=CASES, help="the first seed")
    options = parser.parse_args(arguments)
    ends, seed, fitted, found = time.time() + 60 * options.minutes, options.seed, 0, {}
    with tempfile.TemporaryDirectory() as folder:
        while time.time() < ends:
            try:
                fitted += check(seed, Path(folder) / "x.safetensors")
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                kind = (type(error).__name__, place.filename, place.lineno)
                if kind not in found:
                    print(f"seed {seed}:")
                    traceback.print_exc(file=sys.stdout)
                    sys.stdout.flush()
                found[kind] = found.get(kind, 0) + 1
            seed += 1
    print(f"{seed - options.seed} files, {fitted} fitted, {len(found)} kinds of failures: {found}")
    return int(bool(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
