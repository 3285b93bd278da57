"""The names of a model's layers, as kohya's trainer writes them: the one naming that trainer and loader share.

A name is made from a module's path: the part's prefix, then the path with dots turned into underscores. The paths are
first put into one canonical form, because libraries disagree about them: transformers 5 dropped ``text_model.`` from
CLIP's paths, and kohya names SDXL's U-Net layers by their ldm paths (``input_blocks_4_1_…``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import ldm

if TYPE_CHECKING:
    from .load import Model

# What sd-scripts' networks/lora.py wraps, by class name: UNET_TARGET_REPLACE_MODULE,
# UNET_TARGET_REPLACE_MODULE_CONV2D_3X3, TEXT_ENCODER_TARGET_REPLACE_MODULE; the last names are the same class in
# other versions of transformers.
ATTENTION_BLOCKS = frozenset({"Transformer2DModel"})
CONV_BLOCKS = frozenset({"ResnetBlock2D", "Downsample2D", "Upsample2D"})
TE_ATTENTION = frozenset({"CLIPAttention", "CLIPSdpaAttention", "CLIPFlashAttention2"})
TE_BLOCKS = TE_ATTENTION | {"CLIPMLP"}


@dataclass(frozen=True, eq=False)
class Layer:
    """Where one layer's numbers are in a live model.

    ``weight`` and ``bias`` name the module's parameters; ``rows`` says which of their rows are this layer's where
    several share them, as query, key and value do in OpenCLIP's ``in_proj_weight``.
    """

    module: nn.Module
    weight: str = "weight"
    bias: str = "bias"
    rows: tuple[int, int] | None = None

    def parameter(self, name: str) -> nn.Parameter | None:
        """Return the module's "weight" or "bias", or None if it has none."""
        found = getattr(self.module, self.weight if name == "weight" else self.bias, None)
        return found if isinstance(found, nn.Parameter) else None

    def view(self, name: str) -> Tensor | None:
        """Return the layer's part of "weight" or "bias", to read and to write, or None if it has none."""
        parameter = self.parameter(name)
        if parameter is None:
            return None
        return parameter.detach() if self.rows is None else parameter.detach()[self.rows[0] : self.rows[1]]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of "weight" or "bias" for an adapter; None if there is none and none can be made.

        A packed (quantised) weight has another shape in memory than the layer has for its adapters. A linear layer or
        a convolution without a bias can be given one.
        """
        view, module = self.view(name), self.module
        if self.rows is None and isinstance(module, (nn.Linear, nn.Conv2d)):
            whole: tuple[int, ...]
            if isinstance(module, nn.Linear):
                whole = (module.out_features, module.in_features)
            else:
                whole = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
            if name == "bias":
                return whole[:1]
            if view is not None and not view.is_floating_point():
                return whole
        return tuple(view.shape) if view is not None else None

    def create_bias(self) -> None:
        """Give the module a bias of zeros, which it must not have yet."""
        weight = self.parameter("weight")
        assert weight is not None and self.parameter("bias") is None
        bias = torch.zeros(self.shape("bias") or (), dtype=weight.dtype, device=weight.device)
        setattr(self.module, self.bias, nn.Parameter(bias, requires_grad=False))

    def remove_bias(self) -> None:
        """Take the bias away that ``create_bias`` made."""
        self.module.register_parameter(self.bias, None)


def layers(model: Model) -> dict[str, Layer]:
    """Return every module with a weight of its own, by layer name, of the parts that are loaded."""
    return {name: Layer(module) for name, (_, _, module) in places(model).items()}


def places(model: Model) -> dict[str, tuple[str, str, nn.Module]]:
    """Return (part, path in it, module) of every module with a weight, by layer name, of the parts that are loaded.

    Parts are named as in a diffusers folder: "unet", "text_encoder", "text_encoder_2".
    """
    found: dict[str, tuple[str, str, nn.Module]] = {}
    if model.unet is not None:
        for path, module in _weighted(model.unet):
            found[_flat("lora_unet", _unet_path(model.unet, path))] = "unet", path, module
    for at, (prefix, encoder) in enumerate(
        zip(te_prefixes(len(model.text_encoders)), model.text_encoders, strict=True)
    ):
        for path, module in _weighted(encoder):
            part = "text_encoder" if at == 0 else f"text_encoder_{at + 1}"
            found[_flat(prefix, te_path(path))] = part, path, module
    return found


def aliases(model: Model) -> dict[str, str]:
    """Return other names in use for ``layers``' names.

    Some tools write diffusers' paths for SDXL's U-Net and ldm's for SD1's and SD2's, and some SD1 files call the only
    text encoder the first.
    """
    found: dict[str, str] = {}
    if model.unet is not None:
        layout = ldm_layout(model.unet)
        for path, _ in _weighted(model.unet):
            name = _flat("lora_unet", _unet_path(model.unet, path))
            others = (_flat("lora_unet", other) for other in (path, ldm.unet_path(path, *layout)))
            found |= {other: name for other in others if other != name}
    if len(model.text_encoders) == 1:
        for name in te_layers(model.text_encoders[0]):
            found[name.replace("lora_te_", "lora_te1_", 1)] = name
    elif len(model.text_encoders) == 2:
        # diffusers calls SDXL's first text encoder as SD1's only one.
        for name in te_layers(model.text_encoders[0], "lora_te1"):
            found[name.replace("lora_te1_", "lora_te_", 1)] = name
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
    if is_text_encoder(part):
        return layers_inside(part, TE_BLOCKS, prefix=prefix)
    return layers_inside(part, ATTENTION_BLOCKS | CONV_BLOCKS if conv else ATTENTION_BLOCKS)


def is_text_encoder(part: nn.Module) -> bool:
    """Whether a part is a CLIP text model, and not a U-Net."""
    return type(part).__name__.startswith("CLIPText")


def layers_inside(
    part: nn.Module,
    blocks: Collection[str],
    *,
    paths: Callable[[str], bool] | None = None,
    norms: bool = False,
    prefix: str = "lora_te",
) -> dict[str, nn.Module]:
    """Return the linear layers and convolutions of a part, by name, in the order of the modules.

    Those inside of blocks of these classes, and those whose canonical path ``paths`` accepts; with ``norms`` also the
    norms with a weight of those blocks.
    """
    kinds = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GroupNorm) if norms else (nn.Linear, nn.Conv2d)
    text = is_text_encoder(part)
    chosen = {id(module) for _, module in _inside(part, blocks)}
    found: dict[str, nn.Module] = {}
    for path, module in part.named_modules():
        named = te_path(path) if text else path
        if not isinstance(module, kinds) or module.weight is None:
            continue
        if id(module) in chosen or (paths is not None and paths(named)):
            found[_flat(prefix, named) if text else _flat("lora_unet", _unet_path(part, path))] = module
    return found


def te_path(path: str) -> str:
    """Return a CLIP text model's path in canonical form, which begins with ``text_model.`` (the projection's aside)."""
    path = path.removeprefix("text_model.")
    return path if path.startswith("text_projection") else f"text_model.{path}"


def _inside(root: nn.Module, class_names: Collection[str]) -> Iterator[tuple[str, nn.Module]]:
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
