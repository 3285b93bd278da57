"""The layers of models whose modules have Stable Diffusion's original names (ldm, sgm, OpenCLIP), as webuis hold them.

``layers.py`` does the same for diffusers' and transformers' modules; the names that come out are the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torch import nn

from . import ldm
from .layers import Layer

_RESNET = {inner: outer for outer, inner in ldm._RESNET.items()}
_STEMS = {inner: outer for outer, inner in ldm._UNET_STEMS.items()}
_CLIP = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def diffusers_path(path: str, layers_per_block: int) -> str:
    """Return diffusers' path of an ldm U-Net's module: the inverse of ``ldm.unet_path``.

    In an output block only the name behind the number tells an attention (``norm``, ``proj_in`` …) from an upsampler
    (``conv``).
    """
    for stem, name in _STEMS.items():
        if path == stem or path.startswith(stem + "."):
            return name + path[len(stem) :]
    step = layers_per_block + 1
    match = re.match(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.*)$", path)
    if match:
        number, rest = int(match[2]) - (match[1] == "input"), match[4]
        side, block, at = "down" if match[1] == "input" else "up", number // step, number % step
        if rest == "op":
            return f"down_blocks.{block}.downsamplers.0.conv"
        if rest == "conv":
            return f"up_blocks.{block}.upsamplers.0.conv"
        if match[3] == "0":
            return f"{side}_blocks.{block}.resnets.{at}.{_inner(rest)}"
        return f"{side}_blocks.{block}.attentions.{at}.{rest}"
    match = re.match(r"middle_block\.([012])\.(.*)$", path)
    if match:
        at = int(match[1])
        return f"mid_block.attentions.0.{match[2]}" if at == 1 else f"mid_block.resnets.{at // 2}.{_inner(match[2])}"
    return path


def unet_layers(unet: nn.Module, *, sdxl: bool) -> tuple[dict[str, Layer], dict[str, str]]:
    """Return an ldm U-Net's layers by kohya's name, and other names in use for them.

    kohya names SDXL's layers by their ldm paths and those of SD 1.x and 2.x by diffusers'; other tools do the reverse.
    """
    found: dict[str, Layer] = {}
    others: dict[str, str] = {}
    weighted = list(_weighted(unet))
    per_block = _layers_per_block(path for path, _ in weighted)
    for path, module in weighted:
        names = [_flat("lora_unet", path), _flat("lora_unet", diffusers_path(path, per_block))]
        name, other = names if sdxl else reversed(names)
        found[name] = Layer(module)
        if other != name:
            others[other] = name
    return found, others


def open_clip_layers(text: nn.Module, prefix: str) -> dict[str, Layer]:
    """Return the layers of OpenCLIP's text transformer (``text.transformer.resblocks``) by kohya's name.

    Query, key and value are a third each of ``attn.in_proj_weight``.
    """
    found: dict[str, Layer] = {}
    for path, module in text.named_modules():
        match = re.match(r"transformer\.resblocks\.(\d+)\.(.+)$", path)
        if not match:
            continue
        block = f"{prefix}_text_model_encoder_layers_{match[1]}_"
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            width = module.in_proj_weight.shape[0] // 3
            for at, letter in enumerate("qkv"):
                rows = (at * width, (at + 1) * width)
                found[f"{block}self_attn_{letter}_proj"] = Layer(module, "in_proj_weight", "in_proj_bias", rows)
        elif match[2] in _CLIP and isinstance(getattr(module, "weight", None), nn.Parameter):
            found[block + _CLIP[match[2]].replace(".", "_")] = Layer(module)
    final = getattr(text, "ln_final", None)
    if isinstance(final, nn.Module):
        found[f"{prefix}_text_model_final_layer_norm"] = Layer(final)
    return found


def te_aliases(names: Iterable[str]) -> dict[str, str]:
    """Return other names of text-encoder layers -> kohya's.

    Some SD1 files call the only text encoder the first (``lora_te1_…``), diffusers SDXL's first one as SD1's only one.
    """
    found: dict[str, str] = {}
    for name in names:
        if name.startswith("lora_te_"):
            found[name.replace("lora_te_", "lora_te1_", 1)] = name
        elif name.startswith("lora_te1_"):
            found[name.replace("lora_te1_", "lora_te_", 1)] = name
    return found


def _layers_per_block(paths: Iterable[str]) -> int:
    """How many resnets a block has: the first downsampler stands behind the first block's; 2 where there is none."""
    numbers = [int(match[1]) for path in paths if (match := re.match(r"input_blocks\.(\d+)\.0\.op$", path))]
    return min(numbers) - 1 if numbers else 2


def _weighted(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in root.named_modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            yield path, module


def _inner(rest: str) -> str:
    return next((outer for inner, outer in _RESNET.items() if rest == inner), rest)


def _flat(prefix: str, path: str) -> str:
    return f"{prefix}_{path.replace('.', '_')}"
