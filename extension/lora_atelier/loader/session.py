"""A prompt's ``<lora:…>`` calls -> the adapters that are on the model, and a sentence for whatever was left out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from .. import memory
from ..errors import AdapterError, AdapterNotFoundError, ExtensionError, Message, message
from ..models.layers import Layer
from ..prompt import NetworkCall
from ..rights import safe_weight
from .catalogue import Catalogue, Identity
from .fitting import FitsAdapters, Fitted, fit
from .originals import StoredWeights
from .patching import OriginalsMode, Patch, Patcher, WeightPatcher

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
    again, and the adapters from theirs, "auto" decides by the free memory. ``partly`` applies what fits of a file that
    does not fit as a whole.
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

    def __init__(
        self,
        host: AppliesAdapters,
        catalogue: Catalogue,
        settings: LoaderSettings | None = None,
        patcher: Callable[[], Patcher] | None = None,
    ) -> None:
        """``patcher`` makes what writes for a model that was not known yet, where the host has means of its own."""
        self._host = host
        self._catalogue = catalogue
        self._settings = settings or LoaderSettings()
        self._make_patcher = patcher or self._weight_patcher
        self._patcher: Patcher | None = None
        self._layers: Mapping[str, Layer] | None = None
        self._fitted: dict[Identity, Fitted | AdapterError] = {}
        # What the model was last put into, None where that is not known.
        self._on: tuple[Hashable, ...] | None = None
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
            self._patcher = self._make_patcher()
        used: dict[Identity, Fitted | AdapterError] = {}
        found = [(call, self._find(call, used)) for call in calls]
        self.applied = ()
        was_changed = bool(self._patcher.touched)
        notes = self._apply(found, used)
        dropped = self._keep(used)
        if dropped or (was_changed and not self._patcher.touched):
            # At SD 1.5's size 0.8 GB for 0.07 CPU seconds now, and 0.4 for fresh pages at the next LoRA.
            memory.give_back()
        return notes

    def _weight_patcher(self) -> Patcher:
        return WeightPatcher(self._host, self._host.stored_weights(), mode=self._settings.originals)

    def restore(self) -> None:
        """Put the model back as it was before any adapter. Raises OriginalsLostError."""
        if self._patcher is not None and self._patcher.touched:
            self._patcher.restore()
            memory.give_back()
        if self._embeds:
            self._host.use_embeddings({})
            self._embeds = False
        self._fitted.clear()
        self._on = None
        self.applied = ()

    def forget(self) -> None:
        """Drop everything that is known of the model, without writing to it: it is being unloaded."""
        if self._patcher is not None:
            self._patcher.forget()
        self._patcher = None
        self._fitted.clear()
        self._on = None
        self._layers = None
        self._embeds = False
        self.applied = ()

    def _find(self, call: NetworkCall, used: dict[Identity, Fitted | AdapterError]) -> Identity | AdapterError:
        """Return which file a call means, which is then one of those in ``used``, or why there is none."""
        try:
            entry = self._catalogue.find(call.name)
        except AdapterError as error:
            return error
        known = used.get(entry.identity) or self._fitted.get(entry.identity)
        used[entry.identity] = known or self._read(entry.name, entry.path)
        return entry.identity

    def _read(self, name: str, path: Path) -> Fitted | AdapterError:
        try:
            return fit(name, path, self._host, partly=self._settings.partly)
        except AdapterError as error:
            return error

    def _apply(
        self,
        found: Sequence[tuple[NetworkCall, Identity | AdapterError]],
        used: dict[Identity, Fitted | AdapterError],
    ) -> list[Note]:
        assert self._patcher is not None
        notes: list[Note] = []
        outcomes = _outcomes(found, used)
        if self._on != _signature(outcomes) or not self._patcher.is_intact():
            notes += self._read_again(used)
            outcomes = _outcomes(found, used)
            self._on = None
            self._patcher.apply([patch for call, fitted in _chosen(outcomes) for patch in _patches(fitted, call)])
            self._on = _signature(outcomes)
        for call, outcome in outcomes:
            said = [outcome] if isinstance(outcome, AdapterError) else [*outcome.notes, *_about(call, outcome)]
            notes += [note for note in said if note not in notes]
        chosen = _chosen(outcomes)
        embeddings = {name: vectors for _, fitted in chosen for name, vectors in fitted.embeddings.items()}
        if embeddings or self._embeds:
            notes += self._host.use_embeddings(embeddings)
            self._embeds = bool(embeddings)
        self.applied = tuple(Applied(each.name, each.content_hash, call.te, call.unet) for call, each in chosen)
        return notes

    def _read_again(self, used: dict[Identity, Fitted | AdapterError]) -> list[Message]:
        """Read the files whose adapters were not kept; return what to say of those that are others now."""
        notes = []
        for identity, known in used.items():
            if isinstance(known, AdapterError) or known.has_adapters:
                continue
            again = used[identity] = self._read(known.name, Path(identity.path))
            if isinstance(again, Fitted) and again.checksum != known.checksum:
                notes.append(
                    message(
                        "LoRA “{name}”: its file was changed while it was on, under the same date; it was read again.",
                        name=known.name,
                    )
                )
        return notes

    def _keep(self, used: dict[Identity, Fitted | AdapterError]) -> bool:
        """Remember what was read for the next prompt; return whether adapters were dropped: memory was too short."""
        assert self._patcher is not None
        drops = self._patcher.rereads
        dropped = drops and any(isinstance(known, Fitted) and known.has_adapters for known in used.values())
        self._fitted = {
            identity: known.without_adapters() if drops and isinstance(known, Fitted) else known
            for identity, known in used.items()
            # A file that was gone when it was to be read may be back.
            if not isinstance(known, AdapterNotFoundError)
        }
        used.clear()
        return dropped


def _outcomes(
    found: Iterable[tuple[NetworkCall, Identity | AdapterError]], used: Mapping[Identity, Fitted | AdapterError]
) -> list[tuple[NetworkCall, Fitted | AdapterError]]:
    return [(call, each if isinstance(each, AdapterError) else used[each]) for call, each in found]


def _chosen(outcomes: Iterable[tuple[NetworkCall, Fitted | AdapterError]]) -> list[tuple[NetworkCall, Fitted]]:
    return [(call, each) for call, each in outcomes if isinstance(each, Fitted)]


def _signature(outcomes: Iterable[tuple[NetworkCall, Fitted | AdapterError]]) -> tuple[Hashable, ...]:
    """What tells one state of the model from another."""
    chosen = _chosen(outcomes)
    return tuple((each.content_hash, each.checksum, call.te, call.unet, call.dyn) for call, each in chosen)


def _about(call: NetworkCall, fitted: Fitted) -> list[Message]:
    said = []
    if call.named:
        names = ", ".join(call.named)
        said.append(message("“{tag}”: {names} can't be used yet and was ignored.", tag=call.source, names=names))
    above = safe_weight.above(fitted.name, fitted.safe_weight, max(call.te, call.unet, key=abs))
    return said if above is None else [*said, above]


def _patches(fitted: Fitted, call: NetworkCall) -> list[Patch]:
    patches = []
    key = fitted.checksum, call.dyn
    for (layer, parameter), adapter in fitted.adapters.items():
        multiplier = call.te if layer.startswith("lora_te") else call.unet
        chosen = adapter if call.dyn is None else adapter.with_rank(call.dyn)
        patches.append(Patch(layer, parameter, chosen, multiplier, fitted.content_hash, key))
    return patches
