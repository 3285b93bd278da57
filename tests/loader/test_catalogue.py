import json
import os
import unicodedata

import pytest

from lora_atelier.errors import AdapterNotFoundError
from lora_atelier.loader.catalogue import Catalogue, nearest

pytestmark = pytest.mark.torchfree

KEY = {"lora_unet_x.lora_down.weight": (2, 2)}


@pytest.fixture
def folder(tmp_path, write_header):
    """A function that adds an adapter file to the folder ``loras``."""

    def add(name, metadata=None, **others):
        path = tmp_path / "loras" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_header(path, KEY, metadata, **others)

    (tmp_path / "loras").mkdir()
    add.path = tmp_path / "loras"
    return add


@pytest.mark.parametrize(
    "name", ["cat", "猫とリボン", "my lora v1.0", "がぎぐ", "é_ñ-1", "x" * 64, "style (v2) [final]", "emoji 🐈"]
)
def test_any_name_that_a_file_can_have_is_found(folder, name):
    path = folder(f"{name}.safetensors")

    entry = Catalogue([folder.path]).find(name)

    assert entry.name == name
    assert entry.path == path


def test_letters_written_in_unicodes_two_ways_are_the_same_name(folder):
    """macOS stores が as two code points; a keyboard types one."""
    folder(unicodedata.normalize("NFD", "がぎぐ") + ".safetensors")

    entry = Catalogue([folder.path]).find(unicodedata.normalize("NFC", "がぎぐ"))

    assert unicodedata.normalize("NFC", entry.name) == "がぎぐ"


def test_a_card_gives_trigger_words_weight_preview_and_description(folder):
    path = folder("cat.safetensors", {"ss_output_name": "cat_v1", "modelspec.trigger_phrase": "not this"})
    card = {"activation text": "momo figure", "preferred weight": 0.8, "description": "猫"}
    path.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
    path.with_name("cat.preview.png").write_bytes(b"")

    entry = Catalogue([folder.path]).find("cat")

    assert (entry.alias, entry.trigger_words, entry.preferred_weight) == ("cat_v1", "momo figure", 0.8)
    assert entry.description == "猫"
    assert entry.preview == path.with_name("cat.preview.png")


def test_trigger_words_also_come_from_civitais_file_and_from_the_metadata(folder):
    path = folder("a.safetensors")
    path.with_suffix(".civitai.info").write_text(json.dumps({"trainedWords": ["red hat", "beard"]}))
    folder("b.safetensors", {"modelspec.trigger_phrase": "sks dog"})

    catalogue = Catalogue([folder.path])

    assert catalogue.find("a").trigger_words == "red hat, beard"
    assert catalogue.find("b").trigger_words == "sks dog"


@pytest.mark.parametrize("card", ["{", "[]", '{"preferred weight": "much"}', "\ufeff{}"])
def test_a_broken_card_does_not_hide_its_lora(folder, card):
    path = folder("cat.safetensors")
    path.with_suffix(".json").write_text(card, encoding="utf-8")

    entry = Catalogue([folder.path]).find("cat")

    assert (entry.trigger_words, entry.preferred_weight) == ("", 0.0)


def test_a_name_means_a_file_first_then_an_alias_then_other_capitals(folder):
    folder("other.safetensors", {"ss_output_name": "cat"})
    folder("Dog.safetensors", {"ss_output_name": "hound"})
    catalogue = Catalogue([folder.path])

    assert catalogue.find("cat").name == "other"
    assert catalogue.find("hound").name == "Dog"
    assert catalogue.find("dog").name == "Dog"
    folder("cat.safetensors")
    assert catalogue.find("cat").name == "cat"


def test_an_alias_that_two_files_claim_means_neither(folder):
    for name in ("a", "b"):
        folder(f"{name}.safetensors", {"ss_output_name": "last"})

    with pytest.raises(AdapterNotFoundError):
        Catalogue([folder.path]).find("last")


def test_the_same_name_in_two_folders_is_told_apart_by_the_folder(folder):
    folder("a/cat.safetensors")
    folder("b/cat.safetensors")

    names = [entry.name for entry in Catalogue([folder.path]).list()]

    assert names == ["b/cat", "cat"]


def test_files_that_come_go_and_change_are_noticed_at_the_next_look(folder):
    catalogue = Catalogue([folder.path, folder.path / "not there"])
    assert catalogue.list() == []
    path = folder("cat.safetensors", {"ss_output_name": "one"})
    first = catalogue.find("cat")

    folder("cat.safetensors", {"ss_output_name": "two!"})
    os.utime(path, ns=(1, 1))

    second = catalogue.find("cat")
    assert (first.alias, second.alias) == ("one", "two!")
    assert first.identity != second.identity
    path.unlink()
    assert catalogue.list() == []


def test_a_broken_file_is_listed_with_what_is_wrong(folder):
    folder("broken.safetensors", cut=3)
    folder("whole.safetensors")

    broken, whole = Catalogue([folder.path]).list()

    assert "broken or incomplete" in str(broken.problem)
    assert whole.problem is None


def test_an_unknown_name_offers_the_nearest(folder):
    for name in ("momo_figure", "watercolour", "hatsune_miku_v3"):
        folder(f"{name}.safetensors")
    catalogue = Catalogue([folder.path])

    for asked, offered in (("momo_figur", "momo_figure"), ("WaterColor", "watercolour"), ("miku", "hatsune_miku_v3")):
        with pytest.raises(AdapterNotFoundError, match=f"<lora:{offered}:1>"):
            catalogue.find(asked)
    with pytest.raises(AdapterNotFoundError, match=r"Put its \.safetensors file into"):
        catalogue.find("zzz")
    assert nearest("x", []) == ""


def test_a_pickle_of_that_name_is_the_reason(folder):
    (folder.path / "old.pt").write_bytes(b"")

    with pytest.raises(AdapterNotFoundError, match=r"old\.pt is a Python pickle"):
        Catalogue([folder.path]).find("old")


def test_hidden_and_temporary_files_are_not_listed(folder):
    folder(".cat.safetensors")
    (folder.path / "cat.safetensors.tmp").write_bytes(b"")

    assert Catalogue([folder.path]).list() == []


def test_a_card_that_is_written_later_is_noticed(folder):
    path = folder("cat.safetensors")
    catalogue = Catalogue([folder.path])
    assert catalogue.list()[0].trigger_words == ""

    path.with_suffix(".json").write_text('{"activation text": "momo"}')

    assert catalogue.list()[0].trigger_words == "momo"


def test_a_link_to_a_folder_above_does_not_lead_round_for_ever(folder):
    folder("cat.safetensors")
    try:
        (folder.path / "again").symlink_to(folder.path, target_is_directory=True)
    except OSError:
        pytest.skip("links are not allowed here")

    assert [entry.name for entry in Catalogue([folder.path]).list()] == ["cat"]


def test_a_name_that_was_found_once_is_found_again_without_looking_everywhere(folder, monkeypatch):
    folder("cat.safetensors")
    catalogue = Catalogue([folder.path])
    first = catalogue.find("cat")
    monkeypatch.setattr("os.walk", None)

    assert catalogue.find("cat") is first
