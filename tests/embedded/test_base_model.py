"""The base model in the repository: complete, small enough, and able to draw what it is asked for."""

from __future__ import annotations

import json

import pytest
from benchmarks.base_model import BASE_MODEL
from safetensors import safe_open

from lora_atelier.embedded import judge, world
from lora_atelier.models.detect import inspect
from lora_atelier.models.load import load
from lora_atelier.models.sample import Txt2Img, sample


def test_it_fits_in_16_megabytes_of_float16():
    files = sorted(BASE_MODEL.rglob("*.safetensors"))
    assert len(files) == 3
    assert sum(path.stat().st_size for path in files) <= 16e6
    for path in files:
        with safe_open(path, "pt") as file:
            assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118


def test_it_is_recognised_as_a_toy_that_predicts_v():
    info = inspect(BASE_MODEL)
    assert (info.family, info.prediction_type) == ("toy", "v_prediction")


def test_diffusers_knows_all_of_its_parts():
    index = json.loads((BASE_MODEL / "model_index.json").read_text(encoding="utf-8"))
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        assert (BASE_MODEL / part).is_dir()
        assert index[part][0] in ("diffusers", "transformers")


def test_its_card_says_how_it_was_made_and_how_good_it_is():
    card = (BASE_MODEL / "MODEL_CARD.md").read_text(encoding="utf-8")
    for word in ("Apache-2.0", "v-prediction", "world.py", "Seed", "minutes", "colour, background and shape"):
        assert word in card


@pytest.mark.timeout(300)
def test_it_draws_what_a_prompt_asks_for():
    """A few of the prompts, so that a broken export is noticed; the benchmark measures 200, and places and the rest."""
    model = load(BASE_MODEL)
    scenes = world.demo_scenes()[:16]

    pictures = sample(
        model,
        Txt2Img(prompts=[s.prompt for s in scenes], steps=20, cfg_scale=3.0, width=128, height=128, seeds=range(16)),
    )

    seen = [judge.read(picture) for picture in pictures]
    wanted = [(scene.background, scene.colour) for scene in scenes]
    right = judge.mean((r.background, r.colour) == w for r, w in zip(seen, wanted, strict=True))
    assert right >= 0.9
    assert judge.prompt_score(pictures, scenes) >= 0.8
