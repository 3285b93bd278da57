"""IA3: every row or every column of a weight is scaled by one learned number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .base import Adapter


@dataclass(frozen=True, eq=False)
class Ia3Adapter(Adapter):
    """One layer of an IA3 file: ``vector`` holds one number per output, or per input with ``on_input``.

    The stored number is the change: W' = W·(1 + vector). Source: Liu et al. 2022, Few-Shot Parameter-Efficient
    Fine-Tuning (arXiv 2205.05638), eq. 1, whose vector is ours plus 1; LyCORIS' key names.
    """

    vector: Tensor
    on_input: bool

    @classmethod
    def match(cls, weights: Mapping[str, Tensor]) -> Ia3Adapter | None:
        """Return the adapter if these keys are IA3's, else None."""
        if weights.keys() - {"alpha"} != {"weight", "on_input"} or weights["on_input"].numel() != 1:
            return None
        return cls(weights["weight"].reshape(-1), bool(weights["on_input"]))

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows, or of columns with a row of its own before it."""
        return (1, self.vector.numel()) if self.on_input else (self.vector.numel(),)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the weight has as many outputs (or inputs) as there are numbers."""
        return len(shape) > 1 and shape[1 if self.on_input else 0] == self.vector.numel()

    def delta(self, weight: Tensor) -> Tensor:
        """Return W·vector along the rows or columns, float32."""
        vector = self.vector.to(weight.device).float()
        around = [1] * weight.ndim
        around[1 if self.on_input else 0] = -1
        return weight.float() * vector.reshape(around)
