import hashlib
import json
import os
import sys
import unicodedata

import pytest

from lora_atelier import prompt, safetensors_header
from lora_atelier.errors import AdapterNotFoundError
from lora_atelier.loader import hashing
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


@pytest.mark.parametrize("asked", ["last", "LAST"])
def test_an_alias_that_two_files_claim_names_both_and_each_is_found_by_its_own_name(folder, asked):
    for name in ("a", "b"):
        folder(f"{name}.safetensors", {"ss_output_name": "last"})
    catalogue = Catalogue([folder.path])

    with pytest.raises(AdapterNotFoundError, match=r"Several files are called that: a, b\."):
        catalogue.find(asked)

    assert [catalogue.find(name).path.stem for name in ("a", "b")] == ["a", "b"]


def test_capitals_that_fit_two_files_choose_neither(folder):
    folder("Cat.safetensors")
    folder("x/CAT.safetensors")
    catalogue = Catalogue([folder.path])
    if len(catalogue.list()) != 2:
        pytest.skip("this file system does not tell capitals apart")

    assert catalogue.find("CAT").path.stem == "CAT"
    with pytest.raises(AdapterNotFoundError, match="CAT, Cat"):
        catalogue.find("cat")


def test_the_same_name_in_two_folders_is_told_apart_by_the_folder(folder):
    folder("a/cat.safetensors")
    folder("b/cat.safetensors")

    catalogue = Catalogue([folder.path])

    assert [entry.name for entry in catalogue.list()] == ["b/cat", "cat"]
    assert [catalogue.find(name).path.parent.name for name in ("cat", "a/cat", "b/cat", "b\\cat", "B/Cat")] == list(
        "aabbb"
    )


def test_every_file_has_a_name_of_its_own_that_a_prompt_can_hold(folder, tmp_path):
    """Two folders with the same files, and names with the signs that end a name in a prompt."""
    for name in ("cat", "a=b", "x:y>", "sub/cat"):
        try:
            folder(f"{name}.safetensors")
        except OSError:
            pytest.skip("this file system does not allow such names")
    other = tmp_path / "other" / "loras2"
    other.mkdir(parents=True)
    (other / "cat.safetensors").write_bytes((folder.path / "cat.safetensors").read_bytes())

    catalogue = Catalogue([folder.path, other, folder.path])

    found = {entry.name: entry.path for entry in catalogue.list()}
    assert set(found) == {"cat", "a_b", "x_y_", "sub/cat", "loras2/cat"}
    for name, path in found.items():
        parsed = prompt.parse(f"<lora:{name}:0.5>")
        assert not parsed.problems
        assert catalogue.find(parsed.calls[0].name).path == path
    assert catalogue.find("a=b").name == "a_b"


def test_letters_that_differ_only_in_their_unicode_form_still_name_two_files(folder):
    for form in ("NFC", "NFD"):
        folder(unicodedata.normalize(form, "é") + ".safetensors")
    catalogue = Catalogue([folder.path])

    entries = catalogue.list()

    assert len({entry.path for entry in entries}) == len(list(folder.path.iterdir()))
    assert {catalogue.find(entry.name).path for entry in entries} == {entry.path for entry in entries}


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


@pytest.mark.parametrize("ending", ["pt", "ckpt", "pth"])
def test_a_pickle_is_listed_with_the_reason_and_never_opened(folder, ending):
    path = folder.path / f"old.{ending}"
    path.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    catalogue = Catalogue([folder.path])

    (entry,) = catalogue.list()

    assert entry.name == "old"
    assert str(entry.problem) == f"old.{ending} is a Python pickle, which can run any program when it is opened."
    with pytest.raises(AdapterNotFoundError, match=rf"old\.{ending} is a Python pickle"):
        catalogue.find("old")


def test_a_pickle_takes_no_name_from_a_file_that_can_be_used(folder):
    (folder.path / "cat.pt").write_bytes(b"")
    path = folder("sub/cat.safetensors")
    catalogue = Catalogue([folder.path])

    assert catalogue.find("cat").path == path
    assert len(catalogue.list()) == 2


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
    monkeypatch.setattr("os.scandir", None)

    assert catalogue.find("cat") is first


def test_a_file_that_was_replaced_is_read_again_without_looking_everywhere(folder, monkeypatch):
    path = folder("cat.safetensors", {"modelspec.trigger_phrase": "old"})
    catalogue = Catalogue([folder.path])
    before = catalogue.find("cat")
    folder("cat.safetensors", {"modelspec.trigger_phrase": "new"})
    os.utime(path, ns=(1, 1))
    monkeypatch.setattr("os.scandir", None)

    after = catalogue.find("cat")

    assert (before.trigger_words, after.trigger_words) == ("old", "new")
    assert catalogue.find("cat") is after


def test_a_file_that_was_deleted_since_the_list_is_said_to_be_missing(folder):
    path = folder("cat.safetensors", {"ss_note": "x"})
    catalogue = Catalogue([folder.path])
    (entry,) = catalogue.list()
    assert entry.metadata == {"ss_note": "x"}

    path.unlink()

    assert entry.metadata == {}
    with pytest.raises(AdapterNotFoundError, match="There is no LoRA called “cat”"):
        catalogue.find("cat")


def test_a_file_that_may_not_be_read_is_listed_and_asked_again_the_next_time(folder, monkeypatch):
    """Who runs the tests may be allowed to read everything, so the refusal is made."""
    folder("cat.safetensors", {"ss_output_name": "miau"})
    catalogue = Catalogue([folder.path])
    with monkeypatch.context() as patch:

        def refuse(path):
            raise PermissionError(13, "Permission denied")

        patch.setattr(safetensors_header, "skim", refuse)
        (entry,) = catalogue.list()
    assert "can't be read: [Errno 13] Permission denied" in str(entry.problem)

    (entry,) = catalogue.list()

    assert (entry.problem, entry.alias) == (None, "miau")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are no text")
def test_a_name_that_is_no_text_can_be_shown_and_found(folder, tmp_path):
    source = folder("cat.safetensors")
    os.rename(source, os.fsencode(folder.path) + b"/c\xff.safetensors")  # noqa: PTH104 - pathlib has no bytes
    catalogue = Catalogue([folder.path], tmp_path / "catalogue.sqlite")

    (entry,) = catalogue.list()

    assert entry.name.encode("utf-8")
    assert catalogue.find(entry.name).path == entry.path


# --- what a file says of itself

UNET = "down_blocks.0.attentions.0.transformer_blocks.0"
KOHYA = "lora_unet_" + UNET.replace(".", "_")


@pytest.mark.parametrize(
    ("shapes", "metadata", "expected"),
    [
        ({f"{KOHYA}_attn2_to_k.lora_down.weight": (8, 768)}, {}, ("sd1", "lora", 8)),
        ({f"{KOHYA}_attn2_to_k.lora_down.weight": (8, 2048)}, {"ss_network_dim": "4"}, ("sdxl", "lora", 8)),
        ({f"unet.{UNET}.attn2.to_k.lora_A.default.weight": (4, 1024)}, {}, ("sd2", "lora", 4)),
        ({f"{UNET}.attn2.processor.to_k_lora.down.weight": (4, 768)}, {}, ("sd1", "lora", 4)),
        ({f"{KOHYA}_attn2_to_k.hada_w1_b": (6, 32), f"{KOHYA}_norm1.w_norm": (3,)}, {}, ("toy", "loha+norm", 6)),
        ({"lora_te2_x.lokr_w1": (2, 2), "lora_te2_x.lokr_w2_b": (5, 9)}, {}, ("sdxl", "lokr", 5)),
        ({f"{KOHYA}_attn2_to_k.oft_blocks": (4, 8, 8)}, {"ss_base_model_version": "sd_v1"}, ("sd1", "oft", 0)),
        ({f"{KOHYA}_attn2_to_k.oft_blocks": (2, 4, 8, 8)}, {"ss_network_dim": "8"}, ("", "boft", 8)),
        ({"lora_unet_x.lora_down.weight": (2, 2), "lora_unet_x.dora_scale": (2, 1)}, {}, ("", "lora+dora", 2)),
        ({"lora_unet_double_blocks_0_x.lora_down.weight": (2, 2)}, {"ss_network_dim": "x"}, ("Flux", "lora", 2)),
        ({"x.weight": (2, 2)}, {}, ("", "", 0)),
    ],
)
def test_base_families_and_rank_are_read_off_the_header(tmp_path, write_header, shapes, metadata, expected):
    write_header(tmp_path / "a.safetensors", shapes, metadata)

    (entry,) = Catalogue([tmp_path]).list()

    assert (entry.base, entry.family, entry.rank) == expected


def test_what_is_read_off_a_long_header_is_what_all_its_keys_say(tmp_path, write_header):
    from lora_atelier.adapters import keys

    shapes = {
        f"lora_unet_{block}_transformer_blocks_{at}_{name}.{suffix}": shape
        for block in ("input_blocks_4_1", "middle_block_1", "output_blocks_0_1")
        for at in range(10)
        for name, width in (("attn1_to_k", 64), ("attn2_to_k", 2048), ("attn2_to_q", 64), ("ff_net_2", 256))
        for suffix, shape in (("alpha", ()), ("dora_scale", (64, 1)), ("hada_w1_b", (4, width)), ("hada_w1_a", (64, 4)))
    }
    path = write_header(tmp_path / "a.safetensors", shapes, {"ss_note": "attn2_to_k.lora_down " * 50})
    header = safetensors_header.read(path)

    (entry,) = Catalogue([tmp_path]).list()

    whole = keys.trained_for({key: info.shape for key, info in header.tensors.items()}, header.metadata)
    assert (entry.base, entry.family, entry.rank) == (whole, "loha+dora", 4)
    assert whole == "sdxl"


@pytest.mark.parametrize("text", ["\\ud800", "\\u0000", "猫"])
def test_odd_letters_in_a_file_are_kept_as_text_that_can_be_stored(folder, tmp_path, text):
    folder("a.safetensors", {"ss_output_name": json.loads(f'"x{text}"')})

    for _ in range(2):
        (entry,) = Catalogue([folder.path], tmp_path / "catalogue.sqlite").list()
        assert entry.alias.encode("utf-8").startswith(b"x")


# --- hashes


@pytest.fixture
def hashing_catalogue(folder, tmp_path):
    catalogue = Catalogue([folder.path], tmp_path / "catalogue.sqlite")
    catalogue.start_hashing()
    yield catalogue
    catalogue.stop_hashing()


def test_a_file_that_says_its_hash_is_not_hashed(folder, hashing_catalogue):
    folder("a.safetensors", {"sshs_model_hash": "ab" * 32})
    folder("b.safetensors", {"sshs_model_hash": "no hash"})

    a, b = hashing_catalogue.list()

    assert (a.content_hash, b.content_hash) == ("ab" * 32, "")
    assert hashing_catalogue.wait_for_hashes(30)
    assert hashing_catalogue.find("a").file_hash == ""
    assert hashing_catalogue.find_hash("abababababab") == a


def test_a_file_that_does_not_say_its_hash_gets_both_in_the_background_and_keeps_them(folder, hashing_catalogue):
    path = folder("a.safetensors", data={"lora_unet_x.lora_down.weight": b"12345678"})
    hashing_catalogue.list()

    assert hashing_catalogue.wait_for_hashes(30)

    entry = hashing_catalogue.find("a")
    assert entry.content_hash == hashlib.sha256(b"12345678").hexdigest()
    assert entry.file_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert hashing_catalogue.list()[0] == entry
    for digits in (entry.content_hash[:12], entry.file_hash[:10].upper(), entry.file_hash):
        assert hashing_catalogue.find_hash(digits) == entry
    for digits in (entry.file_hash[:7], "", "0" * 10, "not a hash"):
        assert hashing_catalogue.find_hash(digits) is None
    kept = Catalogue([folder.path], hashing_catalogue.database).list()
    assert [other.file_hash for other in kept] == [entry.file_hash]


def test_copies_of_a_file_have_one_hash_and_the_first_of_them_is_found(folder, hashing_catalogue):
    for name in ("b", "a"):
        folder(f"{name}.safetensors")
    hashing_catalogue.list()
    assert hashing_catalogue.wait_for_hashes(30)

    assert hashing_catalogue.find_hash(hashing_catalogue.find("b").file_hash[:10]).name == "a"


def test_a_file_that_is_replaced_loses_its_hash(folder, hashing_catalogue):
    path = folder("a.safetensors")
    hashing_catalogue.list()
    assert hashing_catalogue.wait_for_hashes(30)
    before = hashing_catalogue.find("a").content_hash
    hashing_catalogue.stop_hashing()

    folder("a.safetensors", data={"lora_unet_x.lora_down.weight": b"12345678"})
    os.utime(path, ns=(1, 1))

    assert before
    assert hashing_catalogue.find("a").content_hash == ""


def test_hashing_stops_within_a_file_when_it_is_told_to_or_when_the_file_changes(folder, monkeypatch):
    path = folder("a.safetensors")
    monkeypatch.setattr(hashing, "_PIECE_BYTES", 16)
    going, stopped = hashing.threading.Event(), hashing.threading.Event()
    stopped.set()
    identity = hashing.identify(path)

    assert hashing.hash_file(identity, going).file_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert hashing.hash_file(identity, stopped) is None
    os.utime(path, ns=(1, 1))
    assert hashing.hash_file(identity, going) is None


def test_what_only_the_whole_header_shows_becomes_the_files_problem_when_it_is_hashed(folder, hashing_catalogue):
    path = folder("a.safetensors", {"ss_note": "x"})
    path.write_bytes(path.read_bytes().replace(b"[2, 2]", b"[2, 3]"))
    assert hashing_catalogue.list()[0].problem is None

    assert hashing_catalogue.wait_for_hashes(30)

    assert "does not match its shape" in str(hashing_catalogue.list()[0].problem)
