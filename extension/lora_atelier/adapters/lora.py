"""LoRA for linear layers and 1x1 convolutions, LoCon for larger ones, with or without Tucker's core in the middle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .base import Adapter

_KEYS = {"lora_down.weight", "lora_up.weight"}


def low_rank_delta(down: Tensor, up: Tensor) -> Tensor:
    """Return ``up @ down``: the unscaled weight change of one LoRA layer.

    Shapes — r rank, i/o in/out features, k kernel size:
        linear  down (r, i)        up (o, r)        ->  (o, i)
        conv    down (r, i, k, k)  up (o, r, 1, 1)  ->  (o, i, k, k)

    Scaling by alpha / rank is ``LoraAdapter.delta``'s part.
    Source: Hu et al. 2021, LoRA, eq. 3; their A is our ``down``, their B our ``up``.
    """
    rank, *in_shape = down.shape
    out_features = up.shape[0]
    delta = up.reshape(out_features, rank) @ down.reshape(rank, -1)
    return delta.reshape(out_features, *in_shape)


def tucker_down(mid: Tensor, down: Tensor) -> Tensor:
    """Return the down matrix (r, i, k, k) that stands for Tucker's core ``mid`` (r, r, k, k) on ``down`` (r, i, 1, 1).

    A Tucker LoCon is U (mid D), so with core and down multiplied first it is a LoRA like any other.
    Source: LyCORIS (Yeh et al. 2023, arXiv 2309.14859), section 3.2, CP/Tucker decomposition.
    """
    return torch.einsum("pqhw,qi->pihw", mid, down.reshape(down.shape[0], -1))


def is_core(mid: Tensor, rank: int, down: Tensor) -> bool:
    """Whether ``mid`` can be Tucker's core (r, r, k, k) between matrices of this rank, ``down`` being one of them."""
    return mid.ndim == 4 and tuple(mid.shape[:2]) == (rank, rank) and math.prod(down.shape[2:]) == 1


@dataclass(frozen=True, eq=False)
class LoraAdapter(Adapter):
    """One layer of a LoRA (linear) or LoCon (conv) file."""

    reads_weight = False
    is_low_rank = True

    down: Tensor
    up: Tensor
    alpha: float
    mid: Tensor | None = None

    @classmethod
    def match(cls, weights: Mapping[str, Tensor]) -> LoraAdapter | None:
        """Return the adapter if these keys are a LoRA's and nothing else, else None: the next family is asked.

        None also where the matrices do not fit each other: no family then claims them, and the file is refused.
        """
        if not weights.keys() >= _KEYS or weights.keys() - _KEYS - {"alpha", "lora_mid.weight"}:
            return None
        down, up, mid = weights["lora_down.weight"], weights["lora_up.weight"], weights.get("lora_mid.weight")
        rank = down.shape[0] if down.ndim else 0
        if down.ndim < 2 or up.ndim < 2 or not math.prod(up.shape[1:]) == rank > 0:
            return None
        if mid is not None and not is_core(mid, rank, down):
            return None
        # A kohya file without alpha means alpha = rank, i.e. scale 1.
        return cls(down, up, alpha=float(weights["alpha"]) if "alpha" in weights else float(rank), mid=mid)

    @property
    def rank(self) -> int:
        """The inner size."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight change."""
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return (self.up.shape[0], self.down.shape[1], *kernel)

    def delta(self, weight: Tensor) -> Tensor:
        """Weight change at multiplier 1, float32, in the weight's shape; LoRA does not depend on its values."""
        up, down = self.factors()
        return (up.to(weight.device) @ down.to(weight.device)).reshape(weight.shape)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return U (o, r) and D (r, n), float32, with U @ D the flattened weight change at multiplier 1.

        The scale goes into U, the smaller of the two in most layers.
        """
        up = self.up.float().reshape(self.up.shape[0], self.rank)
        down = self.down.float() if self.mid is None else tucker_down(self.mid.float(), self.down.float())
        return up * self._scale(), down.reshape(self.rank, -1)

    def with_rank(self, rank: int) -> LoraAdapter:
        """Return the adapter cut to its first ``rank`` (1 or more) components, as DyLoRA is trained for.

        The scale stays that of the whole.
        """
        if rank >= self.rank:
            return self
        mid = None if self.mid is None else self.mid[:rank, :rank]
        alpha = self.alpha * rank / self.rank
        return replace(self, down=self.down[:rank], up=self.up[:, :rank], mid=mid, alpha=alpha)

    def _scale(self) -> float:
        return self.alpha / self.rank
