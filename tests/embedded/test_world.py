import random

import pytest
from lora_atelier.embedded import world

pytestmark = pytest.mark.torchfree


def test_the_world_is_as_wide_as_promised():
    assert len(world.SHAPES) >= 8 and len(world.COLOURS) >= 10
    assert (len(world.SIZES), len(world.POSITIONS), len(world.TEXTURES)) == (3, 5, 3)


def test_a_seed_names_a_picture_and_its_caption():
    def make():
        rng = random.Random(7)
        scene = world.random_scene(rng)
        return world.draw(scene).tobytes(), world.caption(scene, rng)

    assert make() == make()


@pytest.mark.parametrize("shape", world.SHAPES)
@pytest.mark.parametrize("position", world.POSITIONS)
def test_every_shape_stays_in_the_picture_at_every_place(shape, position):
    for size in world.SIZES:
        scene = world.Scene(shape, "black", "white", size, position)
        picture = world.draw(scene).convert("L")
        covered = sum(1 for value in picture.tobytes() if value < 128)
        alone = world.draw(world.Scene(shape, "black", "white", size)).convert("L")

        assert covered >= 0.97 * sum(1 for value in alone.tobytes() if value < 128)


def test_prompts_for_measuring_are_fixed_different_and_never_seen():
    for scenes, count in ((world.demo_scenes(), 40), (world.benchmark_scenes(), 200)):
        assert len({scene.prompt for scene in scenes}) == count
        assert all(world.is_held_out(scene) for scene in scenes)
    assert world.demo_scenes() == world.demo_scenes()


def test_a_prompt_says_everything_that_is_measured():
    scene = world.Scene("ring", "orange", "black", "small", "left", "striped")

    assert scene.prompt == "a small orange striped ring on the left, black background"


def test_captions_leave_out_something_else_each_time_and_sometimes_say_an_unknown_word():
    scene = world.Scene("ring", "orange", "black", "small", "left", "striped")
    rng = random.Random(1)
    said = [world.caption(scene, rng) for _ in range(400)]

    assert len(set(said)) > 100
    for word in ("ring", "orange", "black", "small", "left", "striped"):
        assert 0.3 < sum(word in caption for caption in said) / len(said) < 1
