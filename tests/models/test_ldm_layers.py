import pytest
import torch
from tests.hosts.fake_parts import tree
from torch import nn

from lora_atelier.models import configs, layers, ldm, ldm_layers

diffusers = pytest.importorskip("diffusers")


def ldm_unet(unet):
    """Modules with a diffusers U-Net's weights under their ldm names, as webuis have them."""
    layout = layers.ldm_layout(unet)
    return tree(
        {
            ldm.unet_path(path, *layout): module
            for path, module in unet.named_modules()
            if isinstance(getattr(module, "weight", None), nn.Parameter)
        }
    )


@pytest.fixture(params=["sd1", "sdxl"])
def unet(request):
    with torch.device("meta"):
        made = diffusers.UNet2DConditionModel.from_config(
            configs.UNETS[request.param][0]
            if isinstance(configs.UNETS[request.param], (list, tuple))
            else configs.UNETS[request.param]
        )
    return request.param, made


def test_every_layer_has_the_name_that_it_has_in_diffusers(unet):
    family, model = unet
    expected = layers.unet_layers(model)

    found, others = ldm_layers.unet_layers(ldm_unet(model), sdxl=family == "sdxl")

    assert {name: layer.module for name, layer in found.items()} == expected
    assert set(others.values()) <= found.keys()
    other = "lora_unet_down_blocks_1_attentions_0_proj_in" if family == "sdxl" else "lora_unet_input_blocks_4_1_proj_in"
    assert other in others


def test_open_clips_fused_weight_is_three_layers():
    text = nn.Module()
    text.transformer = nn.Module()
    block = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2), "ln_1": nn.LayerNorm(8)})
    block["mlp"] = nn.ModuleDict({"c_fc": nn.Linear(8, 32), "c_proj": nn.Linear(32, 8)})
    text.transformer.resblocks = nn.ModuleList([block])
    text.ln_final = nn.LayerNorm(8)

    found = ldm_layers.open_clip_layers(text, "lora_te2")

    start = "lora_te2_text_model_encoder_layers_0_"
    assert found.keys() == {
        *(f"{start}self_attn_{name}_proj" for name in ("q", "k", "v", "out")),
        *(f"{start}{name}" for name in ("mlp_fc1", "mlp_fc2", "layer_norm1")),
        "lora_te2_text_model_final_layer_norm",
    }
    weight = block["attn"].in_proj_weight
    assert torch.equal(found[f"{start}self_attn_k_proj"].view("weight"), weight[8:16])
    assert found[f"{start}self_attn_v_proj"].shape("weight") == (8, 8)


def test_the_only_and_the_first_text_encoder_are_called_by_either_name():
    assert ldm_layers.te_aliases(["lora_te_a", "lora_unet_b"]) == {"lora_te1_a": "lora_te_a"}
    assert ldm_layers.te_aliases(["lora_te1_a", "lora_te2_a"]) == {"lora_te_a": "lora_te1_a"}
