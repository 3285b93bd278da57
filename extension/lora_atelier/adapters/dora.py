"""DoRA: the direction of each row (or column) comes from another adapter, its length is learned apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Adapter

_SCALE = "dora_scale"


def lengths_by_output(layers: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Mapping[str, Tensor]]:
    """Return a file's layers, by name and by key suffix, with PEFT's lengths of convolutions flattened to (o,).

    PEFT keeps them as (1, o, 1, 1), and tools that only rename its keys to kohya's write the same. LyCORIS' lengths by
    input are (1, i, 1, 1). Where o is i, another layer tells which tool's file this is: only PEFT's lengths of linear
    layers have one axis, and only PEFT's convolutions have one of o numbers that is not i. Source of the shapes: PEFT
    0.21, tuners/lora/dora.py, get_weight_norm; LyCORIS 4.1, modules/locon.py, wd_on_out.
    """
    by_peft = any(_is_pefts(stored) for stored in layers.values())
    return {name: _flattened(stored) if by_peft else stored for name, stored in layers.items()}


def _is_pefts(stored: Mapping[str, Tensor]) -> bool:
    scale = stored.get(_SCALE)
    if scale is None:
        return False
    sizes = _sizes(stored)
    return scale.ndim == 1 or (sizes is not None and sizes[0] != sizes[1] and tuple(scale.shape) == (1, sizes[0], 1, 1))


def _flattened(stored: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    sizes, scale = _sizes(stored), stored.get(_SCALE)
    if scale is None or sizes is None or tuple(scale.shape) != (1, sizes[0], 1, 1):
        return stored
    return {**stored, _SCALE: scale.reshape(-1)}


def _sizes(stored: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """The outputs and inputs of a LoRA's layer, the only family that PEFT's DoRA goes around."""
    up, down = stored.get("lora_up.weight"), stored.get("lora_down.weight")
    if up is None or down is None or up.ndim < 2 or down.ndim < 2:
        return None
    return up.shape[0], down.shape[1]


@dataclass(frozen=True, eq=False)
class DoraAdapter(Adapter):
    """An adapter of any family with DoRA around it: W' = V·d / ‖V‖ with V = W + the inner change.

    ``magnitude`` d is one number per output, or per input with ``on_input``; the norm goes over everything else.
    Source: Liu et al. 2024, DoRA (arXiv 2402.09353), eq. 5, who take columns; LyCORIS and PEFT take rows by default.
    """

    inner: Adapter
    magnitude: Tensor
    on_input: bool

    @classmethod
    def around(cls, inner: Adapter, scale: Tensor) -> DoraAdapter:
        """Return DoRA with a file's ``dora_scale``: (o, 1, …) or PEFT's (o,) by output, (1, i, …) by input."""
        on_input = scale.ndim > 1 and scale.shape[0] == 1 and scale.shape[1] > 1
        return cls(inner, scale.reshape(-1), on_input)

    @property
    def shape(self) -> tuple[int, ...]:
        """The inner adapter's."""
        return self.inner.shape

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the inner adapter fits and there are as many lengths as rows (or columns)."""
        fits = self.inner.fits(shape) and len(shape) > 1
        return fits and shape[1 if self.on_input else 0] == self.magnitude.numel()

    def delta(self, weight: Tensor) -> Tensor:
        """Return W' - W at multiplier 1, float32."""
        before = weight.float()
        direction = before + self.inner.delta(weight)
        axis = 1 if self.on_input else 0
        others = [at for at in range(weight.ndim) if at != axis]
        norm = torch.linalg.vector_norm(direction, dim=others, keepdim=True)
        around = [1] * weight.ndim
        around[axis] = -1
        length = self.magnitude.to(weight.device).float().reshape(around)
        # LyCORIS' guard against a row of zeros.
        return direction * (length / (norm + torch.finfo(torch.float32).eps)) - before

    def with_rank(self, rank: int) -> DoraAdapter:
        """Return DoRA around the inner adapter cut to ``rank``."""
        return DoraAdapter(self.inner.with_rank(rank), self.magnitude, self.on_input)
