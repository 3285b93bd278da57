"""The routes below /rights: a folder's record from the page, what LoRAs say, the report, the guide."""

import json

import pytest
from tests.rights.fixtures import picture, xmp

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


def test_an_open_licence_is_asked_for_and_stated_once_for_all(client, upload):
    url, whose = f"{URL}/rights/folders/{upload}", {"whose": "open-licence"}

    before = client.get(url, params=whose).json()
    after = client.post(
        f"{url}/statement", params=whose, json={"said": {"licence": "cc by-nc 4.0"}, "by": "Ada"}
    ).json()

    assert before["counts"]["included"] == 0
    assert {group["rule"]: group["names"] for group in before["groups"]} == {
        "licence": ["a.png"],
        "reservation": ["b.png"],
    }
    assert before["marks"]["a.png"]["rule"] == "licence"
    assert after["statement"] == {"licence": "CC-BY-NC-4.0"} and after["licences"] == {"CC-BY-NC-4.0": 1}
    assert after["basis"] == {"licence": 1} and after["permits"]["commercial_output"] == "no"
    assert [group["rule"] for group in after["groups"]] == ["reservation"]
    # What is as everything else has no mark of its own.
    assert list(after["marks"]) == ["b.png"]


def test_the_pictures_that_one_rule_leaves_out_are_listed_as_pictures(client, upload):
    said = client.get(f"{URL}/rights/folders/{upload}/rules/reservation").json()

    assert [each["name"] for each in said["pictures"]] == ["b.png"] and said["total"] == 1
    assert client.get(f"{URL}/rights/folders/{upload}/rules/nothing").json()["total"] == 0


def test_one_picture_differs_from_the_folder_until_that_is_taken_back(client, rights, upload):
    rights("/statement", said={"basis": "written_permission"})
    rights("/pictures", names=["a.png"], said={"basis": "owner", "licence": "CC BY 4.0"})
    url = f"{URL}/rights/folders/{upload}/pictures/a.png"

    different = client.get(url).json()["picture"]
    rights("/pictures", names=["a.png"], said={"basis": None, "licence": None})
    again = client.get(url).json()["picture"]

    assert (different["basis"], different["licence"]) == ("owner", "CC-BY-4.0")
    assert (again["basis"], again["licence"], again["said"]) == ("written_permission", "", {})
    assert "no such picture" in client.get(url.replace("a.png", "z.png")).json()["error"]["what"]
    assert "can't be stated" in rights("/pictures", names=["a.png"], said={"nonsense": None})["error"]["what"]


def test_all_pictures_with_a_prohibition_are_decided_on_at_once(rights):
    assert "a name and a reason" in rights("/override", rule=True, by="Ada")["error"]["what"]

    said = rights("/override", rule=True, by="Ada", reason="I drew them")

    assert said["groups"] == [] and said["marks"]["b.png"]["override"] is True


def test_what_a_person_writes_for_a_licence_is_understood_or_said_not_to_be(client):
    def means(text):
        return client.get(f"{URL}/rights/licence", params={"text": text}).json()

    assert means("CC BY 4.0")["licence"] == "CC-BY-4.0" and means("cc by 4.0")["permits"]["attribution"] == "yes"
    assert means("my own terms") == {"licence": "", "permits": {}, "sentences": []}


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
    (folder / "c.png").write_bytes(picture("PNG", color="green"))
    (folder / "broken.png").write_text("I am no picture")
    client.put(f"{URL}/uploads/{upload}/captions/c.png", json={"text": "a leaf"})
    client.post(f"{URL}/uploads/{upload}/leave-out", json={"names": ["a.png"]})
    rights("/statement", said={"licence": "CC0-1.0"}, by="Ada")
    rights("/pictures", names=["c.png"], said={"basis": "public_domain"}, by="Ada")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    made = rights("/strip")

    shown = client.get(f"{URL}/rights/folders/{made['upload']}").json()
    assert shown["original"] == upload and shown["statement"] == {"licence": "CC0-1.0"}
    assert [(one["name"], one["basis"]) for one in shown["pictures"]] == [
        ("b.png", "owner"),
        ("c.png", "public_domain"),
    ]
    assert shown["pictures"][0]["reservation"] == "prohibited"  # rights go along
    listed = client.get(f"{URL}/uploads/{made['upload']}").json()
    assert listed["left_out"] == ["a.png"] and listed["pictures"][1]["caption"] == "a leaf"
    # The run gets files of its own: what is undone then takes nothing from it.
    assert services.uploads.is_own(made["upload"]) and listed["folder"] == ""

    assert rights("/strip/undo") == {"upload": upload}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "gone" in client.get(f"{URL}/uploads/{made['upload']}").json()["error"]["what"]
    assert "no copies" in rights("/strip/undo")["error"]["what"]


def test_copies_are_made_anew_after_pictures_were_added(client, rights, upload, folder):
    first = rights("/strip")
    client.post(f"{URL}/uploads/{first['upload']}/leave-out", json={"names": ["b.png"]})
    (folder / "c.png").write_bytes(picture("PNG", color="green"))

    again = rights("/strip")

    listed = client.get(f"{URL}/uploads/{again['upload']}").json()
    assert [each["name"] for each in listed["pictures"]] == ["a.png", "c.png"] and listed["left_out"] == ["b.png"]


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


def planned(client, upload, whose="mine"):
    asked = {"name": "momo", "trigger": "momo figure", "goal": "character", "whose": whose, "upload": upload}
    return client.post(f"{URL}/plan", json={"form": asked}).json()


def test_the_plan_is_of_the_pictures_that_are_used_and_says_of_how_many(client, rights, upload, folder):
    (folder / "broken.png").write_bytes(b"x")
    client.get(f"{URL}/uploads/{upload}")
    rights()

    refused = planned(client, upload)
    rights("/override", names=["b.png"], by="Ada", reason="I drew it")
    allowed = planned(client, upload)
    (folder / "broken.png").unlink()
    whole = planned(client, upload)

    assert refused["sentence"].startswith("1 of 3 pictures, ") and refused["pictures"] == 1
    assert allowed["sentence"].startswith("2 of 3 pictures, ") and allowed["pictures"] == 2
    assert whole["sentence"].startswith("2 pictures, ")
    assert planned(client, upload, whose="open-licence")["pictures"] == 0  # none has a licence


def test_a_plan_of_a_folder_that_nobody_looked_at_reads_none_of_its_pictures(client, upload, monkeypatch):
    monkeypatch.setattr("lora_atelier.rights.scanning._read", lambda path: pytest.fail("read"))

    assert planned(client, upload)["pictures"] == 2
