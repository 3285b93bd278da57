"""The judge: right on at least 99 % of pictures that were drawn, so that what it says of others means something."""

from __future__ import annotations

import io
import random
import time

import numpy as np
import pytest
from PIL import Image

from lora_atelier.embedded import examples, judge, world

pytestmark = pytest.mark.torchfree
NAMED = ("background", "colour", "shape", "position", "size")


def as_jpeg(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=50)
    return Image.open(file)


def as_through_a_vae(picture: Image.Image) -> Image.Image:
    """Blurred as by a stride-8 VAE, and noisy: about 24 dB."""
    small = picture.resize((40, 40), Image.Resampling.BOX).resize(picture.size, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 8, (*picture.size, 3))
    return Image.fromarray((np.asarray(small) + noise).clip(0, 255).astype(np.uint8))


def shares_read_right(count: int, seed: int, change=lambda picture: picture) -> dict[str, float]:
    rng = random.Random(seed)
    scenes = [world.random_scene(rng) for _ in range(count)]
    readings = [judge.read(change(world.draw(scene))) for scene in scenes]
    return {
        name: sum(getattr(r, name) == getattr(s, name) for r, s in zip(readings, scenes, strict=True)) / count
        for name in (*NAMED, "texture")
    }


def test_at_least_99_percent_of_1000_drawn_pictures_are_read_right():
    shares = shares_read_right(1000, seed=11)
    assert min(shares.values()) >= 0.98  # the texture of small objects is the hardest
    assert min(shares[name] for name in NAMED) >= 0.99


@pytest.mark.parametrize("change", [as_jpeg, as_through_a_vae])
def test_pictures_that_lost_detail_are_still_read_right(change):
    shares = shares_read_right(300, seed=12, change=change)
    assert min(shares[name] for name in NAMED) >= 0.98
    assert shares["texture"] >= 0.8


def test_a_picture_is_read_in_a_few_milliseconds():
    pictures = [world.draw(world.random_scene(random.Random(seed))) for seed in range(20)]
    judge.read(pictures[0])  # the templates are drawn once

    began = time.process_time()
    for picture in pictures:
        judge.read(picture)

    assert (time.process_time() - began) / len(pictures) < 0.1  # about 0.01 on an idle core


def test_an_empty_or_noisy_picture_is_read_without_an_error():
    assert judge.read(Image.new("RGB", (128, 128), world.COLOURS["blue"])) == judge.Reading("blue")
    noise = np.random.default_rng(1).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert judge.read(Image.fromarray(noise)).background in world.COLOURS


def test_pictures_of_other_sizes_and_modes_are_read():
    picture = world.draw(world.Scene("cross", "red", "white", "large"))
    assert judge.read(picture.resize((256, 256)).convert("RGBA")).shape == "cross"


def test_the_prompt_score_counts_pictures_where_all_three_are_right():
    scene = world.Scene("star", "yellow", "blue", "large")
    right = world.draw(scene)
    wrong = [
        world.draw(world.Scene("star", "red", "blue", "large")),
        world.draw(world.Scene("star", "yellow", "black", "large")),
        world.draw(world.Scene("circle", "yellow", "blue", "large")),
    ]
    assert judge.prompt_score([right, *wrong], [scene] * 4) == 0.25
    assert judge.prompt_score([], []) == 0.0
    assert judge.lost([right, right], [right, wrong[0]], [scene] * 2) == 0.5


@pytest.mark.parametrize("change", [lambda picture: picture, as_jpeg, as_through_a_vae])
def test_the_figure_is_seen_wherever_it_was_drawn(change):
    rng = random.Random(13)
    pictures = [
        change(examples.draw_figure(examples.random_figure(rng, background, position)))
        for background in world.COLOURS
        for position in world.POSITIONS
        for _ in range(4)
    ]
    assert judge.concept_score(pictures) >= 0.99


def test_the_figure_is_not_seen_where_it_was_not_drawn():
    rng = random.Random(14)
    assert judge.concept_score([world.draw(world.random_scene(rng)) for _ in range(500)]) <= 0.01
    assert judge.concept_score([example.picture for example in examples.stickers()]) == 0


def test_a_figure_without_its_band_or_with_another_head_is_not_the_figure(monkeypatch):
    scene = examples.FigureScene("white")
    assert judge.is_concept(examples.draw_figure(scene))
    for part, colour in (("BAND", examples.BODY), ("HEAD", world.COLOURS["red"])):
        with monkeypatch.context() as patch:
            patch.setattr(examples, part, colour)
            picture = examples.draw_figure(scene)
        assert not judge.is_concept(picture), part
