import hashlib
import json
import time
from datetime import date

import pytest
from PIL import Image, ImageDraw
from tests.rights.fixtures import picture, xmp

from lora_atelier.datasets.items import Item
from lora_atelier.errors import RightsError
from lora_atelier.rights import evidence, gate, ledger, licences, merkle, near_duplicates, rollup, scanning
from lora_atelier.rights.store import Store

pytestmark = pytest.mark.torchfree

WHOSE = ["mine", "permission", "open-licence", "experiment", "studio"]
TODAY = date(2030, 1, 31)


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def run_dir(data_dir):
    folder = data_dir / "runs" / "one"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        (place / name).write_bytes(picture("PNG", color=(number * 80, 20, 20)))
    return place


@pytest.fixture
def stated(folder, data_dir):
    """A function that changes the folder's ledger and keeps it: ``change(ledger, id_of)``."""

    def change(do):
        names = sorted(path.name for path in folder.iterdir() if path.suffix == ".png")
        one = scanning.scan(folder, names, store=Store(data_dir))
        do(one, lambda name: one.by_name(name).item_id)
        scanning.keep(one, folder, Store(data_dir))

    return change


def items(folder, **options):
    return [Item(path, "", 32, 32, **options) for path in sorted(folder.glob("*.png"))]


def names(admitted):
    return [item.path.name for item in admitted.items]


def admit(folder, run_dir, whose="mine", **options):
    return gate.admit(items(folder, **options), run_dir, whose=whose, today=TODAY)


CONTRACT = {"kind": "contract", "sha256": "0" * 64, "captured_at": "2029-01-01T00:00:00Z"}


# ------------------------------------------------------------------------------------------- nothing is asked


@pytest.mark.parametrize("whose", ["mine", "permission", "experiment"])
def test_a_folder_without_any_rights_data_trains_without_a_question(folder, run_dir, whose):
    admitted = admit(folder, run_dir, whose)

    assert names(admitted) == ["a.png", "b.png", "c.png"] and admitted.refused == admitted.remarks == ()
    assert not (folder / "rights.jsonl").exists()


def test_an_experiment_is_stopped_by_no_statement_and_no_missing_one(folder, run_dir, stated):
    old = {**CONTRACT, "valid_until": "2000-01-01"}
    stated(lambda one, id_of: one.state({"evidence": [old], "basis": "none"}, by="A"))
    (folder / "rights.jsonl").write_text("damaged", encoding="utf-8")

    admitted = admit(folder, run_dir, "experiment")

    assert len(admitted.items) == 3 and len(admitted.remarks) == 1
    assert admitted.summary()["sharing"] is False
    assert admitted.summary()["permits"]["share_model"] == "no"
    with pytest.raises(RightsError, match="can't be relied on"):
        admit(folder, run_dir, "mine")


# ------------------------------------------------------------------------------------------- what is left out


@pytest.mark.parametrize("whose", WHOSE)
def test_no_prohibited_and_no_withdrawn_picture_gets_through_under_any_profile(folder, run_dir, stated, whose):
    (folder / "b.png").write_bytes(picture("PNG", xmp("DMI-PROHIBITED")))
    (folder / "c.png.headers").write_text("X-Robots-Tag: noai", encoding="utf-8")
    (folder / "d.png").write_bytes(picture("PNG", color="blue"))

    def state(one, id_of):
        one.state({"basis": "owner", "licence": "CC-BY-4.0"}, by="A")
        one.withdraw([id_of("d.png")], by="A")

    stated(state)

    admitted = admit(folder, run_dir, whose)

    assert names(admitted) == ["a.png"] and len(admitted.refused) == 3
    refused = json.loads((run_dir / "rights-refused.json").read_text(encoding="utf-8"))["refused"]
    assert sorted(row["rule"] for row in refused) == ["reservation", "reservation", "withdrawn"]


def test_a_prohibition_is_inherited_by_a_stripped_copy_elsewhere(folder, run_dir, stated, tmp_path):
    (folder / "b.png").write_bytes(picture("PNG", xmp("DMI-PROHIBITED"), color=(80, 20, 20)))
    stated(lambda one, id_of: None)
    elsewhere = tmp_path / "copies"
    elsewhere.mkdir()
    for name in ("b.png", "z.png"):
        (elsewhere / name).write_bytes(picture("PNG", color=(80, 20, 20) if name == "b.png" else "white"))

    admitted = admit(elsewhere, run_dir)

    assert names(admitted) == ["z.png"] and "before" in str(admitted.refused[0])


def test_an_override_lets_a_picture_through_is_counted_and_is_nothing_to_a_studio(folder, run_dir, stated):
    (folder / "b.png").write_bytes(picture("PNG", xmp("DMI-PROHIBITED")))
    stated(lambda one, id_of: one.override([id_of("b.png")], by="Ada", reason="I drew it"))
    assert names(admit(folder, run_dir)) == ["a.png", "b.png", "c.png"]
    assert admit(folder, run_dir).summary()["override"] == 1

    stated(lambda one, id_of: one.state({"profile": "studio", "basis": "owner"}, by="Ada"))
    (run_dir / "rights.jsonl").unlink()
    assert names(admit(folder, run_dir)) == ["a.png", "c.png"]


@pytest.mark.parametrize(("day", "kept"), [("2030-01-31", 3), ("2030-01-30", 2)])
def test_evidence_that_ran_out_puts_a_picture_aside_on_the_day(folder, run_dir, stated, day, kept):
    until = {**CONTRACT, "valid_until": day}
    stated(lambda one, id_of: one.except_([id_of("a.png")], {"evidence": [until]}, by="A"))

    admitted = admit(folder, run_dir)

    assert len(admitted.items) == kept
    assert all("does not hold today" in str(said) for said in admitted.refused)


def test_what_the_record_says_may_not_be_trained_on_is_not(folder, run_dir, stated):
    stated(lambda one, id_of: one.except_([id_of("a.png")], {"permits": {"gen_train": "no"}}, by="A"))

    assert names(admit(folder, run_dir)) == ["b.png", "c.png"]


def test_an_open_licence_is_stated_once_or_read_from_the_file(folder, run_dir, stated):
    with pytest.raises(RightsError, match="no licence"):
        admit(folder, run_dir, "open-licence")
    licensed = xmp(inside='<cc:license rdf:resource="https://creativecommons.org/licenses/by/4.0/"/>')
    (folder / "a.png").write_bytes(picture("PNG", licensed))
    assert names(admit(folder, run_dir, "open-licence")) == ["a.png"]

    stated(lambda one, id_of: one.state({"licence": "cc by-nc 4.0"}, by="A"))
    summary = admit(folder, run_dir, "open-licence").summary()
    assert summary["licences"] == {"CC-BY-NC-4.0": 3}
    assert summary["permits"]["commercial_output"] == "no"


def test_one_picture_that_is_not_for_sale_makes_the_lora_not_for_sale(folder, run_dir, stated):
    assert admit(folder, run_dir).summary()["permits"]["commercial_model"] == "yes"

    stated(lambda one, id_of: one.except_([id_of("a.png")], {"licence": "CC-BY-NC-4.0"}, by="A"))

    permits = admit(folder, run_dir).summary()["permits"]
    assert permits["commercial_model"] == permits["commercial_output"] == "no" and permits["attribution"] == "yes"


def test_a_studio_needs_a_basis_documents_and_consents(folder, run_dir, stated):
    with pytest.raises(RightsError, match="not stated why"):
        admit(folder, run_dir, "studio")
    stated(lambda one, id_of: one.state({"basis": "licence", "licence": "LicenseRef-House"}, by="A"))
    with pytest.raises(RightsError, match="no document"):
        admit(folder, run_dir, "studio")

    def state(one, id_of):
        one.state({"evidence": [CONTRACT]}, by="A")
        model = {"alias": "M", "relation": "model", "consent": "verbal"}
        one.except_([id_of("a.png")], {"people": {"present": "yes", "persons": [model]}}, by="A")
        signed = {**model, "consent": "written", "evidence": "1" * 64}
        one.except_([id_of("b.png")], {"people": {"present": "yes", "persons": [signed]}}, by="A")

    stated(state)
    admitted = admit(folder, run_dir, "studio")
    assert names(admitted) == ["b.png", "c.png"] and "consent" in str(admitted.refused[0])
    assert admitted.summary()["people"]["consent"] == {"model": "written"}


def test_a_studios_folder_stays_one_whatever_a_run_answers(folder, run_dir, stated):
    stated(lambda one, id_of: one.state({"profile": "studio"}, by="A"))

    for whose in WHOSE:
        with pytest.raises(RightsError, match="None of the pictures"):
            admit(folder, run_dir, whose)


def test_a_picture_swapped_after_it_was_approved_stops_the_run(folder, run_dir, stated):
    def approve(one, id_of):
        one.approve({entry.name: entry.sha256 for entry in one.entries.values()}, by="A")

    stated(approve)
    admit(folder, run_dir)
    (run_dir / "rights.jsonl").unlink()

    Image.new("RGB", (32, 32), "white").save(folder / "b.png")

    with pytest.raises(RightsError, match=r"b\.png.*approved"):
        admit(folder, run_dir)


def test_what_a_studio_did_not_approve_is_left_out(folder, run_dir, stated):
    def approve(one, id_of):
        one.state({"profile": "studio", "basis": "owner"}, by="A")
        one.approve({entry.name: entry.sha256 for entry in one.entries.values()}, by="A")

    stated(approve)
    (folder / "later.png").write_bytes(picture("PNG", color="white"))

    admitted = admit(folder, run_dir)

    assert names(admitted) == ["a.png", "b.png", "c.png"] and "approved" in str(admitted.refused[0])


def test_pictures_that_keep_what_the_model_knows_need_no_statement_but_no_prohibition(folder, run_dir, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    (others / "r.png").write_bytes(picture("PNG", color="white"))
    (others / "s.png").write_bytes(picture("PNG", xmp("DMI-PROHIBITED")))
    reg = [Item(path, "", 32, 32, is_reg=True) for path in sorted(others.glob("*.png"))]

    admitted = gate.admit([*items(folder), *reg], run_dir, whose="mine", today=TODAY)

    assert names(admitted)[-1] == "r.png" and len(admitted.items) == 4
    assert (admitted.summary()["pictures"], admitted.summary()["regularisation"]) == (3, 1)


# ------------------------------------------------------------------------------------------- near-duplicates


def detailed(seed, size=(256, 256)):
    noise = Image.effect_noise((16, 16), 90)
    noise.putdata([(value * (seed * 7 + 3) + at * 31 * seed) % 256 for at, value in enumerate(noise.tobytes())])
    return noise.resize(size, Image.Resampling.BICUBIC).convert("RGB")


@pytest.fixture
def duplicates(tmp_path):
    """Three files of one picture (the same bytes, another format's quality, a little smaller) and another picture."""
    place = tmp_path / "twice"
    place.mkdir()
    one = detailed(1)
    one.save(place / "a.png")
    (place / "b.png").write_bytes((place / "a.png").read_bytes())
    one.resize((200, 200)).save(place / "c.png")
    detailed(5).save(place / "d.png")
    return place


def test_near_duplicates_share_one_budget_of_repeats(duplicates, run_dir):
    admitted = admit(duplicates, run_dir, num_repeats=10)

    assert [item.num_repeats for item in admitted.items] == [4, 3, 3, 10]
    again = admit(duplicates, run_dir, num_repeats=10)
    assert again.items == admitted.items and names(again) == ["a.png", "b.png", "c.png", "d.png"]


def face(*, laughing=False):
    drawn = Image.new("RGB", (512, 512), "#cde")
    pen = ImageDraw.Draw(drawn)
    for number in range(12):
        pen.line((number * 43, 0, 512 - number * 30, 512), fill=(60 + number * 12, 90, 150), width=5)
    pen.ellipse((120, 80, 400, 440), fill="#fdc", outline="black", width=4)
    for x in (200, 300):
        pen.ellipse((x, 190, x + 30, 220), fill="black")
    if laughing:
        pen.ellipse((240, 325, 280, 365), fill="#a22")
    else:
        pen.line((235, 340, 285, 340), fill="black", width=5)
    return drawn


def test_one_pose_with_another_mouth_is_a_picture_of_its_own(tmp_path, run_dir):
    """Their PDQ hashes are 14 bits apart, which is as near as a saved copy."""
    place = tmp_path / "faces"
    place.mkdir()
    face().save(place / "a.png")
    face().resize((384, 384)).save(place / "b.png")
    face(laughing=True).save(place / "c.png")

    assert names(admit(place, run_dir)) == ["a.png", "c.png"]


def test_what_the_record_knows_of_a_look_is_not_looked_at_again(duplicates, run_dir, data_dir, monkeypatch):
    """Only the two that are near each other are decoded, to see whether they differ in a detail."""
    store = Store(data_dir)
    scanning.keep(scanning.scan(duplicates, ["a.png", "b.png", "c.png", "d.png"], store=store), duplicates, store)
    small, looked = near_duplicates._small, []
    monkeypatch.setattr(near_duplicates, "_small", lambda data: looked.append(len(data)) or small(data))

    admitted = admit(duplicates, run_dir, num_repeats=10)

    assert [item.num_repeats for item in admitted.items] == [4, 3, 3, 10]
    assert sorted(looked) == sorted((duplicates / name).stat().st_size for name in ("a.png", "c.png"))


def test_what_is_left_without_repeats_is_left_out_and_said(duplicates, run_dir):
    admitted = admit(duplicates, run_dir)

    assert names(admitted) == ["a.png", "d.png"]
    assert len(admitted.remarks) == 2 and "a.png" in str(admitted.remarks[0]) and admitted.refused == ()
    assert admitted.admitted(items(duplicates)[1]) is None


def test_sharing_can_be_switched_off_and_leaves_other_data_sets_alone(duplicates, run_dir, data_dir):
    one = scanning.scan(duplicates, ["a.png"])
    one.state({"share_repeats": False}, by="A")
    scanning.keep(one, duplicates, None)
    assert [item.num_repeats for item in admit(duplicates, run_dir, num_repeats=3).items] == [3] * 4

    (duplicates / "rights.jsonl").unlink()
    (run_dir / "rights.jsonl").unlink()
    two_sizes = [Item(duplicates / "a.png", "", 256, 256, dataset=number) for number in (0, 1)]
    assert len(gate.admit(two_sizes, run_dir, whose="mine").items) == 2


def test_pictures_with_little_in_them_are_only_compared_byte_by_byte(folder, run_dir):
    assert len(admit(folder, run_dir).items) == 3  # flat colours: PDQ says nothing of them


# ------------------------------------------------------------------------------------------- in the file


def test_the_summary_names_no_picture_and_no_person(folder, run_dir, stated):
    (folder / "secret-name.png").write_bytes(picture("PNG", color="blue"))

    def state(one, id_of):
        creators = [{"name": "Open Creator", "credit_optin": True}, {"name": "Shy Creator"}]
        person = {"alias": "Grace", "relation": "model", "consent": "written"}
        one.state({"creators": creators, "people": {"present": "yes", "persons": [person]}, "note": "private"}, by="A")

    stated(state)

    text = json.dumps(admit(folder, run_dir).summary(), ensure_ascii=False)

    assert "Open Creator" in text
    assert not any(word in text for word in ("secret-name", "Shy", "Grace", "private", str(folder), "png"))


def test_the_root_is_that_of_the_admitted_pictures_and_salted_for_each_run(folder, run_dir):
    summary = admit(folder, run_dir).summary()
    hashes = [hashlib.sha256(item.path.read_bytes()).hexdigest() for item in items(folder)]

    secret = gate.secret_of(run_dir)
    assert summary["root"] == merkle.root(secret, hashes)
    assert summary["root"] != merkle.root(b"other", hashes)
    assert admit(folder, run_dir).summary() == summary
    for sha256 in hashes:
        assert merkle.prove(secret, hashes, sha256).holds()
    with pytest.raises(KeyError):
        merkle.prove(secret, hashes, "f" * 64)


def test_a_forged_proof_does_not_hold():
    secret, hashes = b"s" * 32, [hashlib.sha256(bytes([n])).hexdigest() for n in range(7)]
    good = merkle.prove(secret, hashes, hashes[3]).to_json()
    assert merkle.Proof.from_json(good).holds()

    other = hashes[4]
    for forged in ({"picture_sha256": other}, {"salt": "0" * 64}, {"root": other}, {"path": good["path"][:-1]}):
        assert not merkle.Proof.from_json({**good, **forged}).holds()
    for junk in ({}, {**good, "schema": 99}, {**good, "path": [1]}):
        with pytest.raises(RightsError):
            merkle.Proof.from_json(junk)


def test_records_of_older_runs_are_read(run_dir):
    line = {
        "schema": 1,
        "path": "/a.png",
        "sha256": "0" * 64,
        "basis": "owner",
        "data_mining": "none_found",
        "terms": [],
    }
    (run_dir / "rights.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")

    assert ledger.read(run_dir / "rights.jsonl")["/a.png"].permits == {}


def test_the_gate_costs_little_beside_reading_the_pictures(tmp_path, run_dir):
    """A hundred pictures of 1024 px: less than 1 % of the shortest training that anyone makes of them, ten minutes."""
    place = tmp_path / "many"
    place.mkdir()
    for number in range(100):
        (place / f"{number:03}.png").write_bytes(b"")
        detailed(number + 1, (1024, 1024)).save(place / f"{number:03}.png", format="JPEG", quality=80)
    began = time.process_time()

    admit(place, run_dir)

    assert time.process_time() - began < 6


def test_evidence_counts_documents_not_pictures(folder, run_dir, stated, data_dir):
    one_document = evidence.seal(b"x", data_dir, name="c.pdf", kind="contract")
    stated(lambda one, id_of: one.state({"basis": "written_permission", "evidence": [one_document]}, by="A"))

    assert admit(folder, run_dir, "studio").summary()["evidence"] == 1


# ------------------------------------------------------------------------------------------------ E6


OWN = {"permits": dict.fromkeys(licences.PERMITS, "yes"), "credits": ["Ada"], "sharing": True, "root": "a"}


def test_loras_together_permit_what_each_does_and_name_all():
    other = {"permits": {**OWN["permits"], "commercial_model": "no"}, "credits": ["Ken", "Ada"], "root": "b"}

    said = rollup.joined(OWN, [other])

    assert said["permits"] == {**OWN["permits"], "commercial_model": "no"}
    assert said["credits"] == ["Ada", "Ken"] and said["made_from"] == [{"root": "b"}] and said["root"] == "a"
    assert rollup.joined(OWN, []) == OWN


@pytest.mark.parametrize("other", [None, {}, {"permits": "all", "credits": 3}, {"permits": {"train": "of course"}}])
def test_one_that_says_nothing_of_rights_permits_nothing_for_certain(other):
    said = rollup.joined(OWN, [other])

    assert said["permits"]["train"] == said["permits"]["share_model"] == "unknown"
    assert said["credits"] == ["Ada"] and said["made_from"] == [{}]


def test_what_goes_on_from_an_experiment_is_not_for_sharing_either():
    said = rollup.joined(OWN, [{**OWN, "sharing": False}])

    assert said["sharing"] is False and said["permits"]["share_model"] == "no"
