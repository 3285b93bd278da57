"""What an adapter file says of itself: kohya's ``ss_*`` keys with our own values, ``modelspec.*``, and the rights.

Captions, folders and file names are not among them (design decision 11).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from .. import __version__
from ..config import SubsetConfig, TrainConfig, to_kohya
from ..datasets import pixels
from ..errors import ConfigError
from ..models.detect import ModelInfo
from . import optimizers
from .pictures import Pictures

_THUMBNAIL_SIDE = 512
_BASE_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0", "toy": "lora_atelier_toy"}
_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1/lora",
    "sd2": "stable-diffusion-v2-768-v/lora",
    "sdxl": "stable-diffusion-xl-v1-base/lora",
    "toy": "lora-atelier-toy/lora",
}


# All that is left under no_metadata, beside modelspec, hashes and the answer to whose the pictures are.
_LEAST = frozenset(
    ("ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args")
)


@dataclass(frozen=True)
class Facts:
    """What a run knows of itself beside its settings.

    ``buckets`` counts the pictures with their repeats by (width, height), ``folders`` the pictures by (repeats,
    regularisation); ``ratio_error`` is the mean distance between a picture's width / height and its bucket's.
    ``started`` and the end are seconds since 1970.
    """

    step: int
    batches_per_epoch: int
    pictures: int
    regularisation: int
    heldout: int
    buckets: Mapping[tuple[int, int], int]
    folders: Mapping[tuple[int, bool], int]
    ratio_error: float
    started: float
    session: int
    rights: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        pictures: Pictures,
        *,
        step: int,
        batches_per_epoch: int,
        started: float,
        session: int,
        rights: Mapping[str, Any],
    ) -> Facts:
        """The facts of a run at ``step``; ``rights`` is what the file says of them."""
        buckets: Counter[tuple[int, int]] = Counter()
        folders: Counter[tuple[int, bool]] = Counter()
        errors = []
        for item in pictures.train:
            width, height = pictures.framing(item).bucket
            buckets[width, height] += item.num_repeats
            folders[item.num_repeats, item.is_reg] += 1
            errors.append(abs(width / height - item.width / item.height))
        return cls(
            step=step,
            batches_per_epoch=batches_per_epoch,
            pictures=len(pictures.train),
            regularisation=sum(item.is_reg for item in pictures.train),
            heldout=len(pictures.heldout),
            buckets=buckets,
            folders=folders,
            ratio_error=sum(errors) / max(1, len(errors)),
            started=started,
            session=session,
            rights=rights,
        )


def metadata(config: TrainConfig, info: ModelInfo, facts: Facts, *, stem: str, trigger: str) -> dict[str, str]:
    """The metadata of an adapter file, all texts; a value that does not apply is "None", as in kohya's files."""
    said = {**_model(config, info), **_network(config), **_course(config, facts), **_data(config, facts)}
    said |= {"ss_output_name": stem, "ss_training_comment": config.output.comment or None}
    if config.output.no_metadata:
        said = {key: value for key, value in said.items() if key in _LEAST}
    said |= _modelspec(config, info, stem=stem, trigger=trigger)
    said["atelier_version"] = __version__
    said["atelier_rights"] = json.dumps(facts.rights, ensure_ascii=False, sort_keys=True)
    return {key: str(value) for key, value in said.items()}


def _model(config: TrainConfig, info: ModelInfo) -> dict[str, Any]:
    model, memory = config.model, config.memory
    return {
        "ss_base_model_version": _BASE_VERSIONS[info.family],
        "ss_sd_model_name": info.path.name if info.family != "toy" else "lora-atelier-base",
        # A hash of the whole base model takes as long as reading it; the loader finds it in the background.
        "ss_sd_model_hash": None,
        "ss_new_sd_model_hash": None,
        "ss_sd_scripts_commit_hash": None,
        "ss_v2": info.family == "sd2",
        **(_vae(Path(model.vae)) if model.vae else {}),
        "ss_clip_skip": model.clip_skip or None,
        "ss_max_token_length": model.max_token_length if model.max_token_length != 75 else None,
        "ss_full_fp16": memory.full_fp16,
        "ss_fp8_base": memory.fp8_base,
        "ss_fp8_base_unet": memory.fp8_base_unet,
        "ss_lowram": memory.lowram,
        "ss_cache_latents": True,
    }


def _vae(path: Path) -> dict[str, str | None]:
    """The name of another VAE and its hashes as sd-scripts has them; a folder has none."""
    try:
        said = path.stat()
        old, new = _file_hashes(path, said.st_size, said.st_mtime_ns) if path.is_file() else (None, None)
    except OSError:
        old = new = None
    return {"ss_vae_name": path.name, "ss_vae_hash": old, "ss_new_vae_hash": new}


@cache
def _file_hashes(path: Path, size: int, changed: int) -> tuple[str, str]:
    """Hashes of a file that was of this size and age: of 64 KiB behind the first MiB, 8 hex digits, and of all of it.

    It is read when the first file is written, long after the first step. Source: AUTOMATIC1111's old model hash.
    """
    with path.open("rb") as file:
        file.seek(0x100000)
        old = hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
        file.seek(0)
        return old, hashlib.file_digest(file, "sha256").hexdigest()


def _network(config: TrainConfig) -> dict[str, Any]:
    network, optimizer = config.network, config.optimizer
    in_kohyas_words = to_kohya(config)[0]["network"]
    args = dict(argument.split("=", 1) for argument in in_kohyas_words.get("network_args", ()))
    return {
        "ss_network_module": in_kohyas_words["network_module"],
        "ss_network_dim": network.rank,
        "ss_network_alpha": network.alpha,
        "ss_network_dropout": network.dropout or None,
        "ss_network_args": json.dumps(args) if args else None,
        "ss_scale_weight_norms": network.scale_weight_norms or None,
        "ss_learning_rate": optimizer.learning_rate,
        "ss_unet_lr": optimizer.learning_rate,
        "ss_text_encoder_lr": optimizer.te_learning_rate if network.train_te else None,
        "ss_optimizer": optimizers.described(optimizer),
        "ss_max_grad_norm": optimizer.max_grad_norm,
    }


def _course(config: TrainConfig, facts: Facts) -> dict[str, Any]:
    schedule, loss, validation = config.schedule, config.loss, config.validation
    per_epoch = max(1, facts.batches_per_epoch)
    return {
        "ss_lr_scheduler": schedule.scheduler,
        "ss_lr_warmup_steps": schedule.warmup,
        "ss_steps": facts.step,
        "ss_max_train_steps": schedule.steps,
        "ss_epoch": facts.step * schedule.accumulation // per_epoch,
        "ss_num_epochs": -(-schedule.steps * schedule.accumulation // per_epoch),
        "ss_num_batches_per_epoch": facts.batches_per_epoch,
        "ss_gradient_accumulation_steps": schedule.accumulation,
        "ss_gradient_checkpointing": schedule.gradient_checkpointing,
        "ss_mixed_precision": schedule.mixed_precision,
        "ss_seed": schedule.seed,
        "ss_loss_type": loss.loss_type,
        "ss_huber_c": loss.huber_c,
        "ss_huber_scale": loss.huber_scale,
        "ss_huber_schedule": loss.huber_schedule,
        "ss_min_snr_gamma": loss.min_snr_gamma or None,
        "ss_debiased_estimation": loss.debiased_estimation_loss,
        "ss_prior_loss_weight": loss.prior_weight,
        "ss_noise_offset": loss.noise_offset or None,
        "ss_noise_offset_random_strength": loss.noise_offset_random_strength,
        "ss_adaptive_noise_scale": loss.adaptive_noise_scale or None,
        "ss_multires_noise_iterations": loss.multires_noise_iterations or None,
        "ss_multires_noise_discount": loss.multires_noise_discount,
        "ss_ip_noise_gamma": loss.ip_noise_gamma or None,
        "ss_ip_noise_gamma_random_strength": loss.ip_noise_gamma_random_strength,
        "ss_zero_terminal_snr": loss.zero_terminal_snr,
        "ss_validation_split": validation.split,
        "ss_validation_seed": validation.seed if validation.split else None,
        "ss_validate_every_n_steps": validation.every_n_steps or None,
        "ss_validate_every_n_epochs": validation.validate_every_n_epochs or None,
        "ss_max_validation_steps": validation.max_validation_steps or None,
        "ss_session_id": facts.session,
        "ss_training_started_at": facts.started,
        "ss_training_finished_at": time.time(),
    }


def _data(config: TrainConfig, facts: Facts) -> dict[str, Any]:
    dataset = config.data.datasets[0]
    subset = dataset.subsets[0] if dataset.subsets else SubsetConfig()
    buckets = {
        str(at): {"resolution": list(size), "count": count}
        for at, (size, count) in enumerate(sorted(facts.buckets.items()))
    }
    return {
        "ss_num_train_images": facts.pictures - facts.regularisation,
        "ss_num_reg_images": facts.regularisation,
        "ss_num_validation_images": facts.heldout,
        "ss_batch_size_per_device": dataset.batch_size,
        "ss_total_batch_size": dataset.batch_size * config.schedule.accumulation,
        "ss_resolution": f"({dataset.resolution[0]}, {dataset.resolution[1]})",
        "ss_enable_bucket": dataset.enable_bucket,
        "ss_bucket_no_upscale": dataset.bucket_no_upscale,
        "ss_min_bucket_reso": dataset.min_bucket_reso,
        "ss_max_bucket_reso": dataset.max_bucket_reso,
        "ss_bucket_info": json.dumps({"buckets": buckets, "mean_img_ar_error": facts.ratio_error}),
        "ss_dataset_dirs": _folders(facts, regularisation=False),
        "ss_reg_dataset_dirs": _folders(facts, regularisation=True),
        # Captions are private.
        "ss_tag_frequency": "{}",
        "ss_keep_tokens": subset.keep_tokens,
        "ss_shuffle_caption": subset.shuffle_caption,
        "ss_caption_dropout_rate": subset.caption_dropout_rate,
        "ss_caption_dropout_every_n_epochs": subset.caption_dropout_every_n_epochs,
        "ss_caption_tag_dropout_rate": subset.caption_tag_dropout_rate,
        "ss_flip_aug": subset.flip_aug,
        "ss_color_aug": subset.color_aug,
        "ss_random_crop": subset.random_crop,
        "ss_face_crop_aug_range": subset.face_crop_aug_range or None,
        "ss_resize_interpolation": subset.resize_interpolation or None,
    }


def _folders(facts: Facts, *, regularisation: bool) -> str:
    """Repeats and counts by folder, whose names are private: they are called by number."""
    found = sorted((repeats, count) for (repeats, is_reg), count in facts.folders.items() if is_reg == regularisation)
    return json.dumps({str(at): {"n_repeats": r, "img_count": count} for at, (r, count) in enumerate(found, 1)})


def thumbnail(said: str) -> str:
    """A data URL as it is; the picture file of that name as one, at most 512 pixels wide and high.

    Raises ConfigError if there is no such picture.
    """
    if said.startswith("data:"):
        return said
    buffer = io.BytesIO()
    try:
        with Image.open(said) as picture:
            small = pixels.on_white(pixels.upright(picture))
            small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
            small.save(buffer, "JPEG", quality=85)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(
            "The thumbnail {path} can't be read as a picture.",
            why="{reason}.",
            todo="Choose another picture (metadata_thumbnail), or leave it out.",
            path=said,
            reason=str(error).rstrip("."),
        ) from error
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _modelspec(config: TrainConfig, info: ModelInfo, *, stem: str, trigger: str) -> dict[str, Any]:
    output, (width, height) = config.output, config.data.datasets[0].resolution
    typed = {
        "author": output.metadata_author,
        "description": output.metadata_description,
        "license": output.metadata_license,
        "tags": output.metadata_tags,
        "usage_hint": output.metadata_usage_hint,
        "merged_from": output.metadata_merged_from,
        "preprocessor": output.metadata_preprocessor,
        "is_negative_embedding": output.metadata_is_negative_embedding,
    }
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": _ARCHITECTURES[info.family],
        "modelspec.implementation": "diffusers",
        "modelspec.implementation_version": f"lora-atelier/{__version__}",
        "modelspec.title": output.metadata_title or stem,
        "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.prediction_type": "v" if info.prediction_type == "v_prediction" else "epsilon",
        **({"modelspec.thumbnail": thumbnail(output.metadata_thumbnail)} if output.metadata_thumbnail else {}),
        "modelspec.trigger_phrase": output.metadata_trigger_phrase or trigger,
        **{f"modelspec.{name}": value for name, value in typed.items() if value},
    }
