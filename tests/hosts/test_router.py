"""Against the contract that all webuis share: a prompt is parsed to networks and their parameters."""

from types import SimpleNamespace

import pytest

from lora_atelier.hosts import router

pytestmark = pytest.mark.torchfree


class Params:
    """What webuis make of ``<lora:a:0.8>``: its parts."""

    def __init__(self, items=None):
        self.items = items or []

    def __eq__(self, other):
        return self.items == other.items

    def __repr__(self):
        return ":".join(self.items)


class Rules:
    ours = True
    given_back = 0

    def takes_prompts(self):
        return self.ours

    def give_back(self):
        self.given_back += 1

    def fingerprint(self, name):
        return "" if name == "none" else f"v{name}"


@pytest.fixture
def rules():
    return Rules()


def params(*tags):
    return [Params(tag.split(":")) for tag in tags]


def test_all_lora_tags_go_to_our_network_which_comes_last_and_the_builtin_is_told_that_it_has_none(rules):
    data = {"lora": params("a:0.8"), "hypernet": params("h"), "lyco": params("b:1:0.5")}

    routed = router.route(data, rules)

    assert list(routed) == ["lora", "hypernet", "lyco", "atelier"]
    assert routed["lora"] == routed["lyco"] == []
    assert routed["atelier"] == params("a:0.8:fp=va", "b:1:0.5:fp=vb")
    assert routed["hypernet"] == params("h")


def test_what_was_routed_once_passes_a_second_time_unchanged(rules):
    """SD.Next parses its own result again."""
    once = router.route({"lora": params("a:0.8")}, rules)

    assert router.route(dict(once), rules) == once


def test_a_file_that_nobody_knows_keeps_its_tag(rules):
    assert router.route({"lora": params("none:1")}, rules)["atelier"] == params("none:1")


def test_tags_that_name_our_loader_go_to_the_builtin_where_that_applies_the_prompts(rules):
    rules.ours = False

    routed = router.route({"atelier": params("a:1:fp=va"), "lora": params("b:1")}, rules)

    assert routed == {"lora": params("b:1", "a:1")}
    assert rules.given_back == 1


@pytest.mark.parametrize("data", [None, {}, {"hypernet": params("h")}])
def test_prompts_without_loras_are_left_as_they_are(rules, data):
    assert router.route(data, rules) == data


def test_what_a_person_typed_is_read_without_our_mark(rules):
    marked = router.route({"lora": params("a:te=0.5:unet=1")}, rules)["atelier"][0]

    assert router.tag_items(marked) == ["a", "te=0.5", "unet=1"]


def test_the_wrapping_is_made_once_and_taken_back(rules):
    def original(prompts, *rest):
        return prompts, {"lora": params("a:1")}

    host = SimpleNamespace(parse_prompts=original)

    for _ in range(3):
        router.install(host, rules)
    text, data = host.parse_prompts(["x"], {})
    assert text == ["x"]
    assert data == {"lora": [], "atelier": params("a:1:fp=va")}

    router.remove(host)
    assert host.parse_prompts is original


def test_a_wrapping_around_ours_is_not_destroyed(rules):
    host = SimpleNamespace(parse_prompts=lambda prompts: (prompts, {}))
    router.install(host, rules)
    theirs = host.parse_prompts = lambda prompts, inner=host.parse_prompts: inner(prompts)

    router.remove(host)

    assert host.parse_prompts is theirs
