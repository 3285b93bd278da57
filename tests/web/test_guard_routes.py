"""The guard's log as a page reads it."""

import pytest
from PIL import Image

from lora_atelier.rights.guard import Finding, Near
from lora_atelier.rights.guard_log import GuardLog, LoraAt

pytestmark = pytest.mark.torchfree

NEAR = Near("momo", "07.png", 6, "whole", 12.0, 54.0)
# The nearest one of an output that is like none.
FAR = Near("momo", "03.png", 2, "whole", 101.0, 54.0)
LORA = LoraAt("momo", "a" * 64, 0.0, 0.8)
GUARD = "/lora-atelier/v1/guard"


@pytest.fixture
def log(services):
    log = GuardLog(services.jobs.data_dir / "rights")
    pair = log.keep_pair("1-7", Image.new("RGB", (40, 20)))
    log.add("day/1-7.png", Finding("copy-like", NEAR, 9), [LORA], pair=pair)
    log.add("day/2-8.png", Finding("nothing found", FAR, 9), [LORA])
    return log


def test_the_newest_pictures_come_first_with_a_sentence_each(client, log):
    first, second = client.get(GUARD).json()["pictures"]

    assert (first["picture"], first["verdict"], first["near"]) == ("day/2-8.png", "nothing found", None)
    assert (second["verdict"], second["near"]["picture"], second["pair"]) == ("copy-like", "07.png", "1-7.png")
    assert "copy-like" in second["sentence"] and "No copy" in first["sentence"]
    assert second["loras"][0]["unet"] == 0.8
    assert client.get(f"{GUARD}/pairs/{second['pair']}").headers["content-type"] == "image/png"
    assert len(client.get(GUARD, params={"most": 1}).json()["pictures"]) == 1


def test_the_pictures_of_one_lora_come_with_what_was_decided_on_them(client, log):
    log.add("day/3-9.png", Finding("nothing found", None, 9), [LoraAt("other", "b" * 64, 0.0, 1.0)])
    log.decide("day/1-7.png", "discarded")

    found = client.get(GUARD, params={"lora": "momo"}).json()["pictures"]

    assert [(each["picture"], each["decision"]) for each in found] == [
        ("day/2-8.png", None),
        ("day/1-7.png", "discarded"),
    ]
    assert client.get(GUARD, params={"lora": "none"}).json() == {"pictures": []}


def test_one_picture_is_asked_for_by_its_name_with_what_was_decided(client, log):
    assert client.post(f"{GUARD}/decision", json={"picture": "day/1-7.png", "decision": "kept"}).status_code == 200

    (found,) = client.get(GUARD, params={"picture": "day/1-7.png"}).json()["pictures"]

    assert found["decision"] == "kept"
    assert client.get(GUARD, params={"picture": "no"}).json() == {"pictures": []}


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"picture": "no.png", "decision": "kept"}, 404),
        ({"picture": "day/1-7.png", "decision": "burnt"}, 400),
        ({}, 400),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused(client, log, said, status):
    assert client.post(f"{GUARD}/decision", json=said).status_code == status


@pytest.mark.parametrize("file", ["..%2fguard.jsonl", "no.png", "guard.jsonl", "%2e%2e"])
def test_only_pairs_are_given_out(client, log, file):
    assert client.get(f"{GUARD}/pairs/{file}").status_code == 404


def test_without_a_log_there_is_nothing_and_damaged_lines_are_passed_over(client, services, log):
    with (log.folder / "guard.jsonl").open("a", encoding="utf-8") as file:
        file.write(
            '{"schema": 1, "picture": 3, "finding": {"verdict": "?"}, "loras": [1]}\n{"schema": 1, "finding": 3}\n'
        )

    assert [each["verdict"] for each in client.get(GUARD).json()["pictures"]] == ["", "", "nothing found", "copy-like"]
    (log.folder / "guard.jsonl").unlink()
    assert client.get(GUARD).json() == {"pictures": []}
