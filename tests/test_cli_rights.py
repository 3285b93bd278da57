"""The command ``rights``, as it is typed."""

import json

import pytest
from tests.rights.fixtures import picture, xmp

from lora_atelier.cli import main
from lora_atelier.datasets.items import Item
from lora_atelier.rights import gate, signature

pytestmark = pytest.mark.torchfree


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    (place / "a.png").write_bytes(picture("PNG", color="red"))
    (place / "b.png").write_bytes(picture("PNG", xmp("DMI-PROHIBITED"), color="blue"))
    return place


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """A function that runs ``rights`` with words and returns (exit status, what was printed)."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)

    def run(*words):
        status = main(["rights", *map(str, words), "--data-dir", str(tmp_path / "data")])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


@pytest.fixture
def lora(folder, tmp_path, write_header):
    run_dir = tmp_path / "data" / "runs" / "20300101-momo"
    run_dir.mkdir(parents=True)
    admitted = gate.admit([Item(folder / "a.png", "", 32, 32)], run_dir, whose="mine")
    return write_header(tmp_path / "l.safetensors", {"a": (2,)}, {"atelier_rights": json.dumps(admitted.summary())})


def test_a_folder_is_looked_through_stated_overridden_and_verified(typed, folder):
    status, said = typed("scan", folder)
    assert status == 0 and "1 pictures are used, 1 are left out" in said and "b.png" in said
    assert typed("state", folder, "--licence", "CC BY 4.0", "--creator", "Ada", "--credit", "--by", "Ada")[0] == 0
    assert "name and a reason" in typed("override", folder, "--picture", "b.png", "--reason", "mine")[1]
    assert typed("override", folder, "--picture", "b.png", "--reason", "mine", "--by", "Ada")[0] == 0
    counts = json.loads(typed("scan", folder, "--whose", "open-licence", "--json")[1])["counts"]
    assert (counts["included"], counts["override"]) == (2, 1)
    assert typed("approve", folder)[0] == 0 and typed("withdraw", folder, "--picture", "a.png")[0] == 0
    assert typed("verify", folder) == (0, "The record is as it was written: 5 events.\n")


def test_documents_and_copies(typed, folder, tmp_path):
    contract = tmp_path / "c.pdf"
    contract.write_bytes(b"contract")
    assert typed("evidence", folder, contract, "--kind", "contract", "--until", "2099-01-01")[0] == 0
    sealed = next((tmp_path / "data" / "rights" / "evidence").iterdir())
    assert typed("verify", folder)[0] == 0
    sealed.chmod(0o600)
    sealed.write_bytes(b"forged")
    assert typed("verify", folder)[0] == 1

    assert "copies are in" in typed("strip", folder)[1]
    assert typed("strip", tmp_path / "pictures stripped", "--undo")[0] == 0
    assert not (tmp_path / "pictures stripped").exists()


def test_what_a_lora_says_is_shown_checked_and_proved(typed, folder, lora, tmp_path):
    pytest.importorskip("cryptography")
    assert "not signed" in typed("verify", lora)[1]
    signature.sign(lora, tmp_path / "data")
    assert typed("verify", lora)[0] == 0 and "owner 1" in typed("show", lora)[1]
    assert json.loads(typed("show", lora, "--json")[1])["signature"] == "signed"

    assert typed("contains", lora, folder / "a.png")[0] == 0
    assert typed("contains", lora, folder / "b.png")[0] == 1
    proof = tmp_path / "proof.json"
    assert typed("prove", lora, folder / "a.png", "--output", proof)[0] == 0
    assert typed("verify", lora, "--proof", proof, "--picture", folder / "a.png")[0] == 0
    assert typed("verify", lora, "--proof", proof, "--picture", folder / "b.png")[0] == 1
    assert "no proof" in typed("prove", lora, folder / "b.png")[1]


def test_a_report_is_written_as_page_and_as_json(typed, lora, tmp_path):
    assert typed("report", lora, "--output", tmp_path / "r.html")[0] == 0
    assert "not advice" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert typed("report", "20300101-momo", "--output", tmp_path / "r.json")[0] == 0
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["pictures"][0]["name"] == "a.png"


@pytest.mark.parametrize(
    "words",
    [
        ("scan", "/nowhere"),
        ("scan", "FOLDER", "--whose", "nobody"),
        ("state", "FOLDER", "--basis", "because"),
        ("state", "FOLDER", "--json", "{"),
        ("state", "FOLDER", "--json", "3"),
        ("state", "FOLDER", "--picture", "z.png", "--basis", "owner"),
        ("evidence", "FOLDER", "/nowhere.pdf"),
        ("strip", "FOLDER", "--undo"),
        ("verify", "FOLDER"),
        ("show", "/nowhere.safetensors"),
        ("show", "FOLDER/a.png"),
        ("verify", "FOLDER/a.png", "--proof", "FOLDER/a.png"),
        ("report", "nothing"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_one_sentence(typed, folder, words):
    status, said = typed(*(word.replace("FOLDER", str(folder)) for word in words))

    assert status == 1 and said.strip() and "Traceback" not in said
