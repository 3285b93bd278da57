import json
import subprocess
import sys

import pytest
import torch

from lora_atelier.adapters import file
from lora_atelier.errors import ModelError
from lora_atelier.models import configs, detect, layers, ldm, load

# Small modules under the real names; the text's width is what tells the families apart.
TINY_UNETS = {
    "sd1": {"cross_attention_dim": 768},
    "sd2": {"cross_attention_dim": 1024, "use_linear_projection": True},
    "sdxl": {
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 1280 + 48,
    },
}
TINY_CLIP = {"num_hidden_layers": 2, "intermediate_size": 32}


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def tiny_architecture(request, monkeypatch):
    """One family's architecture with few and narrow blocks in place of the real numbers."""
    family = request.param
    unet = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        **TINY_UNETS[family],
    }
    vae = {**configs.VAES[family], "block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "sample_size": 64}
    clips = tuple({**config, **TINY_CLIP} for config in configs.TEXT_ENCODERS[family])
    monkeypatch.setitem(configs.UNETS, family, unet)
    monkeypatch.setitem(configs.VAES, family, vae)
    monkeypatch.setitem(configs.TEXT_ENCODERS, family, clips)
    return family


def checkpoint_tensors(family):
    """A random single-file checkpoint's tensors, and the same by part and diffusers' name."""
    generator = torch.Generator().manual_seed(0)
    tensors, by_part = {}, {}

    def random(shape):
        return torch.randn(tuple(shape), generator=generator).mul(0.05).half()

    unet = load.empty_unet(configs.UNETS[family])
    for name, weight in unet.named_parameters():
        value = by_part["unet", name] = random(weight.shape)
        tensors["model.diffusion_model." + ldm.unet_path(name, *layers.ldm_layout(unet))] = value
    for name, weight in load.empty_vae(configs.VAES[family]).named_parameters():
        value = by_part["vae", name] = random(weight.shape)
        stored = value[:, :, None, None] if value.ndim == 2 else value
        tensors["first_stage_model." + ldm.vae_path(name, 4)] = stored
    for at, config in enumerate(configs.TEXT_ENCODERS[family]):
        start = f"conditioner.embedders.{at}." if family == "sdxl" else "cond_stage_model."
        thirds = {}
        text_encoder = load.empty_text_encoder(config, with_projection=at == 1)
        for name, weight in text_encoder.named_parameters():
            value = by_part[f"te{at}", name] = random(weight.shape)
            plain = name.removeprefix("text_model.")
            if family == "sd1" or (family == "sdxl" and at == 0):
                tensors[f"{start}transformer.text_model.{plain}"] = value
                continue
            key, third = ldm.open_clip_key(plain)
            if third is None:
                tensors[f"{start}model.{key}"] = value.T if key == "text_projection" else value
            else:
                thirds.setdefault(f"{start}model.{key}", [None] * 3)[third] = value
        tensors |= {key: torch.cat(parts) for key, parts in thirds.items()}
    return tensors, by_part


def test_a_single_file_fills_every_weight_of_every_part(tmp_path, tiny_architecture):
    tensors, expected = checkpoint_tensors(tiny_architecture)
    file.write(tmp_path / "m.safetensors", tensors, {})

    model = load.load(tmp_path / "m.safetensors")

    assert model.info.family == tiny_architecture
    parts = {"unet": model.unet, "vae": model.vae}
    parts |= {f"te{at}": text_encoder for at, text_encoder in enumerate(model.text_encoders)}
    loaded = {(part, name): p for part, module in parts.items() for name, p in module.named_parameters()}
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], value.float()) for key, value in expected.items())
    assert not any(tensor.is_meta for part in model.parts() for tensor in (*part.parameters(), *part.buffers()))
    text = model.encode(["a cat", ""])
    assert text.context.shape == (2, 77, configs.UNETS[tiny_architecture]["cross_attention_dim"])
    assert (text.pooled is not None) == (tiny_architecture == "sdxl")
    latents = torch.zeros(2, 4, 8, 8)
    predicted = model.prediction(latents, torch.tensor([500, 500]), text, size=(64, 64))
    assert predicted.shape == latents.shape


def test_only_the_parts_that_are_asked_for_are_read(tiny_model_folder):
    model = load.load(tiny_model_folder, parts=("te",), dtype=torch.bfloat16)

    assert model.unet is None
    assert model.vae is None
    assert {parameter.dtype for parameter in model.text_encoders[0].parameters()} == {torch.bfloat16}


def test_a_folder_gives_the_modules_that_diffusers_gives(tiny_model_folder, tiny_model):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tiny_model_folder / "unet")

    for (name, ours), (their_name, weight) in zip(
        tiny_model.unet.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == their_name
        assert torch.equal(ours, weight)
    assert not tiny_model.unet.training


def test_text_encoder_weights_with_and_without_the_old_prefix_are_the_same(tmp_path, tiny_model_folder, tiny_model):
    """transformers 5 saves CLIP without ``text_model.``, 4 with it."""
    import shutil

    shutil.copytree(tiny_model_folder, tmp_path / "m")
    path = tmp_path / "m" / "text_encoder" / "model.safetensors"
    content = file.read(path)
    other = {
        key.removeprefix("text_model.") if key.startswith("text_model.") else f"text_model.{key}": tensor
        for key, tensor in content.tensors.items()
    }
    file.write(path, other, {})

    model = load.load(tmp_path / "m", parts=("te",))

    assert torch.equal(model.encode(["a cat"]).context, tiny_model.encode(["a cat"]).context)


@pytest.mark.parametrize("tiny_architecture", ["sd1"], indirect=True)
def test_a_checkpoint_that_lacks_weights_or_has_odd_ones_is_refused(tmp_path, tiny_architecture):
    tensors, _ = checkpoint_tensors(tiny_architecture)
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    missing = {name: tensor for name, tensor in tensors.items() if name != key}
    file.write(tmp_path / "missing.safetensors", missing, {})
    file.write(tmp_path / "odd.safetensors", {**tensors, key: torch.zeros(3, 3)}, {})
    file.write(tmp_path / "int8.safetensors", {**tensors, key: tensors[key].to(torch.int8)}, {})

    with pytest.raises(ModelError, match="1 weights of its unet are missing"):
        load.load(tmp_path / "missing.safetensors")
    with pytest.raises(ModelError, match=r"has the shape \(3, 3\)"):
        load.load(tmp_path / "odd.safetensors")
    with pytest.raises(ModelError, match="weights are quantised"):
        load.load(tmp_path / "int8.safetensors")


@pytest.mark.parametrize("tiny_architecture", ["sd1"], indirect=True)
def test_a_file_that_shrinks_after_it_was_inspected_is_said_in_a_sentence(tmp_path, tiny_architecture):
    tensors, _ = checkpoint_tensors(tiny_architecture)
    path = tmp_path / "m.safetensors"
    file.write(path, tensors, {})
    info = detect.inspect(path)
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(ModelError, match="broken or incomplete"):
        load.load(info)


def test_the_schedule_of_a_folder_is_kept_and_completed(tmp_path, tiny_model_folder):
    config = load.load(tiny_model_folder, parts=()).scheduler_config

    assert config["prediction_type"] == "v_prediction"
    assert config["beta_schedule"] == "scaled_linear"
    assert json.dumps(config)


def test_latents_are_scaled_on_the_way_in_and_out(tiny_model):
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1

    mean, std = tiny_model.encode_images(pixels)

    raw = tiny_model.vae.encode(pixels).latent_dist
    assert torch.allclose(mean, raw.mean * 0.18215)
    assert torch.allclose(std, raw.std * 0.18215)
    pictures = tiny_model.decode(mean)
    expected = (tiny_model.vae.decode(raw.mean).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(pictures, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the peak is read with getrusage")
def test_a_checkpoint_of_the_real_size_needs_its_own_size_of_memory(tmp_path):
    """2.1 GB on disk as SD1.5's float16 file: the peak is the file, what the imports take, and little else."""
    tensors, _ = checkpoint_tensors("sd1")
    path = tmp_path / "full.safetensors"
    file.write(path, tensors, {})
    del tensors
    program = (
        "import resource, sys, torch\n"
        "from lora_atelier.models import load\n"
        "load.empty_unet({}), load.empty_text_encoder({}, with_projection=False)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "load.load(sys.argv[1], dtype=torch.float16)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )

    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)

    grown_bytes = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown_bytes < path.stat().st_size * 1.1
