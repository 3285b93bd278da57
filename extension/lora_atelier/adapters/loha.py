"""LoHa: the product, number by number, of two low-rank matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Adapter, columns, matrix, scale_of

_KEYS = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
_CORES = {"hada_t1", "hada_t2"}


def hadamard_delta(w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor) -> Tensor:
    """Return ``(w1_a @ w1_b) * (w2_a @ w2_b)``: (o, r) and (r, n) each, giving (o, n) of rank up to r².

    Source: Hyeon-Woo et al. 2022, FedPara (arXiv 2108.06098), eq. 3; LyCORIS calls it LoHa.
    """
    return (w1_a @ w1_b) * (w2_a @ w2_b)


def tucker_matrix(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return (o, i, k, k) of a core (r, r, k, k), ``left`` (r, o) on its first and ``right`` (r, i) on its second axis.

    Source: FedPara, proposition 3; LyCORIS stores both sides with the rank first.
    """
    return torch.einsum("pqhw,po,qi->oihw", core, left, right)


@dataclass(frozen=True, eq=False)
class LohaAdapter(Adapter):
    """One layer of a LoHa file; ``t1`` and ``t2`` are the cores of a convolution that was trained in Tucker form."""

    reads_weight = False

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    scale: float
    t1: Tensor | None = None
    t2: Tensor | None = None

    @classmethod
    def match(cls, weights: Mapping[str, Tensor]) -> LohaAdapter | None:
        """Return the adapter if these keys are a LoHa's and its matrices fit each other, else None."""
        cores = weights.keys() & _CORES
        if not weights.keys() >= _KEYS or weights.keys() - _KEYS - _CORES - {"alpha"} or len(cores) == 1:
            return None
        w1_a, w1_b, w2_a, w2_b = (weights[f"hada_w{n}_{side}"] for n in (1, 2) for side in "ab")
        if any(tensor.ndim != 2 for tensor in (w1_a, w1_b, w2_a, w2_b)):
            return None
        t1, t2 = weights.get("hada_t1"), weights.get("hada_t2")
        if t1 is not None and t2 is not None:
            pairs = ((t1, w1_a, w1_b), (t2, w2_a, w2_b))
            fit = all(c.ndim == 4 and tuple(c.shape[:2]) == (a.shape[0], b.shape[0]) for c, a, b in pairs)
            fit = fit and t1.shape[2:] == t2.shape[2:] and w1_a.shape[1] == w2_a.shape[1]
        else:
            fit = w1_a.shape[1] == w1_b.shape[0] and w2_a.shape[1] == w2_b.shape[0] and w1_a.shape[0] == w2_a.shape[0]
        if not fit or w1_b.shape[1] != w2_b.shape[1] or not w1_b.shape[0]:
            return None
        return cls(w1_a, w1_b, w2_a, w2_b, scale_of(weights, w1_b.shape[0]), t1, t2)

    @property
    def shape(self) -> tuple[int, ...]:
        """(o, i, k, k) in Tucker form, else (o, i·k·k): the file does not tell the kernel's size."""
        if self.t1 is not None:
            return (self.w1_a.shape[1], self.w1_b.shape[1], *self.t1.shape[2:])
        return (self.w1_a.shape[0], self.w1_b.shape[1])

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the weight has as many rows and columns."""
        return len(shape) > 1 and (shape[0], columns(shape)) == (self.shape[0], math.prod(self.shape[1:]))

    def delta(self, weight: Tensor) -> Tensor:
        """Weight change at multiplier 1, float32, in the weight's shape; it does not depend on the weight's values."""
        a1, b1, a2, b2 = (t.to(weight.device).float() for t in (self.w1_a, self.w1_b, self.w2_a, self.w2_b))
        if self.t1 is not None and self.t2 is not None:
            t1, t2 = self.t1.to(weight.device).float(), self.t2.to(weight.device).float()
            delta = matrix(tucker_matrix(t1, a1, b1)) * matrix(tucker_matrix(t2, a2, b2))
        else:
            delta = hadamard_delta(a1, b1, a2, b2)
        return delta.mul_(self.scale).reshape(weight.shape)
