"""The tensors of files for models of the real size: names, shapes, alpha and number format are sd-scripts'.

Golden list: sd-scripts 48d368fa, rank 16 and convolution rank 8; tests/models/make_golden.py wrote it.
"""

import gzip
import json
from pathlib import Path

import pytest
import torch

from lora_atelier.config import NetworkConfig
from lora_atelier.models import configs, load
from lora_atelier.models.detect import ModelInfo
from lora_atelier.trainer.network import LoraNetwork
from lora_atelier.trainer.targets import trained_layers

_PATH = Path(__file__).parents[1] / "models" / "golden" / "layers.json.gz"
GOLDEN = json.loads(gzip.decompress(_PATH.read_bytes()))
CASES = {"sd1": "sd15", "sdxl": "sdxl"}
# sd-scripts has no golden list of SD 2: as many layers as SD 1's U-Net, and 23 of OpenCLIP's with 6 modules each.
SD2 = (192 + 138, 278 + 138)


@pytest.fixture(scope="module")
def models():
    """U-Net and text encoders of the real size, without memory, by family."""
    found = {}
    for family in ("sd1", "sd2", "sdxl"):
        info = ModelInfo(Path("x"), "checkpoint", family, "epsilon", 512, family)
        encoders = [
            load.empty_text_encoder(config, with_projection=at == 1)
            for at, config in enumerate(configs.TEXT_ENCODERS[family])
        ]
        unet = load.empty_unet(configs.UNETS[family])
        found[family] = load.Model(info, {}, unet=unet, text_encoders=tuple(encoders))
    return found


def tensors_of(model, **options):
    """What a network would write in fp16, without its numbers."""
    config = NetworkConfig(rank=16, alpha=8.0, train_te=True, **options)
    network = LoraNetwork(trained_layers(model, config), config, seed=1)
    return {key: (tuple(t.shape), t) for key, t in network._named()}


@pytest.mark.parametrize("conv", [0, 8], ids=["lora", "locon"])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("algorithm", ["lora", "dora"])
def test_names_and_shapes_are_sd_scripts_and_doras_have_lengths_besides(models, family, conv, algorithm):
    found = tensors_of(models[family], algorithm=algorithm, conv_rank=conv, conv_alpha=4.0)

    layers = {key.partition(".")[0] for key in found}
    extra = set()
    if algorithm == "dora" and conv:
        # LyCORIS' preset, which trains convolutions, has the ends of the U-Net too; in SDXL they have other names.
        ends = ("conv_in", "conv_out", "time_embedding_linear_1", "time_embedding_linear_2")
        extra = {f"lora_unet_{name}" for name in ends} if family != "sdxl" else set()
        assert extra <= layers
    if family in CASES:
        golden = GOLDEN[f"{CASES[family]}-{'locon' if conv else 'lora'}"]
        assert layers == golden.keys() | extra
        for name, (down, up) in golden.items():
            assert found[f"{name}.lora_down.weight"][0] == tuple(down)
            assert found[f"{name}.lora_up.weight"][0] == tuple(up)
    else:
        assert len(layers - extra) == SD2[conv > 0]
    for name in layers:
        spatial = len(found[f"{name}.lora_down.weight"][0]) == 4 and found[f"{name}.lora_down.weight"][0][-1] > 1
        assert float(found[f"{name}.alpha"][1]) == (4.0 if spatial else 8.0)
        assert found[f"{name}.alpha"][0] == ()
        lengths = found.get(f"{name}.dora_scale")
        assert (lengths is not None) == (algorithm == "dora")
        if lengths is not None:
            up = found[f"{name}.lora_up.weight"][0]
            assert lengths[0] == (up[0], *[1] * (len(up) - 1))
    assert len(found) == len(layers) * (4 if algorithm == "dora" else 3)


def test_everything_is_written_in_the_wanted_number_format(models):
    layers = trained_layers(models["sd1"], NetworkConfig(rank=1))
    two = dict(list(layers.items())[:2])
    for module in two.values():
        module.weight = torch.nn.Parameter(torch.zeros(module.weight.shape), requires_grad=False)
    written = LoraNetwork(two, NetworkConfig(rank=1), seed=1).tensors(torch.float16)

    assert {tensor.dtype for tensor in written.values()} == {torch.float16}
    assert {key.partition(".")[2] for key in written} == {"alpha", "lora_down.weight", "lora_up.weight"}
