import json

import pytest
from PIL import Image
from tests.rights.fixtures import picture, xmp

from lora_atelier.datasets.items import Item
from lora_atelier.errors import DataError, RightsError
from lora_atelier.rights import gate, ledger

pytestmark = pytest.mark.torchfree


@pytest.fixture
def items(tmp_path):
    made = []
    for name in ("a.png", "b.png", "forbidden.png"):
        path = tmp_path / name
        path.write_bytes(picture("PNG", xmp("DMI-PROHIBITED") if name.startswith("f") else None))
        made.append(Item(path, "", 32, 32))
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "b.png")
    return made


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_a_prohibited_picture_is_refused_by_name_and_the_others_are_recorded(items, run_dir):
    admitted = gate.admit(items, run_dir, whose="mine")

    assert [item.path.name for item in admitted.items] == ["a.png", "b.png"]
    assert len(admitted.refused) == 1 and "forbidden.png" in str(admitted.refused[0])
    lines = [json.loads(line) for line in (run_dir / "rights.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["basis"] for line in lines] == ["owner", "owner"]
    assert all(len(line["sha256"]) == 64 and line["data_mining"] == "none_found" for line in lines)
    assert admitted.summary()["refused"] == 1 and admitted.summary()["pictures"] == 2


def test_pixels_come_only_from_the_very_file_that_was_admitted(items, run_dir):
    admitted = gate.admit(items, run_dir, whose="mine")
    assert admitted.open(items[0]).size == (32, 32)

    Image.new("RGB", (32, 32), "green").save(items[0].path)

    with pytest.raises(RightsError, match=r"a\.png"):
        admitted.open(items[0])
    with pytest.raises(RightsError, match=r"a\.png"):
        gate.admit(items, run_dir, whose="mine")


def test_a_picture_that_was_not_admitted_can_not_be_opened(items, run_dir):
    admitted = gate.admit(items, run_dir, whose="mine")

    with pytest.raises(KeyError):
        admitted.open(items[2])


def test_a_run_that_goes_on_keeps_its_record(items, run_dir):
    gate.admit(items, run_dir, whose="mine")
    before = (run_dir / "rights.jsonl").read_bytes()

    gate.admit(items, run_dir, whose="mine")

    assert (run_dir / "rights.jsonl").read_bytes() == before


def test_nothing_left_is_a_sentence(items, run_dir):
    with pytest.raises(RightsError, match="None of the pictures"):
        gate.admit(items[2:], run_dir, whose="mine")


def test_the_question_must_be_answered(items, run_dir):
    with pytest.raises(RightsError, match="whose"):
        gate.admit(items, run_dir, whose="somebody")
    assert gate.admit(items, run_dir, whose="experiment").summary()["sharing"] is False


def test_a_picture_that_is_gone_or_broken_is_named(items, run_dir):
    items[1].path.write_bytes(b"\x89PNG but no more")
    admitted = gate.admit(items, run_dir, whose="mine")
    with pytest.raises(DataError, match=r"b\.png"):
        admitted.open(items[1])

    items[0].path.unlink()
    with pytest.raises(DataError, match=r"a\.png"):
        gate.admit(items, run_dir, whose="mine")


def test_a_newer_record_is_refused_with_a_sentence(items, run_dir):
    gate.admit(items, run_dir, whose="mine")
    text = (run_dir / "rights.jsonl").read_text(encoding="utf-8")
    (run_dir / "rights.jsonl").write_text(text.replace('"schema": 2', '"schema": 99'), encoding="utf-8")

    with pytest.raises(RightsError, match="newer"):
        ledger.read(run_dir / "rights.jsonl")
