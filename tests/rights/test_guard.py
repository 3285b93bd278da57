"""Acceptance tests G2 and G6 of the guard: edited copies of training pictures are flagged, other pictures are not."""

import io
import json
import random

import numpy as np
import pytest
from benchmarks import drawings
from PIL import Image, ImageEnhance, ImageOps

from lora_atelier.errors import RightsError
from lora_atelier.locales import sentence
from lora_atelier.rights import calibration, fingerprints, guard, guard_words, references
from lora_atelier.rights.guard import Finding, Guard, Near, Output, Used
from lora_atelier.rights.guard_log import GuardLog, LoraAt, pair_of

pytestmark = pytest.mark.torchfree

SIDE = 256
TRAINING = [(kind, 0) for kind in drawings.KINDS] + [("street", 3), ("pattern", 3)]
HASH = "a" * 64


def as_jpeg(picture, quality):
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=quality)
    return Image.open(kept)


def cropped(picture, share, seed):
    rng, size = random.Random(seed), round(picture.width * share)
    left, top = (rng.randint(0, picture.width - size) for _ in range(2))
    return picture.crop((left, top, left + size, top + size))


def recoloured(picture):
    hue, saturation, value = picture.convert("HSV").split()
    turned = Image.merge("HSV", (hue.point([(at + 90) % 256 for at in range(256)]), saturation, value))
    return ImageEnhance.Contrast(turned.convert("RGB")).enhance(1.3)


EDITS = {
    "itself": lambda picture, at: picture,
    "JPEG quality 30": lambda picture, at: as_jpeg(picture, 30),
    "half size": lambda picture, at: picture.resize((SIDE // 2, SIDE // 2)),
    "mirrored": lambda picture, at: ImageOps.mirror(picture),
    "cropped to 80 %": lambda picture, at: cropped(picture, 0.8, at),
    "recoloured": lambda picture, at: recoloured(picture),
    "turned by 10 degrees": lambda picture, at: picture.rotate(10),
    "framed": lambda picture, at: ImageOps.expand(picture, SIDE // 5, "white"),
    "pasted into another": lambda picture, at: pasted(picture, at),
}


def pasted(picture, at):
    ground = drawings.draw("landscape", 900 + at, 384)
    ground.paste(picture, (30 + 10 * at, 100 - 10 * at))
    return ground


@pytest.fixture(scope="module")
def pictures():
    return [drawings.draw(kind, seed, SIDE) for kind, seed in TRAINING]


@pytest.fixture(scope="module")
def known(pictures):
    prepared = (calibration.prepare(f"{at}.png", str(at), picture) for at, picture in enumerate(pictures))
    return calibration.build(HASH, prepared)


def look(picture, known):
    return guard.compare(Output(picture), [("momo", known)])


@pytest.mark.parametrize("edit", EDITS)
def test_every_edited_copy_is_flagged_and_the_right_picture_is_named(edit, pictures, known):
    asked = (0, 2, 3)

    found = [look(EDITS[edit](pictures[at], at), known) for at in asked]

    assert [(each.verdict, each.near.picture) for each in found] == [("copy-like", f"{at}.png") for at in asked]


@pytest.mark.parametrize("kind", drawings.KINDS)
def test_other_drawings_of_the_same_kinds_are_not_flagged(kind, known):
    found = [look(drawings.draw(kind, seed, SIDE), known) for seed in (50, 51, 52)]

    assert [each.verdict for each in found] == ["nothing found"] * 3
    assert {each.compared for each in found} == {len(TRAINING)}


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (64, 64), "red"),
        Image.new("RGB", (1, 1)),
        Image.new("L", (300, 20), 90),
        Image.fromarray(np.random.RandomState(0).randint(0, 256, (90, 700, 3)).astype(np.uint8)),
    ],
    ids=["flat", "one pixel", "a strip", "noise"],
)
def test_pictures_without_content_are_like_nothing(picture, known):
    assert look(picture, known).verdict == "nothing found"


def test_one_character_in_one_pose_tightens_the_limits():
    """Drawings of other colours and clothes in one pose: how far they are apart is what an output in it may be."""
    same_pose = [drawings.draw("character", seed, SIDE, pose=1) for seed in (10, 14, 11)]
    alone = calibration.build(HASH, [calibration.prepare("a", "a", same_pose[0])])
    together = calibration.build(HASH, [calibration.prepare(n, n, p) for n, p in zip("abc", same_pose, strict=True)])

    apart = fingerprints.distance(fingerprints.fingerprint(same_pose[1]), alone.views)[0]
    assert alone.pictures[0].whole > apart >= together.pictures[0].whole
    assert look(same_pose[1], alone).verdict == "copy-like"
    assert look(same_pose[1], together).near.picture == "b"


@pytest.mark.parametrize("kind", ["landscape", "street", "pattern"])
def test_a_drawing_made_again_with_other_lines_is_found_by_all_its_parts_together(kind, pictures, known):
    """No single view of it is near enough, and by chance a view of another drawing may be nearer."""
    generator, at = np.random.default_rng(0), TRAINING.index((kind, 0))
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    for places in (x, y):
        soft = np.asarray(Image.fromarray(generator.normal(size=(6, 6)).astype(np.float32)).resize((SIDE, SIDE)))
        places += soft / np.abs(soft).max() * 10
    rows, columns = (np.clip(each, 0, SIDE - 1).astype(int) for each in (y, x))
    again = Image.fromarray(np.asarray(pictures[at])[rows, columns])

    found = look(again, known)

    assert (found.verdict, found.near.look, found.near.picture) == ("copy-like", "parts", f"{at}.png")
    assert found.near.value < found.near.limit <= fingerprints.FLAG_PARTS
    assert fingerprints.distance(fingerprints.fingerprint(again), known.views)[at] >= fingerprints.FLAG


def test_the_same_picture_twice_does_not_hide_its_copies(pictures):
    twice = [
        calibration.prepare("a", "a", pictures[1]),
        calibration.prepare("b", "b", as_jpeg(pictures[1], 40)),
        calibration.prepare("c", "c", pictures[2]),
    ]

    known = calibration.build(HASH, twice)

    assert look(pictures[1].resize((200, 200)), known).verdict == "copy-like"


def test_a_plain_picture_is_counted_as_silent(pictures):
    plain = [calibration.prepare("plain", "1", Image.new("RGB", (64, 64), "blue"))]
    known = calibration.build(HASH, [*plain, calibration.prepare("full", "2", pictures[0])])

    found = look(pictures[3], known)

    assert (found.compared, found.silent) == (1, 1)
    assert look(Image.new("RGB", (64, 64), "blue"), known).verdict == "nothing found"


# ----------------------------------------------------------------------------------------- what is kept of a LoRA


@pytest.fixture
def used(tmp_path, known):
    path = tmp_path / "momo.safetensors"
    known.write(references.beside(path))
    return Used("momo", path, HASH)


def test_what_is_kept_comes_back_from_its_file(used, known):
    again = references.read(references.beside(used.path))

    assert (again.model_hash, again.pictures, again.copies) == (known.model_hash, known.pictures, known.copies)
    assert (again.views == known.views).all()
    assert (again.strips == known.strips).all()
    assert again.picture(1).size == (SIDE, SIDE)


def test_the_guard_finds_the_file_beside_the_lora_and_reads_it_again_when_it_is_another(used, pictures, known):
    watching = Guard()

    assert watching.examine(pictures[2], [used])[0].near.picture == "2.png"
    calibration.build(HASH, [calibration.prepare("new.png", "", pictures[2])]).write(references.beside(used.path))
    assert watching.examine(pictures[2], [used])[0].near.picture == "new.png"


def test_another_file_of_that_name_has_no_training_pictures_here(used, pictures):
    other = Used("momo", used.path, "b" * 64)

    found, errors = Guard().examine(pictures[0], [other])

    assert (found.verdict, found.unknown, errors) == ("nothing found", ("momo",), [])


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04nothing", b"\x00" * 100], ids=["empty", "cut", "zeros"])
def test_a_damaged_file_is_said_and_stops_nothing(used, pictures, data):
    references.beside(used.path).write_bytes(data)

    found, errors = Guard().examine(pictures[0], [used])

    assert found.verdict == "nothing found"
    assert found.unknown == ("momo",)
    assert "momo.training-pictures.npz" in str(errors[0])


def test_a_file_from_before_the_limit_of_all_parts_is_read_with_the_limits_that_it_has(used):
    path = references.beside(used.path)
    with np.load(path) as stored:
        arrays = dict(stored)
    about = json.loads(arrays["about"].tobytes())
    for each in about["pictures"]:
        del each["parts"]
    np.savez(path, **{**arrays, "about": np.frombuffer(json.dumps(about).encode(), np.uint8)})

    assert {each.parts for each in references.read(path).pictures} == {0.0}
    found, _ = Guard().examine(drawings.draw("street", 70, SIDE), [used])
    assert found.verdict == "nothing found"


def test_a_file_of_a_newer_version_is_refused(used, known):
    path = references.beside(used.path)
    with np.load(path) as stored:
        arrays = dict(stored)
    about = json.loads(arrays["about"].tobytes()) | {"schema": 99}
    np.savez(path, **{**arrays, "about": np.frombuffer(json.dumps(about).encode(), np.uint8)})

    with pytest.raises(RightsError, match="newer version"):
        references.read(path)


# ------------------------------------------------------------------------------------------------------- words


NEAR = Near("momo", "07.png", 6, "whole", 12.0, 54.0)


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ([Finding("copy-like", NEAR, 9)], "Picture 1 is copy-like: it is very near the training picture “07.png”"),
        ([Finding("nothing found"), Finding("close", NEAR, 9)], "Picture 2 is close to the training picture “07.png”"),
        ([Finding("close", NEAR), Finding("copy-like", NEAR)], "Picture 2 is copy-like"),
        ([Finding("nothing found", None, 9)], "No copy of the 9 training pictures of momo was found."),
        ([Finding("nothing found", None, 9, 3)], "No copy of 9 training pictures of momo was found; 3 say too little"),
        ([Finding("nothing found", None, 0, 3)], "too plain or too much alike to say"),
        ([Finding("nothing found", unknown=("momo",))], "Not compared with the training pictures of momo"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_was_found(findings, said):
    assert said in str(guard_words.sentence(findings, ["momo"]))


def test_where_nothing_is_found_the_sentence_says_what_can_not_be_seen():
    for silent in (0, 2):
        said = guard_words.sentence([Finding("nothing found", None, 9, silent)], ["momo"])
        assert "Style and likeness can't be seen" in str(said)
        assert sentence(said, "ja") != str(said)


def test_without_loras_nothing_is_said():
    assert guard_words.sentence([], []) is None
    assert guard_words.sentence([Finding("nothing found")], []) is None


# --------------------------------------------------------------------------------------------------------- log


def test_the_log_keeps_what_was_found_with_which_loras_and_what_was_decided(tmp_path, pictures, known):
    log, found = GuardLog(tmp_path / "権利"), look(pictures[1], known)
    name = log.keep_pair("00001-7", pair_of(pictures[1], found, known))

    log.add("2026-11-26/00001-7.png", found, [LoraAt("桃", HASH, 0.0, 0.8)], pair=name)
    log.add("2026-11-26/00002-8.png", None, [])
    log.decide("2026-11-26/00001-7.png", "kept")

    entry = log.find("2026-11-26/00001-7.png")
    assert entry["finding"]["verdict"] == "copy-like"
    assert entry["finding"]["near"]["picture"] == "1.png"
    assert entry["loras"] == [{"name": "桃", "model_hash": HASH, "te": 0.0, "unet": 0.8}]
    assert entry["decision"] == "kept"
    assert Image.open(tmp_path / "権利" / "pairs" / entry["pair"]).width > 2 * 384
    assert log.find("2026-11-26/00002-8.png")["finding"] is None
    assert log.find("another.png") is None
    with pytest.raises(ValueError, match="forgotten"):
        log.decide("a.png", "forgotten")


def test_damaged_lines_of_the_log_are_passed_over(tmp_path):
    log = GuardLog(tmp_path)
    log.add("a.png", None, [])
    with (tmp_path / "guard.jsonl").open("ab") as file:
        file.write(b'{"torn\n\xff\xfe\n[1]\n{"schema": 99, "picture": "b.png"}\n')
    log.add("c.png", None, [])

    assert [entry["picture"] for entry in log.entries()] == ["a.png", "c.png"]


def test_a_pair_of_the_same_name_does_not_replace_the_first(tmp_path, pictures):
    log = GuardLog(tmp_path)

    assert [log.keep_pair("a", pictures[0]), log.keep_pair("a", pictures[1])] == ["a.png", "a-2.png"]
