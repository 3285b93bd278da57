"""However a training is started, what may not be used never reaches it (acceptance test C2).

The trainer's own list of what it learned from is read, not what a page shows. The other engine, which is given a folder
of its own, is held to the same in ``tests/jobs/test_supervisor.py``.
"""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
from tests.rights.fixtures import picture, xmp

from lora_atelier import cli, config_files, train_check
from lora_atelier.config import (
    DataConfig,
    DatasetConfig,
    ModelConfig,
    NetworkConfig,
    ScheduleConfig,
    SubsetConfig,
    TrainConfig,
    to_kohya,
)
from lora_atelier.datasets import record
from lora_atelier.jobs.run_dir import RunDir
from lora_atelier.jobs.service import Jobs
from lora_atelier.loader.catalogue import Catalogue
from lora_atelier.models.detect import inspect
from lora_atelier.rights import credentials, scanning
from lora_atelier.rights.store import Store
from lora_atelier.trainer.run import FINISHED, STOPPED, run
from lora_atelier.web.access import Access
from lora_atelier.web.services import Services
from lora_atelier.web.uploads import Uploads

_spec = importlib.util.spec_from_file_location("resume_helpers", Path(__file__).with_name("test_resume.py"))
helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helpers)

# The run is trained here instead, so that no second process has to read a model.
NOTHING = [sys.executable, "-c", ""]
ALLOWED = [f"{number}.png" for number in range(9)]


@pytest.fixture
def jobs(tmp_path):
    return Jobs(tmp_path / "data", command=NOTHING)


@pytest.fixture
def mixed(pictures, jobs):
    """The folder of nine pictures with one that forbids training, one that was withdrawn, and a copy of the forbidden
    one that lost what its file said."""
    forbidden = picture("PNG", xmp("DMI-PROHIBITED-AIMLTRAINING"), color="blue", size=(64, 64))
    (pictures / "forbidden.png").write_bytes(forbidden)
    (pictures / "gone.png").write_bytes(picture("PNG", color="green", size=(64, 64)))
    store = Store(jobs.data_dir)
    ledger = scanning.scan(pictures, sorted(path.name for path in pictures.glob("*.png")), store=store)
    ledger.withdraw([ledger.by_name("gone.png").item_id], by="Ada")
    scanning.keep(ledger, pictures, store)
    (pictures / "stripped.png").write_bytes(picture("PNG", color="blue", size=(64, 64), compress_level=0))
    return pictures


def config(model, folder, steps=2):
    dataset = DatasetConfig(subsets=(SubsetConfig(image_dir=str(folder)),), resolution=(64, 64), min_bucket_reso=32)
    return TrainConfig(
        model=ModelConfig(base_model=str(model), v_parameterization=True),
        network=NetworkConfig(rank=2, train_te=False),
        schedule=ScheduleConfig(steps=steps),
        data=DataConfig(datasets=(dataset,)),
    )


def from_the_page(jobs, model, folder, tmp_path):
    """The page's own calls: the folder is opened, one of its pictures is taken away there, the form is sent."""
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    from lora_atelier.web.routes import router

    services = Services(
        jobs=jobs,
        uploads=Uploads(jobs.data_dir / "uploads"),
        catalogue=Catalogue([jobs.lora_dir]),
        base_models=lambda: [inspect(model)],
        access=Access(names=frozenset({"testserver"})),
    )
    app = fastapi.FastAPI()
    app.include_router(router(services))
    client = TestClient(app, headers={"X-Atelier-Token": services.access.token})
    upload = client.post("/lora-atelier/v1/folder", json={"path": str(folder)}).json()["upload"]
    changed = client.put(f"/lora-atelier/v1/uploads/{upload}/captions/1.png", json={"text": "another"})
    assert changed.json()["caption"] == "another"
    form = {"name": "momo", "trigger": "momo", "goal": "character", "whose": "mine", "upload": upload}
    form["changes"] = {"schedule.steps": 2, "schedule.warmup": 0}
    answer = client.post("/lora-atelier/v1/runs", json={"form": form}).json()
    assert "run" in answer, answer
    return RunDir(jobs.data_dir / "runs" / answer["run"]["id"])


def from_the_command_line(jobs, model, folder, tmp_path, monkeypatch):
    main, dataset = to_kohya(config(model, folder))
    main.pop("dataset_config", None)
    (tmp_path / "c.toml").write_text(config_files.dump_toml(main), encoding="utf-8")
    (tmp_path / "d.toml").write_text(config_files.dump_toml(dataset), encoding="utf-8")
    monkeypatch.setattr(cli, "_jobs_of", lambda options: jobs)
    monkeypatch.setattr(train_check, "device", lambda: "cpu")
    words = ["--config_file", str(tmp_path / "c.toml"), "--dataset_config", str(tmp_path / "d.toml")]
    cli.main(["train", *words, "--trigger", "momo", "--data-dir", str(jobs.data_dir)])
    (made,) = (jobs.data_dir / "runs").iterdir()
    return RunDir(made)


def from_a_program(jobs, model, folder, tmp_path):
    return jobs.add(config(model, folder), trigger="momo")


def learned_from(made):
    """The names that the trainer itself notes, in its order."""
    return sorted(entry.name for entry in record.read(made.path / record.FILE))


@pytest.mark.parametrize("start", [from_the_page, from_the_command_line, from_a_program])
def test_what_may_not_be_used_never_reaches_the_trainer(start, jobs, tiny_model_folder, mixed, tmp_path, request):
    more = (request.getfixturevalue("monkeypatch"),) if start is from_the_command_line else ()
    made = start(jobs, tiny_model_folder, mixed, tmp_path, *more)

    assert run(made.path) == FINISHED

    assert learned_from(made) == ALLOWED
    (lora,) = jobs.lora_dir.glob("*.safetensors")
    assert credentials.read(lora)["refused"] == 3


def test_a_resumed_run_takes_nothing_up_that_may_not_be_used(jobs, tiny_model_folder, mixed, tmp_path, monkeypatch):
    made = jobs.add(config(tiny_model_folder, mixed), trigger="momo")
    with monkeypatch.context() as patch:
        helpers.stop_after(patch, 1)
        assert run(made.path) == STOPPED
    (made.path / "stop").unlink()
    late = picture("PNG", xmp("DMI-PROHIBITED"), color="yellow", size=(64, 64))
    (mixed / "late.png").write_bytes(late)

    assert run(made.path) == FINISHED

    assert learned_from(made) == ALLOWED
    (lora,) = jobs.lora_dir.glob("*.safetensors")
    assert credentials.read(lora)["refused"] == 4


def test_a_studios_rules_go_along_when_the_page_copies_its_pictures(jobs, tiny_model_folder, mixed):
    """A caption that was changed in the page makes the run's own folder of pictures; the folder's record goes along."""
    from lora_atelier.jobs.forms import JobForm

    store = Store(jobs.data_dir)
    ledger = scanning.open_ledger(mixed, store)
    ledger.state({"profile": "studio"}, by="Ada")
    scanning.keep(ledger, mixed, store)
    form = JobForm(
        name="momo",
        trigger="momo",
        goal="character",
        whose="mine",
        pictures=mixed,
        base_model=tiny_model_folder,
        captions={"1.png": "another"},
    )
    made = jobs.create(dataclasses.replace(form, changes={"schedule.steps": 2, "schedule.warmup": 0}))

    assert run(made.path) != FINISHED  # nothing shows why they may be used

    assert "it is not stated why it may be used" in (made.path / "events.jsonl").read_text(encoding="utf-8")
