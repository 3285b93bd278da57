import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from lora_atelier.rights import fingerprints
from lora_atelier.rights.fingerprints import CERTAIN, FLAG, FLAG_PARTS, NUM_VIEWS

from . import pdq_cases

pytestmark = pytest.mark.torchfree

PHOTOGRAPHS = sorted((pdq_cases.EXAMPLES / "photographs").glob("*.jpg"))


def photograph(name="astronaut"):
    return Image.open(pdq_cases.EXAMPLES / "photographs" / f"{name}.jpg").convert("RGB")


def cropped(picture, share, x=0.5, y=0.5):
    width, height = (round(side * share) for side in picture.size)
    left, top = round((picture.width - width) * x), round((picture.height - height) * y)
    return picture.crop((left, top, left + width, top + height))


EDITS = {
    "itself": lambda picture: picture,
    "half size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "mirrored": ImageOps.mirror,
    "turned": lambda picture: picture.rotate(90, expand=True),
    "turned and mirrored": lambda picture: ImageOps.mirror(picture.rotate(270, expand=True)),
    "upside down": ImageOps.flip,
    "middle 90 %": lambda picture: cropped(picture, 0.9),
    "corner 80 %": lambda picture: cropped(picture, 0.8, 1, 0),
    "mirrored corner": lambda picture: ImageOps.mirror(cropped(picture, 0.8, 0, 1)),
    "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(2)),
    "grey": lambda picture: picture.convert("L"),
    "white border": lambda picture: ImageOps.expand(picture, picture.width // 6, "white"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_copy_is_near_and_the_other_pictures_are_not(edit):
    views = np.stack([fingerprints.fingerprint(Image.open(path)).views for path in PHOTOGRAPHS])
    at = [path.stem for path in PHOTOGRAPHS].index("astronaut")

    found = fingerprints.distance(fingerprints.fingerprint(EDITS[edit](photograph())), views)

    assert found.argmin() == at
    assert found[at] < FLAG
    assert np.delete(found, at).min() > FLAG


@pytest.mark.parametrize("edit", [lambda picture: picture, ImageOps.mirror, lambda picture: picture.convert("L")])
def test_all_parts_of_a_copy_lie_at_their_places_and_those_of_another_picture_do_not(edit):
    views = np.stack([fingerprints.fingerprint(Image.open(path)).views for path in PHOTOGRAPHS])
    at = [path.stem for path in PHOTOGRAPHS].index("astronaut")

    found = fingerprints.composition_distance(fingerprints.fingerprint(edit(photograph())), views)

    assert found[at] < FLAG_PARTS
    assert np.delete(found, at).min() > FLAG_PARTS
    assert fingerprints.composition_distance(fingerprints.fingerprint(photograph()), views[:0]).shape == (0,)


def test_a_picture_is_nothing_away_from_itself_and_the_measure_is_symmetric_for_crops():
    whole, part = (fingerprints.fingerprint(each) for each in (photograph(), cropped(photograph(), 0.8)))

    assert fingerprints.distance(whole, whole.views[None]) == [0]
    assert fingerprints.distance(whole, part.views[None])[0] <= CERTAIN
    assert fingerprints.distance(part, whole.views[None])[0] <= CERTAIN


def test_a_fingerprint_has_416_bytes_and_its_shapes():
    made = fingerprints.fingerprint(photograph())

    assert made.views.shape == made.mirrored.shape == (NUM_VIEWS, 32)
    assert made.views.nbytes == 416
    assert made.turned.shape == (8, 32)


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (9, 5), (2000, 1500)], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_any_picture_has_a_fingerprint(size, mode):
    made = fingerprints.fingerprint(Image.new(mode, size))

    assert made.quality == 0
    assert not made.is_telling


def test_an_even_border_is_cut_off_and_a_drawings_ground_is_not():
    inside = fingerprints.brightness(photograph())
    framed = np.pad(inside, 60, constant_values=255.0)
    ground = np.full((200, 200), 200, np.float32)
    ground[150:, 80:120] = 30

    assert fingerprints.trimmed(framed).shape == inside.shape
    assert fingerprints.trimmed(ground).shape[0] == 200


def test_there_is_no_distance_to_nothing():
    assert (
        fingerprints.distance(fingerprints.fingerprint(photograph()), np.empty((0, NUM_VIEWS, 32), np.uint8)).size == 0
    )
