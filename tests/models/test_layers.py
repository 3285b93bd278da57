import gzip
import json
from pathlib import Path

import pytest

from lora_atelier.models import configs, layers, load

GOLDEN = json.loads(gzip.decompress((Path(__file__).with_name("golden") / "layers.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def full_size():
    """U-Net and text encoders of the real size, without memory, by family."""
    return {
        family: (
            load.empty_unet(configs.UNETS[family]),
            [load.empty_text_encoder(c, with_projection=at == 1) for at, c in enumerate(configs.TEXT_ENCODERS[family])],
        )
        for family in ("sd1", "sd2", "sdxl")
    }


def lora_shapes(module, rank, conv_rank):
    out_features, *in_shape = module.weight.shape
    size = conv_rank if in_shape[1:] and in_shape[1] > 1 else rank
    return [[size, *in_shape], [out_features, size, *[1] * (len(in_shape) - 1)]]


@pytest.mark.parametrize(("family", "case"), [("sd1", "sd15"), ("sdxl", "sdxl")])
@pytest.mark.parametrize("conv", [False, True], ids=["lora", "locon"])
def test_names_and_shapes_are_those_that_sd_scripts_trains(full_size, family, case, conv):
    """Golden list: sd-scripts 48d368fa; tests/models/make_golden.py wrote it."""
    unet, text_encoders = full_size[family]

    named = layers.target_layers(unet, conv=conv)
    for prefix, text_encoder in zip(layers.te_prefixes(len(text_encoders)), text_encoders, strict=True):
        named |= layers.target_layers(text_encoder, prefix=prefix)

    assert {name: lora_shapes(m, 16, 8) for name, m in named.items()} == GOLDEN[f"{case}-{'locon' if conv else 'lora'}"]


def test_the_counts_of_stable_diffusion_2(full_size):
    """192 U-Net modules as in SD1; 23 layers of OpenCLIP-H with 6 modules each."""
    unet, (text_encoder,) = full_size["sd2"]

    assert len(layers.target_layers(unet)) == 192
    assert len(layers.target_layers(text_encoder)) == 138


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_module_has_a_name_of_its_own(full_size, family):
    unet, text_encoders = full_size[family]
    weighted = [m for part in (unet, *text_encoders) for m in part.modules() if "weight" in m._parameters]

    model = load.Model(info=None, scheduler_config={}, unet=unet, text_encoders=tuple(text_encoders))

    assert len(layers.layers(model)) == len(weighted)


def test_sdxl_layers_are_also_known_by_their_diffusers_names(full_size):
    unet, text_encoders = full_size["sdxl"]
    model = load.Model(info=None, scheduler_config={}, unet=unet, text_encoders=tuple(text_encoders))

    aliases = layers.aliases(model)

    name = "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    assert aliases[f"lora_unet_{name}"] == "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    assert aliases["lora_unet_mid_block_resnets_1_conv2"] == "lora_unet_middle_block_2_out_layers_3"
    assert set(aliases.values()) <= layers.layers(model).keys()


def test_te_names_do_not_depend_on_the_transformers_version():
    assert layers.te_path("encoder.layers.0.mlp.fc1") == layers.te_path("text_model.encoder.layers.0.mlp.fc1")
    assert layers.te_path("text_projection") == "text_projection"


def test_one_text_encoder_is_also_known_as_the_first(tiny_model):
    """Some SD1 files call it te1."""
    aliases = layers.aliases(tiny_model)

    name = "text_model_encoder_layers_0_mlp_fc1"
    assert aliases[f"lora_te1_{name}"] == f"lora_te_{name}"


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_sd1_and_sd2_layers_are_also_known_by_their_ldm_names(family):
    unet = load.empty_unet(configs.UNETS[family])
    model = load.Model(info=None, scheduler_config={}, unet=unet, text_encoders=())
    aliases = layers.aliases(model)
    name = "input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    assert aliases[f"lora_unet_{name}"] == "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert aliases["lora_unet_middle_block_2_out_layers_3"] == "lora_unet_mid_block_resnets_1_conv2"
    assert set(aliases.values()) <= layers.layers(model).keys()
    assert not aliases.keys() & layers.layers(model).keys()


def test_diffusers_names_sdxls_first_text_encoder_as_sd1s_only_one(save_model, tmp_path):
    save_model(tmp_path / "xl", family="sdxl")
    model = load.load(tmp_path / "xl")

    name = "text_model_encoder_layers_0_self_attn_q_proj"

    assert layers.aliases(model)[f"lora_te_{name}"] == f"lora_te1_{name}"
