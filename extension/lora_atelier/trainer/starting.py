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
from .sizes import RANKS

# The one tensor of each kind that the change is as large as: where alpha differs, it makes up for it.
_SCALED = frozenset({"lora_up.weight", "hada_w2_a", "lokr_w2", "lokr_w2_b", "a2.weight", "b2.weight"})
# A DoRA can start from a LoRA: its lengths are then those of the base model.
_MAY_LACK = frozenset({"dora_scale"})


def read_start(config: NetworkConfig) -> Mapping[str, Tensor]:
    """The tensors of the LoRA that is started from; empty where there is none. Raises AdapterError."""
    return adapter_file.read(Path(config.network_weights)).tensors if config.network_weights else {}


def start_from(network: LoraNetwork, tensors: Mapping[str, Tensor], config: NetworkConfig) -> None:
    """Put a LoRA's weights into ``network``; layers that it lacks start as usual.

    Where the file's alpha is another one, the change is scaled so that it is the same. Raises ConfigError where no
    layer has its name, it is of another kind, or a layer has another shape.
    """
    if not tensors:
        return
    path, own, stored = Path(config.network_weights), _by_layer(network.tensors(torch.float32)), _by_layer(tensors)
    merged = dict(own)
    for name in stored.keys() & own.keys():
        merged[name] = _taken(stored[name], own[name], name, path)
    if not stored.keys() & own.keys():
        raise ConfigError(
            "The training can't start from the LoRA {name}.",
            why="None of its layers is trained here; its first is {layer}.",
            todo="Choose a LoRA of the same base model, or leave network_weights out.",
            name=path.name,
            layer=next(iter(stored), "–"),
        )
    network.load({f"{name}.{suffix}": tensor for name, layer in merged.items() for suffix, tensor in layer.items()})


def _taken(stored: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str, path: Path) -> dict[str, Tensor]:
    """One layer's tensors of the file, as large as the network's alpha wants them."""
    strange = [*stored.keys() - own.keys() - {"alpha"}, *own.keys() - stored.keys() - _MAY_LACK - {"alpha"}]
    if strange:
        raise ConfigError(
            "The training can't start from the LoRA {name}.",
            why="It is another kind of adapter: it and this one differ in {key}.",
            todo="Choose a LoRA of the kind that is trained, or leave network_weights out.",
            name=path.name,
            key=min(strange),
        )
    factor = 1.0
    if "alpha" in own and any(suffix in own for suffix in _SCALED):
        rank = next((own[key].shape[0] for key in RANKS if key in own), 0)
        factor = float(stored.get("alpha", torch.tensor(float(rank)))) / float(own["alpha"])
    found = dict(own)
    for suffix, tensor in stored.items():
        if suffix == "alpha":
            continue
        if tensor.shape != own[suffix].shape:
            raise ConfigError(
                "The training can't start from the LoRA {name}.",
                why="The layer {layer} has the shape {given} in it and {wanted} here.",
                todo="Set dim_from_weights to take its ranks, or choose a LoRA of the same base model.",
                name=path.name,
                layer=name,
                given=str(tuple(tensor.shape)),
                wanted=str(tuple(own[suffix].shape)),
            )
        found[suffix] = tensor.float() * (factor if suffix in _SCALED else 1.0)
    return found


def _by_layer(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, suffix = key.partition(".")
        found.setdefault(name, {})[suffix] = tensor
    return found
