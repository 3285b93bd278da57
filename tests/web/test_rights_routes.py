"""The routes below /rights: a folder's record from the page, what LoRAs say, the report, the guide."""

import json

import pytest
from tests.rights.fixtures import picture, xmp

from lora_atelier.rights import stripping

pytestmark = pytest.mark.torchfree

URL = "/lora-atelier/v1"


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    (place / "a.png").write_bytes(picture("PNG", color="red"))
    (place / "a.txt").write_text("photo of Ada Lovelace", encoding="utf-8")
    (place / "b.png").write_bytes(picture("PNG", xmp("DMI-PROHIBITED"), color="blue"))
    return place


@pytest.fixture
def upload(client, folder):
    return client.post(f"{URL}/folder", json={"path": str(folder)}).json()["upload"]


@pytest.fixture
def rights(client, upload):
    def call(what="", **said):
        url = f"{URL}/rights/folders/{upload}{what}"
        answer = client.post(url, json=said) if what and said is not None else client.get(url)
        return answer.json()

    return call


def test_a_folder_is_shown_with_what_would_be_done_and_nothing_is_written_into_it(rights, folder):
    said = rights()

    assert said["counts"]["included"] == 1 and said["counts"]["left_out"] == 1
    assert [one["name"] for one in said["pictures"]] == ["a.png", "b.png"]
    first, second = said["pictures"]
    assert (first["outcome"], first["basis"], first["reservation"]) == ("include", "owner", "none_found")
    assert [one["kind"] for one in first["personal"]] == ["name"]
    assert second["rule"] == "reservation" and "b.png" in second["why"]
    assert second["signals"][0]["raw"] == "DMI-PROHIBITED"
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "a.txt", "b.png"]


def test_statements_exceptions_overrides_and_approval_are_kept_beside_the_pictures(client, rights, upload, folder):
    rights("/statement", said={"basis": "owner", "creators": [{"name": "Ada"}]}, by="Ada")
    rights("/pictures", names=["a.png"], said={"licence": "CC-BY-NC-4.0"}, by="Ada")
    assert "a name and a reason" in rights("/override", names=["b.png"], by="Ada")["error"]["what"]
    said = rights("/override", names=["b.png"], by="Ada", reason="I drew it")
    assert said["counts"]["included"] == 2 and said["permits"]["commercial_output"] == "no"
    assert rights("/override", names=["b.png"], by="Ada", lift=True)["counts"]["included"] == 1
    assert rights("/approve", by="Ada")["approved"] is True
    assert (folder / "rights.jsonl").is_file()
    events = client.get(f"{URL}/rights/folders/{upload}/history").json()["events"]
    assert [event["what"] for event in events][:2] == ["scanned", "stated"] and events[1]["by"] == "Ada"


def test_what_makes_no_sense_is_one_sentence(rights, client):
    assert "can't be stated" in rights("/statement", said={"basis": "because"})["error"]["what"]
    assert "error" in rights("/statement", said=3)
    assert "no such picture" in rights("/withdraw", names=["z.png"])["error"]["what"]
    assert "error" in rights("/pictures", names=[3], said={})
    assert "error" in client.get(f"{URL}/rights/folders/nothing").json()


def test_a_document_is_attached_and_sealed(client, rights, upload, services):
    url = f"{URL}/rights/folders/{upload}/evidence"

    said = client.post(url, params={"kind": "contract", "name": "c.pdf", "valid_until": "2099-01-01"}, content=b"PDF")

    assert said.json()["statement"]["evidence"][0]["kind"] == "contract"
    assert len(list((services.jobs.data_dir / "rights" / "evidence").iterdir())) == 1
    assert "error" in client.post(url, params={"kind": "rumour"}, content=b"x").json()


def test_personal_data_is_taken_out_of_copies_and_that_is_undone(client, rights, upload, folder, services):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    made = rights("/strip")

    shown = client.get(f"{URL}/rights/folders/{made['upload']}").json()
    assert [one["name"] for one in shown["pictures"]] == ["a.png", "b.png"]
    assert shown["pictures"][1]["reservation"] == "prohibited"  # rights go along
    assert rights("/strip/undo") == {"upload": upload}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not list((services.jobs.data_dir / "rights" / "stripped").glob(f"*/{stripping.NOTE}"))


def test_a_strangers_page_changes_nothing(client, upload):
    answer = client.post(f"{URL}/rights/folders/{upload}/withdraw", json={}, headers={"X-Atelier-Token": "no"})

    assert answer.status_code == 403


def test_what_a_lora_says_is_shown_and_reported(client, services, write_header):
    folder = services.jobs.data_dir / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    said = {"schema": 2, "whose": "mine", "pictures": 3, "basis": {"owner": 3}}
    shapes = {"lora_unet_x.lora_down.weight": (2, 2)}
    write_header(folder / "momo.safetensors", shapes, {"atelier_rights": json.dumps(said)})
    services.catalogue.list()

    shown = client.get(f"{URL}/rights/loras/momo").json()

    assert shown["rights"]["pictures"] == 3 and shown["signature"] == "unsigned" and shown["sentences"]
    page = client.get(f"{URL}/rights/reports/html/momo", params={"lang": "ja"})
    assert page.headers["content-type"].startswith("text/html") and "助言ではありません" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get(f"{URL}/rights/reports/json/momo").json()["rights"]["pictures"] == 3
    assert client.get(f"{URL}/rights/reports/json/nothing").status_code == 404
    assert client.get(f"{URL}/rights/reports/pdf/momo").status_code == 404


def test_the_guide_speaks_the_readers_language(client):
    assert "LoRA とは何か" in client.get(f"{URL}/rights/guide", params={"lang": "ja"}).text
    assert "What a LoRA is" in client.get(f"{URL}/rights/guide", params={"lang": "en"}).text
    assert "LoRA とは何か" in client.get(f"{URL}/rights/guide", headers={"accept-language": "ja,en;q=0.5"}).text
