"""A file as our trainer writes it, loaded by diffusers (0.42, with peft 0.17 or newer) and by us: the same picture."""

import numpy as np
import pytest
import torch

from lora_atelier.adapters import file
from lora_atelier.hosts.embedded import EmbeddedHost, GenerateRequest
from lora_atelier.models import layers
from lora_atelier.models.sample import scheduler

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
