import io

import numpy as np
import pytest
from PIL import Image

from lora_atelier.datasets import masks, pixels
from lora_atelier.datasets.buckets import Framing, cover
from lora_atelier.errors import DataError

pytestmark = pytest.mark.torchfree


def png(picture):
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def test_a_latent_weighs_the_mean_of_its_eight_by_eight_pixels():
    values = np.zeros((16, 24), dtype=np.uint8)
    values[:8, :8] = 255
    values[:8, 8:12] = 255  # half of the second latent

    weights = masks.weights(Image.fromarray(values), (24, 16), (0, 0))

    assert weights.tolist() == [[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_a_mask_is_cut_where_its_picture_is():
    """sd-scripts stretches the mask to the bucket and cuts the picture: an object at the edge loses its mask."""
    picture = Image.new("RGB", (192, 64), "black")
    picture.paste("white", (64, 0, 128, 64))  # the middle third
    framing = cover(*picture.size, (64, 64))

    shown = np.asarray(pixels.framed(picture, framing))[..., 0]
    weights = masks.weights(masks.scaled(picture.convert("L"), framing), framing.bucket, framing.centre)

    assert shown.min() == 255 and weights.min() == 1.0


def test_a_mask_may_be_smaller_than_its_picture():
    mask = Image.new("L", (8, 8), 255)
    mask.paste(0, (0, 0, 4, 8))

    weights = masks.weights(masks.scaled(mask, Framing((64, 64), (64, 64))), (64, 64), (0, 0))

    assert weights.shape == (8, 8) and weights[:, 0].max() == 0.0 and weights[:, -1].min() == 1.0


def test_red_is_what_counts_of_a_coloured_mask(tmp_path):
    mask = masks.read_mask(tmp_path / "a.png", png(Image.new("RGB", (8, 8), (128, 0, 255))))

    assert mask.mode == "L" and mask.getpixel((0, 0)) == 128


def test_a_mask_that_breaks_off_is_named(tmp_path):
    whole = png(Image.effect_noise((64, 64), 50))

    with pytest.raises(DataError, match=r"a\.png"):
        masks.read_mask(tmp_path / "a.png", whole[: len(whole) // 2])
