"""A file as our trainer writes it, loaded by diffusers (0.42, with peft 0.17 or newer) and by us: the same picture."""

import numpy as np
import pytest
import torch

from lora_atelier.adapters import file
from lora_atelier.config import NetworkConfig
from lora_atelier.hosts.embedded import EmbeddedHost, GenerateRequest
from lora_atelier.models import layers
from lora_atelier.models.sample import Txt2Img, sample, scheduler
from lora_atelier.trainer.network import LoraNetwork

pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.fixture
def host(tiny_model_folder, tmp_path):
    return EmbeddedHost(tiny_model_folder, tmp_path / "data", device="cpu", dtype=torch.float32)


@pytest.fixture
def pipeline(tiny_model_folder, host):
    from diffusers import StableDiffusionPipeline

    made = StableDiffusionPipeline.from_pretrained(tiny_model_folder, local_files_only=True)
    made.scheduler = scheduler(host.model(), "DDIM")
    made.set_progress_bar_config(disable=True)
    return made


def draw_theirs(pipeline):
    generator = [torch.Generator().manual_seed(1)]
    return pixels(pipeline("a cat", num_inference_steps=4, guidance_scale=3.0, generator=generator).images[0])


def draw_ours(host, prompt):
    request = GenerateRequest(prompt=prompt, steps=4, cfg_scale=3.0, seed=1, width=64, height=64)
    generated = host.generate(request)
    assert generated.comments == []
    return pixels(generated.images[0])


@pytest.mark.parametrize("conv", [False, True], ids=["lora", "locon"])
@pytest.mark.parametrize("part", ["unet", "te", "both"])
def test_the_same_file_gives_the_same_picture(host, pipeline, random_lora, part, conv):
    model, targets = host.model(), {}
    if part != "te":
        targets |= layers.target_layers(model.unet, conv=conv)
    if part != "unet":
        targets |= layers.target_layers(model.text_encoders[0])
    path = host.lora_dirs()[0] / "a.safetensors"
    file.write(path, random_lora(targets, size=0.25), {"ss_network_module": "networks.lora"})
    plain = draw_theirs(pipeline)
    assert (draw_ours(host, "a cat") == plain).all()

    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    theirs, ours = draw_theirs(pipeline), draw_ours(host, "a cat<lora:a:1>")

    assert abs(theirs - plain).mean() > 1  # else the next line would prove nothing
    assert abs(theirs - ours).max() <= 1
    assert abs(theirs - ours).mean() < 0.01


@pytest.mark.parametrize("conv_rank", [0, 2], ids=["lora", "locon"])
def test_what_was_trained_is_what_is_loaded_by_us_and_by_diffusers(host, pipeline, tiny_model, conv_rank):
    """The trainer's branches on a model, its file on another through our loader, on a third through diffusers."""
    config = NetworkConfig(rank=4, alpha=2.0, conv_rank=conv_rank, conv_alpha=1.0)
    targets = layers.target_layers(tiny_model.unet, conv=conv_rank > 0)
    network = LoraNetwork(targets | layers.target_layers(tiny_model.text_encoders[0]), config, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for branch in network.branches.values():
            branch.up.copy_(torch.randn(branch.up.shape, generator=generator) * 0.5)
    path = host.lora_dirs()[0] / "trained.safetensors"
    file.write(path, network.tensors(torch.float32), {})
    asked = Txt2Img(prompts=["a cat"], steps=4, cfg_scale=3.0, width=64, height=64, seeds=(1,))
    plain = pixels(sample(tiny_model, asked)[0])

    network.attach()
    trained = pixels(sample(tiny_model, asked)[0])
    network.detach()
    pipeline.load_lora_weights(path.parent, weight_name=path.name)

    assert abs(trained - plain).mean() > 1
    assert abs(draw_ours(host, "a cat<lora:trained:1>") - trained).max() <= 1
    assert abs(draw_theirs(pipeline) - trained).max() <= 1
