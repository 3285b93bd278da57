"""Keys of adapter files -> layer names and suffixes. One function a dialect; the first that knows a key reads it.

A layer's name is what kohya's trainer would call it: the part's prefix, then the module's path with dots turned into
underscores. Dotted dialects are brought into that form as they stand; which module it is, only the model's own list of
names decides (``models/layers.py``). A suffix is brought into kohya's or LyCORIS' form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """What a key says: layer name, suffix, and the module's dotted path if the dialect keeps it."""

    layer: str
    suffix: str
    path: str = ""


# Key -> place, or None: the next dialect is asked.
Dialect = Callable[[str], "Place | None"]


def kohya(key: str) -> Place | None:
    """kohya's keys: the layer's name with underscores, a dot, the suffix: ``lora_unet_…_to_q.lora_down.weight``."""
    layer, dot, suffix = key.partition(".")
    known = layer.startswith(("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_"))
    return Place(layer, suffix) if dot and known else None


def kohya_oft(key: str) -> Place | None:
    """kohya's OFT, which has a prefix of its own: ``oft_unet_…_to_q.oft_blocks``."""
    layer, dot, suffix = key.partition(".")
    known = layer.startswith("oft_unet_")
    return Place("lora_unet_" + layer.removeprefix("oft_unet_"), suffix) if dot and known else None


def lycoris(key: str) -> Place | None:
    """LyCORIS as a library, as SimpleTuner uses it: ``lycoris_`` and the path in the U-Net or the text encoder."""
    layer, dot, suffix = key.partition(".")
    if not dot or not layer.startswith("lycoris_"):
        return None
    path = layer.removeprefix("lycoris_")
    if path.startswith("text_model_"):
        return Place("lora_te_" + path, suffix)
    if path.startswith("encoder_layers_"):
        return Place("lora_te_text_model_" + path, suffix)
    return Place("lora_unet_" + path.removeprefix("unet_"), suffix)


def dotted(key: str) -> Place | None:
    """diffusers' and PEFT's keys, new and old: part, dots, the module's path, a suffix of theirs or kohya's."""
    found = _without_suffix(key.removeprefix("base_model.model."))
    if found is None:
        return None
    path, suffix = found
    part = next((start for start in _PARTS if path.startswith(start)), "")
    path = path.removeprefix(part).removeprefix("base_model.model.")
    # PEFT alone, and diffusers before 0.17, do not name the part.
    prefix = _PARTS[part] if part else next((_ROOTS[start] for start in _ROOTS if path.startswith(start)), "")
    if not prefix:
        return None
    text = prefix != "lora_unet"
    path = _modern_attention(path, text=text)
    # CLIP's paths begin with text_model. in transformers 4 and in kohya's names, and without it in transformers 5.
    named = f"text_model.{path}" if text and path.startswith(_BARE_TEXT) else path
    return Place(f"{prefix}_{named.replace('.', '_')}", suffix, path)


DIALECTS: tuple[Dialect, ...] = (kohya, kohya_oft, lycoris, dotted)

_PARTS = {
    "unet.": "lora_unet",
    "text_encoder_2.": "lora_te2",
    "text_encoder.": "lora_te",
    "model.diffusion_model.": "lora_unet",
    "diffusion_model.": "lora_unet",
}
_ROOTS = {
    "down_blocks.": "lora_unet",
    "mid_block.": "lora_unet",
    "up_blocks.": "lora_unet",
    "conv_in": "lora_unet",
    "conv_out": "lora_unet",
    "time_embedding.": "lora_unet",
    "add_embedding.": "lora_unet",
    "text_model.": "lora_te",
    "encoder.layers.": "lora_te",
}
_BARE_TEXT = ("encoder.", "embeddings.", "final_layer_norm")
# Ends of dotted keys, the longer ones first, and the suffix that each means.
_SUFFIXES = {
    ".lora_linear_layer.down.weight": "lora_down.weight",
    ".lora_linear_layer.up.weight": "lora_up.weight",
    ".lora_magnitude_vector.weight": "lora_magnitude_vector",
    ".lora_magnitude_vector": "lora_magnitude_vector",
    ".lora.down.weight": "lora_down.weight",
    ".lora.up.weight": "lora_up.weight",
    "_lora.down.weight": "lora_down.weight",
    "_lora.up.weight": "lora_up.weight",
    ".lora_A.weight": "lora_down.weight",
    ".lora_B.weight": "lora_up.weight",
    **{
        f".{suffix}": suffix
        for suffix in (
            *("lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale", "diff", "diff_b"),
            *(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
            *(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
            *("w_norm", "b_norm", "on_input", "oft_blocks", "oft_diag", "rescale"),
            *(f"{name}.weight" for name in ("a1", "a2", "b1", "b2", "bm")),
        )
    },
}
# PEFT puts the adapter's name, nearly always "default", before "weight".
_PEFT_NAMED = ("lora_A", "lora_B", "lora_magnitude_vector")


def _without_suffix(key: str) -> tuple[str, str] | None:
    parts = key.split(".")
    for at in (-3, -2):
        # ….lora_A.default.weight, ….lora_magnitude_vector.default
        if len(parts) > -at and parts[at] in _PEFT_NAMED and (at == -2) != (parts[-1] == "weight"):
            key = ".".join([*parts[: len(parts) + at + 1], "weight"])
            break
    for end, suffix in _SUFFIXES.items():
        if key.endswith(end):
            return key[: -len(end)], suffix
    return None


# diffusers before 0.17 hung LoRAs on attention "processors" and named the output projection without its number.
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def _modern_attention(path: str, *, text: bool) -> str:
    parent, _, last = path.rpartition(".")
    if text and last in _OLD_TEXT:
        return f"{parent}.{_OLD_TEXT[last]}"
    if not text and last == "to_out":
        last = "to_out.0"
    return f"{parent.removesuffix('.processor')}.{last}" if parent else last


# Textual inversions that travel in a LoRA file; they are no layers.
_EMBEDDINGS = "bundle_emb."


@dataclass(frozen=True)
class Grouped(Generic[T]):
    """An adapter file's content by layer name and suffix; what no dialect knows; textual inversions by their names.

    ``paths`` holds the dotted module paths of the layers whose dialect has them.
    """

    layers: Mapping[str, Mapping[str, T]]
    unknown: tuple[str, ...]
    embeddings: Mapping[str, Mapping[str, T]]
    paths: Mapping[str, str]


def group(tensors: Mapping[str, T]) -> Grouped[T]:
    """Return the tensors (or whatever stands for them) by layer and suffix.

    A key that says the same as one before it in another dialect is unknown: nothing is dropped without being counted.
    """
    layers: dict[str, dict[str, T]] = {}
    embeddings: dict[str, dict[str, T]] = {}
    paths: dict[str, str] = {}
    unknown = []
    for key, tensor in tensors.items():
        if key.startswith(_EMBEDDINGS):
            name, _, rest = key.removeprefix(_EMBEDDINGS).partition(".")
            embeddings.setdefault(name, {})[rest] = tensor
            continue
        place = _split(key)
        if place is None or place.suffix in layers.get(place.layer, ()):
            unknown.append(key)
            continue
        layers.setdefault(place.layer, {})[place.suffix] = tensor
        if place.path:
            paths[place.layer] = place.path
    return Grouped(layers, tuple(unknown), embeddings, paths)


def is_adapter(keys: Iterable[str]) -> bool:
    """Whether any of a file's keys belongs to an adapter, as far as names tell."""
    return any(_split(key) is not None for key in keys)


def _split(key: str) -> Place | None:
    return next((place for dialect in DIALECTS if (place := dialect(key)) is not None), None)


# --- which models a file is for

_FLUX, _SD3 = "Flux", "Stable Diffusion 3"
# Beginnings of keys that only these have; "transformer." alone is what diffusers calls either's only part.
_FOREIGN = {
    "lora_unet_double_blocks_": _FLUX,
    "lora_unet_single_blocks_": _FLUX,
    "diffusion_model.double_blocks.": _FLUX,
    "diffusion_model.single_blocks.": _FLUX,
    "transformer.single_transformer_blocks.": _FLUX,
    "lora_transformer_single_transformer_blocks_": _FLUX,
    "lycoris_single_transformer_blocks_": _FLUX,
    "base_model.model.single_transformer_blocks.": _FLUX,
    "lora_unet_joint_blocks_": _SD3,
    "diffusion_model.joint_blocks.": _SD3,
    "transformer.transformer_blocks.": _SD3,
    "lora_transformer_transformer_blocks_": _SD3,
    "lycoris_transformer_blocks_": _SD3,
    "lora_te3_": _SD3,
    "base_model.model.transformer_blocks.": _SD3,
}


def foreign_base(keys: Iterable[str]) -> str:
    """Return the name of the base model that a file is for if it is one that we can't use (Flux, SD3), else ""."""
    starts = tuple(_FOREIGN)
    foreign = [key for key in keys if key.startswith(starts)]
    found = {name for key in foreign for start, name in _FOREIGN.items() if key.startswith(start)}
    # Flux has SD3's kind of blocks, too.
    return _FLUX if _FLUX in found else _SD3 if found else ""


# What stands in ss_base_model_version or modelspec.architecture.
_SIGNS = (
    *(("sdxl", "sdxl"), ("xl-v1", "sdxl"), ("sd_v2", "sd2"), ("diffusion-v2", "sd2")),
    *(("sd_v1", "sd1"), ("diffusion-v1", "sd1"), ("lora_atelier_toy", "toy"), ("lora-atelier-toy", "toy")),
)
# The text's width as cross-attention sees it.
_TEXT_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}


def said_base(metadata: Mapping[str, str]) -> str:
    """Return the family ("toy", "sd1", "sd2", "sdxl") that a file's metadata names, or ""."""
    said = f"{metadata.get('ss_base_model_version', '')} {metadata.get('modelspec.architecture', '')}"
    return next((family for sign, family in _SIGNS if sign in said), "")


def trained_for(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> str:
    """Return the family ("toy", "sd1", "sd2", "sdxl") that a file was trained for, or "" if nothing tells.

    Asked in turn: the width that cross-attention's matrices read (``shapes`` by key), names that only SDXL has, the
    metadata.
    """
    sdxl = False
    for key, shape in shapes.items():
        place = _split(key)
        if place is None:
            continue
        if "attn2_to_k" in place.layer and place.suffix in ("lora_down.weight", "hada_w1_b") and len(shape) > 1:
            return "toy" if shape[1] < min(_TEXT_WIDTHS) else _TEXT_WIDTHS.get(shape[1], "")
        sdxl = sdxl or place.layer.startswith("lora_te2_") or "transformer_blocks_9_" in place.layer
    return "sdxl" if sdxl else said_base(metadata)
