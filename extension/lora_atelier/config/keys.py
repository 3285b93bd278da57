"""Which option of sd-scripts is which setting, which ones change nothing here, and which ones belong elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..errors import Message, message, problem
from .data import DatasetConfig, SubsetConfig
from .network import ALGORITHMS, MORE_NETWORK_ARGS, NetworkConfig
from .setting import key_of
from .train import TrainConfig
from .values import Field, Values

GROUPS = tuple(f.name for f in fields(TrainConfig) if f.name != "data")

# Settings that kohya's file holds in the list network_args, each "name=value", by that name.
NETWORK_ARGS: Mapping[str, str] = {
    "conv_dim": "conv_rank",
    "conv_alpha": "conv_alpha",
    **{
        name: name
        for name in (
            "rank_dropout", "module_dropout", "block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas",
            "down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "loraplus_lr_ratio",
            "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio", "factor", "dora_wd", "use_tucker",
        )
    },
}  # fmt: skip
# LyCORIS' older names of the same.
OLD_NETWORK_ARGS: Mapping[str, str] = {"use_cp": "use_tucker", "use_conv_cp": "use_tucker", "dropout": "dropout"}

# Settings that are said in another shape than one key of one value.
_OTHERWISE = {
    "network": {"algorithm", "train_te", "network_args", *NETWORK_ARGS.values()},
    "optimizer": {"te_learning_rate", "te2_learning_rate", "beta1", "beta2", "weight_decay", "optimizer_args"},
    "sampling": {"prompts"},
}


def group_class(group: str) -> type[Any]:
    """The dataclass of one group of settings."""
    return type(getattr(TrainConfig(), group))


def plain_keys() -> dict[str, tuple[str, Field]]:
    """Every key of config.toml that holds one setting's value -> (group, field)."""
    return {
        key_of(f): (group, f)
        for group in GROUPS
        for f in fields(group_class(group))
        if f.name not in _OTHERWISE.get(group, set())
    }


def network_fields() -> dict[str, Field]:
    """The settings in network_args by the name that they have there."""
    named = {f.name: f for f in fields(NetworkConfig)}
    return {key: named[name] for key, name in NETWORK_ARGS.items()}


def subset_keys() -> dict[str, Field]:
    """The keys of a subset that hold one setting's value."""
    return {key_of(f): f for f in fields(SubsetConfig) if f.name != "diff_output_preservation"}


def dataset_keys() -> dict[str, Field]:
    """The keys of a dataset that hold one setting's value."""
    return {key_of(f): f for f in fields(DatasetConfig) if f.metadata}


# Keys of config.toml that say where the pictures are, or that a dataset file falls back to under another name.
DATA_KEYS = ("train_data_dir", "reg_data_dir", "in_json", "dataset_repeats", "train_batch_size", "caption_extention")
# Keys that are read in a way of their own.
SPECIAL_KEYS = (
    "learning_rate", "text_encoder_lr", "network_module", "network_args", "network_train_unet_only", "optimizer_args",
    "use_8bit_adam", "use_lion_optimizer", "sample_prompts", "save_model_as", *DATA_KEYS,
)  # fmt: skip

# What is written on the command line or in other programs' files as the value of such a key.
_SPECIAL_KINDS: Mapping[str, str] = {
    **dict.fromkeys(SPECIAL_KEYS, "str"),
    **dict.fromkeys(("network_train_unet_only", "use_8bit_adam", "use_lion_optimizer"), "bool"),
    **dict.fromkeys(("dataset_repeats", "train_batch_size"), "int"),
    **dict.fromkeys(("network_args", "optimizer_args"), "tuple[str, ...]"),
    "learning_rate": "float",
    "text_encoder_lr": "tuple[float, ...]",
    # "512,768" and "2.0,4.0": the reader takes them apart.
    "resolution": "str",
    "face_crop_aug_range": "str",
}

_LOGS = message("“{key}” has no effect here: each run keeps its own log and curves.")
_SECRET = message("“{key}” is not read from files: set the environment variable WANDB_API_KEY.")
_UPLOAD = message("“{key}” has no effect here: nothing is uploaded.")
_MACHINES = message("“{key}” has no effect here: a run has one machine and one card.")
_STATES = message("“{key}” has no effect here: a run always keeps states to resume from.")
_FILES = message("“{key}” has no effect here: our own files are used.")
_FULL = message("“{key}” has no effect here: it is for training whole models.")

# Options of sd-scripts that can't change what our trainer makes, and what is said of them.
WITHOUT_EFFECT: Mapping[str, Message] = {
    **dict.fromkeys(
        ("log_tracker_config", "log_config", "console_log_level", "console_log_file", "console_log_simple"), _LOGS
    ),
    "wandb_api_key": _SECRET,
    **dict.fromkeys(
        ("huggingface_repo_id", "huggingface_repo_type", "huggingface_path_in_repo", "huggingface_token",
         "huggingface_repo_visibility", "save_state_to_huggingface", "async_upload"),
        _UPLOAD,
    ),
    **dict.fromkeys(
        ("ddp_timeout", "ddp_gradient_as_bucket_view", "ddp_static_graph", "deepspeed", "zero_stage",
         "offload_optimizer_device", "offload_optimizer_nvme_path", "offload_param_device", "offload_param_nvme_path",
         "zero3_init_flag", "zero3_save_16bit_model", "fp16_master_weights_and_gradients"),
        _MACHINES,
    ),
    **dict.fromkeys(
        ("save_state", "save_state_on_train_end", "save_last_n_epochs_state", "save_last_n_steps_state"), _STATES
    ),
    **dict.fromkeys(
        ("config_file", "dataset_config", "output_config", "tokenizer_cache_dir", "disable_mmap_load_safetensors",
         "debug_dataset"),
        _FILES,
    ),
    "fused_backward_pass": _FULL,
}  # fmt: skip
# They say which files are read, or have values that mean nothing: no word is lost about them.
UNSAID = frozenset({"config_file", "dataset_config", "zero_stage"})

# Options for models of other kinds, with the value that means nothing.
OTHER_MODELS: Mapping[str, Any] = {
    "text_encoder_batch_size": None,
    "weighting_scheme": "uniform",
    "logit_mean": 0.0,
    "logit_std": 1.0,
    "mode_scale": 1.29,
    "blocks_to_swap": None,
    "timestep_sampling": "sigma",
    "discrete_flow_shift": None,
    "sigmoid_scale": 1.0,
    "model_prediction_type": None,
    "guidance_scale": None,
    "training_shift": 1.0,
    "apply_t5_attn_mask": False,
    "t5xxl_max_token_length": None,
    "clip_l": None,
    "clip_g": None,
    "t5xxl": None,
    "ae": None,
}
OTHER_MODULES = frozenset(
    f"networks.{name}"
    for name in ("lora_flux", "oft_flux", "lora_sd3", "lora_lumina", "lora_hunyuan_image", "lora_anima")
)
# Options that go on from a state of sd-scripts.
RESUMING = ("resume", "resume_from_huggingface", "skip_until_initial_step", "initial_epoch", "initial_step")


def name_of(place: str) -> str:
    """How a person calls the setting at ``place`` ("network.rank", "data.datasets.0.subsets.1.is_reg"): kohya's key."""
    *parents, name = place.split(".")
    if len(parents) == 1 and parents[0] in GROUPS:
        f = next((f for f in fields(group_class(parents[0])) if f.name == name), None)
        return next((key for key, own in NETWORK_ARGS.items() if (parents[0], own) == ("network", name)), "") or (
            key_of(f) if f is not None else place
        )
    if parents[:2] == ["data", "datasets"]:
        return re.sub(r"\.(\d+)", r"[\1]", ".".join(place.split(".")[1:]))
    return place


def known_keys() -> list[str]:
    """Every key of config.toml that is read at all, for finding the nearest one."""
    return [
        *plain_keys(), *subset_keys(), *dataset_keys(), *SPECIAL_KEYS, *WITHOUT_EFFECT, *OTHER_MODELS, *RESUMING,
        "dataset_class",
    ]  # fmt: skip


def kind_of(key: str) -> str | None:
    """The type of a key's value as it is written in our settings; "" if any will do, None for an unknown key."""
    if key in _SPECIAL_KINDS:
        return _SPECIAL_KINDS[key]
    group_and_field = plain_keys().get(key)
    f = group_and_field[1] if group_and_field else subset_keys().get(key) or dataset_keys().get(key)
    if f is not None:
        return str(f.type)
    return "" if key in known_keys() else None


def unknown_option(reader: Values, key: str) -> None:
    """Note that ``key`` is no option of config.toml: where it belongs, or the nearest one."""
    if key in NETWORK_ARGS or any(key in known for known in MORE_NETWORK_ARGS.values()):
        reader.wrong(
            problem(
                key,
                "“{key}” is an argument of the adapter: write it into network_args, as {key}=value.",
                key=key,
            )
        )
    else:
        reader.unknown(key, known_keys())


def algorithm_of(module: str, algo: str, *, decomposed: bool) -> str | None:
    """Our name of what ``network_module`` and LyCORIS' ``algo`` say; None if we don't know it."""
    algo = {"lora": "locon", "": "locon"}.get(algo, algo) if module == "lycoris.kohya" else ""
    if (module, algo) == ("lycoris.kohya", "locon"):
        return "dora" if decomposed else "lora"
    return next((name for name, said in ALGORITHMS.items() if said == (module, algo)), None)
