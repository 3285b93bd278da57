"""Models without their libraries: the paths and shapes of all weights of the families that we know, from a table.

What a LoRA file is can then be said in a fraction of the seconds that importing diffusers and transformers takes, and
where these are not installed. ``python -m lora_atelier.models.skeleton`` makes the table anew from the libraries; a
test holds that it says what they say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from .. import atomic
from . import configs
from .layers import te_path

TABLE = Path(__file__).with_name("skeletons.json")
# Of a U-Net's config, what its layers' names depend on.
_NAMING = ("layers_per_block", "up_block_types", "addition_embed_type")
_TOY = Path(__file__).parents[1] / "embedded" / "base_model"


def build(
    unet: Mapping[str, Any], text_encoders: Sequence[Mapping[str, Any]]
) -> tuple[nn.Module, tuple[nn.Module, ...]] | None:
    """Return a U-Net and text encoders of these configs on the meta device, or None if the table has not all of them.

    They have the modules with weights alone, at their paths, and can't compute anything.
    """
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    entry = _find(table["unets"], unet)
    encoders = [found for config in text_encoders if (found := _find(table["text_encoders"], config)) is not None]
    if entry is None or len(encoders) < len(text_encoders):
        return None
    model: Any = _tree(entry["modules"])
    model.config = SimpleNamespace(**entry["naming"])
    return model, tuple(_tree(each["modules"]) for each in encoders)


def _find(entries: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    plain = json.loads(json.dumps(dict(config)))
    return next((entry for entry in entries if entry["of"] == plain), None)


# --- modules from the table


class _Linear(nn.Linear):
    def __init__(self, shape: Sequence[int]) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = shape


class _Conv2d(nn.Conv2d):
    def __init__(self, shape: Sequence[int]) -> None:
        nn.Module.__init__(self)
        self.out_channels, self.in_channels, *kernel = shape
        self.kernel_size = (kernel[0], kernel[1])
        self.groups = 1


def _tree(entries: Mapping[str, Any]) -> nn.Module:
    """The module whose children these are: a mapping is one more of its kind, a text one with a weight."""
    module = nn.Module()
    for name, entry in entries.items():
        module.add_module(name, _leaf(entry) if isinstance(entry, str) else _tree(entry))
    return module


def _leaf(said: str) -> nn.Module:
    kind, _, numbers = said.rstrip("+").partition(" ")
    shape = [int(number) for number in numbers.split(",")]
    module = {"linear": _Linear, "conv": _Conv2d}[kind](shape) if kind != "other" else nn.Module()
    module.weight = nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)
    bias = nn.Parameter(torch.empty(shape[:1], device="meta"), requires_grad=False) if said.endswith("+") else None
    module.register_parameter("bias", bias)
    return module


# --- the table from modules


def describe(root: nn.Module, *, text_encoder: bool) -> dict[str, Any]:
    """Return the paths of a part's modules that have a weight, nested, with their kind and shape: "linear 320,768+".

    A plus stands for a bias. Raises ValueError for what the table can't say.
    """
    tree: dict[str, Any] = {}
    for path, module in _weighted(root):
        at = tree
        *above, name = (te_path(path) if text_encoder else path).split(".")
        for each in above:
            at = at.setdefault(each, {})
        if name in at:
            raise ValueError(f"{path} has a weight and holds others")
        at[name] = _said(path, module)
    return tree


def _weighted(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in root.named_modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            yield path, module


def _said(path: str, module: Any) -> str:
    shape, bias = tuple(module.weight.shape), getattr(module, "bias", None)
    kind = "linear" if isinstance(module, nn.Linear) else "conv" if isinstance(module, nn.Conv2d) else "other"
    if getattr(module, "groups", 1) != 1 or (bias is not None and tuple(bias.shape) != shape[:1]):
        raise ValueError(f"{path} is of another kind")
    return f"{kind} {','.join(map(str, shape))}{'+' if bias is not None else ''}"


def make() -> str:
    """Return the table's text, made from the libraries. Needs diffusers and transformers."""
    from . import load

    toy = json.loads((_TOY / "unet" / "config.json").read_text(encoding="utf-8"))
    toy_encoder = json.loads((_TOY / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    unets = []
    for unet_config in (toy, *configs.UNETS.values()):
        unet: Any = load.empty_unet(unet_config)
        naming = {key: unet.config[key] for key in _NAMING}
        unets.append({"of": dict(unet_config), "naming": naming, "modules": describe(unet, text_encoder=False)})
    encoders = []
    for family, config in [("toy", toy_encoder), *((f, c) for f, all_ in configs.TEXT_ENCODERS.items() for c in all_)]:
        second = family == "sdxl" and config is configs.TEXT_ENCODERS[family][1]
        encoder = load.empty_text_encoder(config, with_projection=second)
        entry = {"of": dict(config), "modules": describe(encoder, text_encoder=True)}
        if entry not in encoders:
            encoders.append(entry)
    return json.dumps({"unets": unets, "text_encoders": encoders}, indent=1) + "\n"


if __name__ == "__main__":
    atomic.write_text(TABLE, make())
    sys.stdout.write(f"{TABLE.name}: {TABLE.stat().st_size} bytes\n")
