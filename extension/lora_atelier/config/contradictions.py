"""What is wrong between settings of several groups, or between them and the base model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import Problem, problem
from .blocks import BLOCKS, DIMS, block_weights
from .data import SubsetConfig

if TYPE_CHECKING:
    from .train import TrainConfig


def contradictions(config: TrainConfig) -> Iterator[Problem]:
    """Yield everything that settings of several groups can't be at once."""
    yield from _precision(config)
    yield from _caching(config)
    yield from _masks(config)
    yield from _prediction(config)
    if config.schedule.scheduler == "adafactor" and config.optimizer.optimizer != "Adafactor":
        yield problem(
            "schedule.scheduler",
            "The schedule adafactor belongs to the optimizer Adafactor; choose that, or another schedule.",
        )


def _precision(config: TrainConfig) -> Iterator[Problem]:
    memory, precision = config.memory, config.schedule.mixed_precision
    for name, wanted in (("full_fp16", "fp16"), ("full_bf16", "bf16")):
        if getattr(memory, name) and precision != wanted:
            yield problem(
                f"memory.{name}",
                "{name} needs mixed_precision = {wanted}; it is {precision}.",
                name=name,
                wanted=wanted,
                precision=precision,
            )
    for name in ("fp8_base", "fp8_base_unet"):
        if getattr(memory, name) and precision == "no":
            yield problem(
                f"memory.{name}", "{name} needs mixed_precision = fp16 or bf16 to compute in; it is no.", name=name
            )
    if memory.cpu_offload_checkpointing and not config.schedule.gradient_checkpointing:
        yield problem(
            "memory.cpu_offload_checkpointing", "cpu_offload_checkpointing needs gradient_checkpointing; turn it on."
        )


def _caching(config: TrainConfig) -> Iterator[Problem]:
    memory = config.memory
    captions_once = memory.cache_text_encoder_outputs or memory.cache_text_encoder_outputs_to_disk
    pictures_once = memory.cache_latents or memory.cache_latents_to_disk
    if captions_once and config.network.train_te:
        yield problem(
            "memory.cache_text_encoder_outputs",
            "The text encoder can't be trained while its outputs are cached; set network_train_unet_only, or "
            "cache_text_encoder_outputs = false.",
        )
    for where, subset in _subsets(config):
        for name in _changing_captions(subset) if captions_once else ():
            yield problem(
                f"{where}.{name}",
                "“{name}” changes captions, which are cached; remove it, or set cache_text_encoder_outputs = false.",
                name=name,
            )
        for name in ("color_aug", "random_crop") if pictures_once else ():
            if getattr(subset, name):
                yield problem(
                    f"{where}.{name}",
                    "“{name}” changes pictures, which are cached; remove it, or set cache_latents = false.",
                    name=name,
                )


def _changing_captions(subset: SubsetConfig) -> Iterator[str]:
    for name in ("shuffle_caption", "caption_dropout_rate", "caption_tag_dropout_rate", "token_warmup_step"):
        if getattr(subset, name):
            yield name


def _masks(config: TrainConfig) -> Iterator[Problem]:
    subsets = list(_subsets(config))
    if config.loss.masked_loss:
        if subsets and not any(subset.conditioning_data_dir or subset.alpha_mask for _, subset in subsets):
            yield problem(
                "loss.masked_loss",
                "There are no masks to learn by; name their folder (conditioning_data_dir), or set alpha_mask.",
            )
        return
    for where, subset in subsets:
        if subset.conditioning_data_dir:
            yield problem(
                f"{where}.conditioning_data_dir", "Masks are used with masked_loss only; set masked_loss = true."
            )


def _prediction(config: TrainConfig) -> Iterator[Problem]:
    loss, velocity = config.loss, config.model.v_parameterization
    if loss.scale_v_pred_loss_like_noise_pred and not velocity:
        yield problem(
            "loss.scale_v_pred_loss_like_noise_pred",
            "scale_v_pred_loss_like_noise_pred is for models that predict velocity; remove it, or set "
            "v_parameterization.",
        )
    if loss.v_pred_like_loss and velocity:
        yield problem(
            "loss.v_pred_like_loss", "v_pred_like_loss is for models that predict noise; this one predicts velocity."
        )
    if loss.zero_terminal_snr and not velocity:
        yield problem(
            "loss.zero_terminal_snr",
            "From pure noise, which zero_terminal_snr ends in, noise can't be predicted: it is for models with "
            "v_parameterization.",
        )


def model_problems(config: TrainConfig, *, family: str, prediction_type: str) -> Iterator[Problem]:
    """Yield everything that does not go with the base model: ``family`` and ``prediction_type`` as its header says."""
    model = config.model
    if model.v2 and family != "sd2":
        yield problem("model.v2", "The base model is not Stable Diffusion 2; remove v2.")
    elif family == "sd2" and not model.v2:
        yield problem("model.v2", "The base model is Stable Diffusion 2; set v2 = true.")
    if model.v_parameterization and prediction_type != "v_prediction":
        yield problem(
            "model.v_parameterization",
            "Nothing in the base model says that it predicts velocity; remove v_parameterization, or put the .yaml "
            "file that says so beside it.",
        )
    elif prediction_type == "v_prediction" and not model.v_parameterization:
        yield problem(
            "model.v_parameterization", "The base model predicts velocity, not noise; set v_parameterization = true."
        )
    if config.optimizer.te2_learning_rate and family != "sdxl":
        yield problem("optimizer.te2_learning_rate", "Only SDXL has a second text encoder; give one text_encoder_lr.")
    if family in BLOCKS:
        yield from _block_counts(config, family)


def _block_counts(config: TrainConfig, family: str) -> Iterator[Problem]:
    network = config.network
    if network.block_dims and len(network.block_dims) != DIMS[family]:
        yield problem(
            "network.block_dims",
            "block_dims has {given} numbers and this model takes {wanted}.",
            given=len(network.block_dims),
            wanted=DIMS[family],
        )
    for name, count in zip(("down_lr_weight", "mid_lr_weight", "up_lr_weight"), BLOCKS[family], strict=True):
        try:
            block_weights(getattr(network, name), count)
        except ValueError:
            yield problem(f"network.{name}", "{name} takes {wanted} numbers for this model.", name=name, wanted=count)


def _subsets(config: TrainConfig) -> Iterator[tuple[str, SubsetConfig]]:
    for d, dataset in enumerate(config.data.datasets):
        for s, subset in enumerate(dataset.subsets):
            yield f"data.datasets.{d}.subsets.{s}", subset
