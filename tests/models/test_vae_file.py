"""A VAE of its own instead of the base model's: from a folder, from a file in either naming, and what is refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_atelier.errors import ModelError
from lora_atelier.models import detect, ldm
from lora_atelier.models.vae_file import load_vae, vae_key


@pytest.fixture
def other(tmp_path, save_model):
    """A folder with a VAE of other numbers than the tiny model's."""
    save_model(tmp_path / "other", seed=5)
    return tmp_path / "other" / "vae"


def loaded(path, model):
    return load_vae(path, detect.inspect(model), torch.float32, torch.device("cpu")).state_dict()


@pytest.mark.parametrize("form", ["folder", "model", "diffusers", "ldm", "checkpoint"])
def test_every_form_of_a_vae_gives_its_own_weights(form, other, tiny_model_folder, tmp_path):
    wanted = load_file(other / "diffusion_pytorch_model.safetensors")
    path = tmp_path / "vae.safetensors"
    if form in ("folder", "model"):
        path = other if form == "folder" else other.parent
    else:
        prefix = {"diffusers": "", "ldm": "", "checkpoint": "first_stage_model."}[form]
        blocks = 4
        named = {k if form == "diffusers" else prefix + ldm.vae_path(k, blocks): v for k, v in wanted.items()}
        save_file(named, path)

    found = loaded(path, tiny_model_folder)

    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_its_key_is_that_of_its_bytes(other, tiny_model_folder):
    assert vae_key(other) == vae_key(other.parent) != vae_key(tiny_model_folder)
    assert len(vae_key(other)) == 16


def test_what_is_no_vae_is_said(tmp_path, tiny_model_folder):
    (tmp_path / "a.ckpt").write_bytes(b"x")
    (tmp_path / "b.safetensors").write_bytes(b"broken")
    save_file({"x": torch.zeros(1)}, tmp_path / "c.safetensors")
    for name, words in (
        ("a.ckpt", "pickle"),
        ("none", "no VAE"),
        ("b.safetensors", "broken"),
        ("c.safetensors", "missing"),
    ):
        with pytest.raises(ModelError, match=words):
            loaded(tmp_path / name, tiny_model_folder)
