"""Starting from an existing LoRA instead of from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..adapters import file as adapter_file
from ..config import NetworkConfig
from ..errors import ConfigError
from .network import LoraNetwork
from .sizes import stored_sizes


def read_start(config: NetworkConfig) -> Mapping[str, Tensor]:
    """The tensors of the LoRA that is started from; empty where there is none.

    Raises AdapterError if the file can't be read, ConfigError if it is another kind of adapter.
    """
    if not config.network_weights:
        return {}
    path = Path(config.network_weights)
    tensors = adapter_file.read(path).tensors
    known = {"alpha", "lora_down.weight", "lora_up.weight"} | ({"dora_scale"} if config.algorithm == "dora" else set())
    strange = sorted({key.partition(".")[2] for key in tensors} - known)
    if strange:
        raise ConfigError(
            "The training can't start from the LoRA {name}.",
            why="It is another kind of adapter: it has {key}.",
            todo="Choose a plain LoRA, or leave network_weights out.",
            name=path.name,
            key=strange[0],
        )
    return tensors


def start_from(network: LoraNetwork, tensors: Mapping[str, Tensor], config: NetworkConfig) -> None:
    """Put a LoRA's weights into ``network``; layers that it lacks start as usual.

    Where the file's alpha is another one, ``up`` is scaled so that the change is the same. Raises ConfigError where no
    layer has its name, or one has another shape.
    """
    if not tensors:
        return
    path, sizes, own = Path(config.network_weights), stored_sizes(tensors), network.tensors(torch.float32)
    shared = [name for name in sizes if f"{name}.lora_down.weight" in own]
    if not shared:
        raise ConfigError(
            "The training can't start from the LoRA {name}.",
            why="None of its layers is trained here; its first is {layer}.",
            todo="Choose a LoRA of the same base model, or leave network_weights out.",
            name=path.name,
            layer=next(iter(sizes), "–"),
        )
    merged = dict(own)
    for name in shared:
        for kind in ("lora_down.weight", "lora_up.weight", "dora_scale"):
            key = f"{name}.{kind}"
            if key not in tensors or key not in own:
                continue
            if tensors[key].shape != own[key].shape:
                raise ConfigError(
                    "The training can't start from the LoRA {name}.",
                    why="The layer {layer} has the shape {given} in it and {wanted} here.",
                    todo="Set dim_from_weights to take its ranks, or choose a LoRA of the same base model.",
                    name=path.name,
                    layer=name,
                    given=str(tuple(tensors[key].shape)),
                    wanted=str(tuple(own[key].shape)),
                )
            merged[key] = tensors[key].float()
        merged[f"{name}.lora_up.weight"] = merged[f"{name}.lora_up.weight"] * (
            sizes[name][1] / float(own[f"{name}.alpha"])
        )
    network.load(merged)
