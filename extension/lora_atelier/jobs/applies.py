"""Which settings mean nothing beside the others, on this model, or for this engine: a form does not show them."""

from __future__ import annotations

from collections.abc import Iterator

from ..config import TrainConfig
from ..config.optimizer import BETAS, SCHEDULE_FREE
from ..config.support import ALWAYS, NOT_READ, NOT_YET
from .overlay import OF_THE_JOB, all_fields, get

_LORA_ALONE = (
    "block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas", "down_lr_weight", "mid_lr_weight",
    "up_lr_weight", "block_lr_zero_threshold",
)  # fmt: skip


def hidden(config: TrainConfig, *, family: str, engine: str) -> frozenset[str]:
    """Places of settings that need not be shown. One that has another value than its default is always shown, so that
    whoever changed it can see it."""
    found = {*OF_THE_JOB, *_unavailable(engine), *_without_effect(config), *_of_other_models(family)}
    given = {place for place, f in all_fields() if get(config, place) not in (None, f.default)}
    return frozenset(OF_THE_JOB | (found - given))


def _unavailable(engine: str) -> Iterator[str]:
    if engine == "native":
        yield from (place for place in (*NOT_YET, *NOT_READ, *ALWAYS) if "=" not in place)
    else:
        yield from ("validation.patience", "validation.memorisation", "optimizer.ema_decay", "loss.timesteps")


def _of_other_models(family: str) -> Iterator[str]:
    if family != "sdxl":
        yield "optimizer.te2_learning_rate"
    if family == "sdxl":
        yield from ("model.v2", "model.clip_skip")
    # The model itself says these.
    yield from ("model.v2", "model.v_parameterization")
    if family == "toy":
        yield from (f"network.{name}" for name in _LORA_ALONE)


def _without_effect(config: TrainConfig) -> Iterator[str]:
    network, optimizer, schedule, loss = config.network, config.optimizer, config.schedule, config.loss
    if network.algorithm not in ("lora", "kohya-lora-fa"):
        yield from (f"network.{name}" for name in _LORA_ALONE)
    if not (network.down_lr_weight or network.mid_lr_weight or network.up_lr_weight):
        yield "network.block_lr_zero_threshold"
    if network.algorithm != "lokr":
        yield "network.factor"
    if network.algorithm not in ("loha", "lokr"):
        yield "network.dora_wd"
    if network.algorithm not in ("loha", "lokr", "dora", "boft", "glora", "full"):
        yield "network.use_tucker"
    if not network.conv_rank:
        yield "network.conv_alpha"
    if not network.block_dims:
        yield from ("network.block_alphas", "network.conv_block_dims", "network.conv_block_alphas")
    if not network.network_weights:
        yield "network.dim_from_weights"
    if not network.train_te:
        yield from (
            "optimizer.te_learning_rate", "optimizer.te2_learning_rate", "network.network_train_text_encoder_only",
            "network.loraplus_text_encoder_lr_ratio",
        )  # fmt: skip
    if optimizer.optimizer not in BETAS:
        yield from ("optimizer.beta1", "optimizer.beta2", "optimizer.weight_decay")
    if schedule.scheduler != "cosine_with_restarts":
        yield "schedule.lr_scheduler_num_cycles"
    if schedule.scheduler != "polynomial":
        yield "schedule.lr_scheduler_power"
    if schedule.scheduler != "inverse_sqrt":
        yield "schedule.lr_scheduler_timescale"
    if schedule.scheduler not in ("warmup_stable_decay",):
        yield "schedule.lr_decay_steps"
    if schedule.scheduler not in ("cosine_with_min_lr", "warmup_stable_decay"):
        yield "schedule.floor"
    if schedule.scheduler == "constant" or optimizer.optimizer in SCHEDULE_FREE:
        yield "schedule.warmup"
    if loss.loss_type not in ("huber", "smooth_l1"):
        yield from ("loss.huber_c", "loss.huber_schedule", "loss.huber_scale")
    if not config.model.v_parameterization:
        yield from ("loss.scale_v_pred_loss_like_noise_pred", "loss.v_pred_like_loss")
    if not loss.noise_offset:
        yield from ("loss.noise_offset_random_strength", "loss.adaptive_noise_scale")
    if not loss.multires_noise_iterations:
        yield "loss.multires_noise_discount"
    if not loss.ip_noise_gamma:
        yield "loss.ip_noise_gamma_random_strength"
    if not any(subset.is_reg for dataset in config.data.datasets for subset in dataset.subsets):
        yield "loss.prior_weight"
    if not config.validation.split:
        yield from (f"validation.{name}" for name in ("seed", "every_n_steps", "validate_every_n_epochs",
                                                      "max_validation_steps", "patience"))  # fmt: skip
    if not config.sampling.prompts:
        yield from ("sampling.every_n_steps", "sampling.sample_every_n_epochs", "sampling.sample_at_first",
                    "sampling.sampler")  # fmt: skip
    for dataset in config.data.datasets[:1]:
        if not dataset.enable_bucket:
            yield from ("dataset.min_bucket_reso", "dataset.max_bucket_reso", "dataset.bucket_reso_steps",
                        "dataset.bucket_no_upscale")  # fmt: skip
