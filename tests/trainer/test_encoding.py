"""Pictures are encoded when a step first needs them: sooner at the first step, and nothing else is another for it."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from lora_atelier import config_files, events
from lora_atelier.config import DataConfig, NetworkConfig, SamplingConfig, ScheduleConfig, ValidationConfig
from lora_atelier.trainer import preparation
from lora_atelier.trainer.loop import Loop
from lora_atelier.trainer.preparation import Preparation
from lora_atelier.trainer.run import FINISHED, run

_spec = importlib.util.spec_from_file_location("resume_helpers", Path(__file__).with_name("test_resume.py"))
helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helpers)
told, adapter, same = helpers.told, helpers.adapter, helpers.same

UNTESTED = ValidationConfig(split=0.2, every_n_steps=3, memorisation=0.0)


def make(run_dir, model, pictures, **changes):
    changes = {"network": NetworkConfig(rank=4, alpha=2.0), "schedule": ScheduleConfig(steps=6, seed=5), **changes}
    return helpers.make(run_dir, model, pictures, **changes)


@pytest.fixture
def encoded(monkeypatch):
    """The shapes of all pictures that were encoded, in order."""
    shapes, real = [], preparation.Model.encode_images
    monkeypatch.setattr(
        preparation.Model, "encode_images", lambda self, pixels: shapes.append(pixels.shape) or real(self, pixels)
    )
    return shapes


@pytest.fixture
def at_steps(monkeypatch, encoded):
    """How many sides of pictures were encoded when each step began."""
    found, real = [], Loop._optimize
    monkeypatch.setattr(Loop, "_optimize", lambda self: found.append(len(encoded)) or real(self))
    return found


@pytest.fixture
def prepared(monkeypatch):
    """What every run was prepared with."""
    found, real = [], Preparation.prepare
    monkeypatch.setattr(Preparation, "prepare", lambda self: found.append(real(self)) or found[-1])
    return found


def test_the_first_step_waits_for_its_own_pictures_alone(tmp_path, tiny_model_folder, pictures, at_steps, encoded):
    made = make(tmp_path / "data" / "runs" / "1", tiny_model_folder, pictures)

    assert run(made) == FINISHED

    # Two held out and a batch of three at most, each plain and mirrored; later steps add those that are new to them.
    assert at_steps[0] <= 10 < at_steps[-1] == len(encoded) <= 18
    told_of = [event for event in told(made, events.Preparing) if event.stage == "latents"]
    assert told_of[-1].done == told_of[-1].total <= 5


def test_the_lora_is_the_same_as_if_all_had_been_encoded_first(tmp_path, tiny_model_folder, pictures, monkeypatch):
    ways = [make(tmp_path / name / "runs" / "1", tiny_model_folder, pictures) for name in ("later", "first")]

    assert run(ways[0]) == FINISHED
    monkeypatch.setattr(Preparation, "_first", lambda self, drafts: list(drafts))
    assert run(ways[1]) == FINISHED

    assert same(*map(adapter, ways))
    assert [e.loss for e in told(ways[0], events.Validated)] == [e.loss for e in told(ways[1], events.Validated)]


def test_on_a_card_all_are_encoded_before_the_unet_is_read(
    tmp_path, tiny_model_folder, pictures, prepared, monkeypatch
):
    real = Preparation._first

    def first(self, drafts):
        class Card:
            type = "cuda"

        device, self.device = self.device, Card()
        try:
            return real(self, drafts)
        finally:
            self.device = device

    monkeypatch.setattr(Preparation, "_first", first)
    assert run(make(tmp_path / "data" / "runs" / "1", tiny_model_folder, pictures)) == FINISHED

    assert prepared[0].encoder._seconds and not prepared[0].encoder.waiting


def test_pictures_that_go_away_meanwhile_are_trained_on_all_the_same(
    tmp_path, tiny_model_folder, pictures, monkeypatch
):
    runs = [make(tmp_path / name / "runs" / "1", tiny_model_folder, pictures) for name in "12"]
    assert run(runs[0]) == FINISHED
    real = Preparation.prepare

    def prepare(self):
        made = real(self)
        for path in pictures.glob("*.png"):
            Image.new("RGB", (64, 64), "red").save(path)
        return made

    monkeypatch.setattr(Preparation, "prepare", prepare)
    assert run(runs[1]) == FINISHED

    assert same(*map(adapter, runs))


def test_what_is_not_held_in_memory_is_encoded_first(tmp_path, tiny_model_folder, pictures, prepared, monkeypatch):
    monkeypatch.setattr("lora_atelier.trainer.encoding._HELD_BYTES", 0)
    waiting, real = [], Loop.run
    monkeypatch.setattr(Loop, "run", lambda self, **rest: waiting.append(self.encoder.waiting) or real(self, **rest))

    assert run(make(tmp_path / "data" / "runs" / "1", tiny_model_folder, pictures)) == FINISHED

    assert prepared[0].encoder._seconds and waiting == [0]


def test_a_picture_that_is_another_at_each_step_does_not_wait(tmp_path, tiny_model_folder, pictures, monkeypatch):
    waiting, real = [], Loop.run
    monkeypatch.setattr(Loop, "run", lambda self, **rest: waiting.append(self.encoder.waiting) or real(self, **rest))
    made = make(tmp_path / "data" / "runs" / "1", tiny_model_folder, pictures)
    config = config_files.read(made)
    (dataset,) = config.data.datasets
    subsets = (dataclasses.replace(dataset.subsets[0], random_crop=True),)
    data = DataConfig(datasets=(dataclasses.replace(dataset, subsets=subsets),))
    memory = dataclasses.replace(config.memory, cache_latents=False)
    config_files.write(dataclasses.replace(config, data=data, memory=memory), made)

    assert run(made) == FINISHED

    assert waiting == [0]


def test_the_vae_goes_with_the_last_picture_and_its_decoder_at_once(
    tmp_path, tiny_model_folder, pictures, prepared, monkeypatch
):
    decoders, was_there, real = [], [], Loop._optimize

    def optimize(self):
        model = self.encoder._model
        was_there.append(model is not None)
        decoders.append(None if model is None else model.vae.decoder)
        assert (model is None) == (not self.encoder.waiting)
        return real(self)

    monkeypatch.setattr(Loop, "_optimize", optimize)
    schedule = ScheduleConfig(steps=40, seed=5)
    assert run(make(tmp_path / "data" / "runs" / "1", tiny_model_folder, pictures, schedule=schedule)) == FINISHED

    assert was_there[0] and not was_there[-1]
    assert prepared[0].encoder._model is None and decoders == [None] * 40


def test_samples_are_drawn_with_the_vae_that_encodes(tmp_path, tiny_model_folder, pictures, prepared):
    sampling = SamplingConfig(prompts=("momo --w 64 --h 64 --s 1",), every_n_steps=2)
    made = make(tmp_path / "data" / "runs" / "1", tiny_model_folder, pictures, sampling=sampling)

    assert run(made) == FINISHED

    assert prepared[0].model.vae is prepared[0].encoder._model.vae
    assert len(told(made, events.Sampled)) >= 3 and not told(made, events.Warned)


def test_what_is_left_to_encode_counts_among_the_seconds_to_come(tmp_path, tiny_model_folder, pictures, prepared):
    assert run(make(tmp_path / "data" / "runs" / "1", tiny_model_folder, pictures, validation=UNTESTED)) == FINISHED
    encoder = prepared[0].encoder
    encoder._seconds = [2.0, 5.0, 2.0]
    for encoded in encoder._all:
        encoded.found = [None] * len(encoded)

    assert encoder.waiting == 18
    assert encoder.left_s(100) == 36.0 and encoder.left_s(3) == 6.0
    encoder._seconds = []
    assert encoder.left_s(100) == 0.0
