"""Which parameter learns how fast: parts of the model, blocks of the U-Net, and LoRA+'s second matrices."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..config import TrainConfig
from .network import LoraNetwork
from .sizes import block_factors, block_of


def parameter_groups(network: LoraNetwork, config: TrainConfig) -> list[dict[str, Any]]:
    """The network's parameters, each in one group ("params", "lr") with those of its part that learn as fast.

    LoRA+ lets the matrices that start as nothing learn faster. Source: Hayou et al. 2024, LoRA+: Efficient Low Rank
    Adaptation of Large Models (arXiv 2402.12354), section 4, and sd-scripts for the names.
    """
    groups: dict[tuple[str, float, bool], list[nn.Parameter]] = {}
    factors = block_factors(network.branches, config.network)
    for layer, branch in network.named_branches():
        part = layer.split("_", 2)[1]  # unet, te, te1, te2
        rate, ratio = _rate(part, config) * factors.get(block_of(layer), 1.0), _plus_ratio(part, config)
        for name, parameter in branch.named_parameters():
            kind = name.partition(".")[0]
            own = rate * ratio if ratio and kind in branch.second else rate
            if parameter.requires_grad:
                groups.setdefault((part, own, kind in branch.unscaled), []).append(parameter)
    return [
        # A length that decays would take the frozen weight with it.
        {"params": parameters, "lr": rate, **({"weight_decay": 0.0} if is_length else {})}
        for (_, rate, is_length), parameters in groups.items()
    ]


def _rate(part: str, config: TrainConfig) -> float:
    settings = config.optimizer
    if part == "unet":
        return settings.learning_rate
    second = settings.te2_learning_rate if part == "te2" else 0.0
    return second or settings.te_learning_rate


def _plus_ratio(part: str, config: TrainConfig) -> float:
    network = config.network
    own = network.loraplus_unet_lr_ratio if part == "unet" else network.loraplus_text_encoder_lr_ratio
    return own or network.loraplus_lr_ratio
