import pytest

from lora_atelier.config import DatasetConfig
from lora_atelier.datasets import buckets
from lora_atelier.datasets.buckets import Framing

pytestmark = pytest.mark.torchfree

SD1 = DatasetConfig(resolution=(512, 512), min_bucket_reso=256, max_bucket_reso=1024, bucket_reso_steps=64)
OWN = DatasetConfig(resolution=(512, 512), bucket_no_upscale=True)


def test_buckets_keep_their_area_and_limits_and_come_in_mirrored_pairs():
    made = buckets.sizes(SD1)

    assert (512, 512) in made and (640, 384) in made and (1024, 256) in made
    for width, height in made:
        assert width * height <= 512 * 512 and (height, width) in made
        assert min(width, height) >= 256 and max(width, height) <= 1024
        assert width % 64 == height % 64 == 0


def test_limits_that_are_no_whole_steps_are_widened():
    odd = DatasetConfig(resolution=(512, 512), min_bucket_reso=200, max_bucket_reso=1000, bucket_reso_steps=64)

    made = buckets.sizes(odd)

    assert (192, 1024) in made and (1024, 192) in made


@pytest.mark.parametrize(
    ("size", "bucket"),
    [((1000, 1000), (512, 512)), ((1920, 1080), (640, 384)), ((1080, 1920), (384, 640)), ((5000, 100), (1024, 256))],
)
def test_a_picture_goes_to_the_bucket_of_its_shape(size, bucket):
    assert buckets.choose(*size, SD1) == bucket


def test_without_buckets_everything_has_the_resolution():
    plain = DatasetConfig(resolution=(512, 384), enable_bucket=False)

    assert buckets.choose(5000, 100, plain) == (512, 384)


# Made by sd-scripts 48d368fa, BucketManager.select_bucket: (bucket, resized) of a picture's size.
FROM_SD_SCRIPTS = [
    (SD1, (1920, 1080), (640, 384), (683, 384)),
    (SD1, (511, 700), (448, 576), (448, 614)),
    (SD1, (300, 200), (640, 384), (640, 427)),
    (SD1, (256, 1024), (256, 1024), (256, 1024)),
    (OWN, (300, 200), (256, 192), (300, 200)),
    (OWN, (2000, 1000), (640, 320), (640, 320)),
    (OWN, (1920, 1080), (640, 384), (683, 384)),
    (OWN, (512, 512), (512, 512), (512, 512)),
]


@pytest.mark.parametrize(("dataset", "size", "bucket", "resized"), FROM_SD_SCRIPTS)
def test_a_picture_is_scaled_and_cut_as_sd_scripts_does(dataset, size, bucket, resized):
    assert buckets.frame(*size, dataset) == Framing(bucket, resized)


@pytest.mark.parametrize("dataset", [SD1, OWN])
def test_a_bucket_is_covered_by_any_picture_and_none_is_enlarged_against_the_wish(dataset):
    for width, height in [(64, 3000), (65, 64), (333, 444), (4000, 3000), (1023, 257), (20, 30), (7, 2000)]:
        made = buckets.frame(width, height, dataset)

        assert made.room[0] >= 0 and made.room[1] >= 0 and min(made.bucket) >= 64
        assert made.centre == (made.room[0] // 2, made.room[1] // 2)
        if dataset is OWN and min(width, height) >= 64:
            assert made.resized[0] <= width and made.resized[1] <= height
