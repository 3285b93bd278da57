"""Faces, with OpenCV where it is installed and a stand-in for it elsewhere."""

import sys
import types
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from lora_atelier.datasets import faces
from lora_atelier.web.probing import probe

pytestmark = pytest.mark.torchfree

PHOTOGRAPHS = Path(__file__).parents[2] / "examples" / "photographs"


@pytest.fixture(autouse=True)
def fresh():
    faces._detector.cache_clear()
    yield
    faces._detector.cache_clear()


class Detector:
    """Finds a face in whatever is bright in the middle, and notes the sizes that it was given."""

    sizes: ClassVar[list] = []

    def __init__(self, path):
        self.path = path

    def empty(self):
        return not self.path.endswith("haarcascade_frontalface_default.xml")

    def detectMultiScale(self, grey, **options):  # noqa: N802 - OpenCV's name
        self.sizes.append(grey.shape)
        middle = grey[grey.shape[0] // 2, grey.shape[1] // 2]
        return [(1, 2, 3, 4)] if middle > 128 else ()


@pytest.fixture
def cv2(monkeypatch):
    module = types.SimpleNamespace(CascadeClassifier=Detector, data=types.SimpleNamespace(haarcascades="/anywhere/"))
    monkeypatch.setitem(sys.modules, "cv2", module)
    Detector.sizes.clear()
    return module


def test_a_picture_is_looked_at_small_and_grey(cv2):
    assert faces.may_show_one(Image.new("RGB", (1000, 500), "white"))
    assert not faces.may_show_one(Image.new("RGBA", (100, 100), "black"))
    assert Detector.sizes == [(160, 320), (100, 100)]


@pytest.mark.parametrize("broken", ["not installed", "version 5", "no data"])
def test_without_a_detector_nothing_is_said(broken, cv2, monkeypatch):
    if broken == "not installed":
        monkeypatch.setitem(sys.modules, "cv2", None)
    elif broken == "version 5":
        del cv2.CascadeClassifier
    else:
        del cv2.data

    assert not faces.may_show_one(Image.new("RGB", (64, 64), "white"))


def test_the_person_is_asked_to_look_and_the_picture_is_used_all_the_same(cv2, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (100, 100), "white").save(path)

    found = probe(path, None)

    assert [issue["kind"] for issue in found["issues"]] == ["face"] and not found["refused"]


def test_opencvs_own_detector_sees_the_one_face_among_the_photographs():
    pytest.importorskip("cv2")

    seen = {path.stem for path in PHOTOGRAPHS.glob("*.jpg") if faces.may_show_one(Image.open(path))}

    assert seen == {"astronaut"}
