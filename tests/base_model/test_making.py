"""The scripts that make the base model: each part starts as planned, goes on where it stopped, and can be exported."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from base_model import encode, export, restore, train_tokenizer, train_unet
from base_model.architecture import SCALING_FACTOR, alphas_cumprod, make_text_encoder, make_unet, make_vae
from base_model.sitting import AVERAGE_EVERY, Plan, Sitting
from base_model.train_vae import pixels, to_tensor, whiten
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from torch import nn
from transformers import CLIPTokenizer

from lora_atelier.embedded import world


def scenes(count: int, seed: int = 1) -> list[world.Scene]:
    rng = random.Random(seed)
    return [world.random_scene(rng) for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    train_tokenizer.train(state / "tokenizer")
    return state / "tokenizer"


# ------------------------------------------------------------------------------------------------- architecture


@torch.no_grad()
def test_the_vae_draws_recognisable_pictures_before_any_training():
    vae, x = make_vae().eval(), pixels(scenes(8))
    error = (vae.decode(vae.encode(x).latent_dist.mean).sample - x).square().mean()
    assert 10 * torch.log10(4 / error) > 19


@torch.no_grad()
def test_whitening_changes_the_latents_but_not_the_pictures():
    torch.manual_seed(0)
    vae, x = make_vae().eval(), pixels(scenes(8))
    before = vae.decode(vae.encode(x).latent_dist.mean).sample

    whiten(vae, batches=12)

    assert torch.allclose(vae.decode(vae.encode(x).latent_dist.mean).sample, before, atol=2e-3)
    many = pixels(scenes(48, seed=2))
    latents = vae.encode(many).latent_dist.mean * SCALING_FACTOR
    channels = latents.permute(1, 0, 2, 3).flatten(1)
    assert torch.allclose(channels.mean(1), torch.zeros(4), atol=0.3)
    assert torch.allclose(torch.cov(channels), torch.eye(4), atol=0.4)


@torch.no_grad()
def test_the_unet_starts_by_predicting_nothing():
    unet = make_unet()
    predicted = unet(torch.randn(2, 4, 16, 16), torch.tensor([10, 900]), torch.randn(2, 77, 128)).sample
    assert torch.equal(predicted, torch.zeros_like(predicted))


def test_all_parts_together_fit_in_16_megabytes_of_float16():
    modules = (make_unet(), make_text_encoder(1500), make_vae())
    assert 2 * sum(p.numel() for module in modules for p in module.parameters()) < 16e6


def test_the_noise_schedule_is_stable_diffusion_s():
    alphas = alphas_cumprod()
    # diffusers 0.42: DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert alphas[0].item() == pytest.approx(0.99915, abs=1e-5)
    assert alphas[-1].item() == pytest.approx(0.00466, abs=1e-5)


# ---------------------------------------------------------------------------------------------------- tokenizer


@pytest.mark.parametrize("text", ["a large red star", "momo フィギュア", "xqz-7! 😀", "orange"])
def test_any_text_can_be_tokenized_and_read_back(tokenizer_folder, text):
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_the_world_s_words_are_one_token_each(tokenizer_folder):
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    for word in (*world.COLOURS, *world.SHAPES, *world.SIZES, "striped", "dotted", "left", "background"):
        assert len(tokenizer(word).input_ids) == 3, word  # with the start and end marks
    assert 800 <= len(tokenizer) <= 1600
    assert tokenizer.model_max_length == 77


# ----------------------------------------------------------------------------------------------------- sittings


def tiny_sitting(plan: Plan) -> Sitting:
    torch.manual_seed(5)
    model = nn.Linear(3, 2)
    return Sitting(plan, 0, "tiny", list(model.parameters()), learning_rate=1e-2)


def take(sit: Sitting, steps: range) -> None:
    for step in steps:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        weight, bias = sit.parameters
        sit.update((x @ weight.T + bias - x[:, :2]).square().mean())


def test_training_that_went_on_from_its_state_equals_training_that_was_never_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(Sitting, "elapsed_s", 0.0)  # else the learning rate would follow the clock
    through = tiny_sitting(Plan(tmp_path / "through", 1.0, 1, "cpu", 0))
    take(through, range(3 * AVERAGE_EVERY))
    (tmp_path / "halves").mkdir()
    plan = Plan(tmp_path / "halves", 1.0, 1, "cpu", 0)
    first = tiny_sitting(plan)
    take(first, range(AVERAGE_EVERY + 5))
    first.save()

    second = tiny_sitting(plan)
    take(second, range(AVERAGE_EVERY + 5, 3 * AVERAGE_EVERY))

    assert second.step == through.step
    for name in ("parameters", "ema"):
        pairs = zip(getattr(second, name), getattr(through, name), strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs), name
    assert not any(path.suffix == ".tmp" for path in plan.state.iterdir())


def test_a_run_knows_how_much_of_it_is_over_across_sittings(tmp_path):
    plan = Plan(tmp_path, 1.0, 1, "cpu", 0)
    first = tiny_sitting(plan)
    first._elapsed_s = 30.0
    first.save()
    assert tiny_sitting(plan).done == pytest.approx(0.5, abs=0.05)
    longer = tiny_sitting(Plan(tmp_path, 2.0, 1, "cpu", 0))
    assert longer.done == pytest.approx(0.25, abs=0.05)


# --------------------------------------------------------------------------------------------------------- data


def test_nothing_is_learned_from_held_out_combinations():
    for easy in (True, False):
        assert not any(world.is_held_out(s) for s in encode.scenes_to_learn(random.Random(1), 300, easy=easy))


def test_easy_pictures_come_first_and_the_whole_world_later():
    shares = [train_unet.share_of_all(done) for done in (0.0, 0.1, 0.2, 0.5, 1.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.5
    assert shares[-1] == 1.0


def test_timesteps_are_spread_over_the_whole_schedule():
    timesteps = train_unet.stratified_timesteps(10)
    assert sorted(int(t) // 100 for t in timesteps) == list(range(10))


def test_pixels_run_from_minus_one_to_one():
    black_and_white = np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    assert to_tensor([black_and_white]).aminmax() == (-1.0, 1.0)


# ------------------------------------------------------------------------------------------------------- export


def test_what_is_exported_loads_as_a_stable_diffusion_pipeline(tokenizer_folder, tmp_path):
    state = tokenizer_folder.parent
    torch.save(make_vae().state_dict(), state / "vae_whitened.pt")

    export.export(state, tmp_path)

    pipeline = StableDiffusionPipeline.from_pretrained(
        tmp_path, local_files_only=True, safety_checker=None, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a red star", height=128, width=128, num_inference_steps=2).images[0]
    assert picture.size == (128, 128)
    scheduler = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    assert scheduler["prediction_type"] == "v_prediction"
    for path in tmp_path.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118


def test_a_state_that_was_made_from_the_exported_model_gives_that_model_again(tokenizer_folder, tmp_path):
    """Where only the repository is left, training goes on from its weights; the optimiser begins anew."""
    state = tokenizer_folder.parent
    torch.save(make_vae().state_dict(), state / "vae_whitened.pt")
    export.export(state, tmp_path / "model")

    restore.restore(tmp_path / "model", tmp_path / "state", minutes=3.0)
    export.export(tmp_path / "state", tmp_path / "again")

    files = sorted((tmp_path / "model").rglob("*.safetensors"))
    assert len(files) == 3
    for path in files:
        assert (tmp_path / "again" / path.relative_to(tmp_path / "model")).read_bytes() == path.read_bytes()
    parameters = [
        *make_unet().parameters(),
        *make_text_encoder(len(CLIPTokenizer.from_pretrained(state / "tokenizer"))).parameters(),
    ]
    (tmp_path / "state" / "unet.pt").rename(tmp_path / "state" / "unet2.pt")
    sit = Sitting(Plan(tmp_path / "state", 6.0, 1, "cpu", 0), 0, "unet2", parameters, learning_rate=1e-3)
    assert sit.done == pytest.approx(0.5, abs=0.05)
