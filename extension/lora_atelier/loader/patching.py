"""WeightPatcher: the one writer of a model's weights. It applies a set of adapters and takes it back bit for bit."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from .. import memory
from ..adapters.families import Adapter, fitted
from ..errors import AdapterMismatchError, OriginalsLostError
from ..models.layers import Layer
from .branches import Branch, is_writable
from .merging import Change, Scratch, merge
from .originals import Copied, Original, Originals, Reread, StoredWeights, lost

# "copy": keep the touched weights; "reread": read them from the checkpoint again; "auto": copy where memory allows it.
OriginalsMode = Literal["auto", "copy", "reread"]
# Copies may take this share of the free memory.
_FREE_SHARE = 0.5


class HasLayers(Protocol):
    """What the patcher must know of a host: where its live weights are, by kohya layer name."""

    def layers(self) -> Mapping[str, Layer]: ...


@dataclass(frozen=True, eq=False)
class Patch:
    """One adapter on one parameter of a layer at one multiplier.

    ``source`` is its file's content hash and fixes the order of sums. ``key`` stands for the adapter wherever the same
    numbers are meant again, so that the adapter need not be kept; without one the adapter itself does.
    """

    layer: str
    parameter: str
    adapter: Adapter
    multiplier: float
    source: str = ""
    key: Hashable = None


class Patcher(Protocol):
    """What puts adapters on a model: ``WeightPatcher``, or a host's own way. What each method means is said there."""

    @property
    def touched(self) -> frozenset[str]: ...

    @property
    def rereads(self) -> bool: ...

    def is_intact(self) -> bool: ...

    def apply(self, patches: Iterable[Patch]) -> None: ...

    def restore(self) -> None: ...

    def forget(self) -> None: ...


# A layer's name and "weight" or "bias".
Place = tuple[str, str]
_Group = tuple[Patch, ...]
# What tells one set of changes from another.
_Signature = tuple[tuple[Hashable, float], ...]


@dataclass(eq=False)
class _Touched:
    """A changed parameter, what it was before, and what is on it now."""

    layer: Layer
    parameter: nn.Parameter
    original: Original
    on: _Signature = ()
    # A bias that the layer did not have: it goes away again.
    created: bool = False
    # torch counts the writes to a parameter: another number than after our last write means that somebody else wrote.
    version: int | None = None


class WeightPatcher:
    """Changes the weights of a host's layers and puts them back.

    What a weight was is never computed by subtraction: it is copied back, or read again from ``checkpoint``, so that
    the same bits return in any precision. With ``merge`` off, and for weights that can't be written, changes run beside
    the layer. Not thread-safe: one owner calls it.
    """

    def __init__(
        self,
        host: HasLayers,
        checkpoint: StoredWeights | None = None,
        *,
        mode: OriginalsMode = "auto",
        merge: bool = True,
    ) -> None:
        self._host = host
        self._originals = Originals(checkpoint)
        self._mode: OriginalsMode = mode if checkpoint is not None else "copy"
        self._merge = merge
        self._touched: dict[Place, _Touched] = {}
        self._branches: dict[str, tuple[_Signature, Branch]] = {}

    @property
    def touched(self) -> frozenset[str]:
        """The layers that are changed at the moment."""
        return frozenset(layer for layer, _ in self._touched) | frozenset(self._branches)

    @property
    def rereads(self) -> bool:
        """Whether memory is short: weights are read again rather than kept."""
        return self._mode == "reread" or any(isinstance(each.original, Reread) for each in self._touched.values())

    @property
    def changed(self) -> int:
        """How many weights and biases of the model are changed."""
        return sum(not each.created for each in self._touched.values())

    @property
    def copies(self) -> int:
        """Of how many of them a copy is kept."""
        return sum(not each.created and isinstance(each.original, Copied) for each in self._touched.values())

    def is_intact(self) -> bool:
        """Whether everything that was written last is still there: then the same patches would write nothing."""
        layers = self._host.layers()
        return not any(self._is_replaced(place, touched, layers) for place, touched in self._touched.items())

    @torch.no_grad()
    def apply(self, patches: Iterable[Patch]) -> None:
        """Make exactly ``patches`` the change of the model, whatever was on it before; none of them restores it.

        Every change is computed from the unchanged weight, summed in float32 in the order of sources, rounded once. A
        multiplier of 0 changes nothing at all. Raised before the first write: AdapterMismatchError if a patch fits no
        layer, OriginalsLostError if weights that are changed now can't be read again. On any error while writing the
        model is restored and the error passed on.
        """
        layers = self._host.layers()
        wanted = _by_place(patches)
        for place, group in wanted.items():
            _check(place, group, layers.get(place[0]))
        beside = {place[0]: group for place, group in wanted.items() if self._goes_beside(layers[place[0]], place[1])}
        inside = {place: group for place, group in wanted.items() if place[0] not in beside or place[1] != "weight"}
        self._forget_replaced(layers)
        with self._originals.session():
            changed = [place for place, group in inside.items() if not self._is_on(place, group)]
            removed = [place for place in self._touched if place not in inside]
            self._check_originals([*changed, *removed])
            reread = self._wants_reread([layers[place[0]].view(place[1]) for place in changed])
            try:
                self._set_branches(beside, layers)
                for place in removed:
                    self._restore(place)
                scratch = Scratch()
                for place in changed:
                    self._write(place, inside[place], layers[place[0]], scratch, reread=reread)
            except BaseException:
                self._restore_all()
                raise
            finally:
                self._note_versions()

    @torch.no_grad()
    def restore(self) -> None:
        """Put every touched weight back, bit for bit; harmless when nothing is touched. Raises OriginalsLostError."""
        self._forget_replaced(self._host.layers())
        with self._originals.session():
            self._check_originals(list(self._touched))
            try:
                self._restore_all()
            finally:
                self._note_versions()

    def forget(self) -> None:
        """Drop everything that is known, without writing: the host's model is gone, and its memory shall be free."""
        for _, branch in self._branches.values():
            branch.remove()
        self._branches.clear()
        self._touched.clear()
        self._originals.forget()

    # --- writing

    def _write(self, place: Place, group: _Group, layer: Layer, scratch: Scratch, *, reread: bool) -> None:
        touched = self._touched.get(place)
        if touched is None:
            # Known before the first byte is written, so that an error in the middle can be undone.
            touched = self._touched[place] = self._touch(place, layer, reread=reread)
        touched.on = ()
        view = layer.view(place[1])
        assert view is not None
        merge(view, touched.original, _changes(group), scratch)
        touched.on = _signature(group)

    def _touch(self, place: Place, layer: Layer, *, reread: bool) -> _Touched:
        view, created = layer.view(place[1]), False
        if view is None:
            layer.create_bias()
            view, created = layer.view(place[1]), True
            assert view is not None
        parameter = layer.parameter(place[1])
        assert parameter is not None
        original = Copied(view) if created else self._originals.keep(*place, view, reread=reread)
        return _Touched(layer, parameter, original, created=created)

    def _restore(self, place: Place) -> None:
        touched = self._touched[place]
        if touched.created:
            touched.layer.remove_bias()
        else:
            view = touched.layer.view(place[1])
            assert view is not None
            touched.on = ()
            touched.original.write(view)
        del self._touched[place]

    def _restore_all(self) -> None:
        """Everything that can be restored; raises OriginalsLostError afterwards if something can't."""
        for _, branch in self._branches.values():
            branch.remove()
        self._branches.clear()
        failed: OriginalsLostError | None = None
        for place in list(self._touched):
            try:
                self._restore(place)
            except OriginalsLostError as error:
                failed = error
        if failed is not None:
            raise failed

    def _set_branches(self, wanted: Mapping[str, _Group], layers: Mapping[str, Layer]) -> None:
        for name, (signature, branch) in list(self._branches.items()):
            if name not in wanted or _signature(wanted[name]) != signature:
                branch.remove()
                del self._branches[name]
        for name, group in wanted.items():
            if name not in self._branches:
                self._branches[name] = _signature(group), Branch(name, layers[name].module, _changes(group))

    def _goes_beside(self, layer: Layer, parameter: str) -> bool:
        view = layer.view(parameter)
        if parameter != "weight" or view is None:
            return False
        return not is_writable(view) or (not self._merge and layer.rows is None and view.ndim in (2, 4))

    # --- what is known of the model

    def _is_on(self, place: Place, group: _Group) -> bool:
        touched = self._touched.get(place)
        return touched is not None and touched.on == _signature(group)

    def _forget_replaced(self, layers: Mapping[str, Layer]) -> None:
        """Drop what is known of parameters that the host replaced or wrote into: what they hold is the original now."""
        for place, touched in list(self._touched.items()):
            if self._is_replaced(place, touched, layers):
                del self._touched[place]
        if not self._touched:
            self._originals.forget()

    def _is_replaced(self, place: Place, touched: _Touched, layers: Mapping[str, Layer]) -> bool:
        layer = layers.get(place[0])
        parameter = layer.parameter(place[1]) if layer is not None else None
        return parameter is not touched.parameter or _version(touched.parameter) != touched.version

    def _note_versions(self) -> None:
        for touched in self._touched.values():
            touched.version = _version(touched.parameter)

    def _wants_reread(self, views: Sequence[Tensor | None]) -> bool:
        if self._mode != "auto":
            return self._mode == "reread"
        present = [view for view in views if view is not None]
        free = memory.available_bytes(present[0].device) if present else None
        return free is not None and sum(view.numel() * view.element_size() for view in present) > _FREE_SHARE * free

    def _check_originals(self, places: Sequence[Place]) -> None:
        """Raise OriginalsLostError if originals of these places must be read from a file that is another one now.

        A file that only looks changed is told by its content: what is on the weights need not be known for that.
        """
        reread = {place: t.original for place, t in self._touched.items() if isinstance(t.original, Reread)}
        if reread.keys().isdisjoint(places) or self._originals.is_unchanged():
            return
        if not all(original.is_stored_still() for original in reread.values()):
            raise lost()
        self._originals.found_again()


def _changes(group: _Group) -> list[Change]:
    return [(patch.adapter, patch.multiplier) for patch in group]


def _signature(group: _Group) -> _Signature:
    """Adapters without a key are compared by identity, and live as long as the signature does."""
    return tuple(
        (patch.adapter if patch.key is None else (patch.source, patch.key), patch.multiplier) for patch in group
    )


def _version(parameter: Tensor) -> int | None:
    # Inference tensors do not count their writes.
    return None if parameter.is_inference() else parameter._version


def _by_place(patches: Iterable[Patch]) -> dict[Place, _Group]:
    groups: dict[Place, list[Patch]] = {}
    for patch in patches:
        if patch.multiplier != 0:
            groups.setdefault((patch.layer, patch.parameter), []).append(patch)
    return {place: tuple(sorted(group, key=lambda p: (p.source, p.multiplier))) for place, group in groups.items()}


def _check(place: Place, group: _Group, layer: Layer | None) -> None:
    if layer is None:
        raise AdapterMismatchError("The model has no layer {layer}.", layer=place[0])
    shape = layer.shape(place[1])
    for patch in group:
        if shape is None or fitted(patch.adapter, shape) is not patch.adapter:
            raise AdapterMismatchError(
                "The change of {layer} does not fit.",
                why="Its shape is {got}; the model's is {expected}.",
                layer=place[0],
                got=str(patch.adapter.shape),
                expected=str(shape),
            )
