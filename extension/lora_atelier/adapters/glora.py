"""GLoRA: a low-rank change of the weight from the input's side, and a LoRA beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Adapter, matrix, scale_of
from .lora import is_core, tucker_down

_KEYS = {"a1.weight", "a2.weight", "b1.weight", "b2.weight"}


@dataclass(frozen=True, eq=False)
class GloraAdapter(Adapter):
    """One layer of a GLoRA file: s·(W·left·right + up·down).

    Shapes: left (i, r), right (r, i), up (o, r), down (r, i[, k, k]); a core ``mid`` (r, r, k, k) stands before down.

    Source: Chavan et al. 2023, GLoRA (arXiv 2306.07967), eq. 7, without its biases; LyCORIS modules/glora.py.
    """

    left: Tensor
    right: Tensor
    up: Tensor
    down: Tensor
    scale: float
    mid: Tensor | None = None

    @classmethod
    def match(cls, weights: Mapping[str, Tensor]) -> GloraAdapter | None:
        """Return the adapter if these keys are GLoRA's in either of LyCORIS' two conventions, else None.

        Today the change is (W a1) a2 + b1 b2; files from before 2.0 mean (W a2) a1 + b2 b1. The sizes tell them apart;
        those of a square weight allow both readings, of which the wrong one takes the width for the rank.
        """
        if not weights.keys() >= _KEYS or weights.keys() - _KEYS - {"alpha", "bm.weight"}:
            return None
        read = [_read(weights, *order) for order in (("a1", "a2", "b1", "b2"), ("a2", "a1", "b2", "b1"))]
        return min((adapter for adapter in read if adapter is not None), key=lambda a: a.down.shape[0], default=None)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return (self.up.shape[0], self.down.shape[1], *kernel)

    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at multiplier 1, float32, in the weight's shape."""
        left, right, up = (matrix(tensor.to(weight.device)) for tensor in (self.left, self.right, self.up))
        down = self.down.to(weight.device).float()
        if self.mid is not None:
            down = tucker_down(self.mid.to(weight.device).float(), down)
        inputs = weight.float().reshape(weight.shape[0], weight.shape[1], -1)
        changed = torch.einsum("oik,ir,rj->ojk", inputs, left, right)
        return (changed.reshape(weight.shape) + (up @ matrix(down)).reshape(weight.shape)).mul_(self.scale)


def _read(weights: Mapping[str, Tensor], *order: str) -> GloraAdapter | None:
    """The adapter whose left, right, up and down matrices have these names, if they fit each other."""
    left, right, up, down = (weights[f"{name}.weight"] for name in order)
    if min(left.ndim, right.ndim, up.ndim, down.ndim) < 2:
        return None
    rank, mid = down.shape[0], weights.get("bm.weight")
    sides = (left.shape[1], right.shape[0], up.shape[1]) == (rank, rank, rank)
    kernels = all(math.prod(tensor.shape[2:]) == 1 for tensor in (left, right, up))
    if not (rank and sides and kernels and left.shape[0] == right.shape[1] == down.shape[1]):
        return None
    if mid is not None and not is_core(mid, rank, down):
        return None
    return GloraAdapter(left, right, up, down, scale_of(weights, rank), mid)
