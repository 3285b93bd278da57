import random

import numpy as np
import pytest
from PIL import Image

from lora_atelier.datasets import pixels
from lora_atelier.datasets.buckets import Framing, cover

pytestmark = pytest.mark.torchfree


def fit(picture, bucket, **options):
    shown = pixels.on_white(pixels.upright(picture))
    return pixels.framed(shown, cover(*shown.size, bucket), **options)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16", "I", "F"])
def test_a_picture_of_any_mode_is_fitted_without_distortion(mode):
    picture = Image.new("RGB", (300, 100), "white")
    picture.paste("black", (130, 30, 170, 70))  # a square in the middle
    if mode in ("I;16", "I"):
        grey = np.asarray(picture.convert("L")).astype(np.uint16 if mode == "I;16" else np.int32) * 257
        picture = Image.fromarray(grey)
    elif mode == "F":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.float32) / 255)
    else:
        picture = picture.convert(mode)

    fitted = fit(picture, (128, 128))

    assert fitted.size == (128, 128) and fitted.mode == "RGB"
    dark = [(x, y) for x in range(128) for y in range(128) if fitted.getpixel((x, y))[0] < 128]
    width = max(x for x, _ in dark) - min(x for x, _ in dark)
    height = max(y for _, y in dark) - min(y for _, y in dark)
    assert abs(width - height) <= 2 and 45 <= width <= 55
    assert fitted.getpixel((2, 2))[0] > 250


def test_what_is_transparent_becomes_white():
    picture = Image.new("RGBA", (64, 64), (255, 0, 0, 0))

    assert fit(picture, (64, 64)).getpixel((5, 5)) == (255, 255, 255)


def test_a_photograph_lying_on_its_side_is_stood_up():
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste("black", (0, 0, 64, 20))  # dark above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned to the right: dark to the right
    picture.info["exif"] = exif.tobytes()
    picture.getexif()[0x0112] = 6

    fitted = fit(picture, (64, 64))

    assert fitted.getpixel((60, 32))[0] < 50 and fitted.getpixel((5, 32))[0] > 200


def test_a_picture_of_its_buckets_size_keeps_every_bit():
    values = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)

    assert np.array_equal(np.asarray(fit(Image.fromarray(values), (96, 64))), values)


def test_shrinking_averages_the_area_that_a_pixel_covers():
    values = np.random.default_rng(1).integers(0, 256, (12, 9, 3), dtype=np.uint8)

    thirds = np.asarray(pixels.resized(Image.fromarray(values), (3, 4)))
    parts = np.asarray(pixels.resized(Image.fromarray(values), (6, 12)))

    assert np.array_equal(thirds, np.rint(values.reshape(4, 3, 3, 3, 3).mean(axis=(1, 3))))
    # 9 columns become 6: the second covers half of the columns 1 and all of column 2.
    assert np.allclose(parts[:, 1], (0.5 * values[:, 1] + values[:, 2].astype(float)) / 1.5, atol=0.5)


def test_a_wide_picture_is_averaged_as_a_narrow_one_is():
    values = np.random.default_rng(1).integers(0, 256, (40, 1500, 3), dtype=np.uint8)

    made = np.asarray(pixels.resized(Image.fromarray(values), (500, 20)))

    assert np.array_equal(made, np.rint(values.reshape(20, 2, 500, 3, 3).mean(axis=(1, 3))))


@pytest.mark.parametrize("interpolation", ["lanczos", "bicubic", "bilinear", "nearest", "area", "box"])
@pytest.mark.parametrize("size", [(20, 30), (90, 70)])
def test_every_interpolation_keeps_a_plain_picture_plain(interpolation, size):
    plain = Image.new("RGB", (50, 50), (200, 100, 50))

    made = pixels.resized(plain, size, interpolation)

    assert made.size == size and made.getextrema() == ((200, 200), (100, 100), (50, 50))


def test_a_cut_can_be_moved_within_its_room():
    picture = Image.linear_gradient("L").convert("RGB")  # dark above, 256 high
    framing = Framing((256, 100), (256, 256))

    above, below = (pixels.framed(picture, framing, corner) for corner in ((0, 0), (0, 156)))

    assert framing.room == (0, 156)
    assert above.getpixel((0, 0))[0] == 0 and below.getpixel((0, 99))[0] == 255


def test_colours_are_moved_a_little_in_a_third_of_the_views_by_the_draw_alone():
    picture = Image.new("RGB", (8, 8), (200, 120, 40))
    made = [pixels.recoloured(picture, random.Random(seed)).getpixel((0, 0)) for seed in range(600)]
    again = [pixels.recoloured(picture, random.Random(seed)).getpixel((0, 0)) for seed in range(600)]

    moved = [value for value in made if value != (200, 120, 40)]
    assert made == again
    assert 0.2 < len(moved) / len(made) < 0.4
    assert all(abs(a - b) <= 50 for value in moved for a, b in zip(value, (200, 120, 40), strict=True))
    assert len(set(moved)) > 20
