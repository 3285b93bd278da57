"""Content credentials whose signatures were checked: what counts, whoever answers (``test_helper``: the real one)."""

import pytest
from tests.rights.fixtures import mining, picture, xmp

from lora_atelier.datasets.items import Item
from lora_atelier.rights import gate, overview, scanning, signals
from lora_atelier.rights.signals_base import Signal
from lora_atelier.rights.signals_verified import Verifier, with_checked
from lora_atelier.rights.store import Store

pytestmark = pytest.mark.torchfree

LABEL, PURPOSE = "cawg.training-mining", "cawg.ai_training"


def answering(state, *statements, identities=(), signer="Ada's camera"):
    """A helper that says the same of every picture, and the questions that it got."""
    asked = []

    def ask(question):
        asked.append(question)
        listed = [{"label": LABEL, "active": active, "entries": {PURPOSE: use}} for use, active in statements]
        return {"state": state, "signer": signer, "statements": listed, "identities": list(identities)}

    return ask, asked


def look(tmp_path, ask, word="allowed", packet=None):
    path = tmp_path / "a.png"
    path.write_bytes(picture("PNG", packet, manifest=mining({PURPOSE: word})))
    return Verifier(ask).verified(path, signals.read(path))


@pytest.mark.parametrize(
    ("state", "use", "verdict"),
    [
        ("trusted", "allowed", "allowed"),
        ("valid", "allowed", "allowed"),
        ("invalid", "allowed", "none_found"),
        ("none", "allowed", "none_found"),
        ("invalid", "notAllowed", "prohibited"),
        ("valid", "notAllowed", "prohibited"),
        ("trusted", "constrained", "prohibited"),
    ],
)
def test_permission_needs_a_seal_that_holds_and_a_prohibition_needs_none(tmp_path, state, use, verdict):
    ask, _ = answering(state, (use, True))

    said = look(tmp_path, ask, word=use)

    assert said.data_mining == verdict
    wanted = "invalid" if state == "none" else state
    assert {one.seal for one in said.found if one.where == "c2pa"} == {wanted}


def test_permission_elsewhere_does_not_count_beside_a_broken_seal(tmp_path):
    ask, _ = answering("invalid")

    assert look(tmp_path, ask, packet=xmp("DMI-ALLOWED")).data_mining == "none_found"


def test_permission_for_a_part_is_none_for_the_picture(tmp_path):
    ask, _ = answering("valid", ("allowed", False))

    assert look(tmp_path, ask).data_mining == "none_found"


def test_a_prohibition_that_the_helper_does_not_list_stays(tmp_path):
    ask, _ = answering("trusted")

    assert look(tmp_path, ask, word="notAllowed").prohibited


def test_nobody_can_turn_a_prohibition_into_permission_by_a_forged_record():
    found = signals.read_bytes(picture("PNG", manifest=mining({PURPOSE: "notAllowed"})))
    forged = Signal(kind=LABEL, where="c2pa", raw=f"{PURPOSE}: notAllowed", use="allowed", seal="trusted")

    assert with_checked(found, (forged,)).prohibited


@pytest.mark.parametrize(
    "answer", [None, {"error": "it died"}, {}, {"state": "valid"}, {"state": "valid", "signer": 3, "statements": [3]}]
)
def test_no_answer_and_a_strange_one_are_no_permission_and_no_crash(tmp_path, answer):
    said = look(tmp_path, lambda question: answer, word="notAllowed")

    assert said.prohibited
    allowed = look(tmp_path, lambda question: answer)
    assert allowed.data_mining == ("allowed" if answer is None or "error" not in answer else "none_found")


def test_who_signed_and_who_made_it_are_listed(tmp_path):
    ask, _ = answering("valid", ("notAllowed", True), identities=[{"name": "Momo", "seal": "trusted"}])

    said = look(tmp_path, ask, word="notAllowed")

    listed = [(one.kind, one.raw, one.seal) for one in said.found]
    assert ("c2pa.signature", "signed by Ada's camera", "valid") in listed
    assert ("cawg.identity", "by Momo", "trusted") in listed


# ------------------------------------------------------------------------------------------------ in a folder


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    (place / "a.png").write_bytes(picture("PNG", manifest=mining({PURPOSE: "allowed"})))
    (place / "b.png").write_bytes(picture("PNG", color="blue"))
    return place


def scan(folder, tmp_path, ask=None):
    verifier = Verifier(ask) if ask is not None else None
    return scanning.scan(folder, ["a.png", "b.png"], store=Store(tmp_path / "data"), verifier=verifier)


def test_only_pictures_with_credentials_are_asked_about_and_each_once(folder, tmp_path):
    ask, asked = answering("valid", ("allowed", True))
    scan(folder, tmp_path)  # before there was a helper

    ledger = scan(folder, tmp_path, ask)
    again = scan(folder, tmp_path, ask)

    assert [question["path"] for question in asked] == [str(folder / "a.png")]
    assert ledger.by_name("a.png").signals() == again.by_name("a.png").signals()
    assert {one.seal for one in ledger.by_name("a.png").signals().found} == {"valid"}


def test_what_nobody_could_check_is_said_in_one_sentence(folder, tmp_path):
    said = [str(one) for one in overview.overview(scan(folder, tmp_path), whose="mine").sentences()]
    assert len([one for one in said if "c2pa-python" in one]) == 1

    ask, _ = answering("valid", ("allowed", True))
    said = [str(one) for one in overview.overview(scan(folder, tmp_path, ask), whose="mine").sentences()]
    assert not [one for one in said if "c2pa-python" in one]


def test_the_gate_goes_by_what_was_checked_as_long_as_the_bytes_are_the_same(folder, tmp_path):
    """The helper reads what our own reader can't, such as a packed manifest; what it forbids is forbidden."""
    ask, _ = answering("trusted", ("notAllowed", True))
    ledger = scan(folder, tmp_path, ask)
    scanning.keep(ledger, folder, Store(tmp_path / "data"))
    run_dir = tmp_path / "data" / "runs" / "1"
    run_dir.mkdir(parents=True)

    admitted = gate.admit([Item(folder / name, "", 32, 32) for name in ("a.png", "b.png")], run_dir, whose="mine")

    assert [item.path.name for item in admitted.items] == ["b.png"]
