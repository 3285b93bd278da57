"""Which layers get a branch: those that sd-scripts trains, or those of LyCORIS' presets for its kinds of adapters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from ..config import KindOptions, NetworkConfig
from ..config.network import ALGORITHMS
from ..models.layers import (
    ATTENTION_BLOCKS,
    CONV_BLOCKS,
    TE_ATTENTION,
    TE_BLOCKS,
    layers_inside,
    target_layers,
    te_prefixes,
)
from .sizes import has_spatial

if TYPE_CHECKING:
    from ..models.load import Model

# The U-Net's layers outside of any block, by sd-scripts' names: SDXL's are others there, which no preset names.
_ENDS = ("conv_in", "conv_out")
_TIME = ("time_embedding.linear_1", "time_embedding.linear_2")


@dataclass(frozen=True)
class Preset:
    """Classes of blocks, ends of paths, and whether convolutions larger than 1x1 are among the layers."""

    blocks: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    te_blocks: frozenset[str] = frozenset()
    te_names: tuple[str, ...] = field(default=())
    spatial: bool = False


# LyCORIS 4.1, config.py, as far as it concerns Stable Diffusion 1, 2 and XL; "Attention" is sd-scripts' CrossAttention.
PRESETS = {
    "full": Preset(ATTENTION_BLOCKS | CONV_BLOCKS, (*_ENDS, *_TIME), TE_BLOCKS, spatial=True),
    "full-lin": Preset(ATTENTION_BLOCKS | {"ResnetBlock2D"}, _TIME, TE_BLOCKS),
    "attn-mlp": Preset(ATTENTION_BLOCKS, (), TE_BLOCKS),
    "attn-only": Preset(frozenset({"Attention"}), (), TE_ATTENTION),
    "unet-only": Preset(ATTENTION_BLOCKS | CONV_BLOCKS, (*_ENDS, *_TIME), spatial=True),
    "unet-transformer-only": Preset(ATTENTION_BLOCKS),
    "unet-convblock-only": Preset(CONV_BLOCKS, _ENDS, spatial=True),
    # LyCORIS 4.1 looks for these names at the start of a path, where they never are; meant are the ends.
    "ia3": Preset(names=("to_k", "to_v", "ff.net.2"), te_names=("k_proj", "v_proj", "mlp.fc2")),
}


def trained_layers(model: Model, network: NetworkConfig) -> dict[str, nn.Module]:
    """The layers that are trained, by kohya's names."""
    options = KindOptions.of(network.network_args)
    # Without a word about it LyCORIS trains convolutions as well; our settings say that by a rank for them.
    preset = PRESETS[options.preset or ("full" if has_spatial(network) else "attn-mlp")]
    is_lycoris = ALGORITHMS[network.algorithm][0] == "lycoris.kohya"
    found: dict[str, nn.Module] = {}
    if not network.network_train_text_encoder_only:
        if not is_lycoris:
            found |= target_layers(model.unet, conv=has_spatial(network) or network.dim_from_weights)
        elif network.algorithm == "glora":
            found |= _without_spatial(layers_inside(model.unet, ATTENTION_BLOCKS))
        else:
            names = tuple(n for n in preset.names if model.info.family != "sdxl" or n not in (*_ENDS, *_TIME))
            found |= layers_inside(model.unet, preset.blocks, paths=_ends_with(names), norms=options.train_norm)
            found = found if preset.spatial else _without_spatial(found)
    if network.train_te:
        for prefix, encoder in zip(te_prefixes(len(model.text_encoders)), model.text_encoders, strict=True):
            if is_lycoris:
                paths = _ends_with(preset.te_names)
                found |= layers_inside(encoder, preset.te_blocks, paths=paths, norms=options.train_norm, prefix=prefix)
            else:
                found |= target_layers(encoder, prefix=prefix)
    return found


def _ends_with(names: tuple[str, ...]) -> Callable[[str], bool]:
    return lambda path: any(path == name or path.endswith(f".{name}") for name in names)


def _without_spatial(layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return {
        name: layer for name, layer in layers.items() if not isinstance(layer, nn.Conv2d) or layer.kernel_size == (1, 1)
    }
