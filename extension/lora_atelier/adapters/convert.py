"""Adapter files between kohya's names and those of diffusers and PEFT, without a change of what they do.

kohya flattens a module's path into one word, diffusers keeps its dots; a path can't be read back from the word, so both
functions are given the model's own list of layers. What a layer is scaled by stands in an ``alpha`` beside its matrices
(kohya) or in a configuration in the metadata (PEFT).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import AdapterFormatError, AdapterMismatchError, Message, message
from . import families, peft
from .dora import DoraAdapter
from .keys import Grouped
from .lora import LoraAdapter

PEFT_METADATA = "lora_adapter_metadata"
# Our note in a file in diffusers' names: how kohya's file, from which it was made, differed from what we would write.
_NOTE = "atelier_kohya_names"
_NOTE_SCHEMA = 1
# Hashes of the file that was converted; they are not those of the new one.
_HASHES = ("sshs_model_hash", "sshs_legacy_hash")
_DOWN, _UP, _ALPHA, _DORA = "lora_down.weight", "lora_up.weight", "alpha", "dora_scale"
_LORA = {_DOWN, _UP, _ALPHA, _DORA, "lora_magnitude_vector"}
# A suffix that tells the family -> its name, for the sentence that refuses it.
_KINDS = {
    "hada_w1_a": "LoHa",
    "lokr_w1": "LoKr",
    "lokr_w1_a": "LoKr",
    "oft_blocks": "OFT",
    "oft_diag": "OFT",
    "a1.weight": "GLoRA",
    "on_input": "IA3",
    "w_norm": "norm",
    "b_norm": "norm",
    "lora_mid.weight": "LoCon (Tucker)",
    "diff": "diff",
    "diff_b": "diff_b",
    "bias_indices": "bias",
    _DORA: "DoRA",
    "lora_magnitude_vector": "DoRA",
}


@dataclass(frozen=True)
class Target:
    """Where a layer is in a model: its part as in a diffusers folder, the module's path in it, its weight's shape.

    A text encoder's path begins with ``text_model.``: that is the form in files.
    """

    part: str
    path: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Names:
    """A model's layers by kohya's names, other names in use for them, and the family's name for sentences."""

    targets: Mapping[str, Target]
    aliases: Mapping[str, str]
    family: str

    def canonical(self, written: str) -> str:
        """Return the layer that a name in a file means, or "" if the model has none of it."""
        return written if written in self.targets else self.aliases.get(written, "")


@dataclass(frozen=True, eq=False)
class Converted:
    """The content of an adapter file in its new names."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


# --- kohya -> diffusers


def to_diffusers(
    name: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    names: Names,
    scales: Mapping[str, peft.LoraConfig] | None = None,
) -> Converted:
    """Return a LoRA or LoCon (with or without DoRA) in diffusers' names: ``unet.<path>.lora_A.weight``.

    Its alphas go into ``lora_adapter_metadata``, which diffusers 0.35 and newer read; ``to_kohya`` gives the very
    tensors back. ``name`` is the file's, ``scales`` PEFT's configurations where the file has such. Raises
    AdapterFormatError for what PEFT's LoRA can't express, AdapterMismatchError where a layer is not the model's.
    """
    grouped, layers = _sorted(name, tensors, names)
    _refuse(name, grouped, "", [layer for layer, stored in grouped.layers.items() if not _is_lora(stored)])
    made: dict[str, Tensor] = {}
    parts: dict[str, _Part] = {}
    note = _Note()
    odd: list[str] = []
    for layer, written in layers.items():
        stored, target = grouped.layers[written], names.targets[layer]
        adapter = families.match(stored)
        weight = adapter["weight"] if adapter is not None and adapter.keys() == {"weight"} else None
        lora = weight.inner if isinstance(weight, DoraAdapter) else weight
        if not isinstance(lora, LoraAdapter) or weight is None or len(target.shape) < 2:
            odd.append(written)
            continue
        if not weight.fits(target.shape):
            raise _other_shape(name, written, weight.shape, target.shape, names)
        if isinstance(weight, DoraAdapter) and weight.on_input:
            _refuse(name, grouped, "DoRA by input", [written])
        alpha = peft.alpha_of(written, grouped.paths.get(written, ""), stored, scales or {})
        rank, ones = lora.rank, [1] * (len(target.shape) - 2)
        alpha = float(rank) if alpha is None else alpha
        if not math.isfinite(alpha):
            raise _refusal(name, message("The alpha of {layer} is not a number.", layer=written))
        start = f"{target.part}.{target.path}"
        made[f"{start}.lora_A.weight"] = stored[_DOWN].reshape(rank, *target.shape[1:])
        made[f"{start}.lora_B.weight"] = stored[_UP].reshape(target.shape[0], rank, *ones)
        if isinstance(weight, DoraAdapter):
            # PEFT keeps a convolution's lengths along its second axis.
            shape = (1, target.shape[0], *ones) if ones else (target.shape[0],)
            scale = stored.get(_DORA, stored.get("lora_magnitude_vector"))
            assert scale is not None
            made[f"{start}.lora_magnitude_vector"] = scale.reshape(shape)
        parts.setdefault(target.part, _Part()).add(target.path, rank, alpha, isinstance(weight, DoraAdapter))
        note.add(layer, written, stored, target)
    if odd:
        why = message(
            "{count} of {total} layers are of a kind that can't be read, first {layer} ({suffixes}).",
            count=len(odd),
            total=len(layers),
            layer=odd[0],
            suffixes=", ".join(sorted(grouped.layers[odd[0]])),
        )
        raise _refusal(name, why)
    for part in parts.values():
        # PEFT switches DoRA for all layers of a part, and one without lengths of its own would change.
        if 0 < part.doras < len(part.ranks):
            _refuse(name, grouped, "DoRA", [written for written in grouped.layers if _DORA in grouped.layers[written]])
    said = {key: text for key, text in metadata.items() if key not in (*_HASHES, PEFT_METADATA, _NOTE)}
    config = {f"{part}.{key}": value for part, made_part in parts.items() for key, value in made_part.config().items()}
    said[PEFT_METADATA] = json.dumps(config, sort_keys=True)
    if not grouped.paths:
        said[_NOTE] = note.text()
    return Converted(made, said)


class _Part:
    """What PEFT's configuration of one part of a model must say of its layers."""

    def __init__(self) -> None:
        self.ranks: dict[str, int] = {}
        self.alphas: dict[str, float] = {}
        self.doras = 0

    def add(self, path: str, rank: int, alpha: float, dora: bool) -> None:
        # transformers 5 has dropped "text_model." from the modules' paths; without it the end of both is named, and
        # PEFT compares ends.
        path = path.removeprefix("text_model.")
        self.ranks[path], self.alphas[path] = rank, alpha
        self.doras += dora

    def config(self) -> Mapping[str, Any]:
        """The fields of peft.LoraConfig that matter for using it."""
        rank, alpha = _most(self.ranks.values()), _most(self.alphas.values())
        return {
            "r": rank,
            "lora_alpha": _plain(alpha),
            "rank_pattern": {path: value for path, value in sorted(self.ranks.items()) if value != rank},
            "alpha_pattern": {path: _plain(value) for path, value in sorted(self.alphas.items()) if value != alpha},
            "target_modules": sorted(self.ranks),
            "use_dora": self.doras > 0,
            "use_rslora": False,
        }


class _Note:
    """How a kohya file's tensors differ from those that ``to_kohya`` would make: so few that it is short."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._alphas: dict[str, str] = {}
        self._shapes: dict[str, Sequence[int]] = {}

    def add(self, layer: str, written: str, stored: Mapping[str, Tensor], target: Target) -> None:
        if written != layer:
            self._names[layer] = written
        self._alphas[layer] = str(stored[_ALPHA].dtype).removeprefix("torch.") if _ALPHA in stored else ""
        usual = _kohya_shapes(stored, target)
        for suffix, tensor in stored.items():
            if tuple(tensor.shape) != usual[suffix]:
                self._shapes[f"{layer}.{suffix}"] = list(tensor.shape)

    def text(self) -> str:
        alpha = _most(self._alphas.values())
        others = {layer: dtype for layer, dtype in self._alphas.items() if dtype != alpha}
        said = {"schema": _NOTE_SCHEMA, "names": self._names, "alpha": alpha, "alphas": others, "shapes": self._shapes}
        return json.dumps({key: value for key, value in said.items() if value not in ({}, [])}, sort_keys=True)


# --- diffusers -> kohya


def to_kohya(
    name: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    names: Names,
    scales: Mapping[str, peft.LoraConfig],
) -> Converted:
    """Return an adapter of any family in kohya's (for other families than LoRA: LyCORIS') names.

    ``name`` is the file's, ``scales`` are PEFT's configurations (``peft.configs``): they become an alpha beside every
    layer's matrices. Raises AdapterMismatchError where a layer is not the model's.
    """
    grouped, layers = _sorted(name, tensors, names)
    note = _read_note(metadata)
    made: dict[str, Tensor] = {}
    for layer, written in layers.items():
        stored, target = dict(grouped.layers[written]), names.targets[layer]
        if _DOWN in stored and _UP in stored and stored[_DOWN].ndim > 1:
            _give_alpha(stored, peft.alpha_of(written, grouped.paths.get(written, ""), stored, scales), layer, note)
            magnitude = stored.pop("lora_magnitude_vector", None)
            if magnitude is not None:
                stored[_DORA] = magnitude.reshape(-1)
        usual = _kohya_shapes(stored, target)
        for suffix, tensor in stored.items():
            shape = note.get("shapes", {}).get(f"{layer}.{suffix}", usual[suffix])
            fits = math.prod(shape) == tensor.numel()
            made[f"{note.get('names', {}).get(layer, layer)}.{suffix}"] = tensor.reshape(shape) if fits else tensor
    for embedding, vectors in grouped.embeddings.items():
        made |= {f"bundle_emb.{embedding}.{rest}": tensor for rest, tensor in vectors.items()}
    said = {key: text for key, text in metadata.items() if key not in (*_HASHES, PEFT_METADATA, _NOTE)}
    return Converted(made, said)


def _give_alpha(stored: dict[str, Tensor], alpha: float | None, layer: str, note: Mapping[str, Any]) -> None:
    """Put the alpha beside a layer's matrices, in the dtype that it had before, unless it had none and needs none."""
    rank = stored[_DOWN].shape[0]
    alpha = float(rank) if alpha is None else alpha
    if _ALPHA in stored:
        return
    noted = note.get("alphas", {}).get(layer, note.get("alpha"))
    if noted == "" and alpha == rank:
        return
    # kohya saves alpha in the precision of the weights; where that can't hold the number, it must not change.
    wanted = getattr(torch, str(noted), None) if noted else stored[_DOWN].dtype
    value = torch.tensor(alpha, dtype=torch.float32)
    if isinstance(wanted, torch.dtype) and float(value.to(wanted)) == float(value):
        value = value.to(wanted)
    stored[_ALPHA] = value


def _read_note(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """Our note, or nothing where there is none that can be used: the result is then right, too, only not the same."""
    try:
        said = json.loads(metadata.get(_NOTE, ""))
    except ValueError:
        return {}
    if not isinstance(said, dict) or said.get("schema") != _NOTE_SCHEMA:
        return {}
    tables = all(isinstance(said.get(key, {}), dict) for key in ("names", "alphas", "shapes"))
    return said if tables else {}


def _kohya_shapes(stored: Mapping[str, Tensor], target: Target) -> Mapping[str, tuple[int, ...]]:
    """The shape of each of a layer's tensors as kohya's trainer writes it for this module."""
    shapes = {suffix: tuple(tensor.shape) for suffix, tensor in stored.items()}
    if _DOWN in stored and _UP in stored and "lora_mid.weight" not in stored and len(target.shape) > 1:
        rank, ones = stored[_DOWN].shape[0] if stored[_DOWN].ndim else 0, (1,) * (len(target.shape) - 2)
        shapes[_DOWN] = (rank, *target.shape[1:])
        shapes[_UP] = (target.shape[0], rank, *ones)
        if _ALPHA in stored:
            shapes[_ALPHA] = ()
        # Lengths by input, (1, i, …), stay as they are, also where there are as many outputs.
        if _DORA in stored and stored[_DORA].shape == (target.shape[0], *(1,) * (stored[_DORA].ndim - 1)):
            shapes[_DORA] = (target.shape[0], 1, *ones)
    return shapes


# --- both


def _sorted(name: str, tensors: Mapping[str, Tensor], names: Names) -> tuple[Grouped[Tensor], Mapping[str, str]]:
    """Return a file's content grouped, and the names of its layers in the file by the model's names for them."""
    grouped = families.group(tensors)
    if grouped.unknown:
        first, count = grouped.unknown[0], len(grouped.unknown)
        raise _refusal(name, message("{count} of its keys are unknown, first {key}.", count=count, key=first))
    if not grouped.layers:
        raise _refusal(name, message("It has no layers."))
    absent = [written for written in grouped.layers if not names.canonical(written)]
    if absent:
        raise AdapterMismatchError(
            "{name} was not converted.",
            why="{count} of {total} layers are not in {family}, first {layer}.",
            todo="Say with --checkpoint for which model it is.",
            name=name,
            count=len(absent),
            total=len(grouped.layers),
            family=names.family,
            layer=absent[0],
        )
    layers: dict[str, str] = {}
    for written in grouped.layers:
        layer = names.canonical(written)
        if layer in layers:
            why = message("{layer} and {other} mean the same layer.", layer=layers[layer], other=written)
            raise _refusal(name, why)
        layers[layer] = written
    return grouped, layers


def _is_lora(stored: Mapping[str, Tensor]) -> bool:
    whole = not stored.keys() - _LORA and stored.keys() >= {_DOWN, _UP}
    return whole and (_ALPHA not in stored or stored[_ALPHA].numel() == 1)


def _refuse(name: str, grouped: Grouped[Tensor], kind: str, layers: Sequence[str]) -> None:
    """Raise AdapterFormatError for layers (and embeddings) that PEFT's names have no place for, if there are any."""
    if grouped.embeddings:
        why = message(
            "It carries the embedding “{embedding}”, which diffusers keeps in a file of its own.",
            embedding=next(iter(grouped.embeddings)),
        )
        raise _refusal(name, why)
    if layers:
        kinds = {kind} if kind else {_kind(grouped.layers[layer]) for layer in layers}
        why = message(
            "{count} of {total} layers are {kinds}, which diffusers' LoRA can't express; the first is {layer}.",
            count=len(layers),
            total=len(grouped.layers),
            kinds=", ".join(sorted(kinds)),
            layer=layers[0],
        )
        raise _refusal(name, why)


def _kind(stored: Mapping[str, Tensor]) -> str:
    return next((kind for suffix, kind in _KINDS.items() if suffix in stored), ", ".join(sorted(stored)))


def _refusal(name: str, why: Message) -> AdapterFormatError:
    return AdapterFormatError(
        "{name} was not converted.",
        why=why.template,
        todo="Use it as it is: LoRA Atelier reads the names of both.",
        **{**why.values, "name": name},
    )


def _other_shape(
    name: str, layer: str, got: Sequence[int], expected: Sequence[int], names: Names
) -> AdapterMismatchError:
    return AdapterMismatchError(
        "{name} was not converted.",
        why="{layer} has the shape {got}; in {family} it is {expected}.",
        todo="Say with --checkpoint for which model it is.",
        name=name,
        layer=layer,
        got=str(tuple(got)),
        family=names.family,
        expected=str(tuple(expected)),
    )


def _most(values: Any) -> Any:
    return Counter(values).most_common(1)[0][0]


def _plain(number: float) -> float | int:
    return int(number) if number == int(number) else number
