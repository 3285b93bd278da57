"""What an adapter file says of itself: kohya's ``ss_*`` keys with our own values, ``modelspec.*``, and the rights.

Captions, folders and file names are not among them (design decision 11).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from .. import __version__
from ..config import TrainConfig, to_kohya
from ..models.detect import ModelInfo
from . import optimizers

_BASE_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0", "toy": "lora_atelier_toy"}
_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1/lora",
    "sd2": "stable-diffusion-v2-768-v/lora",
    "sdxl": "stable-diffusion-xl-v1-base/lora",
    "toy": "lora-atelier-toy/lora",
}


def metadata(
    config: TrainConfig,
    info: ModelInfo,
    *,
    stem: str,
    step: int,
    trigger: str,
    pictures: int,
    regularisation: int,
    batches_per_epoch: int,
    rights: Mapping[str, Any],
) -> dict[str, str]:
    """The metadata of an adapter file, all texts; a value that does not apply is "None", as in kohya's files."""
    network, schedule, optimizer = config.network, config.schedule, config.optimizer
    datasets = config.data.datasets
    resolution = datasets[0].resolution
    in_kohyas_words = to_kohya(config)[0]["network"]
    args = dict(argument.split("=", 1) for argument in in_kohyas_words.get("network_args", ()))
    said: dict[str, Any] = {
        "ss_base_model_version": _BASE_VERSIONS[info.family],
        "ss_sd_model_name": info.path.name if info.family != "toy" else "lora-atelier-base",
        "ss_v2": info.family == "sd2",
        "ss_output_name": stem,
        "ss_network_module": in_kohyas_words["network_module"],
        "ss_network_dim": network.rank,
        "ss_network_alpha": network.alpha,
        "ss_network_dropout": network.dropout or None,
        "ss_network_args": json.dumps(args) if args else None,
        "ss_learning_rate": optimizer.learning_rate,
        "ss_unet_lr": optimizer.learning_rate,
        "ss_text_encoder_lr": optimizer.te_learning_rate if network.train_te else None,
        "ss_optimizer": optimizers.described(optimizer),
        "ss_lr_scheduler": schedule.scheduler,
        "ss_lr_warmup_steps": schedule.warmup,
        "ss_max_grad_norm": optimizer.max_grad_norm,
        "ss_steps": step,
        "ss_max_train_steps": schedule.steps,
        "ss_epoch": step * schedule.accumulation // max(1, batches_per_epoch),
        "ss_num_batches_per_epoch": batches_per_epoch,
        "ss_num_train_images": pictures - regularisation,
        "ss_num_reg_images": regularisation,
        "ss_total_batch_size": datasets[0].batch_size * schedule.accumulation,
        "ss_gradient_accumulation_steps": schedule.accumulation,
        "ss_gradient_checkpointing": schedule.gradient_checkpointing,
        "ss_mixed_precision": schedule.mixed_precision,
        "ss_resolution": f"({resolution[0]}, {resolution[1]})",
        "ss_enable_bucket": datasets[0].enable_bucket,
        "ss_min_bucket_reso": datasets[0].min_bucket_reso,
        "ss_max_bucket_reso": datasets[0].max_bucket_reso,
        "ss_cache_latents": True,
        "ss_min_snr_gamma": config.loss.min_snr_gamma or None,
        "ss_noise_offset": config.loss.noise_offset or None,
        "ss_prior_loss_weight": config.loss.prior_weight,
        "ss_seed": schedule.seed,
        "ss_training_comment": config.output.comment or None,
        "ss_training_finished_at": time.time(),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": _ARCHITECTURES[info.family],
        "modelspec.implementation": "diffusers",
        "modelspec.title": stem,
        "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "modelspec.resolution": f"{resolution[0]}x{resolution[1]}",
        "modelspec.prediction_type": "v" if info.prediction_type == "v_prediction" else "epsilon",
        "modelspec.trigger_phrase": trigger,
        "atelier_version": __version__,
        "atelier_rights": json.dumps(rights, ensure_ascii=False, sort_keys=True),
    }
    return {key: str(value) for key, value in said.items()}
