import pytest

from lora_atelier.adapters import keys

pytestmark = pytest.mark.torchfree


def test_kohyas_keys_are_grouped_by_layer():
    grouped = keys.group(
        {
            "lora_unet_mid_block_resnets_0_conv1.lora_down.weight": 1,
            "lora_unet_mid_block_resnets_0_conv1.alpha": 2,
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": 3,
            "bundle_emb.cat.string_to_param.*": 4,
            "diffusion_model.weight": 5,
            "lora_unet_": 6,
        }
    )

    assert grouped.layers == {
        "lora_unet_mid_block_resnets_0_conv1": {"lora_down.weight": 1, "alpha": 2},
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": {"lora_up.weight": 3},
    }
    assert grouped.embeddings == ("bundle_emb.cat.string_to_param.*",)
    assert grouped.unknown == ("diffusion_model.weight", "lora_unet_")


@pytest.mark.parametrize(
    ("width", "metadata", "expected"),
    [
        (768, {}, "sd1"),
        (1024, {}, "sd2"),
        (2048, {"ss_base_model_version": "sd_v1"}, "sdxl"),
        (96, {}, "toy"),
        (None, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        (None, {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
        (None, {"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
        (None, {"ss_base_model_version": "sd_v2"}, "sd2"),
        (None, {"ss_base_model_version": "lora_atelier_toy"}, "toy"),
        (None, {}, ""),
    ],
)
def test_a_file_says_which_models_it_was_trained_for(width, metadata, expected):
    shapes = {"lora_unet_x_attn2_to_k.lora_down.weight": (4, width)} if width else {"lora_te_x.alpha": ()}

    assert keys.trained_for(shapes, metadata) == expected
