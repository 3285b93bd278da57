"""An adapter file -> its adapters by layer and parameter of the host's model, or the sentence why it can't be used."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .. import safetensors_header
from ..adapters import families, file, keys, peft
from ..adapters.families import Adapter
from ..adapters.file import AdapterFile
from ..adapters.keys import Grouped
from ..errors import AdapterFormatError, AdapterMismatchError, Message, message
from ..models.detect import FAMILY_NAMES
from ..models.layers import Layer
from ..rights import safe_weight
from ..safetensors_header import BrokenFileError
from .originals import BITS

# Above this share of layers that the model does not have, a file is not meant for it.
_UNKNOWN_LIMIT = 0.05
# Trained numbers are around 1; the product of four larger ones than this, as LoHa's, leaves float32.
_LARGEST = 1e8
# More keys than any model has layers: such a file would only keep the host busy.
_MOST_KEYS = 50_000
# The shortest entry of a header: "":{"dtype":"I8","shape":[],"data_offsets":[0,1]} and a comma.
_ENTRY_BYTES = 50


class FitsAdapters(Protocol):
    """What fitting must know of a host, or of a checkpoint that was only looked at."""

    def layers(self) -> Mapping[str, Layer]:
        """Where the live weights are, by kohya layer name; the same object as long as the model is the same."""
        ...

    def aliases(self) -> Mapping[str, str]:
        """Other names in use -> names in ``layers``."""
        ...

    def family(self) -> str:
        """ "toy", "sd1", "sd2" or "sdxl"."""
        ...


@dataclass(frozen=True, eq=False)
class Fitted:
    """An adapter file that was read and fitted to a model.

    ``checksum`` is of all that its adapters are made of; the same file fitted to the same model again has it, too.
    ``adapters`` by layer and parameter; ``embeddings`` are its textual inversions: vectors (n, width) by name and by
    their key's rest ("string_to_param.*", "clip_l", "clip_g"); ``notes`` say what was left out.
    """

    name: str
    content_hash: str
    checksum: int
    adapters: Mapping[tuple[str, str], Adapter]
    embeddings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    notes: tuple[Message, ...] = ()
    # Memory may be too short to keep the adapters: the file has them.
    has_adapters: bool = True
    # Above this weight training pictures came back when the LoRA was tested, by its own header.
    safe_weight: float | None = None

    def without_adapters(self) -> Fitted:
        """Return what is known of the file, without its weights."""
        return replace(self, adapters={}, has_adapters=False)


@dataclass(eq=False)
class Sorting:
    """What became of a file's layers."""

    adapters: dict[tuple[str, str], Adapter] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    text_layers: int = 0
    unread: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    odd: list[tuple[str, tuple[int, ...], tuple[int, ...] | None]] = field(default_factory=list)


def fit(name: str, path: Path, host: FitsAdapters, *, partly: bool = False) -> Fitted:
    """Return the adapter file ``path``, called ``name``, fitted to the host's model.

    Left out and counted: layers of a text encoder where the host has none to change, and up to 5 % layers that the
    model does not have. A file is applied as a whole or not at all, unless ``partly``, which leaves out and counts
    whatever does not fit. Raises AdapterNotFoundError, AdapterFormatError for a file that no family can read whole, and
    AdapterMismatchError where a shape differs or more layers are unknown.
    """
    _check_count(name, path)
    return fit_content(name, file.read(path), host, partly=partly)


def fit_content(name: str, content: AdapterFile, host: FitsAdapters, *, partly: bool = False) -> Fitted:
    """Return a file that was read already, fitted as ``fit`` does."""
    _check_keys(name, len(content.tensors))
    check_numbers(name, content)
    grouped = families.group(content.tensors)
    _check_kind(name, content, grouped, host)
    sorting = sort_layers(content, grouped, host)
    if not partly:
        _check_layers(name, content, grouped, sorting, host)
    notes = _left_out(name, grouped, sorting)
    return Fitted(
        name,
        content.content_hash,
        _checksum(content),
        _beside_weights(sorting.adapters, host.layers()),
        grouped.embeddings,
        notes,
        safe_weight=safe_weight.read(content.metadata),
    )


def _beside_weights(
    adapters: Mapping[tuple[str, str], Adapter], layers: Mapping[str, Layer]
) -> Mapping[tuple[str, str], Adapter]:
    """Each adapter on its weight's graphics card, where that is: at every change it would have to go there again."""
    found = dict(adapters)
    for (layer, parameter), adapter in adapters.items():
        weight = layers[layer].view(parameter)
        if weight is not None and weight.device.type not in ("cpu", "meta"):
            found[layer, parameter] = adapter.to(weight.device)
    return found


def check(name: str, content: AdapterFile, grouped: Grouped[Tensor], sorting: Sorting, host: FitsAdapters) -> None:
    """Raise the AdapterError that ``fit_content`` would raise for a file whose layers were sorted already."""
    _check_keys(name, len(content.tensors))
    check_numbers(name, content)
    _check_kind(name, content, grouped, host)
    _check_layers(name, content, grouped, sorting, host)


def _checksum(content: AdapterFile) -> int:
    """Of the tensors and of PEFT's settings, which change the scales."""
    scales = sorted(peft.configs(content.path, content.metadata).items())
    return zlib.crc32(repr(scales).encode(), file.checksum(content.tensors))


def sort_layers(content: AdapterFile, grouped: Grouped[Tensor], host: FitsAdapters) -> Sorting:
    """Return what becomes of each of a file's layers in this model. Raises AdapterFormatError for PEFT's settings."""
    layers, aliases = host.layers(), host.aliases()
    has_text = any(name.startswith("lora_te") for name in layers)
    scales = peft.configs(content.path, content.metadata)
    found = Sorting()
    for written, stored in grouped.layers.items():
        name = written if written in layers else aliases.get(written, "")
        layer = layers.get(name)
        if layer is None:
            if written.startswith("lora_te") and not has_text:
                found.text_layers += 1
            else:
                found.absent.append(written)
            continue
        adapters = families.match(_with_alpha(stored, grouped.paths.get(written, ""), written, scales))
        if adapters is None:
            found.unread.append((written, tuple(sorted(stored))))
            continue
        for parameter, adapter in adapters.items():
            shape = layer.shape(parameter)
            suited = families.fitted(adapter, shape) if shape is not None else None
            if suited is None:
                found.odd.append((written, adapter.shape, shape))
            elif (name, parameter) in found.adapters:
                found.absent.append(written)
            else:
                found.adapters[name, parameter] = suited
    return found


def _with_alpha(
    stored: Mapping[str, Tensor], path: str, written: str, scales: Mapping[str, peft.LoraConfig]
) -> Mapping[str, Tensor]:
    """The layer's tensors with the alpha that PEFT's configuration gives it, where the file has none itself."""
    alpha = None if "alpha" in stored else peft.alpha_of(written, path, stored, scales)
    return stored if alpha is None else {**stored, "alpha": torch.tensor(alpha, dtype=torch.float64)}


def _check_count(name: str, path: Path) -> None:
    """Raise AdapterFormatError for a file of too many keys, before its tensors are read one by one.

    Only a long header can have so many, and only that is parsed here; what is wrong with it otherwise, reading says.
    """
    count = 0
    with contextlib.suppress(OSError, BrokenFileError):
        with path.open("rb") as opened:
            header_bytes = int.from_bytes(opened.read(8), "little")
        if header_bytes > _MOST_KEYS * _ENTRY_BYTES:
            count = len(safetensors_header.read(path).tensors)
    _check_keys(name, count)


def _check_keys(name: str, count: int) -> None:
    if count > _MOST_KEYS:
        raise AdapterFormatError(
            "LoRA “{name}” was not applied.",
            why="It has {count} keys, more than any model has layers.",
            todo="Use a file as trainers write it.",
            name=name,
            count=count,
        )


def check_numbers(name: str, content: AdapterFile) -> None:
    """Raise AdapterFormatError if a weight is no finite number, or so large that no product of it would be one.

    Such a file draws nothing but black pictures.
    """
    for key, tensor in content.tensors.items():
        if not _is_moderate(tensor):
            raise AdapterFormatError(
                "LoRA “{name}” was not applied.",
                why="It holds values that are not numbers or far too large, first in {key}: its training went wrong.",
                todo="Use an earlier checkpoint of it, or train again with a lower learning rate.",
                name=name,
                key=key,
            )


def _is_moderate(tensor: Tensor) -> bool:
    """Whether every number is finite and within ``_LARGEST``.

    Without their signs the bits of floating-point numbers are ordered as the numbers are, infinity and NaN last. They
    are compared by numpy on one thread: on a busy processor torch's threads would wait for each other at every tensor,
    and take a hundred times as long.
    """
    if not tensor.numel():
        return True
    if not tensor.is_floating_point():
        return bool(tensor.double().abs().max() <= _LARGEST)
    kind = BITS[tensor.element_size()]
    largest = torch.tensor(min(_LARGEST, torch.finfo(tensor.dtype).max), dtype=tensor.dtype)
    sign = torch.iinfo(kind).max if kind.is_signed else 0x7F
    bits = tensor.contiguous().view(kind).numpy() & sign
    return bool(bits.max() <= largest.view(kind).item())


def _check_kind(name: str, content: AdapterFile, grouped: Grouped[Tensor], host: FitsAdapters) -> None:
    """Raise AdapterError for a file that is for no model that we know, or none of whose keys is known."""
    foreign = keys.foreign_base(content.tensors)
    if foreign:
        raise AdapterMismatchError(
            "LoRA “{name}” was not applied.",
            why="It is for {base}, which LoRA Atelier can't use; the model is {family}.",
            todo="Use a LoRA for Stable Diffusion 1.x, 2.x or XL.",
            name=name,
            base=foreign,
            family=FAMILY_NAMES.get(host.family(), host.family()),
        )
    if not grouped.layers and not grouped.embeddings:
        raise AdapterFormatError(
            "LoRA “{name}” was not applied.",
            why="None of its {count} keys is one that can be read; the first is {key}.",
            todo="Use a file in kohya's format, as most trainers write it.",
            name=name,
            count=len(content.tensors),
            key=next(iter(content.tensors), "-"),
        )


def _check_layers(
    name: str, content: AdapterFile, grouped: Grouped[Tensor], sorting: Sorting, host: FitsAdapters
) -> None:
    """Raise AdapterError if a file does not fit as a whole."""
    total = len(grouped.layers)
    trained_for = keys.trained_for({key: tuple(t.shape) for key, t in content.tensors.items()}, content.metadata)
    if sorting.odd:
        layer, got, expected = sorting.odd[0]
        why = message(
            "{bad} of {total} layers have another shape than the model, first {layer}: {got}, expected {expected}.",
            bad=len({layer for layer, _, _ in sorting.odd}),
            total=total,
            layer=layer,
            got=str(got),
            expected=str(expected),
        )
        raise _mismatch(name, host, trained_for, why)
    unknown = len(sorting.absent) + len(grouped.unknown)
    if unknown > _UNKNOWN_LIMIT * (total + len(grouped.unknown)):
        why = message(
            "{bad} of {total} layers are not in the model, first {layer}.",
            bad=unknown,
            total=total + len(grouped.unknown),
            layer=(sorting.absent or grouped.unknown)[0],
        )
        raise _mismatch(name, host, trained_for, why)
    if sorting.unread:
        layer, suffixes = sorting.unread[0]
        raise AdapterFormatError(
            "LoRA “{name}” was not applied.",
            why="{count} of {total} layers are of a kind that can't be read, first {layer} ({suffixes}).",
            todo="LoRA, LoCon, LoHa, LoKr, DoRA, IA3, OFT, BOFT, GLoRA and full differences can be used.",
            name=name,
            count=len(sorting.unread),
            total=total,
            layer=layer,
            suffixes=", ".join(suffixes),
        )


def _mismatch(name: str, host: FitsAdapters, trained_for: str, why: Message) -> AdapterMismatchError:
    family = host.family()
    values = dict(why.values)
    if trained_for and trained_for != family:
        return AdapterMismatchError(
            "LoRA “{name}” was not applied.",
            why=why.template,
            todo="It was trained for {trained_for} and the model is {family}: load a model of its family, "
            "or remove it from the prompt.",
            name=name,
            trained_for=FAMILY_NAMES.get(trained_for, trained_for),
            family=FAMILY_NAMES.get(family, family),
            **values,
        )
    return AdapterMismatchError(
        "LoRA “{name}” was not applied.",
        why=why.template,
        todo="Load the model that it was trained for, or remove it from the prompt.",
        name=name,
        **values,
    )


def _left_out(name: str, grouped: Grouped[Tensor], sorting: Sorting) -> tuple[Message, ...]:
    notes = []
    total = len(grouped.layers)
    absent = len(sorting.absent) + len(grouped.unknown)
    if absent:
        notes.append(
            message(
                "LoRA “{name}”: {count} of {total} layers are not in the model and were left out.",
                name=name,
                count=absent,
                total=total + len(grouped.unknown),
            )
        )
    misfits = len({layer for layer, _, _ in sorting.odd}) + len(sorting.unread)
    if misfits:
        notes.append(
            message(
                "LoRA “{name}”: {count} of {total} layers do not fit the model or can't be read, and were left out.",
                name=name,
                count=misfits,
                total=total,
            )
        )
    if sorting.text_layers:
        notes.append(
            message(
                "LoRA “{name}”: its {count} text encoder layers were left out; they are not applied here.",
                name=name,
                count=sorting.text_layers,
            )
        )
    return tuple(notes)
