"""The plan's memory and measuring it, as the page asks."""

import json
import sys
import time

import pytest
from tests.jobs.test_dry_run import SAID, WRITES
from tests.web.conftest import png

from lora_atelier.jobs import footprint

pytestmark = pytest.mark.torchfree

URL = "/lora-atelier/v1"


@pytest.fixture
def form(client):
    upload = client.post(f"{URL}/uploads").json()["upload"]
    files = [("files", (f"{color}.png", png(color), "image/png")) for color in ("red", "blue")]
    client.post(f"{URL}/uploads/{upload}/pictures", files=files)
    return {"upload": upload, "name": "momo", "trigger": "momo", "whose": "mine"}


def test_a_plan_says_its_memory_by_part_and_whether_it_is_there(client, form, monkeypatch):
    monkeypatch.setattr(footprint, "free_bytes", lambda device: 8_000_000_000)

    memory = client.post(f"{URL}/plan", json={"form": form}).json()["memory"]

    assert memory["fits"] is True and memory["fit"] is None and "it fits" in memory["sentence"]
    assert sum(part["bytes"] for part in memory["parts"]) <= memory["bytes"]
    assert any("the program itself" in part["sentence"] for part in memory["parts"]) and "disk" in memory["disk"]


def test_what_does_not_fit_comes_with_changes_that_the_form_takes(client, form, monkeypatch):
    monkeypatch.setattr(footprint, "free_bytes", lambda device: 300_000_000)

    before = client.post(f"{URL}/plan", json={"form": form}).json()["memory"]
    after = client.post(f"{URL}/plan", json={"form": {**form, "changes": before["fit"]["changes"]}}).json()["memory"]

    assert before["fits"] is False and "hardly fit" in before["sentence"] and before["fit"]["sentences"]
    assert after["bytes"] < before["bytes"]


def test_measuring_is_begun_followed_and_corrects_the_plan(client, services, form):
    services.measuring.command = [sys.executable, "-c", WRITES.format(said=json.dumps(SAID))]

    state = client.post(f"{URL}/measure", json={"form": form}).json()
    deadline = time.monotonic() + 20
    while state["status"] == "running":
        assert time.monotonic() < deadline
        state = client.get(f"{URL}/measure").json()
    plan = client.post(f"{URL}/plan", json={"form": form}).json()

    assert state["status"] == "done"
    assert plan["seconds"] == 100.0 and plan["memory"]["measured"] is True and "2 pictures" in plan["sentence"]


def test_measuring_is_taken_back_and_what_fails_is_said(client, services, form):
    services.measuring.command = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert client.post(f"{URL}/measure", json={"form": form}).json()["status"] == "running"
    assert "already" in client.post(f"{URL}/measure", json={"form": form}).json()["error"]["what"]
    assert client.delete(f"{URL}/measure").json()["status"] == "none"

    services.measuring.command = [sys.executable, "-c", "import sys; sys.exit(9)"]
    state = client.post(f"{URL}/measure", json={"form": form}).json()
    deadline = time.monotonic() + 20
    while state["status"] == "running" and time.monotonic() < deadline:
        state = client.get(f"{URL}/measure").json()
    assert state["status"] == "failed" and "could not be measured" in state["error"]["what"]
