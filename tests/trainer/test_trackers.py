"""TensorBoard and Weights & Biases: told where asked for, said where missing, never worth a run."""

import importlib.util
import sys
import types
from typing import ClassVar

import pytest
from tests.trainer.test_resume import adapter, make, same, told

from lora_atelier import events
from lora_atelier.config import OutputConfig, SamplingConfig
from lora_atelier.errors import ExtensionError
from lora_atelier.trainer import trackers
from lora_atelier.trainer.run import FAILED, FINISHED, run


class Writer:
    """A SummaryWriter that remembers."""

    made: ClassVar[list] = []

    def __init__(self, folder, purge_step=None, flush_secs=0):
        self.folder, self.purge_step, self.said, self.closed = folder, purge_step, [], False
        Writer.made.append(self)

    def add_scalar(self, name, value, step):
        self.said.append((name, step))

    def add_image(self, name, pixels, step, dataformats):
        assert dataformats == "HWC" and pixels.shape == (64, 64, 3)
        self.said.append((name, step))

    def close(self):
        self.closed = True


@pytest.fixture
def tensorboard(monkeypatch):
    """As if the package were installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "tensorboard" else real(name))
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [])
    monkeypatch.setattr("lora_atelier.trainer.loop.REPORT_EVERY_S", 0.0)


@pytest.fixture
def nothing_installed(monkeypatch):
    real = importlib.util.find_spec
    missing = ("tensorboard", "wandb")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else real(name))


def output(run_dir, **settings):
    folder = str(run_dir / "loras")
    return OutputConfig(name="momo", folder=folder, save_every_n_steps=2, precision="float", **settings)


def test_tensorboard_is_told_losses_rates_and_samples(tmp_path, tiny_model_folder, pictures, tensorboard):
    logs = output(tmp_path / "run", log_with="tensorboard", logging_dir=str(tmp_path / "logs"), log_prefix="a-")
    sampling = SamplingConfig(prompts=("momo --w 64 --h 64 --s 1",))
    made = make(tmp_path / "run", tiny_model_folder, pictures, output=logs, sampling=sampling)
    plain = make(tmp_path / "plain", tiny_model_folder, pictures)

    assert run(made) == run(plain) == FINISHED

    (writer,) = Writer.made
    assert writer.folder == str(tmp_path / "logs" / "a-run" / "momo") and writer.closed
    assert [step for name, step in writer.said if name == "loss/train"] == [1, 2, 3, 4, 5, 6]
    assert {("lr", 3), ("loss/heldout", 3), ("sample/01", 0), ("sample/01", 6)} <= set(writer.said)
    assert same(adapter(made), adapter(plain))


def test_a_tracker_that_is_asked_for_and_missing_is_said_before_the_model_is_read(
    tmp_path, tiny_model_folder, pictures, nothing_installed, monkeypatch
):
    made = make(tmp_path / "run", tiny_model_folder, pictures, output=output(tmp_path / "run", log_with="wandb"))
    monkeypatch.setattr("lora_atelier.models.load.load", None)

    assert run(made) == FAILED

    error = str(ExtensionError.from_json(told(made, events.Failed)[0].error))
    assert "log_with asks for Weights & Biases" in error and "-m pip install wandb" in error


def test_one_that_a_recipe_only_implies_and_is_missing_is_no_matter(
    tmp_path, tiny_model_folder, pictures, nothing_installed
):
    logs = output(tmp_path / "run", logging_dir=str(tmp_path / "logs"))
    made = make(tmp_path / "run", tiny_model_folder, pictures, output=logs)

    assert run(made) == FINISHED

    assert trackers.wanted(logs) == ("tensorboard",) and not (tmp_path / "logs").exists()


def test_one_that_fails_is_dropped_with_a_warning_and_the_run_goes_on(
    tmp_path, tiny_model_folder, pictures, tensorboard, monkeypatch
):
    def fail(self, *args):
        raise OSError("no room")

    monkeypatch.setattr(Writer, "add_scalar", fail)
    made = make(tmp_path / "run", tiny_model_folder, pictures, output=output(tmp_path / "run", log_with="tensorboard"))

    assert run(made) == FINISHED

    said = [w.message for w in told(made, events.Warned) if "told nothing more" in w.message["template"]]
    assert [each["values"]["reason"] for each in said] == ["no room"]


def test_wandb_gets_one_run_for_all_sittings_and_stays_here_without_a_key(
    tmp_path, tiny_model_folder, pictures, monkeypatch
):
    said = []

    class Run:
        def log(self, values, step):
            said.append((sorted(values), step))

        def finish(self):
            said.append("finished")

    module = types.ModuleType("wandb")
    module.init = lambda **given: said.append(given) or Run()
    module.Image = str
    monkeypatch.setitem(sys.modules, "wandb", module)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "wandb" else real(name))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    settings = {"log_with": "wandb", "log_tracker_name": "dolls", "wandb_run_name": "first"}
    made = make(tmp_path / "run", tiny_model_folder, pictures, output=output(tmp_path / "run", **settings))

    assert run(made) == FINISHED

    given = said[0]
    assert (given["project"], given["name"], given["id"], given["mode"]) == ("dolls", "first", "run", "offline")
    assert said[-1] == "finished" and (["loss/heldout"], 3) in said
    assert "WANDB_API_KEY" in told(made, events.Warned)[0].message["template"]
