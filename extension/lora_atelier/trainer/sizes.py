"""Rank and alpha of each layer's adapter, and how fast each block of the U-Net learns.

Blocks are counted as sd-scripts counts them. SD 1.x and 2.x: 12 down, 1 middle, 12 up, each resnet with its attention
one block, a down- or upsampler the third of its level; down begins at 1, because kohya's 0 has no adapter. SDXL: ldm's
blocks, 9 down, 3 middle, 9 up, with one place before (embeddings) and one after (output).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ..config import NetworkConfig, block_weights
from ..errors import ConfigError

Size = tuple[int, float]
_SD_BLOCK = re.compile(r"_(down|up)_blocks_(\d+)_(resnets|attentions|downsamplers|upsamplers)_(\d+)_")
_SDXL_BLOCK = re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks)_(\d+)_")
_SDXL_FIRST = {"input_blocks": 1, "middle_block": 10, "output_blocks": 13}
_SD_MIDDLE = 12
# Tensors whose first size is the rank.
RANKS = ("lora_down.weight", "hada_w1_b", "a2.weight")


def block_of(name: str) -> int | None:
    """The block of a U-Net layer; None for a layer that is in none, and for the text encoders'."""
    if found := _SDXL_BLOCK.match(name):
        return _SDXL_FIRST[found[1]] + int(found[2])
    if not name.startswith("lora_unet_"):
        return None
    if found := _SD_BLOCK.search(name):
        level, kind, place = int(found[2]), found[3], int(found[4])
        within = 3 * level + (2 if kind.endswith("samplers") else place)
        return within + (1 if found[1] == "down" else _SD_MIDDLE + 1)
    return _SD_MIDDLE if "_mid_block_" in name else None


def layer_sizes(layers: Mapping[str, nn.Module], config: NetworkConfig) -> dict[str, Size]:
    """Rank and alpha of each of ``layers`` that gets an adapter: by block where there are numbers for blocks.

    Layers of rank 0 and those whose block does not learn are left out. Raises ConfigError for a wrong count of numbers.
    """
    factors = block_factors(layers, config)
    found = {}
    for name, layer in layers.items():
        block = block_of(name)
        spatial = isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
        rank, alpha = _size(config, block, spatial)
        if rank and factors.get(block, 1.0) > 0:
            # As in sd-scripts, an alpha of 0 means that of the rank.
            found[name] = rank, alpha or float(rank)
    return found


def stored_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Size]:
    """Rank and alpha of each layer of a LoRA file; one without alpha has that of its rank.

    Kinds whose tensors do not tell a rank (LoKr, OFT …) have no entry.
    """
    found = {}
    for key, down in tensors.items():
        name, _, kind = key.partition(".")
        if kind in RANKS:
            alpha = tensors.get(f"{name}.alpha")
            found[name] = down.shape[0], float(down.shape[0] if alpha is None else alpha)
    return found


def block_factors(names: Iterable[str], config: NetworkConfig) -> dict[int | None, float]:
    """The factor of the learning rate by block; empty where all learn alike. Raises ConfigError for a wrong count."""
    texts = (config.down_lr_weight, config.mid_lr_weight, config.up_lr_weight)
    if not any(texts):
        return {}
    sdxl = _is_sdxl(names)
    factors: list[float] = [1.0] if sdxl else []
    for name, text, count in zip(
        ("down_lr_weight", "mid_lr_weight", "up_lr_weight"), texts, (9, 3, 9) if sdxl else (12, 1, 12), strict=True
    ):
        try:
            factors += block_weights(text, count, threshold=config.block_lr_zero_threshold)
        except ValueError as error:
            raise _wrong_count(name, count) from error
    return dict(enumerate(factors))


def has_spatial(config: NetworkConfig) -> bool:
    """Whether the settings give any 3x3 convolution an adapter."""
    return config.conv_rank > 0 or any(config.conv_block_dims)


def _size(config: NetworkConfig, block: int | None, spatial: bool) -> Size:
    if spatial:
        rank, alpha, dims, alphas = (
            config.conv_rank,
            config.conv_alpha,
            config.conv_block_dims,
            config.conv_block_alphas,
        )
    else:
        rank, alpha, dims, alphas = config.rank, config.alpha, config.block_dims, config.block_alphas
    if block is None:
        return rank, alpha
    for name, numbers in (("block_dims", dims), ("block_alphas", alphas)):
        if numbers and block >= len(numbers):
            raise _wrong_count(name, block + 1)
    return dims[block] if dims else rank, alphas[block] if alphas else alpha


def _wrong_count(name: str, wanted: int) -> ConfigError:
    return ConfigError(
        "The blocks' numbers do not fit the base model.",
        why="{name} has to have at least {wanted} numbers for it.",
        todo="Give as many, or leave the setting out.",
        name=name,
        wanted=wanted,
    )


def _is_sdxl(names: Iterable[str]) -> bool:
    return any(_SDXL_BLOCK.match(name) for name in names)
