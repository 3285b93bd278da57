"""The names of a model's layers, as kohya's trainer writes them: the one naming that trainer and loader share.

A name is made from a module's path: the part's prefix, then the path with dots turned into underscores. The paths are
first put into one canonical form, because libraries disagree about them: transformers 5 dropped ``text_model.`` from
CLIP's paths, and kohya names SDXL's U-Net layers by their ldm paths (``input_blocks_4_1_…``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from . import ldm

if TYPE_CHECKING:
    from .load import Model

# What sd-scripts' networks/lora.py wraps, by class name: UNET_TARGET_REPLACE_MODULE,
# UNET_TARGET_REPLACE_MODULE_CONV2D_3X3, TEXT_ENCODER_TARGET_REPLACE_MODULE; the last names are the same class in
# other versions of transformers.
_ATTENTION_BLOCKS = {"Transformer2DModel"}
_CONV_BLOCKS = {"ResnetBlock2D", "Downsample2D", "Upsample2D"}
_TE_BLOCKS = {"CLIPAttention", "CLIPMLP", "CLIPSdpaAttention", "CLIPFlashAttention2"}


def layers(model: Model) -> dict[str, nn.Module]:
    """Return every module with a weight of its own, by layer name, of the parts that are loaded."""
    found: dict[str, nn.Module] = {}
    if model.unet is not None:
        found |= unet_layers(model.unet)
    for prefix, text_encoder in zip(te_prefixes(len(model.text_encoders)), model.text_encoders, strict=True):
        found |= te_layers(text_encoder, prefix)
    return found


def aliases(model: Model) -> dict[str, str]:
    """Return other names in use for ``layers``' names.

    Some tools write diffusers' paths for SDXL's U-Net, and some SD1 files call the only text encoder the first.
    """
    found: dict[str, str] = {}
    if model.unet is not None and _has_ldm_names(model.unet):
        for path, _ in _weighted(model.unet):
            found[_flat("lora_unet", path)] = _flat("lora_unet", _unet_path(model.unet, path))
    if len(model.text_encoders) == 1:
        for name in te_layers(model.text_encoders[0]):
            found[name.replace("lora_te_", "lora_te1_", 1)] = name
    return found


def te_prefixes(count: int) -> Sequence[str]:
    """The prefixes of a model's text encoders: kohya numbers them only where there are two."""
    return ("lora_te",) if count == 1 else tuple(f"lora_te{number}" for number in range(1, count + 1))


def unet_layers(unet: nn.Module) -> dict[str, nn.Module]:
    """Return a U-Net's modules that have a weight, by layer name."""
    return {_flat("lora_unet", _unet_path(unet, path)): module for path, module in _weighted(unet)}


def te_layers(text_encoder: nn.Module, prefix: str = "lora_te") -> dict[str, nn.Module]:
    """Return a CLIP text model's modules that have a weight, by layer name."""
    return {_flat(prefix, te_path(path)): module for path, module in _weighted(text_encoder)}


def target_layers(part: nn.Module, *, conv: bool = False, prefix: str = "lora_te") -> dict[str, nn.Module]:
    """Return the layers that sd-scripts trains in a U-Net or a CLIP text model, in the order of the modules.

    U-Net: the linear layers and 1x1 convolutions of the attention blocks; with ``conv`` also the linear layers and
    convolutions of resnets, down- and upsamplers (LoCon). Text encoder: attention and MLP; ``prefix`` is ``lora_te``,
    or ``lora_te1``/``lora_te2`` where the model has two.
    """
    if type(part).__name__.startswith("CLIPText"):
        named = [(_flat(prefix, te_path(path)), module) for path, module in _inside(part, _TE_BLOCKS)]
    else:
        blocks = _ATTENTION_BLOCKS | _CONV_BLOCKS if conv else _ATTENTION_BLOCKS
        named = [(_flat("lora_unet", _unet_path(part, path)), module) for path, module in _inside(part, blocks)]
    return {name: module for name, module in named if isinstance(module, (nn.Linear, nn.Conv2d))}


def te_path(path: str) -> str:
    """Return a CLIP text model's path in canonical form, which begins with ``text_model.`` (the projection's aside)."""
    path = path.removeprefix("text_model.")
    return path if path.startswith("text_projection") else f"text_model.{path}"


def _inside(root: nn.Module, class_names: set[str]) -> Iterator[tuple[str, nn.Module]]:
    for outer_path, outer in root.named_modules():
        if type(outer).__name__ in class_names:
            yield from outer.named_modules(prefix=outer_path)


def _weighted(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in root.named_modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            yield path, module


def _has_ldm_names(unet: nn.Module) -> bool:
    return getattr(getattr(unet, "config", None), "addition_embed_type", None) == "text_time"


def _unet_path(unet: nn.Module, path: str) -> str:
    if not _has_ldm_names(unet):
        return path
    return ldm.unet_path(path, *ldm_layout(unet))


def ldm_layout(unet: nn.Module) -> tuple[int, dict[int, bool]]:
    """What ``ldm.unet_path`` must know of a U-Net: layers in a block, and which up blocks have attention."""
    config: Any = unet.config
    return int(config.layers_per_block), {at: "Attn" in name for at, name in enumerate(config.up_block_types)}


def _flat(prefix: str, path: str) -> str:
    return f"{prefix}_{path.replace('.', '_')}"
