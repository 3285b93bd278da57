import json
import socket
import struct

import pytest
from tests.jobs.fakes import FAKE_TRAINER, draw_pictures, write_model_headers

from lora_atelier import cli
from lora_atelier.jobs.service import JobForm, Jobs

pytestmark = pytest.mark.torchfree


@pytest.fixture(autouse=True)
def english(monkeypatch):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """A data folder whose trainings are made by the fake trainer."""
    monkeypatch.setattr(cli, "_jobs_of", lambda options: Jobs(options.data_dir, command=FAKE_TRAINER))
    return tmp_path / "data"


@pytest.fixture
def toml(tmp_path, data_dir):
    """kohya-style files, as someone would write them."""
    form = JobForm(
        name="momo",
        trigger="momo",
        goal="character",
        whose="mine",
        pictures=draw_pictures(tmp_path / "pictures"),
        base_model=write_model_headers(tmp_path / "base"),
    )
    run = Jobs(tmp_path / "elsewhere").create(form)
    return ["--config_file", str(run.config_path), "--dataset_config", str(run.dataset_path)]


def test_a_training_written_as_files_is_made_and_followed(toml, data_dir, capsys):
    assert cli.main(["train", *toml, "--data-dir", str(data_dir)]) == 0

    out = capsys.readouterr()
    assert "momo.safetensors" in out.out
    assert "[####" in out.err and "400/400" in out.err


def test_a_typing_error_in_a_file_names_the_nearest_option(toml, data_dir, capsys, tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text("max_train_stepps = 3\n")

    assert cli.main(["train", "--config_file", str(bad), *toml[2:], "--data-dir", str(data_dir)]) == 1

    assert "did you mean “max_train_steps”" in capsys.readouterr().err


def test_ctrl_c_keeps_the_state_and_says_how_to_go_on(toml, data_dir, capsys, monkeypatch):
    follow = cli.follow

    def interrupted(jobs, run):
        while jobs.view(run).step < 3:
            pass
        raise KeyboardInterrupt

    start = Jobs.start

    def start_waiting(self, run):
        (run.path / "behave").write_text("wait")
        start(self, run)

    monkeypatch.setattr(cli, "follow", interrupted)
    monkeypatch.setattr(Jobs, "start", start_waiting)
    assert cli.main(["train", *toml, "--data-dir", str(data_dir)]) == 130
    said = capsys.readouterr().err
    assert "Stopped at step 3 of 400. Go on with: python install.py resume" in said

    monkeypatch.setattr(cli, "follow", follow)
    monkeypatch.setattr(Jobs, "start", start)
    run_id = said.strip().rsplit(" ", 1)[1]
    (data_dir / "runs" / run_id / "behave").write_text("finish")
    assert cli.main(["resume", run_id[:17], "--data-dir", str(data_dir)]) == 0


def test_trainings_are_listed_with_what_became_of_them(toml, data_dir, capsys):
    cli.main(["train", *toml, "--data-dir", str(data_dir)])
    capsys.readouterr()

    assert cli.main(["jobs", "--data-dir", str(data_dir)]) == 0

    assert "momo  finished  400/400" in capsys.readouterr().out
    assert cli.main(["stop", "nothing", "--data-dir", str(data_dir)]) == 1
    assert "no training “nothing”" in capsys.readouterr().err


def test_a_port_in_use_is_a_sentence_before_anything_starts(capsys, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert cli.main(["check", "demo", "--port", str(port), "--data-dir", str(tmp_path)]) == 1

    said = capsys.readouterr().err
    assert f"Port {port} can't be used" in said and "--port" in said
    assert cli.main(["check", "demo", "--port", str(port), "--data-dir", str(tmp_path)]) == 0


def test_a_free_port_is_one_that_nobody_has(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(cli, "_PORTS", (taken.getsockname()[1],))

        port = cli.free_port()

        assert port not in (0, taken.getsockname()[1])
        cli.check_port(port)


@pytest.mark.parametrize("option", ["--output", "--data-dir"])
def test_a_folder_that_can_not_be_written_is_a_sentence_before_anything_starts(capsys, tmp_path, option):
    (tmp_path / "file").touch()
    folders = {"--output": tmp_path / "out", "--data-dir": tmp_path / "data", option: tmp_path / "file" / "x"}

    arguments = [part for name, folder in folders.items() for part in (name, str(folder))]
    assert cli.main(["check", "demo", "--headless", *arguments]) == 1

    assert "can't be written to" in capsys.readouterr().err


def test_a_pickle_is_refused_before_anything_starts(capsys, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"x")

    assert cli.main(["demo", "--model", str(tmp_path / "model.ckpt"), "--data-dir", str(tmp_path / "data")]) == 1

    assert "pickle" in capsys.readouterr().err


def test_output_without_headless_is_a_sentence(capsys):
    assert cli.main(["check", "demo", "--output", "x"]) == 1
    assert "--headless" in capsys.readouterr().err


def test_a_lora_file_is_described(tmp_path, capsys):
    key = "lora_unet_mid.lora_down.weight"
    header = json.dumps(
        {
            key: {"dtype": "F16", "shape": [4, 8], "data_offsets": [0, 64]},
            "__metadata__": {"ss_output_name": "もも", "ss_network_dim": "4", "else": "1"},
        }
    ).encode()
    path = tmp_path / "もも.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))

    assert cli.main(["inspect", str(path)]) == 0

    out = capsys.readouterr().out
    assert "1 tensors (1 × F16), 32 numbers" in out
    assert "1 × 4" in out and "ss_output_name = もも" in out and "1 more" in out


@pytest.mark.parametrize(("content", "said"), [(None, "There is no file"), (b"hello", "can't be read")])
def test_a_file_that_is_none_is_a_sentence(tmp_path, capsys, content, said):
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)

    assert cli.main(["inspect", str(path)]) == 1
    assert said in capsys.readouterr().err


def test_a_base_model_is_described(tmp_path, capsys):
    assert cli.main(["inspect", str(write_model_headers(tmp_path / "base"))]) == 0
    assert "v_prediction, 128 px, diffusers" in capsys.readouterr().out


def test_ctrl_c_during_anything_is_a_clean_sentence(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_jobs", interrupted)

    assert cli.main(["jobs"]) == 130
    assert capsys.readouterr().err.strip() == "Stopped. Nothing is lost."


@pytest.mark.parametrize(
    ("variables", "lang"), [({"LANG": "ja_JP.UTF-8"}, "ja"), ({"LC_ALL": "C", "LANG": "ja"}, "en")]
)
def test_the_console_speaks_the_terminals_language(monkeypatch, variables, lang):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert cli.console_language() == lang


def test_a_package_that_is_missing_says_how_to_mend_the_environment(monkeypatch, capsys):
    def missing(options):
        raise ModuleNotFoundError("No module named 'diffusers'", name="diffusers")

    monkeypatch.setattr(cli, "_jobs", missing)

    assert cli.main(["jobs"]) == 1
    assert "Delete the folder .venv" in capsys.readouterr().err
