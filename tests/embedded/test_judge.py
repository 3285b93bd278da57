import io
import random

import pytest
from lora_atelier.embedded import judge, world
from PIL import Image

pytestmark = pytest.mark.torchfree


def jpeg(picture):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=50)
    return Image.open(file)


@pytest.mark.parametrize("through", [lambda picture: picture, jpeg], ids=["drawn", "jpeg"])
def test_the_judge_is_right_on_more_than_99_percent_of_drawn_pictures(through):
    rng = random.Random(3)
    wrong = dict.fromkeys(("background", "colour", "shape", "position", "size"), 0)
    count = 500

    for _ in range(count):
        scene = world.random_scene(rng)
        seen = judge.read(through(world.draw(scene)))
        for name in wrong:
            wrong[name] += getattr(seen, name) != getattr(scene, name)

    assert max(wrong.values()) <= count // 100


def test_a_picture_without_an_object_shows_nothing_but_its_background():
    seen = judge.read(Image.new("RGB", (128, 128), world.COLOURS["cyan"]))

    assert seen == judge.Reading("cyan")


def test_a_wrong_picture_lowers_the_score():
    right = world.Scene("heart", "red", "white")
    pictures = [world.draw(right), world.draw(world.Scene("star", "red", "white"))]

    assert judge.prompt_score(pictures, [right, right]) == 0.5


def test_noise_is_no_shape_of_the_world():
    noise = Image.effect_noise((128, 128), 90).convert("RGB")

    assert judge.read(noise).fit < 0.7
