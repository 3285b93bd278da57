"""The drawn world: deterministic, and as wide as the base model's card says."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from lora_atelier.embedded import world

pytestmark = pytest.mark.torchfree
WORDS = {*world.COLOURS, *world.SHAPES, *world.SIZES, *world.TEXTURES}


def test_the_world_is_as_wide_as_promised():
    assert len(world.SHAPES) >= 8
    assert len(world.COLOURS) >= 10
    assert len(world.SIZES) >= 3
    assert len(world.POSITIONS) >= 5
    assert len(world.TEXTURES) >= 3


def test_a_seed_names_a_picture_and_its_caption():
    def made(seed: int) -> tuple[bytes, str]:
        rng = random.Random(seed)
        scene = world.random_scene(rng)
        return world.draw(scene).tobytes(), world.caption(scene, rng)

    assert made(7) == made(7)
    assert made(7) != made(8)


def test_an_object_never_has_its_background_s_colour():
    rng = random.Random(1)
    assert all(scene.colour != scene.background for scene in (world.random_scene(rng) for _ in range(2000)))


def test_easy_scenes_are_plain_central_and_not_small():
    rng = random.Random(2)
    scenes = [world.random_scene(rng, easy=True) for _ in range(200)]
    assert {(scene.texture, scene.position) for scene in scenes} == {("plain", "centre")}
    assert "small" not in {scene.size for scene in scenes}


@pytest.mark.parametrize("shape", world.SHAPES)
def test_every_shape_can_be_drawn_in_every_size_place_and_texture(shape):
    for size in world.SIZES:
        for position in world.POSITIONS:
            for texture in world.TEXTURES:
                picture = world.draw(world.Scene(shape, "red", "white", size, position, texture))
                assert picture.size == (world.SIDE, world.SIDE)
                shown = np.abs(np.asarray(picture, dtype=int) - world.COLOURS["white"]).max(axis=2) > 60
                assert 0.01 < shown.mean() < 0.45


def test_a_prompt_says_the_whole_scene():
    scene = world.Scene("star", "orange", "blue", "large", "left", "striped")
    assert set(re.findall(r"\w+", scene.prompt)) >= {"star", "orange", "blue", "large", "left", "striped"}
    assert world.Scene("ring", "orange", "blue").prompt == "a medium orange ring in the centre, blue background"


def test_captions_never_say_what_is_not_there():
    rng = random.Random(3)
    for _ in range(2000):
        scene = world.random_scene(rng)
        said = WORDS & set(re.findall(r"[a-z]+", world.caption(scene, rng)))
        true = {scene.shape, scene.colour, scene.background, scene.size, scene.texture}
        assert said <= true


def test_captions_leave_out_something_else_each_time():
    rng = random.Random(4)
    scene = world.Scene("heart", "pink", "black", "small", "top", "dotted")
    captions = [world.caption(scene, rng) for _ in range(400)]
    for word in ("heart", "pink", "black", "small", "top", "dotted"):
        share = sum(word in caption for caption in captions) / len(captions)
        assert 0.4 < share < 0.995, word


def test_some_captions_hold_words_that_mean_nothing():
    share = sum(not caption.isascii() for caption in world.captions(3000, seed=5)) / 3000
    assert 0.01 < share < 0.1


def test_the_fixed_prompts_are_fixed_different_and_held_out():
    for scenes, count in ((world.demo_scenes(), 40), (world.benchmark_scenes(), 200)):
        assert len({scene.prompt for scene in scenes}) == count
        assert all(world.is_held_out(scene) for scene in scenes)
    assert world.demo_scenes() == world.demo_scenes()
    shapes = {scene.shape for scene in world.benchmark_scenes()}
    assert shapes == set(world.SHAPES)


def test_about_a_tenth_of_the_combinations_is_held_out():
    scenes = [
        world.Scene(shape, colour, background)
        for shape in world.SHAPES
        for colour in world.COLOURS
        for background in world.COLOURS
        if colour != background
    ]
    assert 0.06 < np.mean([world.is_held_out(scene) for scene in scenes]) < 0.14


def test_the_page_s_example_prompts_use_the_world_s_words():
    assert len(world.EXAMPLE_PROMPTS) >= 4
    for prompt in world.EXAMPLE_PROMPTS:
        words = set(re.findall(r"[a-z]+", prompt))
        assert len(words & set(world.SHAPES)) == 1
        assert len(words & set(world.COLOURS)) == 2
