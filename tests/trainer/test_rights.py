"""Rights in real runs: what reaches the data loader, and what the finished file says and proves."""

import dataclasses
import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest
from tests.rights.fixtures import picture, xmp

from lora_atelier import config_files
from lora_atelier.adapters import file as adapter_file
from lora_atelier.config import DataConfig, ScheduleConfig, SubsetConfig
from lora_atelier.datasets import record
from lora_atelier.rights import credentials, scanning, signature
from lora_atelier.rights.showings import Showings
from lora_atelier.rights.store import Store
from lora_atelier.trainer import loop, session
from lora_atelier.trainer.run import FAILED, FINISHED, STOPPED, run

_spec = importlib.util.spec_from_file_location("resume_helpers", Path(__file__).with_name("test_resume.py"))
helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helpers)


@pytest.fixture
def made(tmp_path, tiny_model_folder, pictures):
    """A run in a data folder, whose pictures hold a prohibited one and one that was withdrawn."""
    (pictures / "forbidden.png").write_bytes(picture("PNG", xmp("DMI-PROHIBITED"), color="blue", size=(64, 64)))
    (pictures / "gone.png").write_bytes(picture("PNG", color="green", size=(64, 64)))
    data_dir = tmp_path / "data"
    names = sorted(path.name for path in pictures.glob("*.png"))
    ledger = scanning.scan(pictures, names, store=Store(data_dir))
    creator = {"name": "Very Private Name", "credit_as": "Momo Studio", "credit_optin": True}
    ledger.state({"creators": [creator, {"name": "Shy Person"}], "title": "a private title"}, by="Somebody Private")
    ledger.withdraw([ledger.by_name("gone.png").item_id], by="Somebody Private")
    scanning.keep(ledger, pictures, Store(data_dir))
    run_dir = data_dir / "runs" / "20300101-momo"
    return helpers.make(run_dir, tiny_model_folder, pictures, schedule=ScheduleConfig(steps=2))


def test_what_may_not_be_used_never_reaches_the_data_loader_and_the_file_is_signed(made, pictures, tmp_path):
    pytest.importorskip("cryptography")
    assert run(made) == FINISHED

    # The list that the trainer itself keeps of what it learned from.
    assert sorted(entry.name for entry in record.read(made / record.FILE)) == [f"{n}.png" for n in range(9)]
    lora = made / "loras" / "momo.safetensors"
    assert signature.verify(lora).state == "signed"
    said = credentials.read(lora)
    assert (said["pictures"], said["refused"], said["credits"]) == (9, 2, ["Momo Studio"])
    data = lora.read_bytes()
    private = ("Private", "Shy", "private title", "forbidden", "gone", "絵", str(tmp_path), "momo 0", "0.png")
    assert [word for word in private if word.encode() in data] == []
    assert credentials.contains(lora, pictures / "1.png", tmp_path / "data").answer == "contained"
    assert credentials.contains(lora, pictures / "gone.png", tmp_path / "data").answer == "not contained"
    again = adapter_file.read(lora)
    assert adapter_file.model_hash(again.tensors) == again.metadata["sshs_model_hash"]


def test_a_run_does_not_go_on_with_a_picture_that_was_withdrawn_meanwhile(made, pictures, tmp_path):
    assert run(made) == FINISHED
    store = Store(tmp_path / "data")
    ledger = scanning.open_ledger(pictures, store)
    ledger.withdraw([ledger.by_name("1.png").item_id], by="A")
    scanning.keep(ledger, pictures, store)

    assert run(made) == FAILED

    failed = [json.loads(line) for line in (made / "events.jsonl").read_text(encoding="utf-8").splitlines()][-1]
    assert "its pictures are not those that it began with" in json.dumps(failed)


def test_every_lora_on_the_way_is_stamped_and_signed_as_the_last_one_is(made, pictures):
    pytest.importorskip("cryptography")
    again = helpers.make(made, _model(made), pictures, schedule=ScheduleConfig(steps=6))

    assert run(again) == FINISHED

    final = again / "loras" / "momo.safetensors"
    said = credentials.read(final)
    on_the_way = [*(again / "checkpoints").glob("*.safetensors"), *(again / "best").glob("*.safetensors")]
    assert len(on_the_way) >= 3
    for path in on_the_way:
        assert credentials.read(path) == said
        assert signature.verify(path) == signature.verify(final) and signature.verify(path).state == "signed"


def test_how_often_each_picture_was_shown_is_what_the_steps_saw(made, pictures, monkeypatch):
    """Also over a stop, with several batches a step, and with one picture that comes twice as often."""
    (pictures / "2_twice").mkdir()
    (pictures / "2_twice" / "extra.png").write_bytes(picture("PNG", color="orange", size=(64, 64)))
    config = config_files.read(made)
    dataset = config.data.datasets[0]
    more = SubsetConfig(image_dir=str(pictures / "2_twice"), num_repeats=2, class_tokens="momo")
    data = DataConfig(datasets=(dataclasses.replace(dataset, subsets=(*dataset.subsets, more)),))
    schedule = ScheduleConfig(steps=7, accumulation=2, seed=3)
    config_files.write(dataclasses.replace(config, data=data, schedule=schedule), made)
    seen, sessions = Counter(), []
    batch, train = loop.Loop._batch, session.Session.train

    def counted(self, places, number):
        seen.update(sessions[-1].results.pictures.train[place.index].path.name for place in places)
        return batch(self, places, number)

    def noted(self):
        sessions.append(self)
        return train(self)

    monkeypatch.setattr(loop.Loop, "_batch", counted)
    monkeypatch.setattr(session.Session, "train", noted)
    with monkeypatch.context() as patch:
        helpers.stop_after(patch, 3)
        assert run(made) == STOPPED
    (made / "stop").unlink()
    assert run(made) == FINISHED

    noted_down = Showings.read(made)
    names = {entry.sha256: entry.name for entry in record.read(made / record.FILE)}
    assert noted_down.step == 7
    assert {names[sha256]: count for sha256, count in noted_down.counts.items() if count} == dict(seen)
    assert set(names) == set(noted_down.counts) and 0 in noted_down.counts.values()  # those that are held out


def test_a_lora_that_goes_on_from_another_says_what_both_permit(made, pictures, tmp_path):
    """One that permits less, and names others, can't be washed by training on it."""
    assert run(made) == FINISHED
    start = made / "loras" / "momo.safetensors"
    said = {**credentials.read(start), "credits": ["Ada"], "sharing": False}
    said["permits"] = {**said["permits"], "commercial_output": "no"}
    stored = adapter_file.read(start)
    adapter_file.write(start, stored.tensors, {**stored.metadata, "atelier_rights": json.dumps(said)})
    network = dataclasses.replace(config_files.read(made).network, network_weights=str(start))
    again = helpers.make(
        tmp_path / "data" / "runs" / "20300102-momo",
        _model(made),
        pictures,
        schedule=ScheduleConfig(steps=1),
        network=network,
    )

    assert run(again) == FINISHED

    now = credentials.read(again / "loras" / "momo.safetensors")
    assert now["permits"]["commercial_output"] == "no" and now["permits"]["train"] == "yes"
    assert now["credits"] == ["Momo Studio", "Ada"] and now["sharing"] is False
    assert now["made_from"] == [{"profile": "own-work", "root": said["root"]}]
    assert any("goes on from 1 other" in str(one) for one in credentials.sentences(now))


def _model(run_dir):
    return config_files.read(run_dir).model.base_model
