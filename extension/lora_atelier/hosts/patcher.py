"""Adapters through a webui's own model patcher, as Forge and its relatives want weights changed.

Their memory management moves weights between devices, swaps them for quantised ones and puts back what it kept itself;
what is written behind its back gets lost or stays for ever. So a changed model is a clone of the patcher that the webui
uses, with one patch for each parameter, whose value our own ``merge`` computes: the sums, their order and their
rounding are the same as everywhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import AdapterMismatchError
from ..loader.merging import Change, merge
from ..loader.originals import Copied
from ..loader.patching import Patch
from ..models.layers import Layer

# A patch's type in the webuis' own tables.
KIND = "atelier"
# What a model holds before we changed it: its U-Net's and its text encoders' patchers.
Parts = tuple[Any, Any]


class PatchedLayer(Layer):
    """A layer that the webui's patcher changes: it can't give a module a bias that it does not have."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """As for every layer, but None for a bias that is not there."""
        return None if name == "bias" and self.parameter("bias") is None else super().shape(name)


class PatchesModels(Protocol):
    """What must be known of a webui to patch its model."""

    def layers(self) -> Mapping[str, Layer]: ...

    def parts(self) -> Parts:
        """The patchers that the webui draws with now."""
        ...

    def set_parts(self, parts: Parts) -> None:
        """Let the webui draw with these patchers."""
        ...

    def changed_parts(self, parts: Parts, patches: Mapping[str, Sequence[Change]], name: str) -> Parts:
        """Clones of ``parts`` with the patches on them, by the names that parameters have in their models."""
        ...

    def parameter_names(self) -> Mapping[tuple[int, str], str]:
        """The name of each parameter in its model, by its module's id and its own name."""
        ...


class ModelPatches:
    """Keeps a webui's model patched with what the last prompt asked for; a ``loader.patching.Patcher``."""

    # The webui's patcher keeps what it needs to restore.
    rereads = False

    def __init__(self, host: PatchesModels) -> None:
        self._host = host
        self._on: tuple[Hashable, ...] = ()
        self._touched: frozenset[str] = frozenset()
        self._base: Parts | None = None
        self._ours: Parts | None = None

    @property
    def touched(self) -> frozenset[str]:
        """The layers that are changed at the moment."""
        return self._touched

    def is_intact(self) -> bool:
        """Whether the webui still draws with the parts that we gave it."""
        return self._ours is None or _same(self._host.parts(), self._ours)

    def apply(self, patches: Iterable[Patch]) -> None:
        """Make exactly ``patches`` the change of the model. Raises AdapterMismatchError before anything is changed."""
        wanted = [patch for patch in patches if patch.multiplier != 0]
        signature = tuple((patch.layer, patch.parameter, patch.source, patch.key, patch.multiplier) for patch in wanted)
        if signature == self._on and self.is_intact():
            return
        changes = self._by_parameter(wanted)
        base = self._clean_parts()
        if not changes:
            self.restore()
            return
        ours = self._host.changed_parts(base, changes, _name(signature))
        self._host.set_parts(ours)
        self._base, self._ours, self._on = base, ours, signature
        self._touched = frozenset(patch.layer for patch in wanted)

    def restore(self) -> None:
        """Let the webui draw with its own parts again; it takes the changes back before the next picture."""
        if self._ours is not None and self._base is not None and self.is_intact():
            self._host.set_parts(self._base)
        self.forget()

    def forget(self) -> None:
        """Drop everything that is known."""
        self._on, self._touched, self._base, self._ours = (), frozenset(), None, None

    def _clean_parts(self) -> Parts:
        """The parts without our changes: the webui replaces them when its own loader has been busy."""
        return self._base if self._base is not None and self.is_intact() else self._host.parts()

    def _by_parameter(self, patches: Sequence[Patch]) -> dict[str, list[Change]]:
        layers, names = self._host.layers(), self._host.parameter_names()
        changes: dict[str, list[Change]] = {}
        for patch in sorted(patches, key=lambda each: (each.source, each.multiplier)):
            layer = layers.get(patch.layer)
            name = None if layer is None else names.get((id(layer.module), _own_name(layer, patch.parameter)))
            if name is None:
                raise AdapterMismatchError("The model has no layer {layer}.", layer=patch.layer)
            changes.setdefault(name, []).append((patch.adapter, patch.multiplier))
        return changes


def _own_name(layer: Layer, parameter: str) -> str:
    return layer.weight if parameter == "weight" else layer.bias


def _same(one: Parts, other: Parts) -> bool:
    return all(a is b for a, b in zip(one, other, strict=True))


def _name(signature: Hashable) -> str:
    """Webuis know a set of patches by a name: another set must have another one."""
    return f"{KIND}:{hashlib.sha256(repr(signature).encode()).hexdigest()}"


def parameter_names(root: torch.nn.Module) -> dict[tuple[int, str], str]:
    """The names of a model's parameters by their module's id and their own name."""
    return {
        (id(module), own): f"{path}.{own}" if path else own
        for path, module in root.named_modules()
        for own, _ in module.named_parameters(recurse=False)
    }


@torch.no_grad()
def merged(weight: Tensor, changes: Sequence[Change]) -> Tensor:
    """Return an unchanged weight (float32, as the webuis hand it over) with the changes in it."""
    target = torch.empty_like(weight)
    merge(target, Copied(weight), changes)
    return target


def calculator() -> Callable[[Tensor, float, Any], Tensor]:
    """What the webuis call for a patch of our kind: ``(weight, strength, value) -> weight``."""

    def calculate(weight: Tensor, strength: float, value: Any) -> Tensor:
        del strength  # each change has its own multiplier
        return merged(weight, value[0])

    return calculate
