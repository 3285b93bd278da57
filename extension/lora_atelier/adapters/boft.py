"""BOFT: the outputs of a layer are turned in several stages, between which they are shuffled like a butterfly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .base import Adapter
from .oft import cayley, is_beyond_cayley, rescaled


@dataclass(frozen=True, eq=False)
class BoftAdapter(Adapter):
    """One layer of a BOFT file: ``blocks`` (m, k, n, n), m stages of k blocks for k·n outputs.

    Source: Liu et al. 2024, BOFT (arXiv 2311.06243), section 4; LyCORIS modules/boft.py for the order of the shuffles.
    ``constraint`` and ``rescale`` are OFT's.
    """

    blocks: Tensor
    constraint: float = 0.0
    rescale: Tensor | None = None

    @classmethod
    def match(cls, weights: Mapping[str, Tensor]) -> BoftAdapter | None:
        """Return the adapter if these keys are BOFT's, else None."""
        blocks = weights.get("oft_blocks")
        if blocks is None or weights.keys() - {"oft_blocks", "alpha", "rescale"} or blocks.ndim != 4:
            return None
        stages, count, size, other = blocks.shape
        outputs, rescale = count * size, weights.get("rescale")
        fit = size == other and size % 2 == 0 and stages > 0 and outputs > 0
        # Stage i shuffles groups of 2^i·n outputs, which must go into all of them without rest.
        if not fit or outputs % (2 ** (stages - 1) * size):
            return None
        if (rescale is not None and rescale.numel() != outputs) or is_beyond_cayley(blocks):
            return None
        alpha = float(weights["alpha"]) if "alpha" in weights else 0.0
        return cls(blocks, alpha * outputs, rescale)

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of outputs; the file tells nothing of the inputs."""
        return (self.blocks.shape[1] * self.blocks.shape[2],)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the weight has as many outputs."""
        return len(shape) > 1 and shape[0] == self.shape[0]

    def delta(self, weight: Tensor) -> Tensor:
        """Return the turned weight less the weight, float32."""
        rotations = cayley(self.blocks.to(weight.device).float(), self.constraint)
        _, count, size, _ = rotations.shape
        before = weight.float().reshape(weight.shape[0], -1)
        rows = before
        for stage, rotation in enumerate(rotations):
            half = 2**stage * size // 2
            rows = _shuffled(rows, 2, half).reshape(count, size, -1)
            rows = _shuffled((rotation @ rows).reshape(before.shape), half, 2)
        delta = (rows - before).reshape(weight.shape)
        return delta if self.rescale is None else rescaled(weight, delta, self.rescale)


def _shuffled(rows: Tensor, outer: int, inner: int) -> Tensor:
    """The rows with every group of ``outer``·``inner`` read column by column instead of row by row."""
    grouped = rows.reshape(-1, outer, inner, rows.shape[1])
    return grouped.transpose(1, 2).reshape(rows.shape)
