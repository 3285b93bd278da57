"""WeightPatcher: the one writer of a model's weights. It applies a set of adapters and takes it back bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..adapters.families import Adapter
from ..errors import AdapterMismatchError

# Weights are changed in blocks of this many numbers: the float32 scratch then stays in the processor's cache.
_BLOCK = 1 << 21


class HasLayers(Protocol):
    """What the patcher must know of a host: its live modules by kohya layer name."""

    def layers(self) -> Mapping[str, nn.Module]: ...


@dataclass(frozen=True, eq=False)
class Patch:
    """One adapter on one layer at one multiplier. ``source`` is its file's content hash and fixes the order of sums."""

    layer: str
    adapter: Adapter
    multiplier: float
    source: str = ""


@dataclass(frozen=True, eq=False)
class _Original:
    """A touched layer: the parameter that was changed, a copy of its bits before, and what is on it now."""

    weight: Tensor
    copy: Tensor
    applied: tuple[tuple[int, float], ...]
    patches: tuple[Patch, ...]


def fits(adapter: Adapter, weight: Tensor) -> bool:
    """Whether an adapter's change can be added to a weight: the same shape, sizes of 1 at the end aside.

    A 1x1 convolution in one version of a model is a linear layer in another, with the same numbers.
    """
    return _trimmed(adapter.shape) == _trimmed(weight.shape)


def _trimmed(shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


class WeightPatcher:
    """Changes the weights of a host's layers and puts them back.

    Originals are copies of the touched layers' weights, kept while a change is on; they are copied back, never
    subtracted, so that the same bits return in any precision. Not thread-safe: one owner calls it.
    """

    def __init__(self, host: HasLayers) -> None:
        self._host = host
        self._originals: dict[str, _Original] = {}

    @property
    def touched(self) -> frozenset[str]:
        """The layers whose weights are changed at the moment."""
        return frozenset(self._originals)

    @torch.no_grad()
    def apply(self, patches: Iterable[Patch]) -> None:
        """Make exactly ``patches`` the change of the model, whatever was on it before; none of them restores it.

        Every change is computed from the unchanged weight, summed in float32 in the order of sources, rounded once. A
        multiplier of 0 changes nothing at all. Raises AdapterMismatchError before the first write if a patch fits no
        layer; on any error while writing, the model is restored and the error passed on.
        """
        wanted = _by_layer(patches)
        modules = self._host.layers()
        for layer, group in wanted.items():
            _check(layer, group, modules.get(layer))
        try:
            for layer in [layer for layer in self._originals if layer not in wanted]:
                self._restore(layer)
            for layer, group in wanted.items():
                self._write(layer, group, weight_of(modules[layer]))
        except BaseException:
            self.restore()
            raise

    @torch.no_grad()
    def restore(self) -> None:
        """Put every touched weight back, bit for bit; harmless when nothing is touched."""
        for layer in list(self._originals):
            self._restore(layer)

    def forget(self) -> None:
        """Drop the copies without writing: for a host whose model is gone, so that its memory is not held."""
        self._originals.clear()

    def _restore(self, layer: str) -> None:
        original = self._originals[layer]
        original.weight.copy_(original.copy)
        del self._originals[layer]

    def _write(self, layer: str, group: tuple[Patch, ...], weight: Tensor) -> None:
        old = self._originals.get(layer)
        if old is not None and old.weight is not weight:
            # The host put another parameter here: what we know of the old one does not hold for it.
            del self._originals[layer]
            old = None
        applied = tuple((id(patch.adapter), patch.multiplier) for patch in group)
        if old is not None and old.applied == applied:
            return
        base = old.copy if old is not None else weight.detach().clone()
        # Known before the first byte is written, so that an error in the middle can be undone.
        self._originals[layer] = _Original(weight, base, applied, group)
        _add(weight, base, group)


def _by_layer(patches: Iterable[Patch]) -> dict[str, tuple[Patch, ...]]:
    groups: dict[str, list[Patch]] = {}
    for patch in patches:
        if patch.multiplier != 0:
            groups.setdefault(patch.layer, []).append(patch)
    return {layer: tuple(sorted(group, key=lambda p: (p.source, p.multiplier))) for layer, group in groups.items()}


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight of a layer."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _check(layer: str, group: tuple[Patch, ...], module: nn.Module | None) -> None:
    if module is None:
        raise AdapterMismatchError("The model has no layer {layer}.", layer=layer)
    for patch in group:
        if not fits(patch.adapter, weight_of(module)):
            raise AdapterMismatchError(
                "The change of {layer} does not fit.",
                why="Its shape is {got}; the model's is {expected}.",
                layer=layer,
                got=str(patch.adapter.shape),
                expected=str(tuple(weight_of(module).shape)),
            )


def _add(weight: Tensor, base: Tensor, group: tuple[Patch, ...]) -> None:
    """Write ``base`` plus the group's changes into ``weight``: W + Σ m·ΔW, float32, rounded to the weight's dtype once.

    All low-rank changes of a layer are one product: with k of them, U = [m1·U1 … mk·Uk] and D = [D1; …; Dk].
    """
    ups, downs, dense = [], [], None
    for patch in group:
        factors = getattr(patch.adapter, "factors", None)
        if factors is not None:
            up, down = factors()
            ups.append(up.to(weight.device) * patch.multiplier)
            downs.append(down.to(weight.device))
        else:
            delta = patch.adapter.delta(base).reshape(weight.shape) * patch.multiplier
            dense = delta if dense is None else dense.add_(delta)
    target = weight.detach()
    if not target.is_contiguous():
        target = torch.empty_like(target, memory_format=torch.contiguous_format)
    rows = weight.shape[0]
    flat, original = target.view(rows, -1), base.reshape(rows, -1)
    up = torch.cat(ups, dim=1) if ups else None
    down = torch.cat(downs) if downs else None
    step = max(1, _BLOCK // max(1, flat.shape[1]))
    scratch = (
        torch.empty(0) if flat.dtype == torch.float32 else flat.new_empty(step, flat.shape[1], dtype=torch.float32)
    )
    for start in range(0, rows, step):
        block = flat[start : start + step]
        total = block if flat.dtype == torch.float32 else scratch[: len(block)]
        total.copy_(original[start : start + step])
        if up is not None and down is not None:
            total.addmm_(up[start : start + step], down)
        if dense is not None:
            total += dense.view(rows, -1)[start : start + step]
        if total is not block:
            block.copy_(total)
    if target.data_ptr() != weight.data_ptr():
        weight.copy_(target)
