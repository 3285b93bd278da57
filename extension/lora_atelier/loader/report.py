"""What an adapter file is, for a person who wants to know before using it: plain data, without a word of advice.

With a model (its layers alone, on meta, or with its weights) also what of it would match, and how much each block of
the model is changed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..adapters import families, keys, peft
from ..adapters.boft import BoftAdapter
from ..adapters.convert import Names, Target
from ..adapters.dora import DoraAdapter
from ..adapters.families import Adapter, PaddedAdapter
from ..adapters.file import AdapterFile
from ..adapters.full import FullAdapter, SparseAdapter
from ..adapters.glora import GloraAdapter
from ..adapters.ia3 import Ia3Adapter
from ..adapters.keys import Grouped
from ..adapters.loha import LohaAdapter
from ..adapters.lokr import LokrAdapter
from ..adapters.lora import LoraAdapter
from ..adapters.oft import OftAdapter
from ..errors import AdapterError, ExtensionError, Message, message
from ..models import layers as model_layers
from ..models.detect import FAMILY_NAMES
from ..models.layers import Layer
from . import fitting

if TYPE_CHECKING:
    from ..models.load import Model

# A file's parts in the order in which they are shown.
PARTS = ("text_encoder", "text_encoder_2", "unet")
# Tags that are shown of those that a trainer counted.
_TAGS = 10


class Outline:
    """A model that was only looked at: the names and shapes of its layers, and their weights if they were read."""

    def __init__(self, model: Model, family: str) -> None:
        self._places = model_layers.places(model)
        self._layers = model_layers.layers(model)
        self._aliases = model_layers.aliases(model)
        self._family = family

    def layers(self) -> Mapping[str, Layer]:
        """The layers by kohya's names."""
        return self._layers

    def aliases(self) -> Mapping[str, str]:
        """Other names in use for them."""
        return self._aliases

    def family(self) -> str:
        """The family: "toy", "sd1", "sd2" or "sdxl"."""
        return self._family

    def names(self) -> Names:
        """What ``adapters.convert`` must know of the model."""
        targets = {}
        for name, (part, path, _) in self._places.items():
            written = path if part == "unet" else model_layers.te_path(path)
            targets[name] = Target(part, written, self._layers[name].shape("weight") or ())
        return Names(targets, self._aliases, FAMILY_NAMES.get(self._family, self._family))

    def block(self, name: str) -> tuple[str, str]:
        """Return a layer's part and its block in it: "down_blocks.1", "mid_block", "up_blocks.0", "" for all others."""
        part, path, _ = self._places[name]
        first, second, *_ = (*path.split("."), "")
        if part != "unet" or not first.endswith(("_block", "_blocks")):
            return part, ""
        return part, first if first == "mid_block" else f"{first}.{second}"


@dataclass(frozen=True)
class Misfit:
    """A layer whose numbers are for another shape; ``expected`` is None where the model has no such parameter."""

    layer: str
    got: tuple[int, ...]
    expected: tuple[int, ...] | None


@dataclass(frozen=True)
class Matched:
    """What of a file fits a model: ``matching`` of ``total`` layers, and the names of the others by reason.

    ``absent`` layers are not in the model, ``misfits`` have another shape, ``unread`` are of no family that is known;
    ``no_encoder`` counts text-encoder layers where the model has none to change. ``refusal`` is what would be said
    beside a picture if the file were used, None if it would be applied.
    """

    family: str
    total: int
    matching: int
    absent: tuple[str, ...]
    misfits: tuple[Misfit, ...]
    unread: tuple[str, ...]
    no_encoder: int
    refusal: ExtensionError | None


@dataclass(frozen=True)
class Block:
    """How much one block of a model is changed at multiplier 1.

    ``change`` is the Frobenius norm of all its changes together, sqrt(sum of ‖ΔW‖²); ``relative`` is that divided by
    the norm of the same weights before, None where they were not read. ``unknown`` layers are in neither: their change
    depends on weights that were not read, or is no number.
    """

    part: str
    block: str
    layers: int
    change: float
    relative: float | None
    unknown: int


@dataclass(frozen=True)
class Report:
    """What an adapter file is. Counts are of layers unless they say otherwise.

    ``said_base`` is the family that the metadata names, ``told_base`` the one that the shapes show ("" if neither
    tells), ``foreign_base`` the name of a model that we can't use. ``families`` by name ("LoRA", "DoRA (LoHa)"),
    ``ranks`` and ``alphas`` by value, None for layers without; ``dtypes`` counts tensors. ``tags`` are a trainer's most
    frequent ones. ``problems`` are sentences for a person.
    """

    name: str
    size_bytes: int
    tensors: int
    numbers: int
    content_hash: str
    said_base: str
    told_base: str
    foreign_base: str
    dialects: Mapping[str, int]
    parts: Mapping[str, int]
    families: Mapping[str, int]
    ranks: Mapping[int | None, int]
    alphas: Mapping[float | None, int]
    dtypes: Mapping[str, int]
    embeddings: tuple[str, ...]
    trigger_words: str
    tags: tuple[str, ...]
    problems: tuple[Message, ...]
    matched: Matched | None = None
    blocks: tuple[Block, ...] = ()

    @property
    def base(self) -> str:
        """The family that the file is for, as far as anything tells: its shapes rather than its words."""
        return self.told_base or self.said_base

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON; sentences are templates with their values."""
        said: dict[str, Any] = _plain(self)
        return said


def base_of(content: AdapterFile) -> str:
    """Return the family that a file is for ("toy", "sd1", "sd2", "sdxl"), or "" if nothing tells."""
    return keys.trained_for(_shapes(content), content.metadata)


def describe(content: AdapterFile, model: Outline | None = None) -> Report:
    """Return what an adapter file is, and what it would do to ``model`` if one is given.

    Raises AdapterFormatError if PEFT's settings in it can't be understood.
    """
    grouped = families.group(content.tensors)
    scales = peft.configs(content.path, content.metadata)
    found = _Layers(grouped, scales)
    shapes = _shapes(content)
    said, told = keys.said_base(content.metadata), keys.trained_for(shapes, {})
    parts = Counter(_part(written) for written in grouped.layers)
    return Report(
        name=content.path.name,
        size_bytes=content.path.stat().st_size,
        tensors=len(content.tensors),
        numbers=sum(tensor.numel() for tensor in content.tensors.values()),
        content_hash=content.content_hash,
        said_base=said,
        told_base=told,
        foreign_base=keys.foreign_base(content.tensors),
        dialects=_by_count(_dialect(key) for key in content.tensors),
        parts={part: parts[part] for part in PARTS if parts[part]},
        families=_by_count(found.families()),
        ranks=_by_count(_rank(adapter) for adapter in found.weights()),
        alphas=_by_count(found.alphas.values()),
        dtypes=_by_count(str(tensor.dtype).removeprefix("torch.") for tensor in content.tensors.values()),
        embeddings=tuple(grouped.embeddings),
        trigger_words=content.metadata.get("modelspec.trigger_phrase", ""),
        tags=_tags(content.metadata),
        problems=tuple(_problems(content, grouped, found, said, told, model)),
        matched=_match(content, grouped, model) if model is not None else None,
        blocks=tuple(_blocks(found, model)) if model is not None else (),
    )


# --- the layers of a file


class _Layers:
    """The adapters of a file by layer and parameter, whatever model they are for."""

    def __init__(self, grouped: Grouped[Tensor], scales: Mapping[str, peft.LoraConfig]) -> None:
        self.adapters: dict[tuple[str, str], Adapter] = {}
        self.alphas: dict[str, float | None] = {}
        self.unread: dict[str, tuple[str, ...]] = {}
        self._norms: dict[tuple[str, str], float | None] = {}
        self._stored = grouped.layers
        for written, stored in grouped.layers.items():
            if "alpha" in stored and stored["alpha"].numel() != 1:
                self.unread[written] = tuple(sorted(stored))
                continue
            alpha = peft.alpha_of(written, grouped.paths.get(written, ""), stored, scales)
            self.alphas[written] = alpha
            if alpha is not None and "alpha" not in stored:
                stored = {**stored, "alpha": torch.tensor(alpha)}
            adapters = families.match(stored)
            if adapters is None:
                self.unread[written] = tuple(sorted(stored))
            for parameter, adapter in (adapters or {}).items():
                self.adapters[written, parameter] = adapter

    def families(self) -> Iterable[str]:
        """A name for every layer."""
        for written, stored in self._stored.items():
            adapter = self.adapters.get((written, "weight")) or self.adapters.get((written, "bias"))
            yield "?" if adapter is None else _family(adapter, stored)

    def weights(self) -> Iterable[Adapter]:
        """The adapters of weights, without those of biases."""
        return (adapter for (_, parameter), adapter in self.adapters.items() if parameter == "weight")

    def norm(self, written: str, parameter: str) -> float | None:
        """Return ‖ΔW‖ at multiplier 1 of what needs no weight for it, None for all else and where it is no number."""
        key = written, parameter
        if key not in self._norms:
            self._norms[key] = _norm(self.adapters[key], None)
        return self._norms[key]


def _norm(adapter: Adapter, weight: Tensor | None) -> float | None:
    factors = adapter.factors()
    if factors is not None:
        # ‖UD‖² = tr(UᵀU·DDᵀ): two products as small as the rank instead of one as large as the layer.
        up, down = (factor.double() for factor in factors)
        square = ((up.T @ up) * (down @ down.T)).sum().item()
        # Rounding may make it a little less than zero; what is not a number stays so.
        norm = math.sqrt(square) if square > 0 else 0.0 * square
    elif weight is not None:
        norm = torch.linalg.vector_norm(adapter.delta(weight)).item()
    elif adapter.reads_weight:
        return None
    else:
        # Only the shape counts, and memory that nobody writes to is none.
        norm = torch.linalg.vector_norm(adapter.delta(torch.empty(adapter.shape))).item()
    return norm if math.isfinite(norm) else None


def _family(adapter: Adapter, stored: Mapping[str, Tensor]) -> str:
    if isinstance(adapter, DoraAdapter):
        return f"DoRA ({_family(adapter.inner, stored)})"
    if isinstance(adapter, (SparseAdapter, PaddedAdapter)):
        return _family(adapter.inner, stored)
    if isinstance(adapter, LoraAdapter):
        return "LoCon" if math.prod(adapter.shape[2:]) > 1 else "LoRA"
    if isinstance(adapter, FullAdapter):
        return "norm" if stored.keys() & {"w_norm", "b_norm"} else "diff"
    names: dict[type[Adapter], str] = {
        LohaAdapter: "LoHa",
        LokrAdapter: "LoKr",
        Ia3Adapter: "IA3",
        OftAdapter: "OFT",
        BoftAdapter: "BOFT",
        GloraAdapter: "GLoRA",
    }
    return names.get(type(adapter), type(adapter).__name__)


def _rank(adapter: Adapter) -> int | None:
    if isinstance(adapter, (DoraAdapter, SparseAdapter, PaddedAdapter)):
        return _rank(adapter.inner)
    if isinstance(adapter, LoraAdapter):
        return adapter.rank
    if isinstance(adapter, LohaAdapter):
        return adapter.w1_b.shape[0]
    if isinstance(adapter, GloraAdapter):
        return adapter.down.shape[0]
    if isinstance(adapter, LokrAdapter):
        sides = [side[1].shape[0] for side in (adapter.w2, adapter.w1) if len(side) > 1]
        return sides[0] if sides else None
    return None


def _part(written: str) -> str:
    if written.startswith("lora_te"):
        return "text_encoder_2" if written.startswith("lora_te2_") else "text_encoder"
    return "unet"


def _dialect(key: str) -> str:
    if key.startswith("bundle_emb."):
        return "AUTOMATIC1111"
    found = next((dialect for dialect in keys.DIALECTS if dialect(key) is not None), None)
    if found is not keys.dotted:
        names: dict[keys.Dialect, str] = {keys.kohya: "kohya", keys.kohya_oft: "kohya (OFT)", keys.lycoris: "LyCORIS"}
        return names.get(found, "?") if found is not None else "?"
    if key.startswith("base_model."):
        return "PEFT"
    if key.startswith(("diffusion_model.", "model.diffusion_model.")):
        return "ComfyUI"
    new = any(name in key for name in (".lora_A.", ".lora_B.", "lora_magnitude_vector"))
    if new:
        return "diffusers" if key.startswith(("unet.", "text_encoder")) else "PEFT"
    return "diffusers (0.17-)" if ".processor." in key or "_lora." in key or ".lora" in key else "diffusers"


def _shapes(content: AdapterFile) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in content.tensors.items()}


def _tags(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The most frequent tags of kohya's ``ss_tag_frequency``: {folder: {tag: count}}."""
    try:
        said = json.loads(metadata.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for folder in said.values():
            counts.update({str(tag).strip(): int(count) for tag, count in folder.items()})
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return ()
    # JSON inside of a text can hold half of a character, which can't be printed.
    return tuple(tag.encode("utf-8", "replace").decode("utf-8") for tag, _ in counts.most_common(_TAGS))


# --- what is wrong with it


def _problems(
    content: AdapterFile, grouped: Grouped[Tensor], found: _Layers, said: str, told: str, model: Outline | None
) -> Iterable[Message]:
    total = len(grouped.layers)
    broken = [key for key, tensor in content.tensors.items() if not _all_finite(tensor)]
    if broken:
        yield message(
            "{count} tensors hold values that are not numbers (NaN or infinite), first {key}: its training went wrong.",
            count=len(broken),
            key=broken[0],
        )
    empty = [written for written, stored in grouped.layers.items() if any(not t.numel() for t in stored.values())]
    if empty:
        yield message("{count} of {total} layers have rank 0, first {layer}.", count=len(empty), total=total,
                      layer=empty[0])  # fmt: skip
    unread = {written: suffixes for written, suffixes in found.unread.items() if written not in empty}
    if unread:
        layer, suffixes = next(iter(unread.items()))
        yield message(
            "{count} of {total} layers are of a kind that can't be read, first {layer} ({suffixes}).",
            count=len(unread),
            total=total,
            layer=layer,
            suffixes=", ".join(suffixes),
        )
    again = [key for key in grouped.unknown if _dialect(key) != "?"]
    unknown = [key for key in grouped.unknown if _dialect(key) == "?"]
    if unknown:
        yield message("{count} of its keys are unknown, first {key}.", count=len(unknown), key=unknown[0])
    if model is not None:
        names = model.names()
        seen: set[str] = set()
        for written in grouped.layers:
            name = names.canonical(written)
            again += [written] if name in seen else []
            seen |= {name} if name else set()
    if again:
        yield message("{count} names say again what another one says, first {key}.", count=len(again), key=again[0])
    bare = [written for written in found.alphas if _lacks_alpha(written, grouped, found)]
    if bare:
        yield message(
            "{count} of {total} layers have no alpha; they are taken to have alpha = rank, first {layer}.",
            count=len(bare),
            total=total,
            layer=bare[0],
        )
    still = [written for (written, parameter) in found.adapters if found.norm(written, parameter) == 0]
    if still:
        yield message(
            "{count} of {total} layers change nothing, first {layer}: they were not trained.",
            count=len(set(still)),
            total=total,
            layer=still[0],
        )
    eight = [key for key, tensor in content.tensors.items() if "float8" in str(tensor.dtype)]
    if eight:
        yield message("{count} tensors are stored in 8 bits, which is coarse, first {key}.", count=len(eight),
                      key=eight[0])  # fmt: skip
    if said and told and said != told:
        yield message(
            "Its metadata names {said}, its shapes are those of {told}.",
            said=FAMILY_NAMES.get(said, said),
            told=FAMILY_NAMES.get(told, told),
        )
    if not grouped.layers and not grouped.embeddings:
        yield message("It has no layers.")


def _lacks_alpha(written: str, grouped: Grouped[Tensor], found: _Layers) -> bool:
    """Whether a layer of a family that has an alpha comes without; in diffusers' names that is the rule."""
    adapter = found.adapters.get((written, "weight"))
    scaled = adapter is not None and _rank(adapter) is not None
    return scaled and found.alphas[written] is None and written not in grouped.paths


def _all_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # Ten times as fast as asking every number: what is not a number passes through to both.
    return all(math.isfinite(float(each)) for each in tensor.to(torch.float32, copy=False).aminmax())


# --- what it would do to a model


def _match(content: AdapterFile, grouped: Grouped[Tensor], model: Outline) -> Matched:
    sorting = fitting.sort_layers(content, grouped, model)
    try:
        fitting.check(content.path.stem, content, grouped, sorting, model)
        refusal = None
    except AdapterError as error:
        refusal = error
    misfits = {layer: Misfit(layer, tuple(got), wanted) for layer, got, wanted in sorting.odd}
    unread = tuple(layer for layer, _ in sorting.unread)
    lost = {*sorting.absent, *misfits, *unread}
    return Matched(
        family=model.family(),
        total=len(grouped.layers),
        matching=len(grouped.layers) - len(lost) - sorting.text_layers,
        absent=tuple(sorting.absent),
        misfits=tuple(misfits.values()),
        unread=unread,
        no_encoder=sorting.text_layers,
        refusal=refusal,
    )


def _blocks(found: _Layers, model: Outline) -> Iterable[Block]:
    """The blocks that are changed, in the model's order: text encoders, then down, middle, up and the rest."""
    layers, names = model.layers(), model.names()
    changes: dict[tuple[str, str], list[float]] = defaultdict(list)
    weights: dict[tuple[str, str], list[float]] = defaultdict(list)
    unknown: Counter[tuple[str, str]] = Counter()
    touched: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (written, parameter), adapter in found.adapters.items():
        name = names.canonical(written)
        shape = layers[name].shape(parameter) if name else None
        suited = families.fitted(adapter, shape) if shape is not None else None
        if suited is None:
            continue
        block = model.block(name)
        weight = layers[name].view(parameter)
        read = weight if weight is not None and weight.device.type != "meta" else None
        norm = found.norm(written, parameter) if suited is adapter else None
        if norm is None and read is not None:
            norm = _norm(suited, read)
        touched[block].add(name)
        if norm is None:
            unknown[block] += 1
            continue
        changes[block].append(norm)
        if read is not None:
            weights[block].append(torch.linalg.vector_norm(read, dtype=torch.float32).item())
    for block in sorted(touched, key=_order):
        change = math.hypot(*changes[block])
        before = math.hypot(*weights[block])
        complete = before > 0 and len(weights[block]) == len(changes[block])
        relative = change / before if complete else None
        yield Block(*block, len(touched[block]), change, relative, unknown[block])


def _order(block: tuple[str, str]) -> tuple[int, int, str]:
    part, name = block
    kinds = ("down", "mid", "up", "")
    return PARTS.index(part), next(at for at, kind in enumerate(kinds) if name.startswith(kind)), name


def _by_count(values: Iterable[Any]) -> dict[Any, int]:
    return dict(Counter(values).most_common())


def _plain(value: Any) -> Any:
    if isinstance(value, (Message, ExtensionError)):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        # JSON's keys are texts.
        return {"none" if key is None else str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    # JSON has no word for what is not a number.
    return None if isinstance(value, float) and not math.isfinite(value) else value
