"""Settings from the command line, from presets of kohya_ss' GUI and from LoRAs that exist."""

import json

import pytest

from lora_atelier.config import (
    from_gui,
    from_kohya,
    from_metadata,
    over_dataset,
    read_flags,
    read_kohya,
    to_kohya,
    unsupported,
)
from lora_atelier.errors import ConfigError

pytestmark = pytest.mark.torchfree


# ------------------------------------------------------------------------------------------- the command line


def test_options_are_typed_as_sd_scripts_takes_them():
    flags = read_flags(
        [
            *("--network_dim", "8", "--network_args", "conv_dim=4", "conv_alpha=1", "--sdpa"),
            *(
                "--unet_lr=1e-4",
                "--text_encoder_lr",
                "1e-5",
                "2e-5",
                "--resolution",
                "768,512",
                "--seed",
                "2718281828459",
            ),
            *("--noise_offset", "-0.1", "--network-alpha", "4", "--atelier_keep_states", "3", "--train_data_dir", "p"),
        ]
    )

    assert flags.problems == ()
    config = from_kohya(flags.main, {})
    assert (config.network.rank, config.network.conv_rank, config.network.alpha) == (8, 4, 4)
    assert (config.optimizer.te_learning_rate, config.optimizer.te2_learning_rate) == (1e-5, 2e-5)
    assert (config.schedule.seed, config.memory.sdpa, config.loss.noise_offset) == (2718281828459, True, -0.1)
    assert (config.data.datasets[0].resolution, config.output.keep_states) == ((768, 512), 3)


def test_a_folder_of_pictures_needs_no_file():
    dataset = from_kohya(read_flags(["--image_dir", "p", "--keep_tokens", "1"]).main, {}).data.datasets[0]

    assert [(subset.image_dir, subset.keep_tokens) for subset in dataset.subsets] == [("p", 1)]


def test_all_mistakes_of_a_command_line_are_said_at_once():
    words = "stray --learnig_rate 1 --max_train_steps ten --seed --output_name my lora --factor 8 --shuffle_caption 2"

    flags = read_flags(words.split())

    said = {found.field: str(found) for found in flags.problems}
    assert flags.main == {}
    assert "two dashes" in said["stray"]
    assert "“learning_rate”" in said["learnig_rate"]
    assert "whole number" in said["max_train_steps"]
    assert "needs a value" in said["seed"]
    assert "quotes" in said["output_name"]
    assert "network_args" in said["factor"]
    assert "true or false" in said["shuffle_caption"]


def test_the_last_of_equal_options_counts():
    assert read_flags(["--seed", "1", "--seed", "2"]).main == {"seed": 2}


def test_an_option_replaces_what_every_part_of_the_dataset_file_says():
    dataset = {
        "general": {"keep_tokens": 1, "flip_aug": True},
        "datasets": [
            {"resolution": 512, "batch_size": 4, "subsets": [{"image_dir": "a", "keep_tokens": 2}, {"image_dir": "b"}]}
        ],
    }

    left, notes = over_dataset(dataset, {"keep_tokens": 3, "train_batch_size": 1, "network_dim": 8})

    assert [note.field for note in notes] == ["keep_tokens", "train_batch_size"]
    read = from_kohya({"keep_tokens": 3, "train_batch_size": 1}, left).data.datasets[0]
    assert (read.batch_size, read.resolution) == (1, (512, 512))
    assert [(subset.keep_tokens, subset.flip_aug) for subset in read.subsets] == [(3, True), (3, True)]
    assert dataset["general"]["keep_tokens"] == 1


# ------------------------------------------------------------------------------------------- kohya_ss' presets

# Written by hand after what kohya_ss 25.2 saves: its fields, spellings and mixed types.
PRESET = {
    "LoRA_type": "Standard",
    "adaptive_noise_scale": 0.005,
    "additional_parameters": "",
    "block_dims": "",
    "bucket_no_upscale": True,
    "bucket_reso_steps": 64.0,
    "caption_dropout_every_n_epochs": 0.0,
    "caption_extension": ".txt",
    "clip_skip": "1",
    "conv_alpha": 1,
    "conv_dim": 8,
    "enable_bucket": True,
    "epoch": 12,
    "gradient_accumulation_steps": "1",
    "keep_tokens": "1",
    "learning_rate": 0.0001,
    "lora_network_weights": "",
    "lr_scheduler": "cosine_with_restarts",
    "lr_scheduler_num_cycles": "",
    "lr_scheduler_power": "",
    "lr_warmup": 5,
    "max_resolution": "768,512",
    "max_timestep": 1000,
    "max_token_length": "225",
    "max_train_epochs": "",
    "max_train_steps": "",
    "min_snr_gamma": 5,
    "mixed_precision": "bf16",
    "module_dropout": 0,
    "multires_noise_discount": 0.3,
    "multires_noise_iterations": 8,
    "network_alpha": 16,
    "network_dim": 32,
    "noise_offset": "0.05",
    "noise_offset_type": "Original",
    "num_cpu_threads_per_process": 2,
    "optimizer": "AdamW8bit",
    "optimizer_args": '"weight_decay=0.1" "betas=0.9,0.99"',
    "rank_dropout": 0.1,
    "save_every_n_steps": 0,
    "save_precision": "fp16",
    "sdxl": True,
    "sdxl_no_half_vae": True,
    "seed": "1234",
    "stop_text_encoder_training": 0,
    "text_encoder_lr": "5e-05",
    "train_batch_size": 2,
    "unet_lr": 0.0001,
    "v2": False,
    "vae_batch_size": 0,
    "xformers": "sdpa",
}


def preset(**fields):
    """What PRESET with other fields says; it has no problem of its own."""
    imported = from_gui(PRESET | fields)
    assert imported.problems == ()
    return read_kohya({**imported.main, "train_data_dir": "p"}, {}).config


def test_a_preset_of_kohya_ss_is_read_as_it_would_train():
    config = preset()

    network, optimizer, schedule, dataset = config.network, config.optimizer, config.schedule, config.data.datasets[0]
    assert (network.algorithm, network.rank, network.alpha, network.conv_rank) == ("lora", 32, 16, 0)
    assert (network.train_te, network.rank_dropout) == (True, 0.1)
    assert (optimizer.optimizer, optimizer.learning_rate, optimizer.te_learning_rate) == ("AdamW8bit", 1e-4, 5e-5)
    assert (optimizer.weight_decay, optimizer.beta2, optimizer.te2_learning_rate) == (0.1, 0.99, 0)
    assert (schedule.max_train_epochs, schedule.warmup, schedule.lr_scheduler_num_cycles) == (12, 0.05, 12)
    assert (schedule.seed, schedule.mixed_precision, config.loss.min_snr_gamma) == (1234, "bf16", 5)
    assert (config.loss.noise_offset, config.loss.adaptive_noise_scale) == (0.05, 0.005)
    assert config.loss.multires_noise_iterations == 0  # a field of the other type of noise
    assert (config.model.no_half_vae, config.model.max_token_length, config.memory.sdpa) == (True, 225, True)
    assert (dataset.resolution, dataset.batch_size, dataset.bucket_reso_steps) == ((768, 512), 2, 64)
    assert (dataset.subsets[0].keep_tokens, dataset.subsets[0].caption_extension) == (1, ".txt")
    assert [found.field for found in config.problems()] == ["model.base_model"]


@pytest.mark.parametrize(
    ("fields", "algorithm", "conv_rank", "arguments"),
    [
        ({"LoRA_type": "Kohya LoCon"}, "lora", 8, ()),
        ({"LoRA_type": "LoCon"}, "lora", 8, ()),
        ({"LoRA_type": "LyCORIS/LoCon", "dora_wd": True}, "dora", 8, ()),
        ({"LoRA_type": "LyCORIS/LoHa", "train_norm": True}, "loha", 8, ("train_norm=True",)),
        ({"LoRA_type": "LyCORIS/LoKr", "factor": 6, "decompose_both": True}, "lokr", 8, ("decompose_both=True",)),
        ({"LoRA_type": "LyCORIS/LoKr", "LyCORIS_preset": "attn-mlp", "conv_dim": 0}, "lokr", 0, ()),
        ({"LoRA_type": "LyCORIS/Diag-OFT", "constrain": 0.1}, "oft", 8, ("constraint=0.1",)),
        ({"LoRA_type": "LyCORIS/DyLoRA", "unit": 4}, "dylora", 8, ("block_size=4",)),
        ({"LoRA_type": "LyCORIS/iA3", "train_on_input": True}, "ia3", 8, ("train_on_input=True",)),
        ({"LoRA_type": "LyCORIS/Native Fine-Tuning"}, "full", 8, ()),
        ({"LoRA_type": "LoRA-FA"}, "kohya-lora-fa", 0, ()),
    ],
)
def test_each_kind_of_adapter_takes_the_fields_that_are_its_own(fields, algorithm, conv_rank, arguments):
    network = preset(**fields).network

    assert (network.algorithm, network.conv_rank, network.network_args) == (algorithm, conv_rank, arguments)
    assert list(network.problems()) == []


def test_a_learning_rate_of_0_in_a_preset_leaves_that_part_alone():
    assert not preset(text_encoder_lr=0).network.train_te
    assert preset(unet_lr=0).network.network_train_text_encoder_only


def test_0_in_a_preset_is_not_given_where_0_means_nothing():
    assert preset(seed=0, clip_skip=0, max_timestep=0) == preset(seed="", clip_skip="", max_timestep="")


def test_steps_of_a_preset_come_before_its_epochs_and_may_be_left_to_sd_scripts():
    assert preset(max_train_steps="320").schedule.steps == 320
    assert preset(max_train_steps="320").schedule.max_train_epochs == 0
    with_dataset = from_gui(PRESET | {"dataset_config": "d.toml"}).main
    assert "max_train_epochs" not in with_dataset and with_dataset["dataset_config"] == "d.toml"


def test_what_was_typed_into_the_line_for_more_options_counts():
    typed = '--lr_scheduler_type "CosineAnnealingLR" --lr_scheduler_args "T_max=100" --keep_tokens 3'

    config = preset(additional_parameters=typed)

    assert (config.schedule.lr_scheduler_type, config.schedule.lr_scheduler_args) == (
        "CosineAnnealingLR",
        ("T_max=100",),
    )
    assert config.data.datasets[0].subsets[0].keep_tokens == 3


def test_sample_prompts_of_a_preset_are_lines():
    assert from_gui({"sample_prompts": "a cat --w 512\n# no\n\na dog"}).prompts == ("a cat --w 512", "a dog")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"flux1_checkbox": True}, "SD3 and FLUX"),
        ({"LoRA_type": "Flux1"}, "SD3 and FLUX"),
        ({"LoRA_type": "Kohya LoHa"}, "“Kohya LoHa”"),
        ({"network_dim": "many"}, "whole number"),
        ({"learning_rate": "fast"}, "number"),
        ({"additional_parameters": '--lr_scheduler_type "Cosine'}, "quotation mark"),
        ({"additional_parameters": "--keep_token 2"}, "“keep_tokens”"),
    ],
)
def test_what_can_not_be_taken_from_a_preset_is_said_once(fields, word):
    (found,) = from_gui(PRESET | fields).problems

    assert word in str(found)


def test_a_field_that_means_nothing_here_is_noted_if_it_asks_for_something():
    imported = from_gui(
        PRESET | {"no_token_padding": True, "multi_gpu": False, "sd3_checkbox": False, "t5xxl_lr": 1e-5}
    )

    assert [note.field for note in imported.notes] == ["no_token_padding"]


# ------------------------------------------------------------------------------------------- existing LoRAs

# As sd-scripts 48d368f writes them for a folder of numbered folders.
METADATA = {
    "modelspec.prediction_type": "epsilon",
    "ss_adaptive_noise_scale": "None",
    "ss_batch_size_per_device": "2",
    "ss_bucket_no_upscale": "True",
    "ss_cache_latents": "True",
    "ss_caption_dropout_rate": "0.05",
    "ss_clip_skip": "2",
    "ss_debiased_estimation": "False",
    "ss_enable_bucket": "True",
    "ss_face_crop_aug_range": "None",
    "ss_flip_aug": "True",
    "ss_gradient_accumulation_steps": "2",
    "ss_huber_c": "0.1",
    "ss_keep_tokens": "1",
    "ss_learning_rate": "0.0001",
    "ss_lowram": "True",
    "ss_lr_scheduler": "cosine",
    "ss_lr_warmup_steps": "50",
    "ss_max_bucket_reso": "1024",
    "ss_max_token_length": "None",
    "ss_max_train_steps": "1200",
    "ss_min_snr_gamma": "5.0",
    "ss_mixed_precision": "bf16",
    "ss_network_alpha": "8.0",
    "ss_network_args": '{"conv_dim": "4", "conv_alpha": "1", "rank_dropout": "0.1"}',
    "ss_network_dim": "16",
    "ss_network_dropout": "None",
    "ss_network_module": "networks.lora",
    "ss_num_epochs": "3",
    "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.9, 0.99),eps=1e-06)",
    "ss_output_name": "momo",
    "ss_resolution": "(768, 512)",
    "ss_sd_model_name": "model.safetensors",
    "ss_seed": "42",
    "ss_session_id": "3556396269",
    "ss_tag_frequency": "{}",
    "ss_text_encoder_lr": "[1e-05, 1e-05]",
    "ss_training_comment": "None",
    "ss_unet_lr": "0.0002",
    "ss_v2": "False",
    "ss_zero_terminal_snr": "False",
}
UNET = {"lora_unet_mid_block_resnets_0_conv1.alpha": "F16"}
BOTH = UNET | {"lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": "F16", "lora_te_more.alpha": "BF16"}


def like(tensors=BOTH, **entries):
    imported = from_metadata(METADATA | entries, tensors)
    assert imported.problems == ()
    return read_kohya({**imported.main, "train_data_dir": "p"}, {}).config


def test_a_lora_is_trained_again_as_its_metadata_says():
    config = like()

    network, optimizer, schedule, dataset = config.network, config.optimizer, config.schedule, config.data.datasets[0]
    assert (network.algorithm, network.rank, network.alpha, network.conv_rank) == ("lora", 16, 8, 4)
    assert (network.rank_dropout, network.dropout, network.train_te) == (0.1, 0, True)
    assert (optimizer.optimizer, optimizer.learning_rate, optimizer.te_learning_rate) == ("AdamW8bit", 2e-4, 1e-5)
    assert optimizer.te2_learning_rate == 0  # two equal rates are one
    assert (optimizer.weight_decay, optimizer.beta2, optimizer.optimizer_args) == (0.1, 0.99, ("eps=1e-06",))
    assert (schedule.steps, schedule.scheduler, schedule.warmup, schedule.accumulation) == (1200, "cosine", 50, 2)
    assert (schedule.seed, schedule.mixed_precision, config.model.clip_skip) == (42, "bf16", 2)
    assert (config.loss.min_snr_gamma, config.model.max_token_length, config.output.name) == (5, 75, "momo")
    assert (dataset.batch_size, dataset.resolution, dataset.bucket_no_upscale) == (2, (768, 512), True)
    assert (dataset.subsets[0].flip_aug, dataset.subsets[0].caption_dropout_rate) == (True, 0.05)
    assert not config.memory.lowram  # the machine's, not the LoRA's


def test_the_names_of_the_tensors_tell_which_parts_were_trained():
    assert not like(UNET).network.train_te
    assert like({"lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": "F16"}).network.network_train_text_encoder_only


@pytest.mark.parametrize(("dtype", "precision"), [("F16", "fp16"), ("BF16", "bf16"), ("F32", "float"), ("I8", "float")])
def test_the_precision_of_the_file_is_that_of_its_tensors(dtype, precision):
    assert like(dict.fromkeys(BOTH, dtype)).output.precision == precision


def test_its_model_its_trigger_and_its_vae_are_known_by_name():
    more = {"modelspec.trigger_phrase": "momo", "ss_vae_name": "other.safetensors"}

    imported = from_metadata(METADATA | more, BOTH)

    assert (imported.base_model, imported.trigger) == ("model.safetensors", "momo")
    assert [note.field for note in imported.notes] == ["vae"]


@pytest.mark.parametrize(
    ("text", "optimizer", "arguments"),
    [
        ("torch.optim.adamw.AdamW", "AdamW", ()),
        ("prodigyopt.prodigy.Prodigy(d_coef=2.0,decouple=True)", "Prodigy", ("d_coef=2.0", "decouple=True")),
        ("torch.optim.sgd.SGD(nesterov=True,momentum=0.9)", "SGDNesterov", ("momentum=0.9",)),
        (
            "pytorch_optimizer.came.CAME(betas=(0.9, 0.99, 0.999))",
            "pytorch_optimizer.came.CAME",
            ("betas=0.9,0.99,0.999",),
        ),
    ],
)
def test_the_optimizer_is_the_option_that_it_was_made_from(text, optimizer, arguments):
    config = like(ss_optimizer=text)

    assert (config.optimizer.optimizer, config.optimizer.optimizer_args) == (optimizer, arguments)
    assert list(config.optimizer.problems()) == []


def test_settings_of_pictures_come_from_a_dataset_file_as_well():
    subset = {"img_count": 9, "num_repeats": 3, "flip_aug": False, "keep_tokens": 2, "caption_prefix": "momo, "}
    dataset = {"batch_size_per_device": 4, "resolution": [1024, 1024], "enable_bucket": True, "min_bucket_reso": 512}
    flat = {"ss_batch_size_per_device", "ss_resolution", "ss_enable_bucket", "ss_flip_aug", "ss_keep_tokens"}
    rest = {key: value for key, value in METADATA.items() if key not in flat}

    def read(*datasets):
        return from_metadata(rest | {"ss_datasets": json.dumps(datasets)}, BOTH)

    alike = read(dataset | {"subsets": [subset, {**subset, "num_repeats": 1}]})
    assert alike.notes == ()
    config = read_kohya({**alike.main, "train_data_dir": "p"}, {}).config.data.datasets[0]
    assert (config.batch_size, config.resolution, config.min_bucket_reso) == (4, (1024, 1024), 512)
    assert (config.subsets[0].keep_tokens, config.subsets[0].caption_prefix) == (2, "momo, ")
    different = read(dataset | {"subsets": [subset, {**subset, "keep_tokens": 1}]})
    assert [note.field for note in different.notes] == ["ss_datasets"]
    assert different.main == alike.main


def test_a_lora_that_says_nothing_is_a_problem_with_a_way_out():
    (found,) = from_metadata({"format": "pt"}, BOTH).problems

    assert "network_weights" in str(found)


def test_an_entry_that_can_not_be_read_is_a_problem_and_the_rest_is_kept():
    imported = from_metadata(METADATA | {"ss_network_dim": "a lot", "ss_datasets": "[", "ss_network_args": "x"}, BOTH)

    assert [found.field for found in imported.problems] == ["ss_network_dim"]
    assert imported.main["network_alpha"] == 8


def test_a_lora_for_another_kind_of_model_is_refused_when_it_is_read():
    imported = from_metadata(METADATA | {"ss_network_module": "networks.lora_flux"}, BOTH)

    with pytest.raises(ConfigError, match="SD3 and FLUX"):
        from_kohya(imported.main, {})


def test_imported_settings_survive_being_written_and_read():
    for config in (preset(), like()):
        main, dataset = to_kohya(config)
        again = from_kohya(main, dataset)
        assert again == config
        assert list(unsupported(again)) == list(unsupported(config))
