"""Full: the change of a weight or a bias as it is, number by number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Adapter


@dataclass(frozen=True, eq=False)
class FullAdapter(Adapter):
    """A stored difference: ``diff`` of a weight, ``diff_b`` of a bias, and a norm's ``w_norm`` and ``b_norm``."""

    reads_weight = False

    diff: Tensor

    @classmethod
    def match(cls, weights: Mapping[str, Tensor]) -> FullAdapter | None:
        """Return the adapter if the one key is a full difference or a norm's, else None.

        An alpha beside it means nothing: LyCORIS trains these unscaled.
        """
        for key in ("diff", "w_norm"):
            if key in weights and not weights.keys() - {key, "alpha"}:
                return cls(weights[key])
        return None

    @property
    def shape(self) -> tuple[int, ...]:
        """The difference's own shape."""
        return tuple(self.diff.shape)

    def delta(self, weight: Tensor) -> Tensor:
        """The stored difference, float32, in the weight's shape."""
        return self.diff.to(weight.device).float().reshape(weight.shape)


@dataclass(frozen=True, eq=False)
class SparseAdapter(Adapter):
    """An adapter with a few single numbers added to its change, as LyCORIS' first extraction script stored them.

    ``indices`` (dimensions, n) say where in a tensor of ``size`` the ``values`` (n,) stand; alpha / rank scales them
    as it scales the rest (LyCORIS 0.1, networks/locon.py).
    """

    inner: Adapter
    indices: Tensor
    values: Tensor
    size: tuple[int, ...]
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The inner adapter's."""
        return self.inner.shape

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the inner adapter fits and the single numbers stand in a tensor of as many."""
        return self.inner.fits(shape) and math.prod(self.size) == math.prod(shape)

    def delta(self, weight: Tensor) -> Tensor:
        """The inner adapter's change and the single numbers."""
        values = self.values.to(weight.device).float() * self.scale
        single = torch.zeros(self.size, dtype=torch.float32, device=weight.device)
        single.index_put_(tuple(self.indices.to(weight.device).long()), values, accumulate=True)
        return self.inner.delta(weight) + single.reshape(weight.shape)
