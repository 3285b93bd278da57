"""Every contradiction is said, with its fix, at the setting that has to change."""

import dataclasses

import pytest

from lora_atelier.config import (
    DataConfig,
    DatasetConfig,
    LossConfig,
    MemoryConfig,
    ModelConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    ScheduleConfig,
    SubsetConfig,
    TrainConfig,
    block_weights,
    from_kohya,
    model_problems,
    notes,
    read_kohya,
)
from lora_atelier.errors import ConfigError

pytestmark = pytest.mark.torchfree

GOOD = TrainConfig(
    model=ModelConfig(base_model="base.safetensors"),
    data=DataConfig(datasets=(DatasetConfig(subsets=(SubsetConfig(image_dir="p"),)),)),
)


def changed(**groups):
    """GOOD with other settings; ``dataset`` and ``subset`` change its only ones."""
    subset = dataclasses.replace(GOOD.data.datasets[0].subsets[0], **groups.pop("subset", {}))
    dataset = dataclasses.replace(GOOD.data.datasets[0], subsets=(subset,), **groups.pop("dataset", {}))
    made = {name: dataclasses.replace(getattr(GOOD, name), **values) for name, values in groups.items()}
    return dataclasses.replace(GOOD, data=DataConfig(datasets=(dataset,)), **made)


CONTRADICTIONS = [
    # what, the setting that is named, a word of the fix
    ({"network": {"network_train_text_encoder_only": True}}, "network.network_train_text_encoder_only", "keep one"),
    ({"network": {"dim_from_weights": True}}, "network.dim_from_weights", "network_weights"),
    ({"network": {"block_dims": (4,) * 25, "block_alphas": (1.0,)}}, "network.block_alphas", "block_dims has 25"),
    ({"network": {"conv_block_dims": (4,) * 25}}, "network.conv_block_dims", "block_dims has 0"),
    ({"network": {"down_lr_weight": "sinee"}}, "network.down_lr_weight", "“sine”"),
    ({"network": {"mid_lr_weight": "-1"}}, "network.mid_lr_weight", "0 or more"),
    ({"network": {"factor": 8}}, "network.factor", "lokr"),
    ({"network": {"dora_wd": True}}, "network.dora_wd", "loha / lokr"),
    ({"network": {"network_args": ("preset=full",)}}, "network.network_args", "lora"),
    ({"network": {"algorithm": "loha", "network_args": ("presett=full",)}}, "network.network_args", "preset"),
    ({"network": {"algorithm": "loha", "block_dims": (4,) * 25}}, "network.block_dims", "lora"),
    ({"network": {"algorithm": "kohya-dylora", "conv_rank": 4}}, "network.conv_rank", "16, not 4"),
    ({"network": {"algorithm": "lorra"}}, "network.algorithm", "one of lora, dora"),
    ({"optimizer": {"optimizer_args": ("betas=0.9,0.99",)}}, "optimizer.optimizer_args", "setting of its own"),
    ({"optimizer": {"optimizer_args": ("eps=1e-x",)}}, "optimizer.optimizer_args", "name=value"),
    ({"optimizer": {"optimizer_args": ("eps=1e-8", "eps=1e-6")}}, "optimizer.optimizer_args", "twice"),
    ({"optimizer": {"optimizer": ""}}, "optimizer.optimizer", "AdamW"),
    ({"schedule": {"warmup": 2000.0}}, "schedule.warmup", "2000.0 steps and the run has 1000"),
    (
        {"schedule": {"scheduler": "warmup_stable_decay", "lr_decay_steps": 0.97}},
        "schedule.lr_decay_steps",
        "shorten",
    ),
    ({"schedule": {"scheduler": "piecewise_constant"}}, "schedule.lr_scheduler_args", "step_rules"),
    ({"schedule": {"scheduler": "adafactor"}}, "schedule.scheduler", "Adafactor"),
    ({"memory": {"full_fp16": True}}, "memory.full_fp16", "mixed_precision = fp16"),
    ({"memory": {"full_bf16": True}, "schedule": {"mixed_precision": "fp16"}}, "memory.full_bf16", "bf16; it is fp16"),
    ({"memory": {"fp8_base": True}}, "memory.fp8_base", "mixed_precision"),
    ({"memory": {"cpu_offload_checkpointing": True}}, "memory.cpu_offload_checkpointing", "gradient_checkpointing"),
    (
        {"memory": {"cache_text_encoder_outputs": True}, "network": {"train_te": True}},
        "memory.cache_text_encoder_outputs",
        "network_train_unet_only",
    ),
    *(
        (
            {"memory": {"cache_text_encoder_outputs": True}, "subset": {name: value}},
            f"data.datasets.0.subsets.0.{name}",
            "cache_text_encoder_outputs = false",
        )
        for name, value in (
            ("shuffle_caption", True),
            ("caption_dropout_rate", 0.1),
            ("caption_tag_dropout_rate", 0.1),
            ("token_warmup_step", 100.0),
        )
    ),
    ({"subset": {"color_aug": True}}, "data.datasets.0.subsets.0.color_aug", "cache_latents = false"),
    ({"subset": {"random_crop": True}}, "data.datasets.0.subsets.0.random_crop", "cache_latents = false"),
    ({"loss": {"masked_loss": True}}, "loss.masked_loss", "conditioning_data_dir"),
    (
        {"subset": {"conditioning_data_dir": "masks"}},
        "data.datasets.0.subsets.0.conditioning_data_dir",
        "masked_loss = true",
    ),
    ({"loss": {"min_timestep": 500, "max_timestep": 500}}, "loss.min_timestep", "No timestep"),
    ({"loss": {"adaptive_noise_scale": 0.01}}, "loss.adaptive_noise_scale", "noise_offset"),
    ({"loss": {"noise_offset_random_strength": True}}, "loss.noise_offset_random_strength", "noise_offset"),
    ({"loss": {"ip_noise_gamma_random_strength": True}}, "loss.ip_noise_gamma_random_strength", "ip_noise_gamma"),
    ({"loss": {"zero_terminal_snr": True}}, "loss.zero_terminal_snr", "v_parameterization"),
    (
        {"loss": {"scale_v_pred_loss_like_noise_pred": True}},
        "loss.scale_v_pred_loss_like_noise_pred",
        "v_parameterization",
    ),
    (
        {"loss": {"v_pred_like_loss": 0.1}, "model": {"v_parameterization": True}},
        "loss.v_pred_like_loss",
        "predicts velocity",
    ),
    ({"output": {"save_every_n_epochs": 1, "save_n_epoch_ratio": 2}}, "output.save_n_epoch_ratio", "keep one"),
    ({"model": {"max_token_length": 100}}, "model.max_token_length", "75, 150, 225"),
    ({"model": {"base_weights_multiplier": (1.0,)}}, "model.base_weights_multiplier", "one for each"),
    ({"dataset": {"resolution": (200, 512)}}, "data.datasets.0.min_bucket_reso", "200"),
    ({"dataset": {"resolution": (2048, 512)}}, "data.datasets.0.max_bucket_reso", "2048"),
    ({"dataset": {"resolution": (500, 512), "enable_bucket": False}}, "data.datasets.0.resolution", "like 496"),
    ({"dataset": {"bucket_reso_steps": 20}}, "data.datasets.0.bucket_reso_steps", "multiple of 8"),
    ({"subset": {"is_reg": True}}, "data", "pictures to learn from"),
    (
        {"subset": {"secondary_separator": ","}},
        "data.datasets.0.subsets.0.secondary_separator",
        "another",
    ),
    ({"subset": {"face_crop_aug_range": (4.0, 2.0)}}, "data.datasets.0.subsets.0.face_crop_aug_range", "2.0, 4.0"),
    ({"subset": {"caption_dropout_rate": 1.5}}, "data.datasets.0.subsets.0.caption_dropout_rate", "between 0 and 1"),
]


def test_good_settings_have_no_problem():
    assert list(GOOD.problems()) == []


@pytest.mark.parametrize(("groups", "field", "word"), CONTRADICTIONS, ids=[field for _, field, _ in CONTRADICTIONS])
def test_a_contradiction_is_one_problem_of_the_setting_that_has_to_change(groups, field, word):
    found = list(changed(**{name: dict(values) for name, values in groups.items()}).problems())

    assert [each.field for each in found] == [field]
    assert word in str(found[0])


def test_all_contradictions_are_said_at_once():
    groups = {}
    for given, _, _ in (CONTRADICTIONS[0], CONTRADICTIONS[17], CONTRADICTIONS[-1]):
        groups |= given

    assert len(list(changed(**groups).problems())) == 3


@pytest.mark.parametrize(
    ("model", "family", "prediction_type", "field"),
    [
        ({"v2": True}, "sd1", "epsilon", "model.v2"),
        ({}, "sd2", "epsilon", "model.v2"),
        ({"v_parameterization": True}, "sd1", "epsilon", "model.v_parameterization"),
        ({}, "sdxl", "v_prediction", "model.v_parameterization"),
    ],
)
def test_settings_that_the_base_model_belies_are_said(model, family, prediction_type, field):
    config = changed(model=model)

    found = list(model_problems(config, family=family, prediction_type=prediction_type))

    assert [each.field for each in found] == [field]


def test_numbers_by_block_are_counted_by_the_models_own_blocks():
    config = changed(network={"block_dims": (4,) * 25, "down_lr_weight": "1," * 11 + "1", "mid_lr_weight": "0.5"})

    assert list(model_problems(config, family="sd1", prediction_type="epsilon")) == []
    fields = [each.field for each in model_problems(config, family="sdxl", prediction_type="epsilon")]
    assert fields == ["network.block_dims", "network.down_lr_weight", "network.mid_lr_weight"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (1, 1, 1)),
        ("0.5,1,2", (0.5, 1, 2)),
        ("linear", (0, 0.5, 1)),
        ("reverse_linear+0.25", (1.25, 0.75, 0.25)),
        ("sine", (0, 2**-0.5, 1)),
        ("cosine", (1, 2**-0.5, 0)),
        ("zeros", (0, 0, 0)),
    ],
)
def test_factors_by_block_are_numbers_or_a_curve(text, expected):
    assert block_weights(text, 3) == pytest.approx(expected, abs=1e-9)


def test_a_block_at_or_below_the_threshold_is_not_trained():
    assert block_weights("0.1,0.2,0.3", 3, threshold=0.2) == (0, 0, 0.3)
    for bad in ("1,2", "1,x,2", "nan,1,1", "slope"):
        with pytest.raises(ValueError, match=r".+"):
            block_weights(bad, 3)


@pytest.mark.parametrize(
    ("groups", "field"),
    [
        ({"optimizer": {"optimizer": "Prodigy"}}, "optimizer.learning_rate"),
        ({"optimizer": {"optimizer": "AdamWScheduleFree"}}, "schedule.scheduler"),
        ({"optimizer": {"optimizer": "Adafactor"}}, "optimizer.optimizer_args"),
        ({"optimizer": {"learning_rate": 0.5}}, "optimizer.learning_rate"),
        ({"loss": {"min_snr_gamma": 5.0, "debiased_estimation_loss": True}}, "loss.debiased_estimation_loss"),
        ({"output": {"save_last_n_epochs": 2}}, "output.save_last_n_epochs"),
        ({"model": {"v2": True, "clip_skip": 2}}, "model.clip_skip"),
    ],
)
def test_what_is_unusual_is_said_and_not_refused(groups, field):
    config = changed(**groups)

    assert list(config.problems()) == []
    assert [each.field for each in notes(config)] == [field]


def test_the_same_folder_twice_is_said():
    dataset = DatasetConfig(subsets=(SubsetConfig(image_dir="p"), SubsetConfig(image_dir="p", num_repeats=2)))

    assert "given 2 times" in str(next(notes(TrainConfig(data=DataConfig(datasets=(dataset,))))))


def test_arguments_of_an_optimizer_are_values_of_python():
    prodigy = OptimizerConfig(optimizer="Prodigy", beta2=0.99, optimizer_args=("d_coef=2.0", "decouple=True"))
    came = OptimizerConfig(optimizer="pytorch_optimizer.CAME", optimizer_args=("betas=0.9,0.99,0.999",))

    assert prodigy.arguments() == {"d_coef": 2.0, "decouple": True, "betas": (0.9, 0.99), "weight_decay": 0.01}
    assert came.arguments() == {"betas": (0.9, 0.99, 0.999)}


# ------------------------------------------------------------------------------------------- kohya's own ways


@pytest.mark.parametrize(
    ("main", "word"),
    [
        ({"learnig_rate": 1e-4}, "learning_rate”"),
        ({"network_dimm": 8}, "network_dim”"),
        ({"unet_lr": "1e-4"}, "must be a number"),
        ({"seed": 1.5}, "whole number"),
        ({"shuffle_caption": "yes"}, "true or false"),
        ({"network_args": "conv_dim=4"}, "list like"),
        ({"network_args": ["conv_dim"]}, "name=value"),
        ({"network_args": ["conv_dim=four"]}, "whole number"),
        ({"network_module": "networks.lorra"}, "did you mean “networks.lora”"),
        ({"network_module": "networks.lora_flux"}, "SD3 and FLUX"),
        ({"network_module": "lycoris.kohya", "network_args": ["algo=loka"]}, "network_args.lokr”"),
        ({"optimizer_args": ["betas=0.9"]}, "can't be read as a number"),
        ({"blocks_to_swap": 18}, "SD3 and FLUX"),
        ({"resume": "some-state"}, "lora-atelier resume"),
        ({"dataset_class": "my.Data"}, "not run here"),
        ({"save_model_as": "ckpt"}, "safetensors"),
        ({"resolution": "512,x"}, "[width, height]"),
    ],
)
def test_an_option_that_can_not_be_read_has_its_own_sentence(main, word):
    with pytest.raises(ConfigError) as caught:
        from_kohya(main | ({"train_data_dir": "p"} if "resolution" in main else {}), {})

    assert len(caught.value.problems) == 1
    assert word in str(caught.value)


def test_an_option_that_changes_nothing_is_a_note_only_where_it_asks_for_something():
    read = read_kohya({"console_log_level": "INFO", "log_config": False, "deepspeed": False, "learning_rate": 1e-4}, {})

    assert [note.field for note in read.notes] == ["console_log_level"]


def test_a_recipe_without_learning_rate_does_not_get_the_one_that_learns_nothing():
    read = read_kohya({}, {})

    assert read.config.optimizer.learning_rate == 1e-4
    assert [note.field for note in read.notes] == ["learning_rate"]


def test_a_learning_rate_of_0_leaves_that_part_of_the_model_alone():
    assert not from_kohya({"unet_lr": 1e-4, "text_encoder_lr": 0.0}, {}).network.train_te
    te_only = from_kohya({"unet_lr": 0.0, "text_encoder_lr": [5e-5]}, {})
    assert te_only.network.train_te and te_only.network.network_train_text_encoder_only
    assert list(te_only.optimizer.problems()) == []


def test_the_text_encoder_is_trained_unless_a_recipe_says_otherwise():
    assert from_kohya({}, {}).network.train_te
    assert not from_kohya({"network_train_unet_only": True}, {}).network.train_te


def test_old_flags_and_any_capitals_name_the_optimizer():
    assert from_kohya({"use_8bit_adam": True}, {}).optimizer.optimizer == "AdamW8bit"
    assert from_kohya({"optimizer_type": "prodigy"}, {}).optimizer.optimizer == "Prodigy"
    assert from_kohya({"optimizer_type": "prodigy"}, {}).optimizer.weight_decay == 0
    assert from_kohya({"optimizer_type": "a.b.C"}, {}).optimizer.optimizer == "a.b.C"


def test_betas_are_the_optimizers_own_where_a_recipe_gives_none():
    assert from_kohya({"optimizer_type": "Lion"}, {}).optimizer.beta2 == 0.99
    assert from_kohya({"optimizer_type": "AdamW"}, {}).optimizer.beta2 == 0.999


def test_lycoris_trains_convolutions_with_the_same_rank_unless_told_otherwise():
    def network(*arguments):
        main = {"network_module": "lycoris.kohya", "network_dim": 8, "network_alpha": 4.0}
        return from_kohya(main | {"network_args": list(arguments)}, {}).network

    assert (network().algorithm, network().conv_rank, network().conv_alpha) == ("lora", 8, 4)
    assert network("algo=loha", "preset=attn-mlp").conv_rank == 0
    assert network("algo=lokr", "conv_dim=2").conv_rank == 2
    assert network("algo=locon", "dora_wd=True").algorithm == "dora"
    assert network("algo=diag-oft").algorithm == "oft"
    assert network("preset=attn-only").network_args == ("preset=attn-only",)


def test_folders_of_numbered_folders_need_no_dataset_file():
    read = from_kohya(
        {"train_data_dir": "a", "reg_data_dir": "b", "train_batch_size": 2, "resolution": "768,512", "keep_tokens": 1},
        {},
    )

    dataset = read.data.datasets[0]
    assert (dataset.batch_size, dataset.resolution) == (2, (768, 512))
    assert [(s.image_dir, s.is_reg, s.keep_tokens) for s in dataset.subsets] == [("a", False, 1), ("b", True, 1)]


def test_a_dataset_file_falls_back_to_what_config_toml_says():
    read = read_kohya(
        {"shuffle_caption": True, "keep_tokens": 1, "train_data_dir": "not used", "learning_rate": 1e-4},
        {"datasets": [{"keep_tokens": 2, "subsets": [{"image_dir": "a"}, {"image_dir": "b", "keep_tokens": 3}]}]},
    )

    subsets = read.config.data.datasets[0].subsets
    assert [(s.shuffle_caption, s.keep_tokens) for s in subsets] == [(True, 2), (True, 3)]
    assert [note.field for note in read.notes] == ["train_data_dir"]


def test_a_held_out_share_may_stand_in_the_dataset_file_if_all_say_the_same():
    one = {"datasets": [{"validation_split": 0.2, "validation_seed": 3, "subsets": [{"image_dir": "a"}]}]}

    assert from_kohya({}, one).validation.split == 0.2
    with pytest.raises(ConfigError, match="different shares"):
        from_kohya({}, {"datasets": [*one["datasets"], {"validation_split": 0.3}]})


def test_a_metadata_file_is_a_subset_without_caption_files():
    read = from_kohya({}, {"datasets": [{"subsets": [{"metadata_file": "m.json", "image_dir": "p"}]}]})

    subset = read.data.datasets[0].subsets[0]
    assert subset.metadata_file == "m.json"
    assert [found.field for found in subset.problems()] == []


def test_unknown_groups_of_checks_are_not_hidden_behind_the_first():
    config = TrainConfig(
        memory=MemoryConfig(full_fp16=True, full_bf16=True),
        loss=LossConfig(huber_c=-1.0),
        network=NetworkConfig(rank=0),
        schedule=ScheduleConfig(steps=0),
        output=OutputConfig(name=""),
    )

    groups = {found.field.split(".")[0] for found in config.problems()}
    assert groups == {"model", "data", "memory", "loss", "network", "schedule", "output"}
