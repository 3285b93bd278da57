import sqlite3
import subprocess
import sys

import pytest

from lora_atelier import safetensors_header
from lora_atelier.loader import index
from lora_atelier.loader.catalogue import Catalogue
from lora_atelier.loader.facts import Card, Facts
from lora_atelier.loader.index import SCHEMA, Index

pytestmark = pytest.mark.torchfree

FACTS = Facts("alias", "words", "sd1", "lora", 8, "ab" * 32, "cd" * 32, "")
CARD = Card("猫", 0.8, "text")


@pytest.fixture
def database(tmp_path):
    return tmp_path / "data" / "catalogue.sqlite"


@pytest.fixture
def loras(tmp_path, write_header):
    """A folder with one adapter file and a card."""
    folder = tmp_path / "loras"
    folder.mkdir()
    key = "lora_unet_x_attn2_to_k.lora_down.weight"
    write_header(folder / "cat.safetensors", {key: (2, 768)}, {"ss_output_name": "miau"})
    (folder / "cat.json").write_text('{"activation text": "momo", "preferred weight": 0.7}')
    return folder


def filled(path):
    memory = Index(path)
    memory.adapters.put("/a/x.safetensors", 1, 2, FACTS)
    memory.cards.put("/a/x.json", 3, 4, CARD)
    memory.save()
    return memory


def loaded(path):
    memory = Index(path)
    memory.load()
    return memory


def test_what_was_saved_is_there_for_the_next_process(database):
    filled(database)

    memory = loaded(database)

    assert memory.adapters.get("/a/x.safetensors", 1, 2) == FACTS
    assert memory.cards.get("/a/x.json", 3, 4) == CARD


@pytest.mark.parametrize("version", [("/a/x.safetensors", 9, 2), ("/a/x.safetensors", 1, 9), ("/b", 1, 2)])
def test_another_version_of_a_file_is_unknown(database, version):
    filled(database)

    assert loaded(database).adapters.get(*version) is None


def test_without_a_path_all_is_in_memory(tmp_path):
    memory = filled(None)

    assert memory.adapters.get("/a/x.safetensors", 1, 2) == FACTS
    assert list(tmp_path.iterdir()) == []


def test_a_second_start_reads_no_header_and_no_card(loras, database, monkeypatch):
    before = Catalogue([loras], database).list()
    monkeypatch.setattr(safetensors_header, "skim", None)
    monkeypatch.setattr("json.loads", None)

    after = Catalogue([loras], database).list()

    assert after == before
    assert (after[0].alias, after[0].base, after[0].trigger_words, after[0].rank) == ("miau", "sd1", "momo", 2)


def test_files_that_are_gone_leave_the_database_and_those_of_other_folders_stay(loras, database):
    filled(database)
    catalogue = Catalogue([loras], database)
    catalogue.list()
    paths = [loras / "cat.safetensors", loras / "cat.json"]
    stored = loaded(database)
    assert stored.adapters.get(str(paths[0]), paths[0].stat().st_size, paths[0].stat().st_mtime_ns)
    versions = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]

    for path in paths:
        path.unlink()
    catalogue.list()

    stored = loaded(database)
    assert stored.adapters.get(*versions[0]) is None
    assert stored.cards.get(*versions[1]) is None
    assert stored.adapters.get("/a/x.safetensors", 1, 2) == FACTS


def test_a_folder_that_is_away_for_a_while_is_remembered(loras, database):
    """A drive that is not plugged in looks like this."""
    catalogue = Catalogue([loras], database)
    (entry,) = catalogue.list()

    loras.rename(loras.with_name("away"))

    assert catalogue.list() == []
    kept = loaded(database).adapters
    assert kept.get(entry.identity.path, entry.identity.size_bytes, entry.identity.modified_ns) is not None


def test_an_older_database_is_made_anew(database):
    filled(database)
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA user_version = 0")
        db.execute("ALTER TABLE adapters ADD COLUMN other TEXT")
    db.close()

    memory = filled(database)

    assert memory.adapters.is_saved
    assert loaded(database).adapters.get("/a/x.safetensors", 1, 2) == FACTS


def test_a_newer_database_is_not_touched(loras, database):
    filled(database)
    with sqlite3.connect(database) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    db.close()
    before = database.read_bytes()

    entries = [Catalogue([loras], database).list() for _ in range(2)]

    assert [entry.alias for (entry,) in entries] == ["miau", "miau"]
    assert database.read_bytes() == before


@pytest.mark.parametrize("content", [b"this is no database at all " * 100, None], ids=["text", "torn"])
def test_a_broken_database_is_put_aside_and_made_anew(loras, database, content):
    filled(database)
    if content is None:
        whole = database.read_bytes()
        content = whole[:100] + b"\xff" * (len(whole) - 100)
    database.write_bytes(content)

    (entry,) = Catalogue([loras], database).list()

    assert entry.alias == "miau"
    assert database.with_name("catalogue.sqlite.broken").read_bytes() == content
    assert loaded(database).adapters.get(
        entry.identity.path, entry.identity.size_bytes, entry.identity.modified_ns
    ) == Facts("miau", "", "sd1", "lora", 2)


def test_a_row_that_holds_something_else_is_as_good_as_none(database):
    filled(database)
    with sqlite3.connect(database) as db:
        db.execute("UPDATE adapters SET rank = 'many'")
    db.close()

    memory = loaded(database)

    assert memory.adapters.get("/a/x.safetensors", 1, 2) is None
    assert memory.cards.get("/a/x.json", 3, 4) == CARD


def test_a_locked_database_stops_nothing_and_is_written_when_it_is_free(loras, database, monkeypatch):
    monkeypatch.setattr(index, "_LOCKED_TIMEOUT_S", 0.01)
    filled(database)
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    catalogue = Catalogue([loras], database)

    (entry,) = catalogue.list()

    other.execute("ROLLBACK")
    other.close()
    version = (entry.identity.path, entry.identity.size_bytes, entry.identity.modified_ns)
    assert entry.alias == "miau"
    assert loaded(database).adapters.get(*version) is None
    catalogue.list()
    assert loaded(database).adapters.get(*version) is not None
    assert loaded(database).adapters.get("/a/x.safetensors", 1, 2) == FACTS


def test_a_database_that_can_not_be_written_is_still_read(database, monkeypatch):
    """Read-only by its own pragma: who runs the tests may be allowed to write everywhere."""
    filled(database)
    connect = sqlite3.connect

    def connect_read_only(path, **others):
        db = connect(path, **others)
        db.execute("PRAGMA query_only = ON")
        return db

    monkeypatch.setattr(sqlite3, "connect", connect_read_only)
    memory = loaded(database)
    memory.adapters.put("/a/y.safetensors", 1, 2, FACTS)
    memory.save()

    assert not memory.adapters.is_saved
    assert [memory.adapters.get(f"/a/{name}.safetensors", 1, 2) for name in "xy"] == [FACTS, FACTS]


def test_a_folder_where_the_database_should_be_stops_nothing(loras, tmp_path):
    (tmp_path / "catalogue.sqlite").mkdir()
    (tmp_path / "file").write_text("")

    for place in (tmp_path / "catalogue.sqlite", tmp_path / "file" / "catalogue.sqlite"):
        assert Catalogue([loras], place).list()[0].alias == "miau"


def test_several_processes_write_one_database_and_nothing_is_lost(database):
    script = (
        "import sys; from pathlib import Path; from lora_atelier.loader.index import Index\n"
        "from lora_atelier.loader import index; from lora_atelier.loader.facts import Facts\n"
        "index._LOCKED_TIMEOUT_S = 20\n"
        "memory = Index(Path(sys.argv[1]))\n"
        "for at in range(20):\n"
        "    memory.adapters.put(f'/{sys.argv[2]}/{at}', 1, 2, Facts(sys.argv[2]))\n"
        "    memory.save()\n"
        "assert memory.adapters.is_saved\n"
    )
    package = str(__import__("lora_atelier").__path__[0]).rpartition("lora_atelier")[0]
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(database), name], env={"PYTHONPATH": package})
        for name in ("one", "two", "three")
    ]

    assert [process.wait(60) for process in processes] == [0, 0, 0]

    memory = loaded(database)
    for name in ("one", "two", "three"):
        assert all(memory.adapters.get(f"/{name}/{at}", 1, 2) == Facts(name) for at in range(20))


def test_what_another_process_found_out_is_seen_when_looked_for(database):
    memory = loaded(database)
    memory.adapters.put("/a/x.safetensors", 1, 2, Facts("alias"))
    memory.save()
    filled(database)

    memory.look_again("/a/x.safetensors")

    assert memory.adapters.get("/a/x.safetensors", 1, 2) == FACTS
