import gzip
import json
from pathlib import Path

import pytest

from lora_atelier.adapters import keys
from lora_atelier.models import ldm

pytestmark = pytest.mark.torchfree

# What sd-scripts trains, by layer name; tests/models/make_golden.py wrote it.
GOLDEN = Path(__file__).parents[1] / "models" / "golden" / "layers.json.gz"


def names(case):
    return set(json.loads(gzip.decompress(GOLDEN.read_bytes()))[case])


def only(key):
    """The layer and suffix of a file that has just this key."""
    grouped = keys.group({key: 1})
    ((layer, stored),) = grouped.layers.items()
    assert grouped.unknown == ()
    return layer, *stored


def test_kohyas_keys_are_grouped_by_layer():
    grouped = keys.group(
        {
            "lora_unet_mid_block_resnets_0_conv1.lora_down.weight": 1,
            "lora_unet_mid_block_resnets_0_conv1.alpha": 2,
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": 3,
            "bundle_emb.cat.string_to_param.*": 4,
            "bundle_emb.cat.clip_l": 5,
            "diffusion_model.weight": 6,
            "lora_unet_": 7,
        }
    )

    assert grouped.layers == {
        "lora_unet_mid_block_resnets_0_conv1": {"lora_down.weight": 1, "alpha": 2},
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": {"lora_up.weight": 3},
    }
    assert grouped.embeddings == {"cat": {"string_to_param.*": 4, "clip_l": 5}}
    assert grouped.unknown == ("diffusion_model.weight", "lora_unet_")
    assert grouped.paths == {}


@pytest.mark.parametrize("case", ["sd15-locon", "sdxl-locon"])
def test_every_layer_that_kohya_trains_is_read_by_its_name(case):
    """lora_te, lora_te1 and lora_te2; SD1's U-Net by diffusers' paths, SDXL's by ldm's."""
    trained = names(case)

    grouped = keys.group({f"{name}.lora_down.weight": name for name in trained})

    assert grouped.layers.keys() == trained
    assert len({name.split("_")[1] for name in trained}) == (2 if case == "sd15-locon" else 3)
    assert not grouped.unknown


# What stands between "unet." and a suffix of diffusers'.
TO_Q, TO_OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attentions.0.proj_out"
FLAT_Q, FLAT_OUT = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", "mid_block_attentions_0_proj_out"
TE = "text_model.encoder.layers.3.self_attn.q_proj"
FLAT_TE = "text_model_encoder_layers_3_self_attn_q_proj"
DOWN, UP = "lora_down.weight", "lora_up.weight"

# dialect -> {key: (layer, suffix)}
DIALECTS = {
    "kohya, one text encoder": {f"lora_te_{FLAT_TE}.lora_up.weight": (f"lora_te_{FLAT_TE}", UP)},
    "kohya, the second of two": {f"lora_te2_{FLAT_TE}.dora_scale": (f"lora_te2_{FLAT_TE}", "dora_scale")},
    "kohya, SD 1.5 by ldm paths": {
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight": (
            "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q",
            DOWN,
        )
    },
    "kohya, OFT": {f"oft_unet_{FLAT_Q}.oft_blocks": (f"lora_unet_{FLAT_Q}", "oft_blocks")},
    "LyCORIS": {
        f"lora_unet_{FLAT_Q}.hada_w1_a": (f"lora_unet_{FLAT_Q}", "hada_w1_a"),
        f"lora_unet_{FLAT_Q}.b1.weight": (f"lora_unet_{FLAT_Q}", "b1.weight"),
        f"lora_unet_{FLAT_Q}.on_input": (f"lora_unet_{FLAT_Q}", "on_input"),
    },
    "LyCORIS as a library (SimpleTuner)": {
        f"lycoris_{FLAT_Q}.lokr_w1": (f"lora_unet_{FLAT_Q}", "lokr_w1"),
        f"lycoris_unet_{FLAT_Q}.lokr_w1": (f"lora_unet_{FLAT_Q}", "lokr_w1"),
        f"lycoris_{FLAT_TE}.lokr_w2": (f"lora_te_{FLAT_TE}", "lokr_w2"),
        f"lycoris_{FLAT_TE.removeprefix('text_model_')}.alpha": (f"lora_te_{FLAT_TE}", "alpha"),
    },
    "diffusers before 0.17": {
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight": (
            f"lora_unet_{FLAT_Q}",
            DOWN,
        ),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight": (
            f"lora_unet_{FLAT_Q.removesuffix('q')}out_0",
            UP,
        ),
    },
    "diffusers 0.17 to 0.21": {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight": (
            f"lora_unet_{FLAT_Q.removesuffix('q')}out_0",
            DOWN,
        ),
        f"text_encoder.{TE}.lora_linear_layer.up.weight": (f"lora_te_{FLAT_TE}", UP),
        "text_encoder.text_model.encoder.layers.3.self_attn.to_q_lora.down.weight": (f"lora_te_{FLAT_TE}", DOWN),
        f"text_encoder_2.{TE}.lora_linear_layer.down.weight": (f"lora_te2_{FLAT_TE}", DOWN),
    },
    "diffusers 0.22 and later": {
        f"unet.{TO_Q}.lora.down.weight": (f"lora_unet_{FLAT_Q}", DOWN),
        f"unet.{TO_Q}.lora.up.weight": (f"lora_unet_{FLAT_Q}", UP),
        f"unet.{TO_OUT}.lora_A.weight": (f"lora_unet_{FLAT_OUT}", DOWN),
        f"unet.{TO_OUT}.lora_B.weight": (f"lora_unet_{FLAT_OUT}", UP),
        f"unet.{TO_OUT}.lora_magnitude_vector.weight": (f"lora_unet_{FLAT_OUT}", "lora_magnitude_vector"),
        f"unet.{TO_OUT}.lora_magnitude_vector": (f"lora_unet_{FLAT_OUT}", "lora_magnitude_vector"),
        f"text_encoder.{TE}.lora_A.weight": (f"lora_te_{FLAT_TE}", DOWN),
        f"text_encoder_2.{TE}.lora_B.weight": (f"lora_te2_{FLAT_TE}", UP),
    },
    "diffusers with transformers 5, whose CLIP has no text_model": {
        "text_encoder.encoder.layers.3.self_attn.q_proj.lora_A.weight": (f"lora_te_{FLAT_TE}", DOWN),
        "text_encoder_2.encoder.layers.3.self_attn.q_proj.lora_B.weight": (f"lora_te2_{FLAT_TE}", UP),
    },
    "PEFT alone": {
        f"base_model.model.{TO_Q}.lora_A.weight": (f"lora_unet_{FLAT_Q}", DOWN),
        f"base_model.model.{TO_Q}.lora_B.default.weight": (f"lora_unet_{FLAT_Q}", UP),
        f"base_model.model.{TO_Q}.lora_magnitude_vector.default": (f"lora_unet_{FLAT_Q}", "lora_magnitude_vector"),
        f"base_model.model.{TO_Q}.lora_magnitude_vector.default.weight": (
            f"lora_unet_{FLAT_Q}",
            "lora_magnitude_vector",
        ),
        f"base_model.model.{TE}.lora_A.weight": (f"lora_te_{FLAT_TE}", DOWN),
        "base_model.model.encoder.layers.3.self_attn.q_proj.lora_A.weight": (f"lora_te_{FLAT_TE}", DOWN),
    },
    "PEFT with its parts": {
        f"unet.base_model.model.{TO_Q}.lora_A.weight": (f"lora_unet_{FLAT_Q}", DOWN),
        f"text_encoder.base_model.model.{TE}.lora_A.default.weight": (f"lora_te_{FLAT_TE}", DOWN),
    },
    "ComfyUI, SD 1.5": {
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_A.weight": (
            "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q",
            DOWN,
        )
    },
    "ComfyUI, SDXL": {
        "diffusion_model.output_blocks.5.1.transformer_blocks.1.ff.net.0.proj.lora_up.weight": (
            "lora_unet_output_blocks_5_1_transformer_blocks_1_ff_net_0_proj",
            UP,
        ),
        "model.diffusion_model.middle_block.1.proj_in.diff": ("lora_unet_middle_block_1_proj_in", "diff"),
        "diffusion_model.out.0.w_norm": ("lora_unet_out_0", "w_norm"),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        pytest.param(key, said, id=f"{dialect}: {key}")
        for dialect, written in DIALECTS.items()
        for key, said in written.items()
    ],
)
def test_a_dialects_key_says_its_layer_and_suffix(key, expected):
    assert only(key) == expected


def test_diffusers_layers_are_those_that_kohya_trains():
    """Every one of SD 1.5's, written as diffusers does, comes out under kohya's name."""
    trained = names("sd15-locon")
    dotted = {}
    for name in trained:
        part, prefix = ("unet", "lora_unet_") if name.startswith("lora_unet_") else ("text_encoder", "lora_te_")
        dotted[f"{part}.{_dots(name.removeprefix(prefix))}.lora_A.weight"] = name

    grouped = keys.group(dotted)

    assert grouped.layers == {name: {DOWN: name} for name in trained}
    assert {layer: path.replace(".", "_") for layer, path in grouped.paths.items()} == {
        name: name.partition("unet_")[2] or name.removeprefix("lora_te_") for name in trained
    }


# Module names that have an underscore themselves; between all others it stood for a dot.
_WORDS = (
    "down_blocks up_blocks mid_block transformer_blocks text_model self_attn to_q to_k to_v to_out proj_in proj_out "
    "time_emb_proj conv_shortcut q_proj k_proj v_proj out_proj "
    "input_blocks output_blocks middle_block in_layers emb_layers out_layers skip_connection"
).split()


def _dots(flat):
    for at, word in enumerate(_WORDS):
        flat = flat.replace(word, f"<{at}>")
    flat = flat.replace("_", ".")
    for at, word in enumerate(_WORDS):
        flat = flat.replace(f"<{at}>", word)
    return flat


def test_comfys_sdxl_paths_are_kohyas_names():
    trained = {name for name in names("sdxl-locon") if name.startswith("lora_unet_")}
    dotted = {f"diffusion_model.{_dots(name.removeprefix('lora_unet_'))}.lora_up.weight": name for name in trained}

    grouped = keys.group(dotted)

    assert grouped.layers == {name: {UP: name} for name in trained}


def test_a_key_that_says_the_same_as_another_is_counted_as_unknown():
    grouped = keys.group({f"lora_unet_{FLAT_Q}.lora_up.weight": 1, f"unet.{TO_Q}.lora_B.weight": 2})

    assert grouped.layers == {f"lora_unet_{FLAT_Q}": {UP: 1}}
    assert grouped.unknown == (f"unet.{TO_Q}.lora_B.weight",)


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.input_blocks.0.0.weight",
        "first_stage_model.encoder.conv_in.weight",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "emb_params",
        "string_to_param",
        "lora_controlnet_x.lora_up.weight",
        "lora_unet_x",
        "unet.x",
        "unet.lora_A.weight",
        "a.lora_A.weight",
        ".lora_A.weight",
        "lora_A.default.weight",
        "",
        ".",
    ],
)
def test_what_is_no_adapters_key_is_unknown(key):
    assert keys.group({key: 1}).unknown == (key,)
    assert not keys.is_adapter(["first_stage_model.encoder.conv_in.weight", "emb_params"])


@pytest.mark.parametrize(
    ("key", "base"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "Flux"),
        ("lora_unet_single_blocks_0_linear1.lora_down.weight", "Flux"),
        ("diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight", "Flux"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
        ("lora_transformer_single_transformer_blocks_0_attn_to_q.lora_down.weight", "Flux"),
        ("lycoris_single_transformer_blocks_0_attn_to_q.lokr_w1", "Flux"),
        ("base_model.model.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", "Stable Diffusion 3"),
        ("diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight", "Stable Diffusion 3"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "Stable Diffusion 3"),
        ("lora_te3_encoder_block_0_layer_0_SelfAttention_k.lora_down.weight", "Stable Diffusion 3"),
        (f"lora_unet_{FLAT_Q}.lora_down.weight", ""),
        (f"unet.{TO_Q}.lora_A.weight", ""),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight", ""),
    ],
)
def test_files_for_models_that_can_not_be_used_are_known_by_name(key, base):
    assert keys.foreign_base([f"lora_te1_{FLAT_TE}.alpha", key]) == base


def test_flux_has_sd3s_blocks_too():
    both = ["transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "transformer.single_transformer_blocks.0.x"]

    assert keys.foreign_base(both) == "Flux"


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


@pytest.mark.parametrize("key", [f"lora_te2_{FLAT_TE}.alpha", "lora_unet_x_transformer_blocks_9_x.alpha"])
def test_names_that_only_sdxl_has_tell_its_files(key):
    assert keys.trained_for({key: ()}, {"ss_base_model_version": "sd_v1"}) == "sdxl"


def test_sd1s_ldm_paths_are_the_layers_that_kohya_trains():
    """The golden list by diffusers' paths, taken through the table of ldm paths: every layer gets one of its own."""
    attention = {0: False, 1: True, 2: True, 3: True}
    unet = {name.removeprefix("lora_unet_") for name in names("sd15-lora") if "unet" in name}

    paths = {ldm.unet_path(_dots(flat), 2, attention) for flat in unet}

    assert len(paths) == len(unet) == 192
    assert "input_blocks.1.1.transformer_blocks.0.attn1.to_q" in paths
    assert all(path.startswith(("input_blocks.", "middle_block.1.", "output_blocks.")) for path in paths)
