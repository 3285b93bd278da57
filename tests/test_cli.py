import json
import re
import socket
import subprocess
import sys
from pathlib import Path

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
    assert "[####" in out.err and re.search(r" (\d+)/\1 ", out.err)


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
    assert re.search(r"Stopped at step 3 of \d+\. Go on with: python install\.py resume", said)

    monkeypatch.setattr(cli, "follow", follow)
    monkeypatch.setattr(Jobs, "start", start)
    run_id = said.strip().rsplit(" ", 1)[1]
    (data_dir / "runs" / run_id / "behave").write_text("finish")
    assert cli.main(["resume", run_id[:17], "--data-dir", str(data_dir)]) == 0


def test_trainings_are_listed_with_what_became_of_them(toml, data_dir, capsys):
    cli.main(["train", *toml, "--data-dir", str(data_dir)])
    capsys.readouterr()

    assert cli.main(["jobs", "--data-dir", str(data_dir)]) == 0

    assert re.search(r"momo  finished  (\d+)/\1\n", capsys.readouterr().out)
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


def test_what_is_checked_before_the_environment_is_made_needs_the_standard_library_alone(tmp_path):
    package = Path(cli.__file__).parents[1]
    # -S leaves all installed packages out.
    command = [sys.executable, "-S", "-m", "lora_atelier", "check", "demo", "--data-dir", str(tmp_path)]

    done = subprocess.run(command, capture_output=True, text=True, cwd=package)

    assert done.returncode == 0, done.stderr


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


@pytest.fixture
def lora(tmp_path):
    """A LoRA of one layer for our own base model, and a word in its metadata that must not be lost."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from lora_atelier.adapters import file
    from lora_atelier.models import detect

    width = detect.read_json(cli.BASE_MODEL / "text_encoder" / "config.json")["hidden_size"]
    layer = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    tensors = {
        f"{layer}.lora_down.weight": torch.ones(4, width),
        f"{layer}.lora_up.weight": torch.ones(width, 4),
        f"{layer}.alpha": torch.tensor(2.0),
    }
    path = tmp_path / "もも.safetensors"
    said = {"ss_output_name": "もも", "ss_network_dim": "4", "ss_base_model_version": "lora_atelier_toy", "else": "1"}
    file.write(path, tensors, said)
    return path


@pytest.mark.parametrize("given", [False, True], ids=["by its family", "with a checkpoint"])
def test_a_lora_file_is_described(lora, capsys, given):
    assert cli.main(["inspect", str(lora), *(["--checkpoint", str(cli.BASE_MODEL)] if given else [])]) == 0

    out = capsys.readouterr().out
    assert "3 tensors (3 × float32)" in out and "Kind: 1 × LoRA" in out and "Rank: 1 × 4" in out
    assert "ss_output_name = もも" in out and "2 more" in out
    assert "1 of 1 layers match LoRA Atelier Base" in out and "It would be applied." in out
    assert "Nothing is wrong" in out
    # Four ones times one, scaled by 2/4: every number of the change is 2.
    block = next(line for line in out.splitlines() if "text encoder (1)" in line)
    assert block.endswith("%") == given


def test_a_lora_file_is_described_for_programs(lora, capsys):
    assert cli.main(["inspect", str(lora), "--json"]) == 0

    described = json.loads(capsys.readouterr().out)
    assert described["families"] == {"LoRA": 1} and described["matched"]["matching"] == 1
    assert described["metadata"]["else"] == "1"


def test_a_lora_is_converted_and_back_and_nothing_is_overwritten(lora, tmp_path, capsys):
    from lora_atelier.adapters import file

    assert cli.main(["convert", str(lora), "--to", "diffusers"]) == 0
    made = tmp_path / "もも-diffusers.safetensors"
    assert str(made) in capsys.readouterr().out
    start = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    assert file.read(made).tensors.keys() == {f"{start}.lora_A.weight", f"{start}.lora_B.weight"}
    assert file.read(made).metadata["ss_output_name"] == "もも-diffusers"

    before = made.read_bytes()
    assert cli.main(["convert", str(lora), "--to", "diffusers"]) == 1
    assert "was not overwritten" in capsys.readouterr().err and made.read_bytes() == before
    back = tmp_path / "back.safetensors"
    assert cli.main(["convert", str(made), "--to", "kohya", "--output", str(back)]) == 0
    assert file.read(back).content_hash == file.read(lora).content_hash
    assert cli.main(["convert", str(lora), "--to", "kohya"]) == 1
    assert "has these names already" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["inspect"], ["convert", "--to", "kohya"]], ids=lambda command: command[0])
def test_a_pickle_is_not_opened(tmp_path, capsys, command):
    (tmp_path / "x.pt").write_bytes(b"x")

    assert cli.main([command[0], str(tmp_path / "x.pt"), *command[1:]]) == 1
    assert "pickle" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("arguments", "originals", "partly"),
    [([], "auto", False), (["--low-memory"], "reread", False), (["--apply-partly"], "auto", True)],
)
def test_the_page_s_loader_works_as_the_demo_was_told(data_dir, monkeypatch, arguments, originals, partly):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from lora_atelier.embedded import app

    served = []
    monkeypatch.setattr(app, "serve", lambda host, **_: served.append(host))

    assert cli.main(["demo", "--no-browser", "--data-dir", str(data_dir), *arguments]) == 0

    settings = served[0]._session._settings
    assert (settings.originals, settings.partly) == (originals, partly)


def test_the_demo_without_a_page_applies_its_lora_as_it_was_told_too(data_dir, monkeypatch):
    pytest.importorskip("torch")
    from lora_atelier.embedded import demo

    told = []
    monkeypatch.setattr(demo, "run", lambda output, **options: told.append(options["loader"]) or 0)
    arguments = ["--headless", "--output", str(data_dir / "out"), "--data-dir", str(data_dir)]

    assert cli.main(["demo", *arguments, "--low-memory"]) == 0
    assert told[0].originals == "reread"
