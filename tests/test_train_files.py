import json
import struct

import pytest

from lora_atelier.errors import AdapterFormatError, AdapterNotFoundError, ConfigError
from lora_atelier.train_files import Sources, gather

pytestmark = pytest.mark.torchfree

METADATA = {
    "modelspec.trigger_phrase": "momo",
    "ss_learning_rate": "0.0003",
    "ss_max_train_steps": "700",
    "ss_network_alpha": "4",
    "ss_network_dim": "8",
    "ss_network_module": "networks.lora",
    "ss_sd_model_name": "model.safetensors",
    "ss_seed": "7",
    "ss_unet_lr": "0.0002",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_lora(path, metadata=METADATA):
    header = {"__metadata__": metadata} | {
        f"lora_unet_mid_block_attentions_0_proj_in.{name}": {"dtype": "F32", "shape": [], "data_offsets": [at, at + 4]}
        for name, at in (("alpha", 0), ("beta", 4))
    }
    written = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(written)) + written + bytes(8))
    return path


def test_the_lora_the_preset_the_file_and_the_options_replace_one_another_in_this_order(here):
    lora = write_lora(here / "old.safetensors")
    preset = here / "preset.json"
    preset.write_text('{"network_dim": 16, "network_alpha": 8, "max_train_steps": 500, "noise_offset": 0.1}')
    config = here / "config.toml"
    config.write_text("[network]\nnetwork_alpha = 2\nmin_snr_gamma = 5\n")

    recipe = gather(
        Sources(like=lora, preset=preset, config_file=config, words=["--min_snr_gamma", "1", "--image_dir", "p"])
    )

    network, loss = recipe.config.network, recipe.config.loss
    assert recipe.problems == ()
    assert (recipe.config.schedule.seed, recipe.trigger) == (7, "momo")  # the LoRA's
    assert (recipe.config.schedule.steps, network.rank, loss.noise_offset) == (500, 16, 0.1)  # the preset's
    assert (network.alpha, loss.min_snr_gamma) == (2, 1)  # the file's, the option's


def test_the_model_of_the_lora_is_named_where_none_is_given(here):
    lora = write_lora(here / "old.safetensors")

    assert "“model.safetensors”" in " ".join(map(str, gather(Sources(like=lora)).notes))
    given = gather(Sources(like=lora, words=["--pretrained_model_name_or_path", "x"]))
    assert "model.base_model" not in [note.field for note in given.notes]


def test_what_is_said_anew_under_another_name_is_replaced_and_said(here):
    (here / "c.toml").write_text("max_train_epochs = 4\nunet_lr = 1e-3\ntext_encoder_lr = 1e-3\n")
    words = ["--max_train_steps", "90", "--learning_rate", "2e-4", "--text_encoder_lr", "1e-5"]

    recipe = gather(Sources(config_file=here / "c.toml", words=words))

    schedule, optimizer = recipe.config.schedule, recipe.config.optimizer
    assert (schedule.steps, schedule.max_train_epochs) == (90, 0)
    assert (optimizer.learning_rate, optimizer.te_learning_rate) == (2e-4, 1e-5)
    assert [note.field for note in recipe.notes] == ["max_train_steps", "learning_rate"]


def test_the_ending_of_a_config_file_may_be_left_out_as_in_sd_scripts(here):
    (here / "c.toml").write_text("seed = 5\n")

    assert gather(Sources(config_file=here / "c")).config.schedule.seed == 5


@pytest.mark.parametrize("named_in", ["option", "config file"])
def test_a_dataset_file_is_toml_or_json_and_may_be_named_by_the_config_file(here, named_in):
    (here / "d.json").write_text('{"datasets": [{"subsets": [{"image_dir": "p"}]}]}')
    (here / "c.toml").write_text("dataset_config = 'd.json'\n" if named_in == "config file" else "")
    (here / "p").mkdir()

    dataset_config = here / "d.json" if named_in == "option" else None
    recipe = gather(Sources(config_file=here / "c.toml", dataset_config=dataset_config))

    assert recipe.config.data.datasets[0].subsets[0].image_dir == str(here / "p")


@pytest.mark.parametrize(
    ("dataset", "key"),
    [({"datasets": 3}, "datasets"), ({"general": 3}, "general"), ({"datasets": [{"subsets": {}}]}, "subsets")],
)
def test_a_dataset_file_of_another_shape_is_a_problem(here, dataset, key):
    (here / "d.json").write_text(json.dumps(dataset))

    assert [found.field for found in gather(Sources(dataset_config=here / "d.json")).problems] == [key]


def test_paths_are_whole_because_the_trainer_works_elsewhere(here):
    (here / "base").mkdir()
    words = ["--pretrained_model_name_or_path", "base", "--output_dir", "loras", "--vae", "no such file"]

    config = gather(Sources(words=words)).config

    assert config.model.base_model == str(here / "base")
    assert config.output.folder == str(here / "loras")
    assert config.model.vae == "no such file"  # it will be said as it was written


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "a cat --n bad --w 640 --d 1\n# no\n\n"),
        ("p.toml", '[prompt]\nwidth = 640\nnegative_prompt = "bad"\n[[prompt.subset]]\nprompt = "a cat"\nseed = 1\n'),
        ("p.json", '[{"prompt": "a cat", "negative_prompt": "bad", "width": 640, "seed": 1}]'),
    ],
)
def test_sample_prompts_are_read_in_each_of_sd_scripts_forms(here, name, text):
    (here / name).write_text(text)

    recipe = gather(Sources(words=["--sample_prompts", name]))

    assert recipe.config.sampling.prompts == ("a cat --n bad --w 640 --d 1",)


@pytest.mark.parametrize("text", ["[", "[3]", '[{"width": 3}]', "{}"])
def test_sample_prompts_that_can_not_be_read_are_one_problem_among_the_others(here, text):
    (here / "p.json").write_text(text)

    problems = gather(Sources(words=["--sample_prompts", "p.json", "--sed", "1"])).problems

    assert [found.field for found in problems] == ["sed", "sample_prompts"]


def test_a_file_that_is_no_file_is_a_sentence(here):
    (here / "x.json").write_text("{")
    (here / "list.json").write_text("[]")
    (here / "x.safetensors").write_bytes(b"x")

    for sources, error, word in (
        (Sources(preset=here / "no.json"), ConfigError, "can't be read"),
        (Sources(preset=here / "x.json"), ConfigError, "not valid JSON"),
        (Sources(preset=here / "list.json"), ConfigError, "no table"),
        (Sources(config_file=here / "no.toml"), ConfigError, "can't be read"),
        (Sources(like=here / "no.safetensors"), AdapterNotFoundError, "no file"),
        (Sources(like=here / "x.safetensors"), AdapterFormatError, "as a LoRA"),
    ):
        with pytest.raises(error, match=word):
            gather(sources)
