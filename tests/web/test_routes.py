import io
import json
import time

import pytest

pytestmark = pytest.mark.torchfree
pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from tests.web.conftest import connect, png  # noqa: E402

from lora_atelier import locales  # noqa: E402
from lora_atelier.config import recipe  # noqa: E402
from lora_atelier.errors import NotEnoughMemoryError  # noqa: E402
from lora_atelier.events import Appender, Failed  # noqa: E402
from lora_atelier.web.job_forms import read_form  # noqa: E402

V1 = "/lora-atelier/v1"
STEPS = recipe(goal="character", family="toy", num_images=2).schedule.steps


def drop(client, *names):
    upload = client.post(f"{V1}/uploads").json()["upload"]
    for number, name in enumerate(names):
        files = [("files", (name, png((number, 0, 0)), "image/png"))]
        assert client.post(f"{V1}/uploads/{upload}/pictures", files=files).status_code == 200
    return upload


def form(upload, **changes):
    values = {"name": "もも", "trigger": "momo", "goal": "character", "whose": "mine", "upload": upload}
    return {"form": {**values, **changes}}


def wait(client, run_id, status):
    deadline = time.monotonic() + 20
    while (run := client.get(f"{V1}/runs/{run_id}").json())["status"] != status:
        assert time.monotonic() < deadline, run
        time.sleep(0.05)
    return run


def test_the_page_learns_what_it_can_offer(client):
    session = client.get(f"{V1}/session", headers={"Accept-Language": "ja-JP,en;q=0.5"}).json()
    options = client.get(f"{V1}/options").json()

    assert session["lang"] == "ja" and session["version"]
    assert options["goals"] == ["character", "style", "object"]
    assert options["whose"] == ["mine", "permission", "open-licence", "experiment", "studio"]
    assert options["base_models"][0]["family"] == "toy"
    assert options["defaults"]["base_model"] == options["base_models"][0]["path"]


def test_the_page_is_given_the_words_of_a_language(client):
    assert client.get(f"{V1}/locales/ja").json()["entries"] == locales.catalogue("ja")
    for other in ("en", "xx", "..%2f..%2fpyproject"):
        assert client.get(f"{V1}/locales/{other}").json().get("entries", {}) == {}


def test_pictures_are_dropped_shown_and_taken_away(client):
    upload = drop(client, "b.png", "あ & い#1.png")

    listing = client.get(f"{V1}/uploads/{upload}", params={"from": 0, "count": 1}).json()
    assert listing["total"] == 2
    assert [picture["name"] for picture in listing["pictures"]] == ["b.png"]
    second = client.get(f"{V1}/uploads/{upload}?from=1").json()["pictures"][0]
    thumbnail = client.get(second["thumbnail_url"])
    assert thumbnail.headers["content-type"] == "image/jpeg" and len(thumbnail.content) > 100

    assert client.delete(f"{V1}/uploads/{upload}/pictures/b.png").json() == {"total": 1}


def test_several_files_come_in_one_call_and_each_bad_one_is_named(client):
    upload = client.post(f"{V1}/uploads").json()["upload"]
    files = [
        ("files", ("a.png", io.BytesIO(png()))),
        ("files", ("a.txt", b"a caption")),
        ("files", ("b.png", b"no picture")),
        ("files", ("c.exe", b"MZ")),
    ]

    answer = client.post(f"{V1}/uploads/{upload}/pictures", files=files).json()

    assert answer["total"] == 1
    assert [picture["refused"] for picture in answer["pictures"]] == [False, True]
    assert "c.exe" in answer["problems"][0]
    assert client.get(f"{V1}/uploads/{upload}").json()["pictures"][0]["caption"] == "a caption"


def test_a_folder_is_shown_and_planned(client, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(png())

    listing = client.post(f"{V1}/folder", json={"path": str(tmp_path / "p")}).json()
    plan = client.post(f"{V1}/plan", json=form("", folder=str(tmp_path / "p"))).json()

    assert listing["total"] == 1 and listing["folder"] == str(tmp_path / "p")
    assert plan["pictures"] == 1
    assert any("One picture" in problem["sentence"] for problem in plan["problems"])


def test_a_plan_says_what_it_will_take_and_how_the_name_is_written(client):
    plan = client.post(f"{V1}/plan", json=form(drop(client, "a.png", "b.png"), name="a b")).json()

    assert plan["steps"] == STEPS and plan["seconds"] > 0
    assert plan["sentence"].startswith(f"2 pictures, {STEPS} steps, about")
    (problem,) = plan["problems"]
    assert (problem["field"], problem["blocking"], problem["suggestion"]) == ("name", False, "a_b")


def test_a_run_is_made_followed_and_its_result_listed(client, services):
    made = client.post(f"{V1}/runs", json=form(drop(client, "a.png", "b.png"))).json()["run"]

    run = wait(client, made["id"], "finished")
    assert run["result"]["tag"] == "<lora:もも:0.8>" and run["result"]["exists"]
    assert run["plan"].startswith(f"2 pictures, {STEPS} steps")
    assert [r["id"] for r in client.get(f"{V1}/runs").json()["runs"]] == [made["id"]]

    first = client.get(f"{V1}/runs/{made['id']}/events").json()
    assert [event["kind"] for event in first["events"]] == ["started", "saved", "stepped", "finished"]
    rest = client.get(f"{V1}/runs/{made['id']}/events", params={"since": first["next"]}).json()
    assert rest == {"events": [], "next": first["next"]}

    (lora,) = client.get(f"{V1}/loras").json()["loras"]
    assert lora["name"] == "もも" and lora["preview_url"] is None
    assert lora["problem"]  # the fake trainer's file is none
    assert client.get(run["result"]["preview_url"]).status_code == 404
    services.jobs.lora_dir.joinpath("もも.png").write_bytes(png())
    assert client.get(run["result"]["preview_url"]).content == png()


def test_a_run_is_stopped_resumed_and_not_doubled(client, services):
    upload = drop(client, "a.png", "b.png")
    run = services.jobs.create(read_form(form(upload), services))
    (run.path / "behave").write_text("wait")
    assert client.post(f"{V1}/runs/{run.id}/resume").json()["run"]["status"] == "running"
    while client.get(f"{V1}/runs/{run.id}").json()["step"] < 3:
        pass

    second = client.post(f"{V1}/runs", json=form(upload, name="other")).json()["run"]
    assert second["status"] == "queued" and not second["can_resume"]
    assert client.get(f"{V1}/runs").json()["queue"] == [second["id"]]
    assert client.post(f"{V1}/runs/{second['id']}/stop").json()["run"]["status"] == "waiting"

    assert client.post(f"{V1}/runs/{run.id}/stop").status_code == 200
    assert wait(client, run.id, "stopped")["can_resume"]
    assert client.post(f"{V1}/runs/{run.id}/stop").status_code == 400


def test_what_is_wrong_with_a_form_is_said_field_by_field(client):
    answer = client.post(f"{V1}/runs", json=form("", name="🎨", whose="nobody", trigger="<"))

    assert answer.status_code == 422
    assert {problem["field"] for problem in answer.json()["error"]["problems"]} >= {"name", "whose", "pictures"}


def test_only_the_pictures_are_required(client, services):
    upload = drop(client, "a.png", "b.png")
    asked = {"form": {"upload": upload}}

    plan = client.post(f"{V1}/plan", json=asked).json()
    run = client.post(f"{V1}/runs", json=asked).json()["run"]

    assert not any(problem["blocking"] for problem in plan["problems"])
    assert (run["name"], run["trigger"]) == (plan["suggested"]["name"], plan["suggested"]["trigger"])
    assert run["trigger"].isalpha() and run["trigger"].isascii()
    # Whoever says nothing has promised nothing.
    assert services.jobs.get(run["id"]).job().whose == "experiment"


def test_a_trigger_is_suggested_by_the_name_and_common_words_are_not(client):
    def trigger(**changes):
        plan = client.post(f"{V1}/plan", json=form(upload, **changes)).json()
        return plan["suggested"]["trigger"]

    upload = drop(client, "a.png")
    assert trigger(name="Tea_Pott", trigger="") == "tea pott"
    assert trigger(name="Ghibbly", trigger="", goal="style") == "ghibbly style"
    for name in ("cat", "もも"):
        assert trigger(name=name, trigger="") not in (name, "") and trigger(name=name, trigger="").isascii()
    plan = client.post(f"{V1}/plan", json=form(upload, trigger="cat")).json()
    (said,) = [problem for problem in plan["problems"] if problem["field"] == "trigger"]
    assert not said["blocking"] and said["suggestion"]


def test_a_picture_is_left_out_taken_back_and_given_a_caption(client, services):
    upload = drop(client, "a.png", "b.png", "c.png")

    client.post(f"{V1}/uploads/{upload}/leave-out", json={"names": ["b.png"]})
    client.put(f"{V1}/uploads/{upload}/captions/c.png", json={"text": "a <b>red</b> cat\n"})
    listing = client.get(f"{V1}/uploads/{upload}").json()
    run = client.post(f"{V1}/runs", json=form(upload)).json()["run"]

    assert [picture["name"] for picture in listing["pictures"]] == ["a.png", "c.png"]
    assert listing["left_out"] == ["b.png"] and listing["pictures"][1]["caption"] == "a <b>red</b> cat"
    kept = services.jobs.get(run["id"]).pictures_dir
    assert sorted(path.name for path in kept.iterdir()) == ["a.png", "c.png", "c.txt"]
    client.post(f"{V1}/uploads/{upload}/leave-out", json={"names": ["b.png"], "out": False})
    assert client.get(f"{V1}/uploads/{upload}").json()["total"] == 3


def test_all_pictures_of_one_kind_are_left_out_at_once(client):
    upload = client.post(f"{V1}/uploads").json()["upload"]
    for name, color in (("a.png", "red"), ("b.png", "red"), ("c.png", "blue")):
        data = png(color) + name.encode()  # other bytes, the same picture
        client.post(f"{V1}/uploads/{upload}/pictures", files=[("files", (name, data, "image/png"))])

    assert client.get(f"{V1}/uploads/{upload}").json()["counts"] == {"duplicate": 1}
    gone = client.post(f"{V1}/uploads/{upload}/leave-out", json={"kind": "duplicate"}).json()

    assert gone["names"] == ["b.png"] and gone["total"] == 2
    assert client.get(f"{V1}/uploads/{upload}").json()["counts"] == {}


def test_a_picture_is_said_to_be_small_for_the_model_that_is_chosen(client):
    upload = drop(client, "a.png")

    def kinds(side):
        return client.get(f"{V1}/uploads/{upload}", params={"side": side}).json()["pictures"][0]["kinds"]

    assert kinds(64) == [] and kinds(512) == ["small"]


def test_a_long_run_is_sent_thinned_and_its_last_step_whole(client, services):
    from lora_atelier.events import Appender, Stepped, Validated

    run = services.jobs.create(read_form(form(drop(client, "a.png")), services))
    log = Appender(run.events_path)
    for step in range(1, 2001):
        log.add(Stepped(step=step, steps=2000, loss=float(step % 2), learning_rate=1, seconds_per_step=1,
                        seconds_left=0))  # fmt: skip
        if step % 500 == 0:
            log.add(Validated(step=step, loss=0.5))

    live = client.get(f"{V1}/runs/{run.id}/live").json()

    steps = [event for event in live["events"] if event["kind"] == "stepped"]
    assert 400 <= len(steps) <= 600 and steps[-1]["step"] == 2000
    assert len([event for event in live["events"] if event["kind"] == "validated"]) == 4
    assert all(0 <= event["loss"] <= 1 for event in steps) and abs(steps[5]["loss"] - 0.5) < 0.26
    assert client.get(f"{V1}/runs/{run.id}/live", params={"since": live["next"]}).json()["events"] == []


def test_errors_are_said_in_the_readers_language(services):
    japanese = connect(services, **{"X-Atelier-Lang": "ja"})

    answer = japanese.get(f"{V1}/uploads/0123456789ab")

    english = "The dropped pictures are gone."
    assert answer.status_code == 400
    assert answer.json()["error"]["what"] == locales.text(english, "ja")


@pytest.mark.parametrize("path", ["runs/none", "runs/none/events", "runs/..%2f..", "uploads/x", "loras/none/preview"])
def test_what_does_not_exist_is_a_sentence(client, path):
    answer = client.get(f"{V1}/{path}")

    assert 400 <= answer.status_code < 500
    assert "error" in answer.json() or answer.json()["detail"] in ("Not Found", "Method Not Allowed")


def test_only_samples_of_the_run_are_given_out(client, services):
    run = services.jobs.create(read_form(form(drop(client, "a.png")), services))
    run.samples_dir.mkdir()
    (run.samples_dir / "s.png").write_bytes(png())

    assert client.get(f"{V1}/runs/{run.id}/samples/s.png").content == png()
    for file in ("..%2fjob.toml", "none.png", "job.toml"):
        assert client.get(f"{V1}/runs/{run.id}/samples/{file}").status_code == 404


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"form": 3}', b'{"form": {"name": {"a": 1}, "quality": 7}}'])
def test_a_body_that_makes_no_sense_is_a_sentence(client, body):
    answer = client.post(f"{V1}/runs", content=body)

    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["what"]


def test_an_unforeseen_error_is_a_sentence_and_a_traceback_in_the_console(client, services, monkeypatch, caplog):
    monkeypatch.setattr(type(services.catalogue), "list", lambda self: 1 / 0)

    answer = client.get(f"{V1}/loras")

    assert answer.status_code == 500
    assert "nobody foresaw" in answer.json()["error"]["what"]
    assert "ZeroDivisionError" in caplog.text


def test_what_the_memorisation_test_found_is_told_in_the_readers_language(client, services):
    run = services.jobs.create(read_form(form(drop(client, "a.png")), services))
    assert client.get(f"{V1}/runs/{run.id}/memorisation").json() == {"sentence": "", "pictures": []}
    tested = [{"name": "<b>a.png", "verdict": "copy-like", "safe_weight": 0.6, "pair": "00.png"}]
    said = {"template": "The training pictures are gone.", "values": {}}
    (run.path / "memorisation.json").write_text(json.dumps({"said": said, "tested": tested, "safe_weight": 0.6}))
    (run.path / "memorisation").mkdir()
    (run.path / "memorisation" / "00.png").write_bytes(png())

    found = client.get(f"{V1}/runs/{run.id}/memorisation").json()

    assert found["sentence"] and found["pictures"][0]["name"] == "<b>a.png" and found["safe_weight"] == 0.6
    assert client.get(f"{V1}/runs/{run.id}/memorisation/00.png").status_code == 200
    assert client.get(f"{V1}/runs/{run.id}/memorisation/..%2fjob.toml").status_code == 404


def test_a_training_that_ran_out_of_memory_is_resumed_with_less(client, services):
    run = services.jobs.create(read_form(form(drop(client, "a.png", "b.png")), services))
    error = NotEnoughMemoryError("There is not enough memory for this training.")
    run.mark_started()
    Appender(run.events_path).add(Failed(error=error.to_json()))
    said = client.get(f"{V1}/runs/{run.id}").json()
    assert said["status"] == "failed" and said["remedy"] == "less-memory" and said["can_resume"]

    assert client.post(f"{V1}/runs/{run.id}/less-memory").status_code == 200

    assert wait(client, run.id, "finished")["remedy"] == ""
    assert "gradient_checkpointing = true" in run.config_path.read_text(encoding="utf-8")
    assert client.post(f"{V1}/runs/{run.id}/less-memory").status_code == 400  # it is finished


def test_where_there_is_no_base_model_the_form_says_so(client, services):
    object.__setattr__(services, "base_models", list)

    plan = client.post(f"{V1}/plan", json=form("", base_model="")).json()

    assert [said["sentence"] for said in plan["problems"] if said["field"] == "base_model"] == [
        "There is no base model that can be trained."
    ]
    assert client.get(f"{V1}/options").json()["defaults"]["base_model"] == ""
