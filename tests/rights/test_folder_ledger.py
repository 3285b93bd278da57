import json
import socket
import sqlite3
import time
from datetime import date

import pytest
from PIL import Image
from tests.rights.fixtures import bag, picture, xmp

from lora_atelier.errors import RightsError
from lora_atelier.rights import canonical, evidence, folder_ledger, said, scanning
from lora_atelier.rights.folder_ledger import Entry, FolderLedger
from lora_atelier.rights.store import Store

pytestmark = pytest.mark.torchfree


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    (place / "a.png").write_bytes(picture("PNG", xmp(inside=bag("dc:creator", "Ada", kind="Seq")), color="red"))
    (place / "b.png").write_bytes(picture("PNG", xmp("DMI-PROHIBITED"), color="green"))
    (place / "絵.jpg").write_bytes(picture("JPEG", color="blue"))
    return place


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "data")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".png", ".jpg"))


def scan(folder, store=None):
    return scanning.scan(folder, names(folder), store=store)


def id_of(ledger, name):
    return ledger.by_name(name).item_id


@pytest.fixture
def full(folder, store):
    """A ledger with something of everything."""
    ledger = scan(folder, store)
    ledger.state(
        {"basis": "owner", "profile": "own-work", "creators": [{"name": "Ada", "credit_optin": True}]}, by="Ada"
    )
    ledger.except_([id_of(ledger, "a.png")], {"licence": "CC-BY-4.0", "permits": {"train": "yes"}}, by="Ada")
    ledger.override([id_of(ledger, "b.png")], by="Ada", reason="I drew it")
    ledger.withdraw([id_of(ledger, "絵.jpg")], by="Ada", case_id="7")
    ledger.approve({"a.png": ledger.by_name("a.png").sha256}, by="Ada")
    scanning.keep(ledger, folder, store)
    return ledger


def test_every_row_is_as_the_schema_says_and_comes_back_the_same(full, folder):
    again = FolderLedger.read(folder)

    assert list(again.rows()) == list(full.rows())
    assert list(said.problems(said.FOLDER, again.statement)) == []
    assert all(list(said.problems(said.SAID, one.said)) == [] for one in again.entries.values())


def test_from_the_store_to_the_file_and_back_nothing_changes(full, folder, store, tmp_path):
    kept = store.get(full.dataset_id)
    text = b"".join(canonical.encode(row) + b"\n" for row in kept.rows()).decode()
    other = Store(tmp_path / "elsewhere")

    other.put(FolderLedger.parse(text, folder), folder)

    def dump(one):
        with sqlite3.connect(one.path) as db:
            tables = ("datasets", "items", "events")
            return [db.execute(f"SELECT * FROM {name} ORDER BY 1, 2, 3").fetchall() for name in tables]

    assert dump(other) == dump(store)


def test_what_a_person_states_is_checked():
    ledger = FolderLedger()

    for wrong in ({"basis": "because"}, {"colour": "red"}, {"permits": {"train": True}}, {"creators": [{}]}):
        with pytest.raises(RightsError, match="can't be stated"):
            ledger.state(wrong, by="Ada")
    assert ledger.events == []


@pytest.mark.parametrize("change", ["Ada", '"at"', "I drew it", '"seq":1', "stated"])
def test_changing_any_past_event_is_noticed(full, folder, change):
    path = folder / "rights.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    number = next(n for n, line in enumerate(lines) if '"kind":"event"' in line and change in line)
    lines[number] = lines[number].replace(change, change[:-1] + "X" + change[-1], 1)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    with pytest.raises(RightsError, match="can't be relied on"):
        FolderLedger.read(folder)


def test_taking_an_event_out_or_a_statement_without_event_is_noticed(full, folder):
    path = folder / "rights.jsonl"
    whole = path.read_text(encoding="utf-8")
    events = [line for line in whole.splitlines() if '"kind":"event"' in line]

    path.write_text(whole.replace(events[1] + "\n", ""), encoding="utf-8")
    with pytest.raises(RightsError, match="Event 2"):
        FolderLedger.read(folder)

    lines = [json.loads(line) for line in whole.splitlines()]
    next(row for row in lines if row.get("name") == "a.png")["override"] = {"by": "", "at": "", "reason": ""}
    path.write_text("\n".join(json.dumps(row) for row in lines), encoding="utf-8")
    with pytest.raises(RightsError, match=r"a\.png"):
        FolderLedger.read(folder)


@pytest.mark.parametrize(
    "junk", [b"{", b"[]", b"\xff\xfe\x00x", b'{"kind": "item"}', b'{"kind":"dataset","schema":99}']
)
def test_a_damaged_or_newer_file_is_one_sentence(folder, junk):
    (folder / "rights.jsonl").write_bytes(junk)

    with pytest.raises(RightsError, match="can't be relied on"):
        FolderLedger.read(folder)


def test_what_was_said_of_a_picture_stays_with_its_content(full, folder, store):
    (folder / "a.png").rename(folder / "renamed.png")

    again = scan(folder, store)

    assert again.by_name("renamed.png").said["licence"] == "CC-BY-4.0"
    assert again.by_name("a.png") is None


def test_a_folder_that_lost_its_file_gets_the_kept_one(full, folder, store):
    (folder / "rights.jsonl").unlink()

    assert list(scan(folder, store).rows()) == list(full.rows())


def test_two_who_state_at_once_do_not_overwrite_each_other(full, folder, store):
    mine, yours = FolderLedger.read(folder), FolderLedger.read(folder)
    yours.state({"title": "yours"}, by="B")
    store.put(yours, folder)
    mine.state({"title": "mine"}, by="A")

    with pytest.raises(RightsError, match="meanwhile"):
        store.put(mine, folder)


def test_a_stripped_picture_inherits_the_prohibition_that_it_came_with(folder, store, tmp_path):
    scanning.keep(scan(folder, store), folder, store)
    elsewhere = tmp_path / "resaved"
    elsewhere.mkdir()
    (elsewhere / "b.png").write_bytes(picture("PNG", color="green"))
    assert scan(elsewhere).by_name("b.png").signals().data_mining == "none_found"

    inherited = scan(elsewhere, store).by_name("b.png").signals()

    assert inherited.prohibited
    assert [(one.where, one.raw) for one in inherited.found] == [("inherited", "DMI-PROHIBITED")]


def test_a_picture_that_was_stripped_in_its_own_folder_inherits_as_well(folder, store):
    scanning.keep(scan(folder, store), folder, store)
    (folder / "b.png").write_bytes(picture("PNG", color="green"))

    again = scan(folder, store)
    scanning.keep(again, folder, store)

    assert again.by_name("b.png").signals().prohibited
    assert scan(folder, store).by_name("b.png").signals().prohibited  # and so it stays


def test_a_smaller_copy_in_another_format_inherits_as_well(store, tmp_path):
    """By its fingerprint: no byte and no pixel is the same."""
    picture_of = Image.effect_mandelbrot((300, 200), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    for place, kind, size in (("one", "PNG", (300, 200)), ("two", "JPEG", (240, 160))):
        (tmp_path / place).mkdir()
        forbidding = xmp("DMI-PROHIBITED") if place == "one" else None
        (tmp_path / place / "m.png").write_bytes(picture(kind, forbidding, color=picture_of.resize(size)))
    other = Image.effect_mandelbrot((300, 200), (-0.2, -1.1, 0.3, -0.6), 60).convert("RGB")
    (tmp_path / "two" / "o.png").write_bytes(picture("PNG", color=other))
    scanning.keep(scan(tmp_path / "one", store), tmp_path / "one", store)

    ledger = scan(tmp_path / "two", store)

    assert ledger.by_name("m.png").signals().prohibited
    assert not ledger.by_name("o.png").signals().prohibited


def test_an_override_needs_a_name_and_a_reason_and_is_impossible_for_studios(folder):
    ledger = scan(folder)
    forbidden = [id_of(ledger, "b.png")]

    for by, reason in (("", "mine"), ("Ada", " ")):
        with pytest.raises(RightsError, match="a name and a reason"):
            ledger.override(forbidden, by=by, reason=reason)
    ledger.state({"profile": "studio"}, by="Ada")
    with pytest.raises(RightsError, match="studio"):
        ledger.override(forbidden, by="Ada", reason="mine")


def test_evidence_is_sealed_and_its_change_is_noticed(tmp_path):
    one = evidence.seal(b"contract", tmp_path, name="c.pdf", kind="contract", valid_until="2030-01-31")
    assert evidence.broken(one, tmp_path) is None

    path = next((tmp_path / "rights" / "evidence").iterdir())
    path.chmod(0o600)
    path.write_bytes(b"forged")
    assert "changed" in str(evidence.broken(one, tmp_path))
    path.unlink()
    assert "not on this machine" in str(evidence.broken(one, tmp_path))
    with pytest.raises(RightsError):
        evidence.seal(b"x", tmp_path, name="c.pdf", kind="rumour")
    with pytest.raises(RightsError):
        evidence.seal(b"x", tmp_path, name="c.pdf", kind="mail", valid_until="soon")


def test_evidence_expires_on_its_day():
    values = {"evidence": [{"valid_until": "2030-01-31"}], "people": {"persons": [{"valid_until": ""}]}}

    assert folder_ledger.expired(values, date(2030, 1, 31)) == ""
    assert folder_ledger.expired(values, date(2030, 2, 1)) == "2030-01-31"
    assert folder_ledger.expired({"evidence": [{"valid_from": "2031-01-01"}]}, date(2030, 1, 1)) == "2031-01-01"


def test_looking_again_reads_no_unchanged_file_and_adds_nothing(folder, store, monkeypatch):
    first = scan(folder, store)
    scanning.keep(first, folder, store)
    monkeypatch.setattr(scanning, "_read", lambda path: pytest.fail(f"{path} was read again"))

    assert list(scan(folder, store).rows()) == list(first.rows())


def test_a_long_look_is_made_in_parts(folder, store):
    first = scanning.scan(folder, names(folder), store=store, seconds=-1)
    assert first.unread == 3 and first.events == []

    whole = scan(folder, store)

    assert whole.unread == 0 and len(whole.entries) == 3 and [one["what"] for one in whole.events] == ["scanned"]


def test_a_hundred_pictures_are_looked_through_in_seconds_without_network(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    data = [picture("JPEG", size=(1024, 1024), color=(n, n, n)) for n in range(100)]
    for number, one in enumerate(data):
        (tmp_path / f"{number}.jpg").write_bytes(one)
    began = time.process_time()

    ledger = scan(tmp_path, Store(tmp_path / "data"))

    assert time.process_time() - began < 20
    assert len(ledger.entries) == 100 and all(one.pixel_id for one in ledger.entries.values())
    assert [(tmp_path / f"{number}.jpg").read_bytes() for number in range(100)] == data


def test_canonical_json_is_as_rfc_8785_has_it():
    """Its own examples, sections 3.2.2 and 3.2.3."""
    assert canonical.encode([56, 1.5, 0.002, 1e-27, 1e30, 4.5, 1.0, 0.000001, 1e-7]) == (
        b"[56,1.5,0.002,1e-27,1e+30,4.5,1,0.000001,1e-7]"
    )
    assert canonical.encode({"\u20ac": 1, "\r": 2, "1": 3, "\U0001f600": 4, "\ufb33": 5}).decode() == (
        '{"\\r":2,"1":3,"\u20ac":1,"\U0001f600":4,"\ufb33":5}'
    )


def test_a_document_that_holds_takes_the_place_of_an_older_one_of_its_kind():
    old = {"kind": "contract", "valid_until": "2029-12-31"}
    new = {"kind": "contract", "valid_from": "2030-01-01", "valid_until": "2030-12-31"}
    release = {"kind": "release", "valid_until": "2029-12-31"}
    today = date(2030, 6, 1)

    assert folder_ledger.expired({"evidence": [old]}, today) == "2029-12-31"
    assert folder_ledger.expired({"evidence": [old, new]}, today) == ""
    assert folder_ledger.expired({"evidence": [new, release]}, today) == "2029-12-31"
    assert folder_ledger.expired({"evidence": [old, new]}, date(2031, 1, 1)) == "2029-12-31"


def test_what_was_stated_is_taken_back_and_the_history_still_holds():
    ledger = FolderLedger(entries={"sha256:1": Entry("sha256:1", "a.png")})

    ledger.state({"licence": "CC0-1.0", "contact": "me"}, by="Ada")
    ledger.state({"licence": None}, by="Ada")
    ledger.except_(["sha256:1"], {"basis": "owner", "note": "x"}, by="Ada")
    ledger.except_(["sha256:1"], {"basis": None}, by="Ada")

    assert ledger.statement == {"contact": "me"} and ledger.entries["sha256:1"].said == {"note": "x"}
    assert list(ledger.problems()) == []
    with pytest.raises(RightsError):
        ledger.state({"nonsense": None}, by="Ada")
