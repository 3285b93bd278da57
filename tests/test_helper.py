"""The helper process: how it is asked, and what it says of pictures that were signed here."""

import io
import json
import os
import random
import sys

import pytest
from PIL import Image, features
from tests.rights.fixtures import mining, picture

from lora_atelier.helper import __main__ as helper_main
from lora_atelier.jobs.helper_process import Helper
from lora_atelier.rights import signals
from lora_atelier.rights.signals_verified import Verifier

pytestmark = pytest.mark.torchfree

TRAINING = {"cawg.ai_training": {"use": "notAllowed"}, "cawg.ai_generative_training": {"use": "allowed"}}


def program(text):
    """A helper that is a line of Python."""
    return [sys.executable, "-c", text]


ECHO = """
import json, os, sys, time
for line in sys.stdin:
    said = json.loads(line)
    if said["path"] == "die": sys.exit(3)
    if said["path"] == "sleep": time.sleep(60)
    found = {"pid": os.getpid(), "path": said["path"]}
    print(json.dumps({"id": said["id"], "result": found}), flush=True)
"""


def test_one_process_answers_all_questions_and_is_replaced_when_it_dies():
    helper = Helper(program(ECHO))
    first, second = helper.ask({"path": "a"}), helper.ask({"path": "絵"})
    assert first["pid"] == second["pid"] and second["path"] == "絵"

    assert "error" in helper.ask({"path": "die"})

    third = helper.ask({"path": "b"})
    assert third["path"] == "b" and third["pid"] != first["pid"]
    helper.close()
    with pytest.raises(OSError):
        os.kill(third["pid"], 0)


def test_a_question_that_takes_too_long_is_given_up():
    helper = Helper(program(ECHO), timeout_s=1.0)
    helper.ask({"path": "a"})

    assert helper.ask({"path": "sleep"}) == {"error": "no answer in time"}
    assert helper.ask({"path": "b"})["path"] == "b"
    helper.close()


@pytest.mark.parametrize("command", [["/no/such/program"], program("print('no json', flush=True)")])
def test_what_can_not_be_started_or_talks_nonsense_is_not_asked_again(command):
    helper = Helper(command)

    assert helper.ask({"path": "a"}) is None
    assert not helper.is_usable and helper.ask({"path": "a"}) is None


def test_a_missing_package_is_said_once_and_everything_else_goes_on(monkeypatch):
    def missing(path, anchors=""):
        raise ImportError("no c2pa")

    monkeypatch.setattr(helper_main.content_credentials, "read", missing)
    answer = helper_main.answer({"do": "credentials", "path": "a"})
    assert answer == {"missing": "c2pa-python"}
    said = json.dumps({"id": 1, **answer})

    helper = Helper(program(f"input(); print({said!r}, flush=True); input()"))

    assert helper.ask({"path": "a"}) is None and not helper.is_usable


def test_it_ends_after_a_while_without_a_question_and_passes_over_what_is_no_json():
    read, write = os.pipe()
    said = []
    with os.fdopen(read, encoding="utf-8") as lines, os.fdopen(write, "w", encoding="utf-8") as keeps_open:
        keeps_open.write('nonsense\n[1]\n{"id": 7, "do": "dance"}\n')
        keeps_open.flush()
        helper_main.serve(lines, said.append, idle_s=0.2)

    assert [json.loads(line) for line in said] == [{"id": 7, "error": "unknown question"}]


# ------------------------------------------------------------------------------------------------ signed pictures


@pytest.fixture(scope="module")
def signed_pictures():
    pytest.importorskip("c2pa")
    pytest.importorskip("cryptography")
    from tests.rights import signed_pictures

    return signed_pictures


@pytest.fixture(scope="module")
def camera(signed_pictures):
    return signed_pictures.authority("Test camera")


@pytest.fixture(scope="module")
def helper():
    helper = Helper([sys.executable, "-m", "lora_atelier.helper"])
    yield helper
    helper.close()


def formats():
    return ["PNG", "JPEG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])]


def drawn(kind):
    data = io.BytesIO()
    Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 30).convert("RGB").save(data, kind)
    return data.getvalue()


@pytest.mark.parametrize("kind", formats())
def test_what_a_signed_picture_forbids_is_read_with_and_without_the_helper(
    kind, signed_pictures, camera, helper, tmp_path
):
    path = tmp_path / "絵.bin"  # the format is told by the content
    path.write_bytes(signed_pictures.sign(drawn(kind), kind, camera, [("cawg.training-mining", TRAINING)]))
    unchecked = signals.read(path)

    said = Verifier(helper.ask).verified(path, unchecked)

    assert unchecked.prohibited and said.prohibited
    wanted = {"cawg.ai_training: notAllowed", "cawg.ai_generative_training: allowed"}
    assert {one.raw for one in unchecked.found} == wanted
    assert {one.raw for one in said.found} == wanted | {"signed by Test camera, LoRA Atelier tests"}
    assert {one.seal for one in unchecked.found} == {"unchecked"} and {one.seal for one in said.found} == {"valid"}


def test_a_signer_for_whom_the_persons_certificates_vouch_is_trusted(signed_pictures, camera, helper, tmp_path):
    path = tmp_path / "a.png"
    allowed = {"cawg.ai_training": {"use": "allowed"}}
    path.write_bytes(signed_pictures.sign(drawn("PNG"), "PNG", camera, [("cawg.training-mining", allowed)]))
    stranger = signed_pictures.authority("Somebody else")

    for anchors, seal in (
        ("", "valid"),
        (camera.root, "trusted"),
        (stranger.root, "valid"),
        ("no certificate", "valid"),
    ):
        said = Verifier(helper.ask, anchors).verified(path, signals.read(path))
        assert said.data_mining == "allowed" and {one.seal for one in said.found} == {seal}, anchors


def test_a_creator_who_signed_an_identity_is_named(signed_pictures, camera, helper, tmp_path):
    """c2pa-python 0.38 takes nobody's word for creators, so their seal is "valid" at most."""
    creator = signed_pictures.authority(signed_pictures.CREATOR)
    path = tmp_path / "a.png"
    data = signed_pictures.sign(drawn("PNG"), "PNG", camera, [("cawg.training-mining", TRAINING)], creator=creator)
    path.write_bytes(data)

    said = Verifier(helper.ask).verified(path, signals.read(path))

    (identity,) = (one for one in said.found if one.kind == "cawg.identity")
    assert signed_pictures.CREATOR in identity.raw and identity.seal == "valid" and said.prohibited


def test_a_picture_that_was_changed_after_signing_has_a_broken_seal(signed_pictures, camera, helper, tmp_path):
    allowed = {"cawg.ai_training": {"use": "allowed"}}
    data = bytearray(signed_pictures.sign(drawn("JPEG"), "JPEG", camera, [("cawg.training-mining", allowed)]))
    data[-40] ^= 1
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert signals.read(path).data_mining == "allowed"  # without the helper nobody can tell

    said = Verifier(helper.ask).verified(path, signals.read(path))

    assert said.data_mining == "none_found" and {one.seal for one in said.found} == {"invalid"}


def test_a_manifest_that_nobody_signed_permits_nothing(signed_pictures, helper, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(picture("PNG", manifest=mining({"cawg.ai_training": "allowed"})))

    assert Verifier(helper.ask).verified(path, signals.read(path)).data_mining == "none_found"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damage_anywhere_crashes_nothing_and_never_becomes_permission(kind, signed_pictures, camera, helper, tmp_path):
    whole = signed_pictures.sign(drawn(kind), kind, camera, [("cawg.training-mining", TRAINING)])
    draw, path = random.Random(3), tmp_path / "a"

    for _ in range(25):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 30)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        if draw.random() < 0.4:
            del data[draw.randrange(len(data)) :]
        path.write_bytes(data)
        assert Verifier(helper.ask).verified(path, signals.read(path)).data_mining != "allowed"
