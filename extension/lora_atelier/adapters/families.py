"""The closed list of adapter families, in the order in which they are asked for a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from .lora import LoraAdapter


class Adapter(Protocol):
    """One layer's weight change. A family whose change is a low-rank product also has ``factors``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight change; the same numbers may stand in the model as linear or as 1x1 convolution."""
        ...

    def delta(self, weight: Tensor) -> Tensor:
        """Weight change at multiplier 1, float32, on the device of ``weight``, the layer's unchanged weight."""
        ...

    def with_rank(self, rank: int) -> Adapter:
        """The adapter cut to its first ``rank`` components; a family that can't be cut returns itself."""
        ...


FAMILIES = (LoraAdapter,)


def match(weights: Mapping[str, Tensor]) -> Adapter | None:
    """Return the adapter that a layer's weights are, by their key suffixes, or None if no family knows them."""
    for family in FAMILIES:
        adapter = family.match(weights)
        if adapter is not None:
            return adapter
    return None
