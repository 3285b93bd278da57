"""Our names of single-file checkpoints against the converters of diffusers (0.42), which only tests use."""

import pytest
import torch
from diffusers.loaders import single_file_utils as single_file

from lora_atelier.models import configs, layers, ldm, load


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_unet_names_are_those_that_diffusers_converts(family):
    unet = load.empty_unet(configs.UNETS[family])
    names = [name for name, _ in unet.named_parameters()]
    checkpoint = {f"model.diffusion_model.{ldm.unet_path(name, *layers.ldm_layout(unet))}": name for name in names}
    assert len(checkpoint) == len(names)

    converted = single_file.convert_ldm_unet_checkpoint(checkpoint, config=dict(unet.config))

    assert converted == {name: name for name in names}


def test_vae_names_are_those_that_diffusers_converts():
    vae = load.empty_vae(configs.VAES["sd1"])
    weights = dict(vae.named_parameters())
    checkpoint = {}
    for name, weight in weights.items():
        attention = weight.ndim == 2 and "attentions" in name
        checkpoint[f"first_stage_model.{ldm.vae_path(name, 4)}"] = weight[:, :, None, None] if attention else weight

    converted = single_file.convert_ldm_vae_checkpoint(checkpoint, config=dict(vae.config))

    assert {name: tuple(weight.shape) for name, weight in converted.items()} == {
        name: tuple(weight.shape) for name, weight in weights.items()
    }
    for name, weight in weights.items():
        if weight.ndim != 2:
            assert converted[name] is weight


def test_open_clip_names_and_thirds_are_those_that_diffusers_converts():
    config = {**configs.OPEN_CLIP_BIG_G, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3}
    text_encoder = load.empty_text_encoder(
        {**config, "num_attention_heads": 2, "projection_dim": 8, "vocab_size": 20}, with_projection=True
    )
    plain = {name.removeprefix("text_model."): p.shape for name, p in text_encoder.named_parameters()}
    weights = {name: torch.randn(shape) for name, shape in plain.items()}
    checkpoint, thirds = {}, {}
    for name, weight in weights.items():
        key, third = ldm.open_clip_key(name)
        if third is None:
            checkpoint["x." + key] = weight.T if key == "text_projection" else weight
        else:
            thirds.setdefault("x." + key, [None] * 3)[third] = weight
    checkpoint |= {key: torch.cat(parts) for key, parts in thirds.items()}

    converted = single_file.convert_open_clip_checkpoint(text_encoder, checkpoint, prefix="x.")

    converted = {name.removeprefix("text_model."): weight for name, weight in converted.items()}
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[name], weight) for name, weight in weights.items())
