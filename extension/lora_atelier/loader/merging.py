"""The sum that stands in a changed weight: W + Σ m·ΔW, in float32, rounded once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapters.families import Adapter
from .originals import Original, as_matrix, blocks

# An adapter and the multiplier that it is wanted at.
Change = tuple[Adapter, float]


class Scratch:
    """Float32 numbers that one weight after the other is summed in: fresh memory each time would have to be cleared."""

    def __init__(self) -> None:
        self._tensor = torch.empty(0)

    def of(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Return memory of this shape, until the next call; what is in it is left over."""
        if self._tensor.numel() < shape.numel() or self._tensor.device != device:
            self._tensor = torch.empty(shape.numel(), dtype=torch.float32, device=device)
        return self._tensor[: shape.numel()].view(shape)


def merge(target: Tensor, original: Original, changes: Sequence[Change], scratch: Scratch | None = None) -> None:
    """Write ``original`` plus the changes into ``target``, rounded to its dtype once.

    All low-rank changes are one product: with k of them, U = [m1·U1 … mk·Uk] and D = [D1; …; Dk]. Memory: one block of
    float32 in ``scratch``, and a float32 matrix of the weight's size where a family is no low-rank product.
    """
    scratch = scratch or Scratch()
    contiguous = target if target.is_contiguous() else target.contiguous()
    flat = as_matrix(contiguous)
    factors = concatenated(changes, target.device)
    dense = dense_sum(changes, original, contiguous)
    for start, stop in blocks(contiguous):
        block = flat[start:stop]
        total = block if flat.dtype == torch.float32 else scratch.of(block.shape, block.device)
        total.copy_(original.rows(start, stop, contiguous))
        if factors is not None:
            total.addmm_(factors[0][start:stop], factors[1])
        if dense is not None:
            total += dense[start:stop]
        if total is not block:
            block.copy_(total)
    if contiguous is not target:
        target.copy_(contiguous)


def concatenated(changes: Sequence[Change], device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Return U (o, K) with the multipliers in it and D (K, n) of all low-rank changes, float32; None without any."""
    ups, downs = [], []
    for adapter, multiplier in changes:
        factors = adapter.factors() if adapter.is_low_rank else None
        if factors is not None:
            ups.append(factors[0].to(device) * multiplier)
            downs.append(factors[1].to(device))
    if not ups:
        return None
    return (ups[0], downs[0]) if len(ups) == 1 else (torch.cat(ups, dim=1), torch.cat(downs))


def dense_sum(changes: Sequence[Change], original: Original, like: Tensor) -> Tensor | None:
    """Return the sum (rows, columns), float32, of all changes that are no low-rank product; None without any."""
    total: Tensor | None = None
    for adapter, multiplier in changes:
        if not adapter.is_low_rank:
            # Families that do not look at the weight's numbers are shown the live ones, for shape and device.
            weight = original.whole(like) if adapter.reads_weight else like
            delta = as_matrix(adapter.delta(weight).contiguous())
            total = delta * multiplier if total is None else total.add_(delta, alpha=multiplier)
    return total
