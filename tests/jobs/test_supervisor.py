"""Runs on the other engine, with a program that stands for sd-scripts."""

import hashlib
import json
import os
import signal

import pytest

pytest.importorskip("torch")

from tests.engines import fake_sd_scripts
from tests.jobs.fakes import draw_pictures, wait_for
from tests.rights.fixtures import picture, xmp

from lora_atelier import events, locking
from lora_atelier.adapters import file as adapter_file
from lora_atelier.config import (
    DataConfig,
    DatasetConfig,
    ModelConfig,
    OutputConfig,
    SamplingConfig,
    ScheduleConfig,
    SubsetConfig,
    TrainConfig,
    ValidationConfig,
)
from lora_atelier.engines import sd_scripts
from lora_atelier.errors import ConfigError
from lora_atelier.jobs.sd_scripts_sitting import environment
from lora_atelier.jobs.service import Jobs
from lora_atelier.rights import scanning
from lora_atelier.rights.store import Store

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-in's Python is a shell script")


@pytest.fixture
def checkout(tmp_path):
    return fake_sd_scripts.make(tmp_path / "sd-scripts")


@pytest.fixture
def jobs(tmp_path):
    return Jobs(tmp_path / "ジョブ data")


@pytest.fixture
def config(tmp_path, write_header):
    shapes = {
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (1, 768),
        "first_stage_model.encoder.conv_in.weight": (1, 3, 3, 3),
    }
    model = write_header(tmp_path / "model.safetensors", shapes)
    subset = SubsetConfig(image_dir=str(draw_pictures(tmp_path / "わたしの絵", 4)))
    return TrainConfig(
        model=ModelConfig(base_model=str(model)),
        output=OutputConfig(name="もも", save_every_n_steps=4),
        schedule=ScheduleConfig(steps=10),
        sampling=SamplingConfig(prompts=("momo --d 7",), sample_at_first=False, every_n_steps=2),
        validation=ValidationConfig(split=0.0),
        data=DataConfig(datasets=(DatasetConfig(subsets=(subset,)),)),
    )


def start(jobs, config, checkout):
    run = jobs.add(config, trigger="momo", engine="sd-scripts", checkout=checkout)
    jobs.start(run)
    return run


def told(run, kind):
    return [timed.event for timed in events.read(run.events_path)[0] if isinstance(timed.event, kind)]


def check_metadata(result):
    """The LoRA says whose the pictures are, and nothing private."""
    stored = adapter_file.read(result)
    assert stored.metadata["ss_network_dim"] == "2" and stored.metadata["ss_steps"] == "10"
    assert '"basis": {"owner": 4}' in stored.metadata["atelier_rights"]
    assert stored.metadata["modelspec.trigger_phrase"] == "momo"
    assert stored.metadata["sshs_model_hash"] == adapter_file.model_hash(stored.tensors)
    assert "ss_tag_frequency" not in stored.metadata
    assert b"momo figure" not in result.read_bytes() and "わたしの絵".encode() not in result.read_bytes()
    assert result.with_suffix(".json").is_file()


def test_a_run_becomes_a_lora_and_its_events_are_those_of_our_own_trainer(jobs, config, checkout):
    run = start(jobs, config, checkout)
    view = wait_for(jobs, run, "finished", "failed", "died", seconds=60)

    assert view.status == "finished", f"{view.error} {run.log_tail()}"
    assert view.step == 10 and view.result == jobs.lora_dir / "もも.safetensors"
    assert [(event.step, event.state) for event in told(run, events.Saved)] == [
        (4, "step-000004"),
        (8, "step-000008"),
        (10, "step-000010"),
    ]
    assert told(run, events.Started)[0].pictures == 4
    assert [event.loss for event in told(run, events.Validated)] == [0.123457]
    assert told(run, events.Sampled) == [events.Sampled(step=2, file="step-000002-01.png", prompt="momo", seed=7)]
    assert (run.samples_dir / "step-000002-01.png").is_file()
    assert sorted(path.name for path in run.state_dir.iterdir()) == ["latest", "step-000008", "step-000010"]
    # What it worked in is gone, and so are the second names of the pictures.
    assert not (run.path / "sd-scripts").exists()
    check_metadata(view.result)


def test_stopping_keeps_the_state_and_going_on_makes_the_steps_that_are_left(jobs, config, checkout, monkeypatch):
    monkeypatch.setenv("ATELIER_FAKE_PACE", "0.3")
    run = start(jobs, config, checkout)
    while jobs.view(run).step < 2:
        assert jobs.view(run).status == "running", run.log_tail()
    jobs.stop(run)
    stopped = wait_for(jobs, run, "stopped", "failed", "died", seconds=60)
    assert stopped.status == "stopped" and 2 <= stopped.step < 8

    monkeypatch.setenv("ATELIER_FAKE_PACE", "0.01")
    jobs.resume(run)
    view = wait_for(jobs, run, "finished", "failed", "died", seconds=60)

    assert view.status == "finished", f"{view.error} {run.log_tail()}"
    assert told(run, events.Started)[-1] == events.Started(steps=10, resumed_from=stopped.step, pictures=4)
    assert view.step == 10


def test_what_may_not_be_used_never_reaches_it_also_when_it_goes_on(jobs, config, checkout, tmp_path, monkeypatch):
    folder, seen = tmp_path / "わたしの絵", tmp_path / "seen.jsonl"
    (folder / "forbidden.png").write_bytes(picture("PNG", xmp("DMI-PROHIBITED"), color="blue", size=(48, 32)))
    (folder / "gone.png").write_bytes(picture("PNG", color="green", size=(48, 32)))
    store = Store(jobs.data_dir)

    def withdraw(name):
        ledger = scanning.scan(folder, sorted(path.name for path in folder.glob("*.png")), store=store)
        ledger.withdraw([ledger.by_name(name).item_id], by="Ada")
        scanning.keep(ledger, folder, store)

    withdraw("gone.png")
    monkeypatch.setenv("ATELIER_FAKE_SEEN", str(seen))
    monkeypatch.setenv("ATELIER_FAKE_PACE", "0.3")
    run = start(jobs, config, checkout)
    while jobs.view(run).step < 2:
        assert jobs.view(run).status == "running", run.log_tail()
    jobs.stop(run)
    wait_for(jobs, run, "stopped", "failed", "died", seconds=60)
    withdraw("3.png")
    monkeypatch.setenv("ATELIER_FAKE_PACE", "0.01")
    jobs.resume(run)
    assert wait_for(jobs, run, "finished", "failed", "died", seconds=60).status == "finished", run.log_tail()

    hashes = [hashlib.sha256((folder / f"{number}.png").read_bytes()).hexdigest() for number in range(4)]
    first, second = (json.loads(line) for line in seen.read_text().splitlines())
    assert (sorted(first), sorted(second)) == (sorted(hashes), sorted(hashes[:3]))


def test_a_killed_run_leaves_nobody_training_and_goes_on_from_its_last_state(jobs, config, checkout, monkeypatch):
    monkeypatch.setenv("ATELIER_FAKE_PACE", "0.2")
    run = start(jobs, config, checkout)
    while not told(run, events.Saved):
        assert jobs.view(run).status == "running", run.log_tail()
    os.kill(locking.holder(run.lock_path), signal.SIGKILL)
    assert "goes on from step 4" in str(wait_for(jobs, run, "died", seconds=20).error.todo)

    monkeypatch.setenv("ATELIER_FAKE_PACE", "0.01")
    jobs.resume(run)
    assert wait_for(jobs, run, "finished", "failed", "died", seconds=60).status == "finished", run.log_tail()
    assert told(run, events.Started)[-1].resumed_from == 4


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        ("fail", "not enough memory"),
        ("nan", "its loss is no longer a number"),
        ("nothing", "no picture to train on"),
    ],
)
def test_what_goes_wrong_in_it_is_one_sentence(jobs, config, checkout, monkeypatch, behave, words):
    monkeypatch.setenv("ATELIER_FAKE", behave)
    run = start(jobs, config, checkout)
    view = wait_for(jobs, run, "finished", "failed", "died", seconds=60)

    assert view.status == "failed"
    assert words in str(view.error)


def test_a_lora_is_not_published_if_its_pictures_changed_meanwhile(jobs, config, checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("ATELIER_FAKE_PACE", "0.2")
    run = start(jobs, config, checkout)
    while jobs.view(run).step < 2:
        assert jobs.view(run).status == "running", run.log_tail()
    with (tmp_path / "わたしの絵" / "1.png").open("r+b") as file:
        file.write(b"other")

    view = wait_for(jobs, run, "finished", "failed", "died", seconds=60)
    assert view.status == "failed" and "“1.png” is no longer the picture" in str(view.error)
    assert not list(jobs.lora_dir.glob("*.safetensors"))


def test_a_job_for_it_is_refused_before_anything_is_made_where_there_is_none(jobs, config, monkeypatch):
    monkeypatch.delenv(sd_scripts.VARIABLE, raising=False)

    with pytest.raises(ConfigError, match=r"install\.py sd-scripts"):
        jobs.add(config, trigger="momo", engine="sd-scripts")
    assert jobs.list() == []


def test_it_sees_neither_our_package_nor_the_webuis_variables_and_no_network():
    seen = environment({"PYTHONPATH": "ours", "VIRTUAL_ENV": "webui", "HF_TOKEN": "secret", "PATH": "/bin"})

    assert not {"PYTHONPATH", "VIRTUAL_ENV", "HF_TOKEN"} & seen.keys()
    assert seen["PATH"] == "/bin" and seen["HF_HUB_OFFLINE"] == "1"
