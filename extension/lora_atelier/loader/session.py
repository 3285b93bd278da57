"""A prompt's ``<lora:…>`` calls -> the adapters that are on the model, and a sentence for whatever was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..errors import AdapterError, ExtensionError, Message, message
from ..models.layers import Layer
from ..prompt import NetworkCall
from .catalogue import Catalogue, Identity
from .fitting import FitsAdapters, Fitted, fit
from .originals import StoredWeights
from .patching import OriginalsMode, Patch, WeightPatcher

# What a person is told beside the picture; ``locales.sentence`` says either in a language.
Note = Message | ExtensionError
# Textual inversions by name: vectors (n, width) by their key's rest ("string_to_param.*", "clip_l", "clip_g").
Embeddings = Mapping[str, Mapping[str, Tensor]]


class AppliesAdapters(FitsAdapters, Protocol):
    """What a session must know of a host."""

    def stored_weights(self) -> StoredWeights | None:
        """The files that the model was read from, or None if its weights can't be read again."""
        ...

    def use_embeddings(self, embeddings: Embeddings) -> list[Note]:
        """Make exactly these textual inversions usable in prompts; return what could not be, as sentences."""
        ...


@dataclass(frozen=True)
class LoaderSettings:
    """How adapters are applied.

    ``originals``: "copy" keeps what the touched weights were in memory, "reread" takes it from the checkpoint's file
    again, "auto" decides by the free memory. ``partly`` applies what fits of a file that does not fit as a whole.
    """

    originals: OriginalsMode = "auto"
    partly: bool = False


@dataclass(frozen=True)
class Applied:
    """One adapter that is on the model: its name and its content's hash, as they are written beside a picture."""

    name: str
    content_hash: str
    te: float
    unet: float


class LoaderSession:
    """Keeps a host's model in the state that the last prompt asked for. Not thread-safe: the host's lock guards it."""

    def __init__(self, host: AppliesAdapters, catalogue: Catalogue, settings: LoaderSettings | None = None) -> None:
        self._host = host
        self._catalogue = catalogue
        self._settings = settings or LoaderSettings()
        self._patcher: WeightPatcher | None = None
        self._layers: Mapping[str, Layer] | None = None
        self._fitted: dict[Identity, Fitted | AdapterError] = {}
        self._embeds = False
        self.applied: tuple[Applied, ...] = ()

    def use(self, calls: Iterable[NetworkCall]) -> list[Note]:
        """Make exactly these calls the change of the model; return what the person who asked must be told.

        A call that can't be applied (unknown name, broken file, another family of models) is left out whole, with its
        sentence; the others are applied. The same set twice writes nothing; a file that was replaced since is read
        again. Raises OriginalsLostError where the host must load its model again, and what is not the user's business
        (out of memory); the model is then restored.
        """
        calls = list(calls)
        layers = self._host.layers()
        if layers is not self._layers or self._patcher is None:
            self.forget()
            self._layers = layers
            self._patcher = WeightPatcher(self._host, self._host.stored_weights(), mode=self._settings.originals)
        notes: list[Note] = []
        patches: list[Patch] = []
        applied: list[Applied] = []
        embeddings: dict[str, Mapping[str, Tensor]] = {}
        used: dict[Identity, Fitted | AdapterError] = {}
        for call in calls:
            try:
                fitted = self._find(call, used)
            except AdapterError as error:
                notes.append(error)
                continue
            notes += [note for note in (*fitted.notes, *_about(call)) if note not in notes]
            patches += _patches(fitted, call)
            embeddings.update(fitted.embeddings)
            applied.append(Applied(fitted.name, fitted.content_hash, call.te, call.unet))
        self._fitted = used
        self.applied = ()
        self._patcher.apply(patches)
        if embeddings or self._embeds:
            notes += self._host.use_embeddings(embeddings)
            self._embeds = bool(embeddings)
        self.applied = tuple(applied)
        return notes

    def restore(self) -> None:
        """Put the model back as it was before any adapter. Raises OriginalsLostError."""
        if self._patcher is not None:
            self._patcher.restore()
        if self._embeds:
            self._host.use_embeddings({})
            self._embeds = False
        self._fitted.clear()
        self.applied = ()

    def forget(self) -> None:
        """Drop everything that is known of the model, without writing to it: it is being unloaded."""
        if self._patcher is not None:
            self._patcher.forget()
        self._patcher = None
        self._fitted.clear()
        self._layers = None
        self._embeds = False
        self.applied = ()

    def _find(self, call: NetworkCall, used: dict[Identity, Fitted | AdapterError]) -> Fitted:
        entry = self._catalogue.find(call.name)
        found = used.get(entry.identity) or self._fitted.get(entry.identity)
        if found is None:
            try:
                found = fit(entry.name, entry.path, self._host, partly=self._settings.partly)
            except AdapterError as error:
                found = error
        used[entry.identity] = found
        if isinstance(found, AdapterError):
            raise found
        return found


def _about(call: NetworkCall) -> list[Message]:
    if not call.named:
        return []
    return [
        message("“{tag}”: {names} can't be used yet and was ignored.", tag=call.source, names=", ".join(call.named))
    ]


def _patches(fitted: Fitted, call: NetworkCall) -> list[Patch]:
    patches = []
    for (layer, parameter), adapter in fitted.adapters.items():
        multiplier = call.te if layer.startswith("lora_te") else call.unet
        chosen = adapter if call.dyn is None else adapter.with_rank(call.dyn)
        patches.append(Patch(layer, parameter, chosen, multiplier, fitted.content_hash))
    return patches
