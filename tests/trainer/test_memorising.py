"""Acceptance tests F1 to F3 on a tiny model; on the real base model they are in test_memorising_real.py (slow)."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_atelier.adapters import file as adapter_file
from lora_atelier.config import NetworkConfig, OutputConfig, ScheduleConfig, ValidationConfig
from lora_atelier.models.layers import target_layers
from lora_atelier.rights import memorisation, memorisation_cost, references
from lora_atelier.trainer import examiner
from lora_atelier.trainer.network import LoraNetwork
from lora_atelier.trainer.run import FINISHED, run

_spec = importlib.util.spec_from_file_location("resume_helpers", Path(__file__).with_name("test_resume.py"))
helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helpers)


@pytest.fixture
def pictures(tmp_path):
    """Four pictures of many edges, the second one in a folder of its own name."""
    from benchmarks import drawings

    folder = tmp_path / "絵"
    folder.mkdir()
    for at, kind in enumerate(drawings.KINDS):
        drawings.draw(kind, at, 64).save(folder / f"secret-{at}.png")
        (folder / f"secret-{at}.txt").write_text(f"momo {at}", encoding="utf-8")
    return folder


def make(run_dir, model, pictures, share=1.0, **changes):
    return helpers.make(
        run_dir,
        model,
        pictures,
        output=OutputConfig(name="momo", folder=str(run_dir / "loras"), precision="float"),
        network=NetworkConfig(rank=2, alpha=2.0),
        schedule=ScheduleConfig(steps=2, seed=5),
        **{"validation": ValidationConfig(split=0.0, memorisation=share), **changes},
    )


def stamped(run_dir):
    return json.loads(adapter_file.read(run_dir / "loras" / "momo.safetensors").metadata["atelier_rights"])


@pytest.fixture
def patient(monkeypatch):
    """Examiners with as much time as they need, whatever the training took."""
    allow(monkeypatch, 1000.0)
    monkeypatch.setattr(examiner, "STEPS", 3)


def allow(monkeypatch, seconds, *, drawing_s=0.0):
    """Let the test have ``seconds`` in a training of 2 steps that foretells ``drawing_s`` for drawing a picture."""
    real = examiner.Examiner.__init__
    pixel_s = drawing_s / (memorisation_cost.DRAWING * 64 * 64)

    def begin(self, *args, allowed, share, **more):
        real(self, *args, allowed=examiner.Allowed(2, seconds / share, pixel_s), share=share, **more)

    monkeypatch.setattr(examiner.Examiner, "__init__", begin)


def test_a_finished_lora_has_its_pictures_beside_it_and_the_tests_numbers_in_it(
    tmp_path, tiny_model_folder, pictures, patient
):
    made = make(tmp_path / "run", tiny_model_folder, pictures)

    assert run(made) == FINISHED

    adapter = made / "loras" / "momo.safetensors"
    kept = references.read(references.beside(adapter))
    assert kept.model_hash == adapter_file.read(adapter).metadata["sshs_model_hash"]
    assert sorted(each.name for each in kept.pictures) == [f"secret-{at}.png" for at in range(4)]
    stamp = stamped(made)["memorisation"]
    assert (stamp["of"], stamp["seeds"], stamp["hits"]) == (4, 4, 0)
    assert stamp["tested"] + stamp["silent"] == 4
    assert "secret" not in adapter.read_bytes().decode("latin-1")
    assert json.loads((made / memorisation.FILE).read_text(encoding="utf-8"))["tested"]


def test_the_test_is_repeated_exactly_by_its_seed(tmp_path, tiny_model_folder, pictures, patient):
    runs = [make(tmp_path / name, tiny_model_folder, pictures) for name in ("a", "b")]

    assert [run(each) for each in runs] == [FINISHED, FINISHED]

    said = [json.loads((each / memorisation.FILE).read_text(encoding="utf-8")) for each in runs]
    for each in said:
        del each["seconds"]
    assert said[0] == said[1]


def test_a_picture_that_comes_back_is_first_and_has_the_largest_weight_at_which_it_does_not(
    tmp_path, tiny_model_folder, pictures, patient, monkeypatch
):
    """The drawing is replaced by one that gives picture 2 back, but for weights below 0.55, with other seeds 0.45."""
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8))

    def draw(self, example, weight, part=0):
        copies = example.caption == "momo 2" and weight > (0.55, 0.45)[part]
        return [Image.open(pictures / "secret-2.png") if copies else noise] * 4

    monkeypatch.setattr(examiner.Examiner, "_draw", draw)
    made = make(tmp_path / "run", tiny_model_folder, pictures)

    assert run(made) == FINISHED

    said = json.loads((made / memorisation.FILE).read_text(encoding="utf-8"))
    first = said["tested"][0]
    assert (first["name"], first["verdict"], first["safe_weight"]) == ("secret-2.png", "copy-like", 0.4)
    assert first["agreement"] == 0
    assert Image.open(made / memorisation.FOLDER / first["pair"]).width > 700
    assert [each["verdict"] for each in said["tested"][1:]] == ["nothing found"] * (len(said["tested"]) - 1)
    assert stamped(made)["memorisation"].items() >= {"hits": 1, "safe_weight": 0.4}.items()
    warned = [event.message["template"] for event in helpers.told(made, helpers.events.Warned)]
    assert any("come back at weight 1" in each for each in warned)


@pytest.fixture
def clock(monkeypatch):
    """A clock of ours that work alone moves: comparing takes a second, drawing five; both are told what was done."""
    now, done = [0.0], []
    monkeypatch.setattr(examiner.time, "monotonic", lambda: now[0])
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8))

    def slow(kind, seconds, result):
        def work(*_):
            now[0] += seconds
            done.append(kind)
            return result

        return work

    monkeypatch.setattr(examiner.Examiner, "_draw", slow("draw", 5.0, [noise] * 4))
    monkeypatch.setattr(examiner.Examiner, "_gap", slow("compare", 1.0, 0.1))
    return now, done


def test_the_test_keeps_to_its_share_of_the_training_time(tmp_path, tiny_model_folder, pictures, monkeypatch, clock):
    """Comparing and drawing each of 4 pictures would take 24 s."""
    now, _ = clock
    allow(monkeypatch, 15.0, drawing_s=5.0)
    made = make(tmp_path / "run", tiny_model_folder, pictures)

    assert run(made) == FINISHED

    assert now[0] <= 15.0
    assert 1 <= stamped(made)["memorisation"]["tested"] < 4


def test_where_no_picture_can_be_drawn_in_time_they_are_only_compared_and_that_is_said(
    tmp_path, tiny_model_folder, pictures, monkeypatch, clock
):
    now, done = clock
    allow(monkeypatch, 4.0, drawing_s=10.0)
    made = make(tmp_path / "run", tiny_model_folder, pictures)

    assert run(made) == FINISHED

    assert "draw" not in done and 1 <= done.count("compare") <= 4 and now[0] <= 4.0
    said = json.loads((made / memorisation.FILE).read_text(encoding="utf-8"))
    assert said["tested"] == [] and len(said["compared"]) == done.count("compare")
    assert stamped(made)["memorisation"].items() >= {"tested": 0, "compared": done.count("compare")}.items()
    warned = [event.message for event in helpers.told(made, helpers.events.Warned)]
    (why,) = [each for each in warned if "no picture was drawn" in each["template"]]
    # Comparing took a second, sixteen passes of it; drawing is 172 of them, and both have the time of the two steps.
    assert why["values"]["share"] == 4.0 and why["values"]["needed"] == pytest.approx(12, abs=1)
    assert why["values"]["steps"] == pytest.approx(6, abs=1)
    assert (made / "loras" / "momo.safetensors").is_file()


def test_where_not_even_a_loss_can_be_compared_in_time_nothing_is_done_and_the_models_parts_are_not_read(
    tmp_path, tiny_model_folder, pictures, monkeypatch, clock
):
    now, done = clock
    allow(monkeypatch, 0.5, drawing_s=20.0)
    monkeypatch.setattr(examiner, "complete", None)
    made = make(tmp_path / "run", tiny_model_folder, pictures)

    assert run(made) == FINISHED

    assert done == [] and now[0] == 0
    warned = [event.message["template"] for event in helpers.told(made, helpers.events.Warned)]
    assert any("nothing was tested" in each for each in warned)


def test_a_forecast_that_was_too_dear_is_corrected_by_what_comparing_took(
    tmp_path, tiny_model_folder, pictures, monkeypatch, clock
):
    """Foretold are 60 s for a picture, of which comparing is a sixteenth of 172 passes; it takes 1 s, drawing 11."""
    _, done = clock
    allow(monkeypatch, 30.0, drawing_s=60.0)
    made = make(tmp_path / "run", tiny_model_folder, pictures)

    assert run(made) == FINISHED

    assert "draw" in done


def test_without_a_share_nothing_is_tested_and_the_guard_still_knows_the_pictures(
    tmp_path, tiny_model_folder, pictures
):
    made = make(tmp_path / "run", tiny_model_folder, pictures, share=0.0)

    assert run(made) == FINISHED

    assert "memorisation" not in stamped(made)
    assert len(references.read(references.beside(made / "loras" / "momo.safetensors"))) == 4


def test_a_test_that_fails_is_a_warning_and_the_lora_is_there(
    tmp_path, tiny_model_folder, pictures, monkeypatch, patient
):
    def fail(self, example, weight):
        raise RuntimeError("out of everything")

    monkeypatch.setattr(examiner.Examiner, "_draw", fail)
    made = make(tmp_path / "run", tiny_model_folder, pictures)

    assert run(made) == FINISHED

    assert (made / "loras" / "momo.safetensors").is_file()
    warned = [event.message["values"] for event in helpers.told(made, helpers.events.Warned)]
    assert {"reason": "out of everything"} in warned


def test_the_tensors_are_those_of_a_run_without_a_test(tmp_path, tiny_model_folder, pictures, patient):
    with_test, without = (make(tmp_path / str(share), tiny_model_folder, pictures, share=share) for share in (1.0, 0.0))
    assert run(with_test) == run(without) == FINISHED

    one, other = (adapter_file.read(each / "loras" / "momo.safetensors").tensors for each in (with_test, without))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("multiplier", [0.0, 0.35, 1.0, -0.5])
def test_weighing_is_what_the_loader_does_with_that_weight(tiny_model, multiplier):
    layers = {name: layer for name, layer in target_layers(tiny_model.unet).items() if "attn1_to_q" in name}
    network = LoraNetwork(layers, NetworkConfig(rank=2, alpha=1.0), seed=1)
    for branch in network.branches.values():
        for parameter in branch.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    network.attach()
    network.eval()
    layer = next(iter(layers.values()))
    x = torch.randn(3, layer.weight.shape[1])
    alone, whole = type(layer).forward(layer, x), layer(x)

    with network.weighing(multiplier):
        weighed = layer(x)

    assert not torch.equal(alone, whole)
    assert torch.allclose(weighed, alone + multiplier * (whole - alone), atol=1e-6)
    assert torch.equal(layer(x), whole)
