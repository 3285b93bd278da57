import pytest
from PIL import Image

from lora_atelier.config import DatasetConfig
from lora_atelier.datasets import buckets

pytestmark = pytest.mark.torchfree

SD1 = DatasetConfig(resolution=(512, 512), min_bucket_reso=256, max_bucket_reso=1024, bucket_reso_steps=64)


def test_buckets_keep_their_area_and_limits_and_come_in_mirrored_pairs():
    made = buckets.sizes(SD1)

    assert (512, 512) in made and (640, 384) in made and (1024, 256) in made
    for width, height in made:
        assert width * height <= 512 * 512 and (height, width) in made
        assert min(width, height) >= 256 and max(width, height) <= 1024
        assert width % 64 == height % 64 == 0


@pytest.mark.parametrize(
    ("size", "bucket"),
    [((1000, 1000), (512, 512)), ((1920, 1080), (640, 384)), ((1080, 1920), (384, 640)), ((5000, 100), (1024, 256))],
)
def test_a_picture_goes_to_the_bucket_of_its_shape(size, bucket):
    assert buckets.choose(*size, SD1) == bucket


def test_without_buckets_everything_has_the_resolution():
    plain = DatasetConfig(resolution=(512, 384), enable_bucket=False)

    assert buckets.choose(5000, 100, plain) == (512, 384)


def test_a_small_picture_is_not_enlarged_if_that_is_asked():
    small = DatasetConfig(resolution=(512, 512), bucket_no_upscale=True)

    assert buckets.choose(300, 200, small) == (256, 192)
    assert buckets.choose(2000, 1000, small) == (704, 320)
    assert buckets.choose(30, 20, small) == (64, 64)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_a_picture_of_any_mode_is_fitted_without_distortion(mode):
    picture = Image.new("RGB", (300, 100), "white")
    picture.paste("black", (130, 30, 170, 70))  # a square in the middle
    picture = Image.new("I;16", (300, 100)) if mode == "I;16" else picture.convert(mode)

    fitted = buckets.fit(picture, (128, 128))

    assert fitted.size == (128, 128) and fitted.mode == "RGB"
    if mode != "I;16":
        dark = [(x, y) for x in range(128) for y in range(128) if fitted.getpixel((x, y))[0] < 128]
        width = max(x for x, _ in dark) - min(x for x, _ in dark)
        height = max(y for _, y in dark) - min(y for _, y in dark)
        assert abs(width - height) <= 2 and 45 <= width <= 55


def test_what_is_transparent_becomes_white():
    picture = Image.new("RGBA", (64, 64), (255, 0, 0, 0))

    assert buckets.fit(picture, (64, 64)).getpixel((5, 5)) == (255, 255, 255)


def test_a_photograph_lying_on_its_side_is_stood_up():
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste("black", (0, 0, 64, 20))  # dark above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned to the right: dark to the right
    picture.info["exif"] = exif.tobytes()
    picture.getexif()[0x0112] = 6

    fitted = buckets.fit(picture, (64, 64))

    assert fitted.getpixel((60, 32))[0] < 50 and fitted.getpixel((5, 32))[0] > 200
