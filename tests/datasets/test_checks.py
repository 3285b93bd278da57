import pytest

from lora_atelier.datasets import checks

pytestmark = pytest.mark.torchfree


def test_fewer_than_four_pictures_are_few():
    assert [len(list(checks.few_pictures(count))) for count in (1, 3, 4, 30)] == [1, 1, 0, 0]


@pytest.mark.parametrize("trigger", ["cat", " Girl ", "DRAGON"])
def test_a_trigger_that_is_a_common_word_is_spoken_of_with_another_one(trigger):
    (said,) = checks.common_trigger(trigger)

    assert trigger.strip() in str(said)
    assert not list(checks.common_trigger(said.values["example"]))


@pytest.mark.parametrize("trigger", ["momo", "ohwx", "momo cat", "桃", ""])
def test_a_trigger_of_ones_own_is_not(trigger):
    assert not list(checks.common_trigger(trigger))


def test_the_longest_of_the_captions_that_are_too_long_is_named():
    captions = {"a b": "short.png", "a b c d": "longer.png", "a b c d e": "longest.png"}

    (said,) = checks.long_captions(captions, limit=3, count=lambda caption: len(caption.split()))

    assert said.values["name"] == "longest.png" and said.values["tokens"] == 5 and said.values["count"] == 2


def test_captions_of_few_bytes_are_not_counted():
    """A token is a byte at least, so the word list need not be read."""
    assert not list(checks.long_captions({"a b": "a.png"}, limit=3, count=lambda caption: pytest.fail("counted")))


def test_black_masks_are_counted():
    assert not list(checks.black_masks([]))
    assert "a.png" in str(*checks.black_masks(["a.png", "b.png"]))
