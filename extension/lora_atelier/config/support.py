"""What our own trainer can't do yet (it is refused, never ignored), and which settings change nothing for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from ..errors import Message, Problem, message, problem
from .advice import advice
from .setting import key_of
from .train import TrainConfig

# Settings that are refused where they are not at their default; "name=value" refuses that value alone. "dataset" and
# "subset" stand for each of them. Whoever implements one takes it out.
NOT_YET: tuple[str, ...] = (
    "network.algorithm=kohya-oft",
    "schedule.lr_scheduler_args",
    "memory.full_fp16",
    "memory.fp8_base",
    "memory.fp8_base_unet",
    "subset.face_crop_aug_range",
)
# Why some of them are not there, and what is instead.
WHY: Mapping[str, Message] = {
    "memory.full_fp16": message(
        "An adapter in fp16 loses most of its small steps. Choose full_bf16 on a card that has bf16, or leave it out "
        "(the adapter is a small part of the memory), or train with sd-scripts (--engine sd-scripts)."
    ),
    **dict.fromkeys(
        ("memory.fp8_base", "memory.fp8_base_unet"),
        message(
            "A base model in fp8 is another one than the LoRA is used with, and our trainer does not round it. Choose "
            "bf16 with gradient_checkpointing, or train with sd-scripts (--engine sd-scripts)."
        ),
    ),
    "subset.face_crop_aug_range": message(
        "Faces are cut out only of pictures whose names tell where they are, and without buckets. Cut the pictures "
        "beforehand, or train with sd-scripts (--engine sd-scripts)."
    ),
    "schedule.lr_scheduler_args": message(
        "lr_scheduler_args are arguments of a class (lr_scheduler_type); the named schedules have settings of their "
        "own, like lr_warmup_steps and lr_scheduler_num_cycles. Use those, or train with sd-scripts (--engine "
        "sd-scripts)."
    ),
    "network.algorithm=kohya-oft": message(
        "sd-scripts' own OFT has no counterpart in our trainer. Choose oft, which is LyCORIS' and does the same, or "
        "train with sd-scripts (--engine sd-scripts)."
    ),
}
# They cost or save time and memory, and change nothing in the LoRA; our trainer does not read them, and says so.
NOT_READ: tuple[str, ...] = (
    "memory.vae_batch_size",
    "memory.skip_cache_check",
    "memory.cpu_offload_checkpointing",
    "memory.lowram",
    "memory.highvram",
    "memory.xformers",
    "memory.mem_eff_attn",
    "memory.max_data_loader_n_workers",
    "memory.persistent_data_loader_workers",
    "subset.cache_info",
)
# What these ask for always happens here, whatever they say: pictures and captions are encoded once and kept on disk,
# attention is torch's own. Nothing need be said.
ALWAYS: tuple[str, ...] = (
    "memory.cache_latents",
    "memory.cache_latents_to_disk",
    "memory.cache_text_encoder_outputs",
    "memory.cache_text_encoder_outputs_to_disk",
    "memory.sdpa",
)


def unsupported(config: TrainConfig) -> Iterator[Problem]:
    """Yield every setting that our own trainer would have to ignore; sd-scripts may know it."""
    for kind, where, key, value, by_value in _set(config, NOT_YET):
        schedule = config.schedule
        reads_arguments = schedule.lr_scheduler_type or schedule.scheduler == "piecewise_constant"
        if where == "schedule.lr_scheduler_args" and reads_arguments:
            continue
        why = WHY.get(f"{kind}={value}" if by_value else kind)
        if why is not None:
            yield Problem(where, why)
        elif by_value:
            yield problem(
                where,
                "Our own trainer has no “{value}” of “{key}” yet. Choose another, or train with sd-scripts "
                "(--engine sd-scripts).",
                value=value,
                key=key,
            )
        else:
            yield problem(
                where,
                "Our own trainer has no “{key}” yet. Remove it, or train with sd-scripts (--engine sd-scripts).",
                key=key,
            )
    if any(argument.partition("=")[0].strip() == "use_scalar" for argument in config.network.network_args):
        yield problem(
            "network.network_args",
            "“{name}” has no counterpart in our trainer: every kind starts from no change without it. Remove it, or "
            "train with sd-scripts (--engine sd-scripts).",
            name="use_scalar",
        )


def notes(config: TrainConfig) -> Iterator[Problem]:
    """Yield what to say and not to refuse: settings that our own trainer does not read, and what is unusual."""
    for _, where, key, _, _ in _set(config, NOT_READ):
        yield problem(where, "“{key}” has no effect in our own trainer; the LoRA is the same.", key=key)
    yield from advice(config)


def _set(config: TrainConfig, names: tuple[str, ...]) -> Iterator[tuple[str, str, str, Any, bool]]:
    """The settings of ``names`` that are not at their default.

    Each as its name there (without value), place, kohya's key, value, and whether it was named by value.
    """
    by_group: dict[str, dict[str, set[str]]] = {}
    for name in names:
        group, _, rest = name.partition(".")
        setting, _, value = rest.partition("=")
        by_group.setdefault(group, {}).setdefault(setting, set()).add(value)
    for kind, where, group_config in _groups(config):
        for f in fields(group_config):
            values, value = by_group.get(kind, {}).get(f.name), getattr(group_config, f.name)
            if values is None:
                continue
            if "" in values and value != f.default:
                yield f"{kind}.{f.name}", f"{where}.{f.name}", key_of(f), value, False
            elif str(value) in values - {""}:
                yield f"{kind}.{f.name}", f"{where}.{f.name}", key_of(f), value, True


def _groups(config: TrainConfig) -> Iterator[tuple[str, str, Any]]:
    for group in fields(config):
        if group.name != "data":
            yield group.name, group.name, getattr(config, group.name)
    for d, dataset in enumerate(config.data.datasets):
        yield "dataset", f"data.datasets.{d}", dataset
        for s, subset in enumerate(dataset.subsets):
            yield "subset", f"data.datasets.{d}.subsets.{s}", subset
