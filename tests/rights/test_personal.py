import hashlib
import io
import random

import pytest
from PIL import Image
from tests.rights.fixtures import bag, mining, picture, xmp

from lora_atelier.errors import RightsError
from lora_atelier.rights import personal, signals, stripping

pytestmark = pytest.mark.torchfree


def exif(*, orientation=1):
    said = Image.Exif()
    said[0x0112], said[315] = orientation, "Ada"
    said.get_ifd(0x8825).update({1: "N", 2: (35.0, 41.0, 22.0), 3: "E", 4: (139.0, 41.0, 30.0)})
    said.get_ifd(0x8769).update({0xA431: "SN-12345", 0xA430: "Grace Hopper"})
    return said


def kinds(found):
    return {one.kind for one in found}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])  # Pillow writes none of these into TIFF
def test_places_serial_numbers_and_owners_are_found(kind):
    found = personal.find(picture(kind, exif=exif()))

    assert {"gps", "serial", "owner"} <= kinds(found)
    assert "35.69, 139.69" in [one.text for one in found]


def test_persons_and_places_in_xmp_are_found_also_where_it_is_packed():
    inside = bag("Iptc4xmpExt:PersonInImage", "Ada") + "<photoshop:City>Kyoto</photoshop:City>"

    assert {"person", "place"} <= kinds(personal.find(picture("PNG", xmp(inside=inside))))


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("photo of Ada Lovelace in a garden", "name"),
        ("Mr. Brown smiling", "name"),
        ("田中さんの写真", "name"),
        ("write to ada@example.org", "email"),
        ("call 090-1234-5678", "phone"),
        ("〒100-0001 東京", "address"),
        ("a girl with Red hair, 1girl, solo, masterpiece", ""),
        ("1boy, blue eyes, 2020-01-02", ""),
        ("お客様, 皆さん", ""),
    ],
)
def test_captions_are_looked_at_for_names_and_addresses(caption, kind):
    assert kinds(personal.in_caption(caption)) == ({kind} if kind else set())


def test_nothing_is_found_in_nothing_and_in_junk():
    assert personal.find(picture("PNG")) == ()
    draw = random.Random(3)
    whole = picture("JPEG", exif=exif())
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(10):
            data[draw.randrange(len(data))] = draw.randrange(256)
        personal.find(bytes(data))


# ------------------------------------------------------------------------------------------------ stripping


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_copy_has_the_same_pixels_and_nothing_personal(kind):
    source = Image.effect_noise((40, 24), 60).convert("RGB")
    data = picture(kind, xmp(inside=bag("Iptc4xmpExt:PersonInImage", "Grace")), color=source, exif=exif(orientation=6))
    assert personal.find(data)

    copy, suffix = stripping.strip(data)

    assert personal.find(copy) == ()
    assert not any(word in copy for word in (b"SN-12345", b"Grace"))
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(copy)) as after:
        assert before.convert("RGB").tobytes() == after.convert("RGB").tobytes()
        assert kind == "TIFF" or after.getexif().get(0x0112) == 6
    assert suffix == (".png" if kind == "TIFF" else "")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_copy_forbids_what_its_original_forbids_and_keeps_its_credits(kind):
    credits = bag("dc:creator", "Ada &amp; Co", kind="Seq") + bag("dc:rights", "© Ada", kind="Alt")
    data = picture(kind, xmp(inside=credits), manifest=mining({"cawg.ai_training": "notAllowed"}))

    said = signals.read_bytes(stripping.strip(data)[0])

    assert said.prohibited
    assert said.rights.creators == ("Ada & Co",) and said.rights.notice == "© Ada"


def test_transparency_and_profiles_stay():
    source = Image.new("RGBA", (8, 8), (255, 0, 0, 100))
    copy, _ = stripping.strip(picture("PNG", color=source, icc_profile=b"profile"))

    with Image.open(io.BytesIO(copy)) as after:
        assert after.mode == "RGBA" and after.getpixel((0, 0)) == (255, 0, 0, 100)
        assert after.info["icc_profile"] == b"profile"


def test_what_was_appended_to_a_jpeg_is_gone():
    copy, _ = stripping.strip(picture("JPEG") + b"secret")

    assert b"secret" not in copy


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "pictures"
    source.mkdir()
    for name in ("a.jpg", "b.png"):
        (source / name).write_bytes(picture("JPEG" if name.endswith("jpg") else "PNG", exif=exif()))
    (source / "a.txt").write_text("a house", encoding="utf-8")
    return source


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_originals_stay_and_undoing_gives_them_back(folder, tmp_path):
    before = digests(folder)

    made = stripping.strip_folder(folder, tmp_path / "copies", ["a.jpg", "b.png"])

    assert (made.pictures, made.changed) == (2, 2)
    assert (made.folder / "a.txt").read_text(encoding="utf-8") == "a house"
    assert digests(folder) == before
    assert stripping.undo(made.folder) == folder
    assert not made.folder.exists() and digests(folder) == before


def test_nothing_of_somebody_elses_is_deleted(folder, tmp_path):
    with pytest.raises(RightsError, match="no copies"):
        stripping.undo(folder)
    made = stripping.strip_folder(folder, tmp_path / "copies", ["a.jpg"])
    with pytest.raises(RightsError, match="exists already"):
        stripping.strip_folder(folder, made.folder, ["a.jpg"])
    folder.rename(tmp_path / "away")
    with pytest.raises(RightsError, match="originals are gone"):
        stripping.undo(made.folder)
    assert (made.folder / "a.jpg").exists()
