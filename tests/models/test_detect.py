import json
import struct

import pytest

from lora_atelier.errors import ModelError
from lora_atelier.models import detect

pytestmark = pytest.mark.torchfree

UNET = "model.diffusion_model."


def checkpoint_keys(width, *, text_time=False, channels=4):
    block = "input_blocks.4.1" if text_time else "input_blocks.1.1"
    keys = {
        f"{UNET}input_blocks.0.0.weight": (320, channels, 3, 3),
        f"{UNET}{block}.transformer_blocks.0.attn2.to_k.weight": (2, width),
        "first_stage_model.decoder.conv_in.weight": (1,),
        "conditioner.embedders.0.x" if text_time else "cond_stage_model.x": (1,),
    }
    return keys | ({f"{UNET}label_emb.0.0.weight": (1,)} if text_time else {})


@pytest.mark.parametrize(
    ("keys", "family", "resolution"),
    [
        (checkpoint_keys(768), "sd1", 512),
        (checkpoint_keys(1024), "sd2", 512),
        (checkpoint_keys(2048, text_time=True), "sdxl", 1024),
    ],
    ids=["sd1", "sd2", "sdxl"],
)
def test_a_single_file_is_known_by_the_width_of_its_text(tmp_path, write_header, keys, family, resolution):
    info = detect.inspect(write_header(tmp_path / "私のモデル v1.0.safetensors", keys))

    assert (info.kind, info.family, info.resolution) == ("checkpoint", family, resolution)
    assert (info.prediction_type, info.title) == ("epsilon", "私のモデル v1.0")


def spread(values):
    return b"".join(struct.pack("<e", value) for value in values)


BIAS = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"


@pytest.mark.parametrize(
    ("name", "metadata", "extra", "yaml", "expected"),
    [
        ("a", {"modelspec.prediction_type": "v"}, {}, None, "v_prediction"),
        ("vpred", {"modelspec.prediction_type": "epsilon"}, {}, None, "epsilon"),
        ("a", {}, {"v_pred": b"\0\0"}, None, "v_prediction"),
        ("a", {}, {}, 'params:\n  parameterization: "v"\n', "v_prediction"),
        ("a-vpred", {}, {}, "params: {}\n", "epsilon"),
        ("noob-V-Pred-1.0", {}, {}, None, "v_prediction"),
        ("v2-1_768-v-ema", {}, {}, None, "v_prediction"),
        ("a", {}, {BIAS: spread([0.3, -0.3] * 160)}, None, "v_prediction"),
        ("a", {}, {BIAS: spread([0.01, -0.01] * 160)}, None, "epsilon"),
        ("a", {}, {}, None, "epsilon"),
    ],
)
def test_sd2_prediction_type_is_found_from_the_hints_in_turn(
    tmp_path, write_header, name, metadata, extra, yaml, expected
):
    keys = checkpoint_keys(1024) | {key: (len(data) // 2,) for key, data in extra.items()}
    path = write_header(tmp_path / f"{name}.safetensors", keys, metadata, data=extra)
    if yaml:
        path.with_suffix(".yaml").write_text(yaml)

    info = detect.inspect(path)

    assert info.prediction_type == expected
    assert info.resolution == (768 if expected == "v_prediction" else 512)


def test_noobai_marks_v_prediction_and_zero_snr_by_two_keys(tmp_path, write_header):
    keys = checkpoint_keys(2048, text_time=True) | {"v_pred": (), "ztsnr": ()}

    info = detect.inspect(write_header(tmp_path / "n.safetensors", keys))

    assert (info.prediction_type, info.zero_snr) == ("v_prediction", True)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (1,)}, "It is Stable Diffusion 3"),
        ({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (1,)}, "It is Flux"),
        ({"double_blocks.0.img_attn.qkv.weight": (1,)}, "It is Flux"),
        ({"lora_unet_down_blocks_0.lora_down.weight": (1,)}, "an adapter (LoRA)"),
        ({"down_blocks.0.resnets.0.conv1.weight": (1,)}, "only the U-Net"),
        ({"decoder.up.0.block.0.conv1.weight": (1,)}, "only the VAE"),
        ({"anything": (1,)}, "no Stable Diffusion U-Net"),
        (checkpoint_keys(768, channels=9), "an inpainting model"),
        (checkpoint_keys(1280, text_time=True), "the refiner of SDXL"),
        (checkpoint_keys(64), "Its kind is unknown"),
        ({k: s for k, s in checkpoint_keys(768).items() if "first_stage" not in k}, "holds no VAE"),
        ({k: s for k, s in checkpoint_keys(768).items() if "cond_stage" not in k}, "holds no text encoder"),
    ],
)
def test_what_is_no_base_model_for_us_is_refused_by_name(tmp_path, write_header, keys, said):
    path = write_header(tmp_path / "x.safetensors", keys)

    with pytest.raises(ModelError, match=said.replace("(", r"\(").replace(")", r"\)")):
        detect.inspect(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_pickles_are_refused_without_being_opened(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"cos\nsystem\n")

    with pytest.raises(ModelError, match="pickles, which can run any program"):
        detect.inspect(path)


def test_broken_and_absent_files_are_said_in_a_sentence(tmp_path, write_header):
    cut = write_header(tmp_path / "cut.safetensors", checkpoint_keys(768), cut=10)

    with pytest.raises(ModelError, match="broken or incomplete"):
        detect.inspect(cut)
    with pytest.raises(ModelError, match="There is no model at"):
        detect.inspect(tmp_path / "gone.safetensors")
    with pytest.raises(ModelError, match=r"does not end in \.safetensors"):
        detect.inspect(write_header(tmp_path / "model.gguf", {}))


def folder(path, unet, weights=".safetensors", **others):
    for part in ("unet", "vae", "text_encoder"):
        (path / part).mkdir(parents=True)
        (path / part / f"model{weights}").write_bytes(b"")
    (path / "unet" / "config.json").write_text(json.dumps(unet))
    for name, content in others.items():
        (path / name).mkdir(exist_ok=True)
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (path / name / file).write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("unet", "family"),
    [
        ({"cross_attention_dim": 96, "sample_size": 16}, "toy"),
        ({"cross_attention_dim": 768, "sample_size": 64}, "sd1"),
        ({"cross_attention_dim": [1024, 1024], "sample_size": 96}, "sd2"),
        ({"cross_attention_dim": 2048, "sample_size": 128, "addition_embed_type": "text_time"}, "sdxl"),
    ],
)
def test_a_folder_is_known_by_its_unet_config(tmp_path, unet, family):
    path = folder(tmp_path / "m", unet, scheduler={"prediction_type": "v_prediction"})

    info = detect.inspect(path)

    assert (info.kind, info.family, info.resolution) == ("diffusers", family, unet["sample_size"] * 8)
    assert info.prediction_type == "v_prediction"


def test_folders_of_other_families_or_with_pickles_are_refused(tmp_path):
    sd3 = folder(tmp_path / "sd3", {}, transformer={"_class_name": "SD3Transformer2DModel"})
    flux = folder(tmp_path / "flux", {}, transformer={"_class_name": "FluxTransformer2DModel"})
    pickled = folder(tmp_path / "old", {"cross_attention_dim": 768}, weights=".bin")
    broken = folder(tmp_path / "broken", {"cross_attention_dim": 768})
    (broken / "unet" / "config.json").write_text("{")

    for path, said in ((sd3, "Stable Diffusion 3"), (flux, "Flux"), (pickled, "pickles"), (broken, "not|broken")):
        with pytest.raises(ModelError, match=said):
            detect.inspect(path)
    with pytest.raises(ModelError, match=r"no unet/config\.json"):
        detect.inspect(tmp_path)
