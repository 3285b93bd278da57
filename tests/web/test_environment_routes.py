import dataclasses
import sys
import time
from pathlib import Path

import pytest
from tests.web.conftest import connect

from lora_atelier.jobs import environment
from lora_atelier.jobs.trainer_setup import TrainerSetup

pytestmark = pytest.mark.torchfree

INSTALLER = Path(__file__).parents[1] / "jobs" / "fake_installer.py"
PREFIX = "/lora-atelier/v1/environment"


@pytest.fixture
def made(services, tmp_path, monkeypatch):
    """A function that makes services whose environment is missing, with an installer that goes a way."""
    monkeypatch.setattr(environment, "_NEEDED", ("a_package_that_nobody_has",))

    def make(way, **access):
        root = tmp_path / "root"
        root.mkdir()
        setup = TrainerSetup(tmp_path / "data", root=root, command=[sys.executable, str(INSTALLER), str(root), way])
        changed = dataclasses.replace(services.access, **access)
        return dataclasses.replace(services, environment=setup, access=changed)

    return make


def until(client, *states):
    deadline = time.monotonic() + 20
    while (said := client.get(PREFIX).json())["state"] not in states:
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
    return said


def test_where_nothing_has_to_be_made_all_is_well(client):
    assert client.get(PREFIX).json() == {"state": "ready"}
    assert client.post(f"{PREFIX}/make").status_code == 404


def test_a_page_makes_it_and_sees_how_it_goes(made):
    client = connect(made("well"))
    before = client.get(PREFIX).json()

    began = client.post(f"{PREFIX}/make")

    assert before["state"] == "missing" and before["may"] and "1 to 5 GB" in before["said"]
    assert began.json()["state"] in ("running", "ready")
    assert until(client, "ready")["stage"] == "checking"


def test_what_failed_is_said_in_the_readers_language_and_can_be_tried_again(made):
    client = connect(made("network"), **{"X-Atelier-Lang": "ja"})
    client.post(f"{PREFIX}/make")

    said = until(client, "failed")

    assert "インターネット" in said["error"]["todo"] and "pip gave up" in said["log"]
    assert client.post(f"{PREFIX}/make").status_code == 200
    until(client, "failed")


def test_it_is_stopped_from_the_page(made):
    client = connect(made("waits"))
    client.post(f"{PREFIX}/make")
    assert client.post(f"{PREFIX}/make").status_code == 409

    client.post(f"{PREFIX}/stop")

    assert until(client, "stopped")["said"].startswith("Stopped.")


def test_the_doctor_is_read_on_the_page(made):
    client = connect(made("well"), **{"X-Atelier-Lang": "ja"})

    found = client.post(f"{PREFIX}/examine").json()["findings"]

    assert [each["level"] for each in found] == ["ok", "problem"]
    assert "9" in found[0]["said"] and found[0]["said"] != "Its 9 packages are there."


@pytest.mark.parametrize("verb", ["make", "stop", "examine"])
def test_from_other_machines_nothing_is_started(made, verb):
    client = connect(made("well", remote=True))

    refused = client.post(f"{PREFIX}/{verb}")

    assert refused.status_code == 403 and "install.py trainer" in refused.json()["error"]["todo"]
    assert client.get(PREFIX).json()["may"] is False and client.get(PREFIX).json()["state"] == "missing"


def test_without_the_token_nothing_is_started(made):
    client = connect(made("well"), **{"X-Atelier-Token": "guessed"})

    assert client.post(f"{PREFIX}/make").status_code == 403
    assert client.get(PREFIX).json()["state"] == "missing"
