"""Our PDQ against the pdqhash package: its answers (``pdq.json``, by make_pdq.py with 0.2.8), and itself if there."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_atelier.rights import pdq

from . import pdq_cases

pytestmark = pytest.mark.torchfree

EXPECTED = json.loads((Path(__file__).parent / "pdq.json").read_text(encoding="utf-8"))["hashes"]
PICTURES = dict(pdq_cases.pictures())


def test_every_picture_has_the_packages_hash_and_quality():
    assert PICTURES.keys() == EXPECTED.keys()

    ours = {}
    for name, pixels in PICTURES.items():
        made = pdq.standard(pdq.luma(Image.fromarray(pixels)))
        ours[name] = [made.bits.tobytes().hex(), made.quality]

    # Sides below 5 pixels have no hash; the package's own then holds what lay in memory.
    assert {n: o for n, o in ours.items() if not n.startswith("waves 4x")} == {
        n: e for n, e in EXPECTED.items() if not n.startswith("waves 4x")
    }
    assert ours["waves 4x90"] == ["0" * 64, 0]


@pytest.mark.parametrize("path", sorted((pdq_cases.EXAMPLES / "photographs").glob("*.jpg")), ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [None, (512, 512), (300, 411)], ids=str)
def test_photographs_have_the_hash_of_the_package_that_is_installed(path, size):
    package = pytest.importorskip("pdqhash")
    picture = Image.open(path).convert("RGB")
    picture = picture.resize(size) if size else picture

    bits, quality = package.compute(np.asarray(picture))

    made = pdq.standard(pdq.luma(picture))
    assert (np.unpackbits(made.bits) == bits).all()
    assert made.quality == quality


def test_the_quick_hash_differs_by_few_bits_where_there_is_something_to_see():
    seen = [pixels for name, pixels in PICTURES.items() if EXPECTED[name][1] >= 50 and "figure" not in name]

    found = []
    for pixels in seen:
        brightness = pdq.luma(Image.fromarray(pixels))
        found.append(int(pdq.distances(pdq.quick(brightness).bits[None], pdq.standard(brightness).bits[None])[0, 0]))

    assert len(seen) > 10
    assert max(found) <= 4


def test_turning_and_mirroring_the_transform_is_turning_and_mirroring_the_picture():
    picture = Image.fromarray(PICTURES["waves 512x512"])
    quarters = [picture.rotate(angle, expand=True) for angle in (0, 90, 180, 270)]

    hashes = pdq.standard(pdq.luma(picture)).dihedral()

    wanted = [*quarters, *(each.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for each in quarters)]
    nearest = [int(pdq.distances(pdq.standard(pdq.luma(each)).bits[None], hashes)[0].argmin()) for each in wanted]
    assert sorted(nearest) == list(range(8))
    assert nearest[0] == 0


def test_bits_are_counted_alike_with_and_without_numpys_own_count(monkeypatch):
    rng = np.random.RandomState(0)
    one, other = rng.randint(0, 256, (3, 32)).astype(np.uint8), rng.randint(0, 256, (5, 32)).astype(np.uint8)
    expected = np.unpackbits(one[:, None] ^ other[None], axis=-1).sum(axis=-1)

    with_count = pdq.distances(one, other)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    without = pdq.distances(one, other)

    assert (with_count == expected).all()
    assert (without == expected).all()


def test_what_is_transparent_counts_as_white():
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))

    assert (pdq.luma(clear) == 255).all()
