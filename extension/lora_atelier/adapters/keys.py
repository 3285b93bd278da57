"""Keys of adapter files -> layer names. Every dialect has one function; the first that knows a key reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
# Key -> (layer name, suffix), or None: the next dialect is asked.
Dialect = Callable[[str], "tuple[str, str] | None"]


def kohya(key: str) -> tuple[str, str] | None:
    """kohya's keys: the layer's name with underscores, a dot, the suffix: ``lora_unet_…_to_q.lora_down.weight``."""
    layer, dot, suffix = key.partition(".")
    known = layer.startswith(("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_"))
    return (layer, suffix) if dot and known else None


DIALECTS: tuple[Dialect, ...] = (kohya,)
# Textual inversions that travel in a LoRA file; they are no layers and are counted apart.
_EMBEDDINGS = "bundle_emb."


@dataclass(frozen=True)
class Grouped(Generic[T]):
    """An adapter file's content by layer name and suffix, and the keys that no dialect knows."""

    layers: Mapping[str, Mapping[str, T]]
    unknown: tuple[str, ...]
    embeddings: tuple[str, ...]


def group(tensors: Mapping[str, T]) -> Grouped[T]:
    """Return the tensors (or whatever stands for them) by layer and suffix."""
    layers: dict[str, dict[str, T]] = {}
    unknown, embeddings = [], []
    for key, tensor in tensors.items():
        if key.startswith(_EMBEDDINGS):
            embeddings.append(key)
            continue
        found = _split(key)
        if found is None:
            unknown.append(key)
        else:
            layers.setdefault(found[0], {})[found[1]] = tensor
    return Grouped(layers, tuple(unknown), tuple(embeddings))


def is_adapter(keys: Iterable[str]) -> bool:
    """Whether any of a file's keys belongs to an adapter, as far as names tell."""
    return any(_split(key) is not None for key in keys)


def _split(key: str) -> tuple[str, str] | None:
    return next((found for dialect in DIALECTS if (found := dialect(key)) is not None), None)


# What stands in ss_base_model_version or modelspec.architecture.
_SIGNS = (
    *(("sdxl", "sdxl"), ("xl-v1", "sdxl"), ("sd_v2", "sd2"), ("diffusion-v2", "sd2")),
    *(("sd_v1", "sd1"), ("diffusion-v1", "sd1"), ("lora_atelier_toy", "toy"), ("lora-atelier-toy", "toy")),
)
# The text's width as cross-attention sees it.
_TEXT_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}


def trained_for(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> str:
    """Return the family ("toy", "sd1", "sd2", "sdxl") that a file was trained for, or "" if nothing tells.

    Asked in turn: the width that cross-attention's down matrices read (``shapes`` by key), the metadata.
    """
    for key, shape in shapes.items():
        if "attn2_to_k.lora_down" in key and len(shape) > 1:
            return "toy" if shape[1] < min(_TEXT_WIDTHS) else _TEXT_WIDTHS.get(shape[1], "")
    said = f"{metadata.get('ss_base_model_version', '')} {metadata.get('modelspec.architecture', '')}"
    return next((family for sign, family in _SIGNS if sign in said), "")
