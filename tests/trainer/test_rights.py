"""Rights in real runs: what reaches the data loader, and what the finished file says and proves."""

import importlib.util
import json
from pathlib import Path

import pytest
from tests.rights.fixtures import picture, xmp

from lora_atelier.adapters import file as adapter_file
from lora_atelier.config import ScheduleConfig
from lora_atelier.datasets import record
from lora_atelier.rights import credentials, scanning, signature
from lora_atelier.rights.store import Store
from lora_atelier.trainer.run import FAILED, FINISHED, run

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
