"""LoRA for linear layers and 1x1 convolutions, LoCon for larger ones: a weight change of low rank."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

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


@dataclass(frozen=True, eq=False)
class LoraAdapter:
    """One layer of a LoRA (linear) or LoCon (conv) file."""

    down: Tensor
    up: Tensor
    alpha: float

    @classmethod
    def match(cls, weights: Mapping[str, Tensor]) -> LoraAdapter | None:
        """Return the adapter if these keys are a LoRA's and nothing else, else None: the next family is asked.

        None also where the two matrices do not fit each other: no family then claims them, and the file is refused.
        """
        if not weights.keys() >= _KEYS or weights.keys() - _KEYS - {"alpha"}:
            return None
        down, up = weights["lora_down.weight"], weights["lora_up.weight"]
        if down.ndim < 2 or up.ndim < 2 or not math.prod(up.shape[1:]) == down.shape[0] > 0:
            return None
        # A kohya file without alpha means alpha = rank, i.e. scale 1.
        return cls(down, up, alpha=float(weights["alpha"]) if "alpha" in weights else float(down.shape[0]))

    @property
    def rank(self) -> int:
        """The inner size."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight change."""
        return (self.up.shape[0], *self.down.shape[1:])

    def delta(self, weight: Tensor) -> Tensor:
        """Weight change at multiplier 1, float32, of the adapter's ``shape``; LoRA does not depend on ``weight``."""
        return low_rank_delta(self.down.to(weight.device).float(), self.up.to(weight.device).float()) * self._scale()

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return U (o, r) and D (r, n), float32, with U @ D the flattened weight change at multiplier 1.

        The scale goes into U, the smaller of the two in most layers.
        """
        up = self.up.float().reshape(self.up.shape[0], self.rank)
        return up * self._scale(), self.down.float().reshape(self.rank, -1)

    def with_rank(self, rank: int) -> LoraAdapter:
        """Return the adapter cut to its first ``rank`` components, as DyLoRA is trained for; the scale stays."""
        if rank >= self.rank:
            return self
        alpha = self.alpha * rank / self.rank
        return replace(self, down=self.down[:rank], up=self.up[:, :rank], alpha=alpha)

    def _scale(self) -> float:
        return self.alpha / self.rank
