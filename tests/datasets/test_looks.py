import io
import random
import time
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from lora_atelier.datasets.looks import BLURRED, look, near_duplicates

pytestmark = pytest.mark.torchfree

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTOGRAPHS = sorted((EXAMPLES / "photographs").glob("*.jpg"))


def opened(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def saved(image, **options):
    data = io.BytesIO()
    image.save(data, "JPEG", **options)
    return Image.open(data)


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_a_sharp_photograph_is_not_blurred_and_one_out_of_focus_is(path):
    sharp = opened(path)
    soft = sharp.filter(ImageFilter.GaussianBlur(max(sharp.size) / 512 * 4))

    assert look(sharp).detail > BLURRED
    assert look(soft).detail < BLURRED


def test_flat_drawings_are_not_blurred():
    for path in (EXAMPLES / "figure").glob("*.png"):
        assert look(opened(path)).detail > BLURRED
    assert look(Image.new("RGB", (300, 200), "teal")).detail > BLURRED


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_the_same_picture_smaller_and_saved_again_is_a_near_duplicate(path):
    image = opened(path)
    again = saved(image.resize((image.width * 2 // 3, image.height * 2 // 3)), quality=60)
    others = {other.name: look(opened(other)).print for other in PHOTOGRAPHS}

    assert near_duplicates({**others, "again": look(again).print}) == {"again": path.name}


def test_pictures_of_one_figure_are_no_duplicates_of_each_other():
    prints = {path.name: look(opened(path)).print for path in sorted((EXAMPLES / "figure").glob("*.png"))}

    assert near_duplicates(prints) == {}


def noise(seed, side, blur):
    """A texture of its own: grey noise, soft or not, over one colour."""
    pixels = random.Random(seed).randbytes(side * side)
    grey = Image.frombytes("L", (side, side), pixels).filter(ImageFilter.GaussianBlur(blur))
    return Image.blend(grey.convert("RGB"), Image.new("RGB", grey.size, "peru"), 0.6)


@pytest.mark.parametrize("blur", [0, 2, 8])
@pytest.mark.parametrize("side", [128, 512])
def test_two_pictures_of_one_noise_are_no_duplicates_and_a_copy_of_one_is(side, blur):
    one, other = noise(1, side, blur), noise(2, side, blur)
    copy = saved(one.resize((side * 2 // 3, side * 2 // 3)), quality=60)

    prints = {"one": look(one).print, "other": look(other).print, "copy": look(copy).print}

    assert near_duplicates(prints) == {"copy": "one"}


def test_flat_pictures_of_one_colour_are_the_same():
    sizes = {"a": (90, 90), "b": (300, 300)}
    prints = {name: look(Image.new("RGB", size, "teal")).print for name, size in sizes.items()}

    assert near_duplicates(prints) == {"b": "a"}
    assert near_duplicates({**prints, "c": look(Image.new("RGB", (90, 90), "olive")).print}) == {"b": "a"}


def test_what_is_no_fingerprint_is_like_nothing():
    assert near_duplicates({"a": "zz", "b": "", "c": "00"}) == {}


def test_transparency_counts_as_white():
    clear = Image.new("RGBA", (50, 50), (0, 0, 0, 0))

    assert look(clear).print == look(Image.new("RGB", (50, 50), "white")).print


def test_three_thousand_pictures_of_one_mean_are_compared_in_seconds():
    """Compared in plain Python, 500 of them took a second for each page, and 3 000 half a minute."""
    draw = random.Random(1)
    prints = {str(number): draw.randbytes(448).hex() for number in range(3000)}
    began = time.process_time()

    found = near_duplicates({**prints, "again": prints["7"]})

    assert found == {"again": "7"}
    assert time.process_time() - began < 5
