"""The headless demo with a painter that draws instead of a model, and with the fake trainer."""

import errno
import json
import sys

import pytest
from tests.jobs.fakes import FAKE_TRAINER, write_model_headers

from lora_atelier.config import recipe
from lora_atelier.embedded import demo, examples, judge, world
from lora_atelier.embedded.demo import Gallery
from lora_atelier.errors import HostError
from lora_atelier.jobs.service import Jobs

STEPS = recipe(goal="character", family="toy", num_images=2).schedule.steps

pytestmark = pytest.mark.torchfree


class Drawer:
    """A perfect model of the world in which the figure appears from weight 0.8 on, and which it costs ``lost``."""

    def __init__(self, lost=0):
        self.scenes = {scene.prompt: scene for scene in world.demo_scenes()}
        self.figures = {scene.prompt: scene for scene in examples.CONCEPT_SCENES}
        self.lost = set(list(self.scenes)[:lost])
        self.calls = []

    def __call__(self, prompts, seeds, weight):
        self.calls.append((tuple(prompts), tuple(seeds), weight))
        return [self.draw(text, weight) for text in prompts]

    def draw(self, text, weight):
        if text in self.scenes and not (weight and text in self.lost):
            return world.draw(self.scenes[text])
        if weight >= 0.8 and text in self.figures:
            return examples.draw_figure(self.figures[text])
        return world.draw(world.Scene("bar", "pink", "cyan"))


@pytest.fixture(scope="module")
def measured():
    """Everything drawn and read back once, with a LoRA that costs two of the other prompts."""
    gallery = Gallery(Drawer(lost=2), 8)
    return demo.measure(gallery), gallery


def test_the_scores_are_read_from_the_pictures_that_were_drawn(measured):
    scores, _ = measured

    assert scores.base == 1.0
    assert scores.concept == {"0": 0.0, "0.4": 0.0, "0.8": 1.0, "1.0": 1.0}
    assert scores.prior_drop == pytest.approx(2 / 40)


def test_pictures_are_made_in_batches_and_with_one_seed_for_each_prompt_at_every_weight(measured):
    drawer = measured[1].painter

    assert max(len(prompts) for prompts, _, _ in drawer.calls) == 8
    seeds = {}
    for prompts, given, _ in drawer.calls:
        for text, seed in zip(prompts, given, strict=True):
            assert seeds.setdefault(text, seed) == seed
    assert len(seeds) == 40 + 20


def test_the_grid_shows_a_row_for_each_prompt_and_a_column_for_each_weight(measured):
    gallery = measured[1]
    info = type("Info", (), {"family": "toy", "title": "a base model"})

    prompts, weights = demo._grid_prompts(info, gallery)
    grid = demo.draw_grid(gallery, prompts, weights, title="<lora:momo:weight>")

    assert len(prompts) == 6 and weights == [0.0, 0.4, 0.8, 1.0]
    assert sum(text in examples.CONCEPT_PROMPTS for text in prompts) == 5
    cell = demo._CELL + demo._MARGIN
    left, top = demo._LABEL, grid.height - 6 * cell
    for row, text in enumerate(prompts):
        for column, weight in enumerate(weights):
            box = (left + column * cell, top + row * cell)
            shown = grid.crop((*box, box[0] + demo._CELL, box[1] + demo._CELL)).resize((128, 128))
            assert judge.is_concept(shown) == (weight >= 0.8 and text in examples.CONCEPT_PROMPTS)
    label = grid.crop((0, top, left - 4, top + cell))
    assert min(label.convert("L").getdata()) < 60  # there is writing


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """``run`` with the fake trainer, a painter that draws, and the judge's reading of it, which takes seconds."""
    scores = demo.Scores(base=1.0, concept={"0": 0.0, "0.4": 0.0, "0.8": 1.0, "1.0": 1.0}, prior_drop=0.0)
    monkeypatch.setattr(demo, "measure", lambda gallery: scores)
    monkeypatch.setattr(demo, "host_painter", lambda info, work, name, loader: Drawer())
    monkeypatch.setattr(demo, "Jobs", lambda folder: Jobs(folder, command=FAKE_TRAINER))
    model = write_model_headers(tmp_path / "base")
    return lambda output, **options: demo.run(output, model=model, **options)


def test_the_report_has_every_figure_that_was_asked_for(finished, tmp_path, capsys):
    output = tmp_path / "out"

    assert finished(output) == 0

    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert report["seconds"] > 0 and report["train_seconds"] == 10.0
    assert report["peak_memory_bytes"] > 1_000_000
    assert report["base_score"] == 1.0 and report["prior_drop"] == 0.0
    assert report["concept_score"] == {"0": 0.0, "0.4": 0.0, "0.8": 1.0, "1.0": 1.0}
    assert {"heldout_loss_first", "heldout_loss_last", "model_hash", "versions", "machine"} <= report.keys()
    assert (output / "momo.safetensors").read_bytes() == b"adapter"
    said = capsys.readouterr().err
    assert "1/3" in said and "3/3" in said and "[####" in said and "grid.png" in said
    assert len(list((output / "work" / "runs").iterdir())) == 1


def test_a_second_run_into_the_same_folder_overwrites_no_lora(finished, tmp_path):
    finished(tmp_path)
    finished(tmp_path)

    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["momo-2.safetensors", "momo.safetensors"]


def test_a_real_checkpoint_has_no_scores_and_says_why(tmp_path, monkeypatch, finished):
    # The judge knows only the drawn world.
    detected = demo.inspect
    monkeypatch.setattr(demo, "inspect", lambda path: type("Info", (), {**vars(detected(path)), "family": "sd1"}))

    assert finished(tmp_path / "out") == 0

    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["base_score"] is None and report["concept_score"]["0.8"] is None
    assert "drawn world" in report["scores_note"]
    assert (tmp_path / "out" / "grid.png").stat().st_size > 1000


def test_a_disk_that_is_full_at_the_end_is_a_sentence_that_says_where_the_lora_is(finished, tmp_path, monkeypatch):
    def full(path, write):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fills_up_now(info, work, name, loader):
        monkeypatch.setattr(demo.atomic, "write_with", full)
        return Drawer()

    monkeypatch.setattr(demo, "host_painter", fills_up_now)
    with pytest.raises(HostError, match="safe in the LoRA folder"):
        finished(tmp_path, data_dir=tmp_path / "data")


def test_ctrl_c_during_training_keeps_the_state_and_says_how_to_go_on(finished, tmp_path, monkeypatch, capsys):
    def interrupted(jobs, run):
        while jobs.view(run).step < 3:
            pass
        raise KeyboardInterrupt

    start = Jobs.start

    def start_waiting(self, run):
        (run.path / "behave").write_text("wait")
        start(self, run)

    monkeypatch.setattr(demo, "follow", interrupted)
    monkeypatch.setattr(Jobs, "start", start_waiting)

    assert finished(tmp_path / "out") == 130

    said = capsys.readouterr().err
    assert f"Stopped at step 3 of {STEPS}. Go on with: python install.py resume" in said
    assert not (tmp_path / "out" / "report.json").exists()


def test_without_the_repositorys_examples_they_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "example_folder", lambda name: tmp_path / "nowhere" / name)

    figures, others = demo.example_pictures(tmp_path)

    assert len(list(figures.glob("*.png"))) == examples.NUM_FIGURES
    assert len(list(others.glob("*.png"))) == examples.NUM_REGULARISATION


def test_the_versions_that_matter_are_named():
    found = demo.versions()

    assert found["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert "lora_atelier" in found
