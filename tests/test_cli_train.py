import dataclasses
import json
import struct

import pytest
from PIL import Image
from tests.jobs.fakes import FAKE_TRAINER, draw_pictures, write_model_headers

from lora_atelier import cli, cli_train, config_files, train_check
from lora_atelier.config import support
from lora_atelier.errors import JobError
from lora_atelier.jobs import machine
from lora_atelier.jobs.service import Jobs
from lora_atelier.jobs.torch_choice import Card

pytestmark = pytest.mark.torchfree


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """English, an empty working folder, a processor and nothing else, the fake trainer."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_check, "device", lambda: "cpu")
    monkeypatch.setattr(cli, "_jobs_of", lambda options: Jobs(options.data_dir, command=FAKE_TRAINER))


@pytest.fixture
def train(tmp_path, capsys):
    """Runs ``train`` on six pictures seen ten times each and a model of headers; returns code, stdout and stderr."""
    draw_pictures(tmp_path / "pictures" / "10_momo")
    write_model_headers(tmp_path / "base")
    (tmp_path / "c.toml").write_text(
        "[training]\n"
        "pretrained_model_name_or_path = 'base'\nv_parameterization = true\n"
        "train_data_dir = 'pictures'\nresolution = '128,128'\ncaption_extension = '.txt'\ntrain_batch_size = 4\n"
        "network_dim = 8\nnetwork_alpha = 4\nnetwork_train_unet_only = true\nlearning_rate = 1e-3\n"
        "max_train_steps = 12\noutput_name = 'momo'\n"
    )

    def run(*words, config=True):
        given = ["--config_file", "c.toml"] if config else []
        code = cli.main(["train", *given, *words, "--data-dir", str(tmp_path / "data")])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_check_says_the_plan_and_makes_nothing(train, tmp_path):
    code, out, err = train("--check", "--trigger", "momo")

    assert (code, err) == (0, "")
    assert "“momo”: lora of rank 8 and alpha 4.0 for LoRA Atelier Base" in out
    assert "native on the processor (CPU), computed in float32" in out
    assert "6 pictures, 12 steps" in out
    assert not (tmp_path / "data").exists()


def test_check_says_everything_that_is_wrong_at_once(train, tmp_path, monkeypatch):
    monkeypatch.setattr(support, "NOT_YET", ("subset.shuffle_caption",))
    (tmp_path / "pictures" / "10_momo" / "broken.png").write_bytes(b"")

    code, out, err = train(
        *("--check", "--network_dimm", "3", "--unet_lr", "fast", "--shuffle_caption", "--cache_text_encoder_outputs"),
        *("--mixed_precision", "fp16", "--v2", "--trigger", "cat", "--console_log_level", "INFO"),
    )

    assert code == 1
    wrong = [line for line in err.splitlines() if line.startswith("- ")]
    for word in ("“network_dim”", "must be a number", "changes captions", "processor", "remove v2", "--engine"):
        assert len([line for line in wrong if word in line]) == 1, word
    assert "6 things have to be put right" in err
    notes = [line for line in err.splitlines() if line.startswith("Note: ")]
    for word in ("broken.png", "“cat”", "own log"):
        assert len([line for line in notes if word in line]) == 1, word
    assert "12 steps" in out and "Nothing is wrong" not in out
    assert not (tmp_path / "data").exists()


def test_a_training_with_something_wrong_is_not_made(train, tmp_path):
    code, _, err = train("--network_dim", "0")

    assert code == 1
    assert "one thing has to be put right:\n- network_dim: Rank is 0" in err
    assert not (tmp_path / "data").exists()


def test_typed_options_need_no_file_and_are_what_is_trained(train, tmp_path):
    code, out, _ = train(
        *("--pretrained_model_name_or_path", "base", "--v_parameterization", "--image_dir", "pictures/10_momo"),
        *("--resolution", "128", "--network_train_unet_only", "--network_dim", "4", "--max_train_steps", "6"),
        *("--caption_extension", ".txt", "--output_name", "typed", "--learning_rate", "1e-3"),
        config=False,
    )

    assert code == 0 and "typed.safetensors" in out
    (run,) = (tmp_path / "data" / "runs").iterdir()
    config = config_files.read(run)
    assert (config.network.rank, config.schedule.steps) == (4, 6)
    assert config.data.datasets[0].subsets[0].image_dir == str(tmp_path / "pictures" / "10_momo")


def test_epochs_are_the_steps_that_sd_scripts_would_count(train):
    # 6 pictures of one shape, 10 times each, 4 at once: 15 batches; two of them are one step.
    code, out, err = train("--check", "--max_train_epochs", "3", "--gradient_accumulation_steps", "2")

    assert code == 0
    assert "3 epochs of these pictures are 24 steps" in err and "24 steps" in out


def test_each_shape_of_pictures_has_a_short_batch_of_its_own(train, tmp_path):
    Image.new("RGB", (64, 128)).save(tmp_path / "pictures" / "10_momo" / "tall.png")

    _, _, err = train("--check", "--max_train_epochs", "1", "--enable_bucket", "--min_bucket_reso", "64")

    assert "1 epochs of these pictures are 18 steps" in err  # 60 / 4 and, rounded up, 10 / 4


def test_epochs_stay_epochs_in_the_run_and_its_plan_counts_steps(train, tmp_path):
    """Only the trainer knows which pictures are held out, so that it alone can count exactly."""
    code, _, _ = train("--max_train_epochs", "2", "--save_every_n_epochs", "1")

    assert code == 0
    (run,) = (tmp_path / "data" / "runs").iterdir()
    config = config_files.read(run)
    assert (config.schedule.max_train_epochs, config.output.save_every_n_epochs) == (2, 1)
    assert config_files.load_toml(run / "job.toml")["plan"]["steps"] == 30


def test_a_warm_up_that_is_longer_than_the_epochs_is_refused(train):
    code, _, err = train("--check", "--max_train_epochs", "1", "--lr_warmup_steps", "100")

    assert code == 1 and "The warm-up takes 100" in err and "has 15" in err


def test_a_lora_is_trained_again_with_its_settings_and_its_trigger(train, tmp_path):
    metadata = {"ss_network_module": "networks.lora", "ss_network_dim": "2", "ss_network_alpha": "1", "ss_seed": "5"}
    metadata |= {"ss_max_train_steps": "6", "ss_output_name": "momo", "modelspec.trigger_phrase": "momo"}
    entry = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
    header = json.dumps({"__metadata__": metadata, "lora_unet_mid_block_attentions_0_proj_in.alpha": entry}).encode()
    (tmp_path / "old.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))

    code, _, _ = train(
        *("--like", "old.safetensors", "--pretrained_model_name_or_path", "base", "--v_parameterization"),
        *("--image_dir", "pictures/10_momo", "--resolution", "128", "--caption_extension", ".txt"),
        config=False,
    )

    assert code == 0
    (run,) = (tmp_path / "data" / "runs").iterdir()
    config = config_files.read(run)
    assert (config.network.rank, config.network.train_te, config.schedule.seed) == (2, False, 5)
    assert 'trigger = "momo"' in (run / "job.toml").read_text()


def test_sd_scripts_is_asked_whether_it_can_train_this(train, monkeypatch):
    monkeypatch.setattr(support, "NOT_YET", ("subset.shuffle_caption",))

    code, _, err = train("--check", "--engine", "sd-scripts", "--shuffle_caption", "--sd-scripts", "nowhere")

    assert code == 1
    assert "can't train LoRA Atelier's own small base model" in err
    assert "no “shuffle_caption” yet" not in err


def test_files_that_are_not_there_are_said_before_anything_is_loaded(train):
    code, _, err = train("--check", "--network_weights", "no.safetensors", "--vae", "gone.safetensors")

    assert code == 1
    assert "- network_weights: There is no file no.safetensors." in err
    assert "- vae: There is no file gone.safetensors." in err


def test_a_folder_that_can_not_be_written_is_said_before_anything_is_made(train, tmp_path):
    (tmp_path / "file").touch()

    code, _, err = train("--check", "--output_dir", "file/loras")

    assert code == 1 and "output_dir: The folder" in err and "can't be written to" in err


def test_a_full_disk_is_said_before_anything_is_made(train, monkeypatch):
    monkeypatch.setattr(train_check, "free_bytes", lambda folder: 3_000_000)

    code, _, err = train("--check")

    assert code == 1 and "output_dir: The disk has 3 MB left" in err


def test_unknown_words_are_refused_by_the_other_commands(capsys):
    with pytest.raises(SystemExit):
        cli.main(["jobs", "--network_dim", "8"])

    assert "unrecognized arguments: --network_dim 8" in capsys.readouterr().err


def test_without_the_trainer_s_environment_it_is_said_how_to_make_it(train, monkeypatch):
    def missing():
        raise JobError("Its environment is missing.", todo="Type  python install.py trainer  once.")

    monkeypatch.setattr(train_check, "trainer_python", missing)

    code, _, err = train("--check")

    assert code == 1 and "install.py trainer" in err


@pytest.mark.parametrize(
    ("torch", "card", "system", "expected"),
    [
        ("2.6.0+cu124", Card("cuda"), "Linux", "cuda"),
        ("2.6.0+rocm6.2", Card("rocm"), "Linux", "rocm"),
        ("2.6.0+cpu", Card("cuda"), "Linux", "cpu"),
        ("2.6.0+xpu", None, "Linux", "xpu"),
        ("2.6.0", None, "Darwin", "mps"),
        ("2.6.0", None, "Linux", "cpu"),
    ],
)
def test_the_device_is_the_one_that_the_trainer_s_pytorch_is_built_for(monkeypatch, torch, card, system, expected):
    monkeypatch.undo()
    monkeypatch.setattr(machine, "about", lambda command: machine.Python(tuple(command), (3, 12), torch=torch))
    monkeypatch.setattr(machine, "card", lambda: card)
    monkeypatch.setattr(train_check.platform, "system", lambda: system)
    monkeypatch.setattr(train_check.platform, "machine", lambda: "arm64")

    assert train_check.device() == expected


def test_a_dry_run_says_what_was_measured_and_makes_nothing(train, monkeypatch):
    def measure(data_dir, config, before, **job):
        assert job == {"trigger": "momo", "whose": "mine"} and config.output.folder.endswith("loras")
        return dataclasses.replace(
            before, seconds=600.0, memory={"weights": 9_000_000_000}, memory_bytes=9_000_000_000, measured=True
        )

    monkeypatch.setattr(cli_train.dry_run, "measure", measure)
    monkeypatch.setattr("lora_atelier.jobs.footprint.free_bytes", lambda device: 4_000_000_000)

    code, out, _ = train("--dry-run", "--trigger", "momo")

    assert code == 0
    assert "about 10 minutes" in out and "Measured in a dry run." in out
    assert "About 9.0 GB of memory, the base model 9.0 GB, 4.0 GB are free." in out
    assert "it will hardly fit" in out and "mixed_precision = bf16" in out


def test_what_is_wrong_is_said_before_anything_is_measured(train, monkeypatch):
    monkeypatch.setattr(cli_train.dry_run, "measure", None)

    code, _, err = train("--dry-run", "--network_dim", "0")

    assert code == 1 and "Rank is 0" in err
