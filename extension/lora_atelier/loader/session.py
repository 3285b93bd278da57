"""A prompt's ``<lora:…>`` calls -> the adapters that are on the model, and a sentence for whatever was left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from ..adapters import families, file, keys
from ..adapters.families import Adapter
from ..adapters.file import AdapterFile
from ..errors import AdapterError, AdapterFormatError, AdapterMismatchError, ExtensionError, Message, message
from ..models.detect import FAMILY_NAMES
from ..prompt import NetworkCall
from .catalogue import Catalogue, Entry, Identity
from .patching import Patch, WeightPatcher, fits, weight_of

# Above this share of layers that the model does not have, a file is not meant for it.
_UNKNOWN_LIMIT = 0.05

# What a person is told beside the picture; ``locales.sentence`` says either in a language.
Note = Message | ExtensionError


class AppliesAdapters(Protocol):
    """What a session must know of a host."""

    def layers(self) -> Mapping[str, nn.Module]:
        """The live modules by kohya layer name; the same object as long as the model is the same."""
        ...

    def aliases(self) -> Mapping[str, str]:
        """Other names in use -> names in ``layers``."""
        ...

    def family(self) -> str:
        """ "toy", "sd1", "sd2" or "sdxl"."""
        ...


@dataclass(frozen=True, eq=False)
class _Fitted:
    """An adapter file that was read and fitted to the model: its adapters by layer, and what to say about it."""

    name: str
    content_hash: str
    adapters: Mapping[str, Adapter]
    notes: tuple[Message, ...]


@dataclass(frozen=True)
class Applied:
    """One adapter that is on the model: its name and its content's hash, as they are written beside a picture."""

    name: str
    content_hash: str
    te: float
    unet: float


class LoaderSession:
    """Keeps a host's model in the state that the last prompt asked for. Not thread-safe: the host's lock guards it."""

    def __init__(self, host: AppliesAdapters, catalogue: Catalogue) -> None:
        self._host = host
        self._catalogue = catalogue
        self._patcher = WeightPatcher(host)
        self._layers: Mapping[str, nn.Module] | None = None
        self._fitted: dict[Identity, _Fitted | AdapterError] = {}
        self.applied: tuple[Applied, ...] = ()

    def use(self, calls: Iterable[NetworkCall]) -> list[Note]:
        """Make exactly these calls the change of the model; return what the person who asked must be told.

        A call that can't be applied (unknown name, broken file, another family of models) is left out whole, with its
        sentence; the others are applied. The same set twice writes nothing; a file that was replaced since is read
        again. Raises only what is not the user's business (out of memory); the model is then restored.
        """
        calls = list(calls)
        layers = self._host.layers()
        if layers is not self._layers:
            self._patcher.forget()
            self._fitted.clear()
            self._layers = layers
        notes: list[Note] = []
        patches: list[Patch] = []
        applied: list[Applied] = []
        used: dict[Identity, _Fitted | AdapterError] = {}
        for call in calls:
            try:
                fitted = self._find(call, used)
            except AdapterError as error:
                notes.append(error)
                continue
            notes += [note for note in (*fitted.notes, *_about(call)) if note not in notes]
            patches += _patches(fitted, call)
            applied.append(Applied(fitted.name, fitted.content_hash, call.te, call.unet))
        self._fitted = used
        self.applied = ()
        self._patcher.apply(patches)
        self.applied = tuple(applied)
        return notes

    def restore(self) -> None:
        """Put the model back as it was before any adapter."""
        self._patcher.restore()
        self._fitted.clear()
        self.applied = ()

    def forget(self) -> None:
        """Drop everything that is known of the model, without writing to it: it is being unloaded."""
        self._patcher.forget()
        self._fitted.clear()
        self._layers = None
        self.applied = ()

    def _find(self, call: NetworkCall, used: dict[Identity, _Fitted | AdapterError]) -> _Fitted:
        entry = self._catalogue.find(call.name)
        found = used.get(entry.identity) or self._fitted.get(entry.identity)
        if found is None:
            try:
                found = fit(entry, self._host)
            except AdapterError as error:
                found = error
        used[entry.identity] = found
        if isinstance(found, AdapterError):
            raise found
        return found


def fit(entry: Entry, host: AppliesAdapters) -> _Fitted:
    """Return an adapter file fitted to the host's model.

    Left out and counted: embeddings, layers of a text encoder where the host has none to change, and up to 5 % layers
    that the model does not have. Raises AdapterFormatError for a file that no family can read whole, and
    AdapterMismatchError where a shape differs or more layers are unknown: a file is applied as a whole or not at all.
    """
    content = file.read(entry.path)
    _check_numbers(entry.name, content)
    grouped = keys.group(content.tensors)
    if not grouped.layers:
        raise AdapterFormatError(
            "LoRA “{name}” was not applied.",
            why="None of its {count} keys is one that can be read; the first is {key}.",
            todo="Use a file in kohya's format, as most trainers write it.",
            name=entry.name,
            count=len(content.tensors),
            key=next(iter(content.tensors), "-"),
        )
    layers, aliases = host.layers(), host.aliases()
    has_te = any(name.startswith("lora_te") for name in layers)
    adapters: dict[str, Adapter] = {}
    absent, te_left_out, unread, odd = [], 0, [], []
    for written, weights in grouped.layers.items():
        name = aliases.get(written, written)
        if name not in layers:
            if written.startswith("lora_te") and not has_te:
                te_left_out += 1
            else:
                absent.append(written)
            continue
        adapter = families.match(weights)
        if adapter is None:
            unread.append((written, sorted(weights)))
        elif not fits(adapter, weight_of(layers[name])):
            odd.append((written, adapter.shape, tuple(weight_of(layers[name]).shape)))
        else:
            adapters[name] = adapter
    total = len(grouped.layers)
    trained_for = keys.trained_for({key: tuple(t.shape) for key, t in content.tensors.items()}, content.metadata)
    if odd:
        layer, got, expected = odd[0]
        raise _mismatch(
            entry,
            host,
            trained_for,
            message(
                "{bad} of {total} layers have another shape than the model, first {layer}: {got}, expected {expected}.",
                bad=len(odd),
                total=total,
                layer=layer,
                got=str(got),
                expected=str(expected),
            ),
        )
    unknown = len(absent) + len(grouped.unknown)
    if unknown > _UNKNOWN_LIMIT * (total + len(grouped.unknown)):
        raise _mismatch(
            entry,
            host,
            trained_for,
            message(
                "{bad} of {total} layers are not in the model, first {layer}.",
                bad=unknown,
                total=total + len(grouped.unknown),
                layer=(absent or grouped.unknown)[0],
            ),
        )
    if unread:
        layer, suffixes = unread[0]
        raise AdapterFormatError(
            "LoRA “{name}” was not applied.",
            why="{count} of {total} layers are of a kind that can't be read, first {layer} ({suffixes}).",
            todo="LoRA and LoCon files can be used.",
            name=entry.name,
            count=len(unread),
            total=total,
            layer=layer,
            suffixes=", ".join(suffixes),
        )
    notes = _left_out(entry.name, total, absent=unknown, te=te_left_out, embeddings=len(grouped.embeddings))
    return _Fitted(entry.name, content.content_hash, adapters, notes)


def _check_numbers(name: str, content: AdapterFile) -> None:
    """Raise AdapterFormatError if a weight is not a finite number: such a file draws nothing but black pictures."""
    for key, tensor in content.tensors.items():
        if tensor.is_floating_point() and not math.isfinite(tensor.float().sum().item()):
            raise AdapterFormatError(
                "LoRA “{name}” was not applied.",
                why="It holds values that are not numbers, first in {key}: its training went wrong.",
                todo="Use an earlier checkpoint of it, or train again with a lower learning rate.",
                name=name,
                key=key,
            )


def _mismatch(entry: Entry, host: AppliesAdapters, trained_for: str, why: Message) -> AdapterMismatchError:
    family = host.family()
    values = dict(why.values)
    if trained_for and trained_for != family:
        return AdapterMismatchError(
            "LoRA “{name}” was not applied.",
            why=why.template,
            todo="It was trained for {trained_for} and the model is {family}: load a model of its family, "
            "or remove it from the prompt.",
            name=entry.name,
            trained_for=FAMILY_NAMES.get(trained_for, trained_for),
            family=FAMILY_NAMES.get(family, family),
            **values,
        )
    return AdapterMismatchError(
        "LoRA “{name}” was not applied.",
        why=why.template,
        todo="Load the model that it was trained for, or remove it from the prompt.",
        name=entry.name,
        **values,
    )


def _left_out(name: str, total: int, *, absent: int, te: int, embeddings: int) -> tuple[Message, ...]:
    notes = []
    if absent:
        notes.append(
            message(
                "LoRA “{name}”: {count} of {total} layers are not in the model and were left out.",
                name=name,
                count=absent,
                total=total,
            )
        )
    if te:
        notes.append(
            message(
                "LoRA “{name}”: its {count} text encoder layers were left out; they are not applied here.",
                name=name,
                count=te,
            )
        )
    if embeddings:
        notes.append(
            message(
                "LoRA “{name}”: the {count} embeddings in it were left out; only its layers are applied.",
                name=name,
                count=embeddings,
            )
        )
    return tuple(notes)


def _about(call: NetworkCall) -> list[Message]:
    if not call.named:
        return []
    return [
        message("“{tag}”: {names} can't be used yet and was ignored.", tag=call.source, names=", ".join(call.named))
    ]


def _patches(fitted: _Fitted, call: NetworkCall) -> list[Patch]:
    patches = []
    for layer, adapter in fitted.adapters.items():
        multiplier = call.te if layer.startswith("lora_te") else call.unet
        chosen = adapter if call.dyn is None else adapter.with_rank(call.dyn)
        patches.append(Patch(layer, chosen, multiplier, fitted.content_hash))
    return patches
