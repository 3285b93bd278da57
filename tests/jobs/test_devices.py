import subprocess

import pytest

from lora_atelier.jobs import devices

pytestmark = pytest.mark.torchfree

SAID = "GPU-11111111-2222\nGPU-33333333-4444\n"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    devices._found.cache_clear()
    yield
    devices._found.cache_clear()


@pytest.fixture
def driver(monkeypatch):
    """A driver's program that says something, or fails."""

    def make(said):
        def run(*args, **options):
            if isinstance(said, Exception):
                raise said
            return subprocess.CompletedProcess(args, 0, stdout=said)

        monkeypatch.setattr(devices.shutil, "which", lambda name: None if said is None else "/usr/bin/nvidia-smi")
        monkeypatch.setattr(devices.subprocess, "run", run)

    return make


def test_of_two_cards_the_hosts_own_is_the_last(driver):
    driver(SAID)

    assert devices.devices() == ("GPU-33333333-4444", "GPU-11111111-2222")
    assert devices.devices(host_index=1) == ("GPU-11111111-2222", "GPU-33333333-4444")
    assert devices.devices(host_index=7)[-1] == "GPU-11111111-2222"


@pytest.mark.parametrize(
    "said", [None, "", "GPU-1\n", "No devices were found\n", OSError(2, "gone"), subprocess.TimeoutExpired("x", 1)]
)
def test_where_there_is_nothing_to_choose_from_there_is_one_without_a_name(driver, said):
    driver(said)

    assert devices.devices() == ("",)


def test_what_whoever_started_us_has_chosen_is_all_there_is(driver, monkeypatch):
    driver(SAID)
    monkeypatch.setenv(devices.VISIBLE, "2, 3")
    assert devices.devices() == ("3", "2")

    devices._found.cache_clear()
    monkeypatch.setenv(devices.VISIBLE, "2")
    assert devices.devices() == ("",)


def test_a_process_is_given_its_card_and_nothing_where_there_is_none_to_give():
    assert devices.environment({"A": "1"}, "GPU-1") == {"A": "1", devices.VISIBLE: "GPU-1"}
    assert devices.environment({"A": "1"}, "") == {"A": "1"}
