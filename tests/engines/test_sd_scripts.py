"""Where sd-scripts is looked for, what is said of it before a run, and its start with the things set right."""

import importlib.util
import json
import subprocess
import sys

import pytest
from tests.engines import fake_sd_scripts

from lora_atelier import engines
from lora_atelier.config import DataConfig, DatasetConfig, SubsetConfig, TrainConfig, to_kohya
from lora_atelier.config_files import dump_toml
from lora_atelier.engines import kohya_launch, sd_scripts
from lora_atelier.engines.base import Asked
from lora_atelier.errors import JobError

pytestmark = pytest.mark.torchfree


@pytest.fixture
def checkout(tmp_path):
    return fake_sd_scripts.make(tmp_path / "sd-scripts")


def test_the_named_checkout_comes_first_then_the_variables_then_ours(tmp_path, checkout):
    other = fake_sd_scripts.make(tmp_path / "other")
    own = fake_sd_scripts.make(tmp_path / "data" / "sd-scripts" / "checkout")
    env = {sd_scripts.VARIABLE: str(other)}

    assert sd_scripts.find(tmp_path / "data", checkout, env).folder == checkout.resolve()
    assert sd_scripts.find(tmp_path / "data", None, env).folder == other.resolve()
    assert sd_scripts.find(tmp_path / "data", None, {}).folder == own.resolve()
    assert sd_scripts.find(tmp_path / "nowhere", None, {}) is None
    with pytest.raises(JobError, match="no sd-scripts in"):
        sd_scripts.find(tmp_path / "data", tmp_path)


@pytest.mark.parametrize("place", ["sd-scripts/venv", "sd-scripts/.venv", "venv"])
def test_its_python_lies_in_it_or_beside_it(tmp_path, place):
    for name in ("bin/python", "Scripts/python.exe"):
        path = tmp_path / place / name
        path.parent.mkdir(parents=True)
        path.touch()

    assert sd_scripts.python_of(tmp_path / "sd-scripts").is_relative_to(tmp_path / place)


def asked(checkout, **about):
    subset = SubsetConfig(image_dir="pictures")
    main, dataset = to_kohya(TrainConfig(data=DataConfig(datasets=(DatasetConfig(subsets=(subset,)),))))
    return Asked(**{"main": main, "dataset": dataset, "family": "sd1", "checkout": checkout, **about})


def test_a_job_is_judged_before_anything_is_made(tmp_path, checkout, monkeypatch):
    monkeypatch.delenv(sd_scripts.VARIABLE, raising=False)
    judge = engines.get("sd-scripts").judge

    if sd_scripts.python_of(checkout):
        assert judge(asked(checkout)).problems == ()
    assert "small base model" in str(judge(asked(checkout, family="toy")).problems[0])
    assert "install.py sd-scripts" in str(judge(asked(None, data_dir=tmp_path / "empty")).problems[0])
    assert "no sd-scripts in" in str(judge(asked(tmp_path)).problems[0])
    bare = tmp_path / "far" / "away"
    (bare / "library").mkdir(parents=True)
    (bare / "library" / "train_util.py").touch()
    (bare / "train_network.py").touch()
    assert "no environment" in str(judge(asked(bare)).problems[0])


def test_an_engine_that_we_do_not_know_is_refused_with_those_we_do():
    with pytest.raises(JobError, match="native, sd-scripts"):
        engines.get("a1111")


def test_the_word_lists_are_where_sd_scripts_looks_for_them(tmp_path):
    # Not imported: it would want torchvision.
    if importlib.util.find_spec("open_clip") is None or importlib.util.find_spec("tokenizers") is None:
        pytest.skip("the trainer's environment has CLIP's word list")
    sd_scripts.write_tokenizers(tmp_path)

    folder = tmp_path / "openai_clip-vit-large-patch14"
    words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    assert len(words) == 49408 and words["<|endoftext|>"] == 49407
    assert (folder / "merges.txt").read_text(encoding="utf-8").startswith("#version: 0.2\ni n\nt h\n")
    about = json.loads((tmp_path / "stabilityai_stable-diffusion-2" / "tokenizer_config.json").read_text())
    assert about["pad_token"] == "!" and about["model_max_length"] == 77


# ------------------------------------------------------------------------------------------- the launcher


def launch(checkout, tmp_path, *, steps=8, done=0, stop=False, **options):
    """Start the fake through the launcher; its pipe to us stays open."""
    (tmp_path / "dataset.toml").write_text("", encoding="utf-8")
    options = {
        "max_train_steps": steps,
        "output_dir": str(tmp_path / "out"),
        "output_name": "m",
        "dataset_config": str(tmp_path / "dataset.toml"),
        **options,
    }
    (tmp_path / "c.toml").write_text(dump_toml(options), encoding="utf-8")
    if stop:
        (tmp_path / "stop").touch()
    command = [sys.executable, kohya_launch.__file__, "--checkout", str(checkout), "--script", "train_network.py"]
    command += ["--done", str(done), "--stop", str(tmp_path / "stop"), "--state", str(tmp_path / "state")]
    command += ["--", "--config_file", str(tmp_path / "c.toml")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_every_step_is_reported_with_its_loss_and_rate(checkout, tmp_path):
    child = launch(checkout, tmp_path)
    said = _read(child)

    assert child.wait() == 0, said
    assert said.count("[atelier] loss=") == 8 and "[atelier] loss=0.125 lr=0.001" in said
    assert "[atelier] held_out=0.123457" in said


def test_a_run_that_goes_on_makes_the_steps_that_are_left(checkout, tmp_path):
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "optimizer.bin").write_text("state")
    child = launch(checkout, tmp_path, done=5, resume=str(tmp_path / "before"))
    said = _read(child)

    assert child.wait() == 0, said
    assert said.count("[atelier] loss=") == 3 and "3/3" in said


def test_it_stops_after_the_step_that_it_is_at_with_a_complete_state(checkout, tmp_path):
    child = launch(checkout, tmp_path, stop=True)
    said = _read(child)

    assert child.wait() == kohya_launch.STOPPED, said
    assert "[atelier] stopped after 1 steps" in said
    assert (tmp_path / "state" / "optimizer.bin").is_file()


def test_it_ends_when_whoever_started_it_ends(checkout, tmp_path):
    child = launch(checkout, tmp_path, steps=100_000)
    child.stdin.close()

    assert child.wait(timeout=60) == kohya_launch.ABANDONED


def test_a_checkout_that_lacks_what_is_needed_is_named(checkout, tmp_path):
    path = checkout / "library" / "train_util.py"
    path.write_text(path.read_text().replace("LossRecorder", "Recorder"))
    child = launch(checkout, tmp_path)

    assert "unknown checkout: it has no LossRecorder" in _read(child)
    assert child.wait() == kohya_launch.UNKNOWN_CHECKOUT


def _read(child):
    # Its standard input stays open meanwhile: closing it would end it.
    with child.stdout:
        return child.stdout.read()
