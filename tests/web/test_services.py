import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.jobs.fakes import FAKE_TRAINER, draw_pictures, wait_for, write_model_headers

from lora_atelier.hosts.base import Checkpoint
from lora_atelier.hosts.lease import Lease
from lora_atelier.jobs.service import JobForm, Jobs
from lora_atelier.loader.catalogue import Catalogue
from lora_atelier.models.detect import inspect
from lora_atelier.rights import signals
from lora_atelier.web.access import Access
from lora_atelier.web.services import services

pytestmark = pytest.mark.torchfree


class Card:
    """A graphics card, and what was done with it."""

    def __init__(self):
        self.told, self.lock = [], threading.Lock()
        self.lease = Lease(
            release=lambda: self.told.append("released"),
            take_back=lambda: self.told.append("taken back"),
            lock=lambda: self.lock,
        )


@pytest.fixture
def card():
    return Card()


@pytest.fixture
def host(tmp_path, card):
    return SimpleNamespace(
        id="a host",
        data_dir=tmp_path / "data",
        lease=card.lease,
        catalogue=Catalogue([]),
        lora_dirs=lambda: [tmp_path / "loras"],
        refresh_adapters=lambda: card.told.append("refreshed"),
        checkpoints=list,
    )


def test_a_host_gives_its_folders_and_its_usable_models_the_chosen_one_first(tmp_path, card):
    first, chosen = (inspect(write_model_headers(tmp_path / name)) for name in ("a", "b"))
    broken = Checkpoint(tmp_path / "c", "c")
    host = SimpleNamespace(
        id="a host",
        lease=card.lease,
        data_dir=tmp_path / "data",
        catalogue=Catalogue([]),
        lora_dirs=lambda: [tmp_path / "loras"],
        current=lambda: chosen,
        refresh_adapters=lambda: None,
        checkpoints=lambda: [Checkpoint(first.path, "a", first), broken, Checkpoint(chosen.path, "b", chosen)],
    )

    made = services(host)

    assert made.base_models() == [chosen, first]
    assert made.jobs.lora_dir == tmp_path / "loras"
    assert made.uploads.refusal is signals.refusal
    assert made.uploads.folder == tmp_path / "data" / "uploads"
    assert made.regularisation(chosen) is None
    assert isinstance(made.jobs.data_dir, Path)


@pytest.fixture
def going_on(tmp_path):
    """A training that a program started which is gone."""
    jobs = Jobs(tmp_path / "data", command=FAKE_TRAINER)
    form = JobForm(
        name="momo", trigger="momo", goal="object", whose="mine",
        pictures=draw_pictures(tmp_path / "pictures"), base_model=write_model_headers(tmp_path / "model"),
    )  # fmt: skip
    run = jobs.create(form)
    (run.path / "behave").write_text("wait")
    jobs.start(run)
    while jobs.view(run).step < 3:
        pass
    yield jobs, run
    if jobs.view(run).status == "running":
        jobs.stop(run)
        wait_for(jobs, run, "stopped")


def test_a_training_that_is_found_again_gets_the_card_and_gives_it_back(host, card, going_on):
    jobs, run = going_on

    made = services(host)
    made.queue.tick()

    assert card.told == ["released"]
    said = str(card.lease.going_on())
    assert "step 3 of" in said and "minutes left" in said
    jobs.stop(run)
    wait_for(jobs, run, "stopped")
    made.queue.tick()
    assert card.told == ["released", "refreshed", "taken back"]
    assert card.lease.going_on() is None
    made.queue.end()


def test_a_page_shares_the_card_and_takes_that_back(host, card, going_on):
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from tests.web.conftest import connect

    made = services(host, access=Access(names=frozenset({"testserver"})))
    made.queue.tick()
    client, v1 = connect(made), "/lora-atelier/v1"
    live = client.get(f"{v1}/runs/{going_on[1].id}/live").json()
    assert live["gpu"] == {"mode": "wait", "lent": True, "shared": False, "waiting": 0}
    assert live["run"]["card"] == 0  # there is nothing to choose from

    assert client.post(f"{v1}/gpu", json={"share": True}).json()["gpu"]["shared"]
    assert not client.post(f"{v1}/gpu", json={"share": False}).json()["gpu"]["shared"]
    assert client.get(f"{v1}/runs").json()["waits_for_picture"] is False
    made.queue.end()
