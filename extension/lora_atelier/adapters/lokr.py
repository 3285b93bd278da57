"""LoKr: the Kronecker product of a small and a large matrix, either of them whole or of low rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Adapter, columns, matrix, scale_of
from .loha import tucker_matrix

_PARTS = {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"}


@dataclass(frozen=True, eq=False)
class LokrAdapter(Adapter):
    """One layer of a LoKr file: ``kron(w1, w2)`` with w1 (a, b) and w2 (c, d) or (c, d, k, k) gives (a·c, b·d[, k, k]).

    ``w1`` and ``w2`` hold one tensor if they are stored whole, else their factors; ``w2`` three in Tucker form, the
    core last. Source: LyCORIS (Yeh et al. 2023, arXiv 2309.14859), section 3.3.
    """

    reads_weight = False

    w1: tuple[Tensor, ...]
    w2: tuple[Tensor, ...]
    scale: float

    @classmethod
    def match(cls, weights: Mapping[str, Tensor]) -> LokrAdapter | None:
        """Return the adapter if these keys are a LoKr's and its matrices fit each other, else None."""
        if weights.keys() - _PARTS - {"alpha"} or not weights.keys() & _PARTS:
            return None
        w1 = _side(weights, "lokr_w1")
        w2 = _side(weights, "lokr_w2")
        if w1 is None or w2 is None or any(part.ndim != 2 for part in w1):
            return None
        # Two whole matrices have no rank that alpha could be divided by; LyCORIS then leaves the product unscaled. The
        # large side's rank counts where both are in factors.
        rank = w2[1].shape[0] if len(w2) > 1 else w1[1].shape[0] if len(w1) > 1 else 0
        return cls(w1, w2, scale_of(weights, rank) if rank else 1.0)

    @property
    def shape(self) -> tuple[int, ...]:
        """(o, i, k, k) where the file tells the kernel, else (o, i·k·k)."""
        a, b = self.w1[0].shape[0], self.w1[-1].shape[1]
        c, d, *kernel = _side_shape(self.w2)
        return (a * c, b * d, *kernel)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the weight has as many rows and columns."""
        return len(shape) > 1 and (shape[0], columns(shape)) == (self.shape[0], math.prod(self.shape[1:]))

    def delta(self, weight: Tensor) -> Tensor:
        """Weight change at multiplier 1, float32, in the weight's shape; it does not depend on the weight's values."""
        w1 = _whole(tuple(part.to(weight.device) for part in self.w1))
        w2 = _whole(tuple(part.to(weight.device) for part in self.w2))
        # Flattened behind the input channels: the kernel's numbers stay together, so that one rule serves all layers.
        return torch.kron(w1 * self.scale, matrix(w2).contiguous()).reshape(weight.shape)


def _side(weights: Mapping[str, Tensor], name: str) -> tuple[Tensor, ...] | None:
    """One side's tensors: the whole, or its two factors and perhaps Tucker's core; None if they make no matrix."""
    whole, a, b = (weights.get(name + end) for end in ("", "_a", "_b"))
    core = weights.get("lokr_t2") if name == "lokr_w2" else None
    if whole is not None:
        return (whole,) if a is None and b is None and core is None and whole.ndim >= 2 else None
    if a is None or b is None or a.ndim != 2 or b.ndim < 2:
        return None
    if core is not None:
        fit = core.ndim == 4 and b.ndim == 2 and tuple(core.shape[:2]) == (a.shape[0], b.shape[0])
        return (a, b, core) if fit else None
    return (a, b) if a.shape[1] == b.shape[0] > 0 else None


def _side_shape(parts: tuple[Tensor, ...]) -> tuple[int, ...]:
    if len(parts) == 3:
        return (parts[0].shape[1], parts[1].shape[1], *parts[2].shape[2:])
    return (parts[0].shape[0], *parts[-1].shape[1:])


def _whole(parts: tuple[Tensor, ...]) -> Tensor:
    if len(parts) == 3:
        return tucker_matrix(parts[2].float(), parts[0].float(), parts[1].float())
    if len(parts) == 2:
        return parts[0].float() @ matrix(parts[1])
    return parts[0].float()
