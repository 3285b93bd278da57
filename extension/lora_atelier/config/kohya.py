"""A configuration as the contents of kohya's two files, and back. ``reading`` holds the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import ConfigError, Problem
from . import keys
from .data import DatasetConfig, SubsetConfig
from .network import ALGORITHMS, NetworkConfig
from .optimizer import BETAS, OptimizerConfig
from .reading import Reader
from .setting import absent, key_of
from .train import TrainConfig


@dataclass(frozen=True)
class Reading:
    """What two of kohya's files say; ``notes`` tell which of their options change nothing here, and why.

    ``problems`` are options that can't be read, which are at their defaults in ``config``.
    """

    config: TrainConfig
    notes: tuple[Problem, ...] = ()
    problems: tuple[Problem, ...] = ()


def try_kohya(main: Mapping[str, Any], dataset: Mapping[str, Any]) -> Reading:
    """As ``read_kohya``, but nothing is raised: for a person who is to hear of everything at once."""
    reader = Reader()
    config = reader.read(main, dataset)
    return Reading(config, tuple(reader.notes), tuple(reader.problems))


def read_kohya(main: Mapping[str, Any], dataset: Mapping[str, Any]) -> Reading:
    """The configuration that two of kohya's files describe; options they leave out have sd-scripts' defaults.

    Where sd-scripts has none that is of use (learning rate, seed), they have ours. Raises ConfigError with every
    problem at once: unknown keys (naming the nearest), values of another type, options of other models.
    """
    reading = try_kohya(main, dataset)
    if reading.problems:
        raise ConfigError.from_problems(reading.problems)
    return reading


def from_kohya(main: Mapping[str, Any], dataset: Mapping[str, Any]) -> TrainConfig:
    """The configuration of ``read_kohya`` without its notes."""
    return read_kohya(main, dataset).config


def to_kohya(config: TrainConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of ``config.toml`` (sectioned by our groups, which sd-scripts ignores) and ``dataset.toml``."""
    main: dict[str, Any] = {group: {} for group in keys.GROUPS}
    for key, (group, f) in keys.plain_keys().items():
        value = getattr(getattr(config, group), f.name)
        if not _is_left_out(value, absent(f)):
            main[group][key] = list(value) if isinstance(value, tuple) else value
    if config.schedule.scheduler == "cosine_with_min_lr":
        # sd-scripts refuses this schedule without a floor.
        main["schedule"]["lr_scheduler_min_lr_ratio"] = config.schedule.floor
    main["network"].update(_network(config.network))
    main["optimizer"].update(_optimizer(config.optimizer))
    datasets = []
    for dataset in config.data.datasets:
        entry = _plain(dataset)
        entry["subsets"] = [_subset(subset) for subset in dataset.subsets]
        datasets.append(entry)
    return main, {"datasets": datasets}


def _is_left_out(value: Any, unsaid: Any) -> bool:
    # 0, "", () and False mean "off" or "choose for me", which kohya says by leaving the key out.
    return bool(not value and value == unsaid)


def _network(network: NetworkConfig) -> dict[str, Any]:
    module, algo = ALGORITHMS.get(network.algorithm, (network.algorithm, ""))
    arguments: dict[str, Any] = {}
    if module == "lycoris.kohya":
        arguments["algo"] = algo
        # LyCORIS trains the convolutions too, with the same rank, unless it is told not to.
        if not any(argument.startswith("preset=") for argument in network.network_args):
            arguments["preset"] = "full" if network.conv_rank else "attn-mlp"
        if network.algorithm == "dora":
            arguments["dora_wd"] = True
    for key, f in keys.network_fields().items():
        value = getattr(network, f.name)
        if value != f.default or (key == "conv_alpha" and network.conv_rank):
            arguments[key] = value
    said = [f"{name}={_argument(value)}" for name, value in arguments.items()] + list(network.network_args)
    return {
        "network_module": module,
        "network_train_unet_only": not network.train_te,
        **({"network_args": said} if said else {}),
    }


def _optimizer(optimizer: OptimizerConfig) -> dict[str, Any]:
    arguments = list(optimizer.optimizer_args)
    if optimizer.optimizer in BETAS:
        arguments = [
            f"weight_decay={optimizer.weight_decay}",
            f"betas={optimizer.beta1},{optimizer.beta2}",
            *arguments,
        ]
    te_rates = [optimizer.te_learning_rate]
    if optimizer.te2_learning_rate:
        te_rates.append(optimizer.te2_learning_rate)
    return {
        "learning_rate": optimizer.learning_rate,
        "text_encoder_lr": te_rates,
        **({"optimizer_args": arguments} if arguments else {}),
    }


def _argument(value: Any) -> str:
    return ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


def _plain(config: DatasetConfig | SubsetConfig) -> dict[str, Any]:
    return dict(_said(config))


def _said(config: DatasetConfig | SubsetConfig) -> Iterator[tuple[str, Any]]:
    for f in fields(config):
        if f.metadata and f.name != "diff_output_preservation":
            value = getattr(config, f.name)
            if not _is_left_out(value, absent(f)):
                yield key_of(f), list(value) if isinstance(value, tuple) else value


def _subset(subset: SubsetConfig) -> dict[str, Any]:
    entry = _plain(subset)
    if subset.metadata_file:
        # sd-scripts refuses these beside a metadata file; captions come from there.
        for key in ("caption_extension", "is_reg", "class_tokens", "cache_info"):
            entry.pop(key, None)
    if subset.diff_output_preservation:
        entry["custom_attributes"] = {"diff_output_preservation": True}
    return entry
