import dataclasses

import pytest

from lora_atelier.datasets import record
from lora_atelier.datasets.record import Entry, difference

pytestmark = pytest.mark.torchfree

PICTURES = [Entry(f"{name}.png", name * 64, f"momo {name}", {"repeats": 2, "bucket": (64, 64)}) for name in "abc"]


def said(before, now):
    return [str(sentence) for sentence in difference(before, now).sentences()]


def test_a_list_that_was_written_and_read_is_the_same(tmp_path):
    record.write(tmp_path / record.FILE, PICTURES)

    assert not difference(record.read(tmp_path / record.FILE), PICTURES)


def test_a_list_that_is_missing_or_broken_is_none(tmp_path):
    (tmp_path / "broken.json").write_text('{"schema": 1, "pictures": [{"name"', encoding="utf-8")

    assert record.read(tmp_path / "missing.json") is None
    assert record.read(tmp_path / "broken.json") is None


def test_pictures_that_came_and_went_are_named():
    assert said(PICTURES, PICTURES[:2]) == ["“c.png” is not among the pictures any more."]
    (sentence,) = said(PICTURES[:2], PICTURES)
    assert sentence.startswith("“c.png” was not")


def test_another_caption_is_shown_beside_the_one_before():
    now = [dataclasses.replace(PICTURES[0], caption="momo z"), *PICTURES[1:]]

    assert said(PICTURES, now) == ["The caption of “a.png” was “momo a” and is “momo z”."]


def test_another_use_is_shown_beside_the_one_before():
    now = [*PICTURES[:2], dataclasses.replace(PICTURES[2], use={"repeats": 3, "bucket": (64, 64)})]

    assert said(PICTURES, now) == ["“c.png” is used otherwise: repeats was 2 and is 3."]


def test_another_order_is_a_difference():
    """Which picture a step sees depends on it."""
    assert said(PICTURES, [PICTURES[1], PICTURES[0], PICTURES[2]]) == ["The pictures come in another order."]


def test_where_a_picture_lies_and_what_it_is_called_is_none():
    assert not difference(PICTURES, [dataclasses.replace(entry, name="x") for entry in PICTURES])


def test_a_picture_that_comes_twice_is_compared_in_its_order():
    twice = [PICTURES[0], dataclasses.replace(PICTURES[0], use={"repeats": 9})]

    assert not difference(twice, list(twice))
    assert len(difference(twice, twice[:1]).gone) == 1


def test_the_refusal_counts_the_differences():
    error = difference(PICTURES, PICTURES[:1]).error()

    assert error.why.values["gone"] == 2 and error.why.values["new"] == 0
