"""OFT: the outputs of a layer are turned, in blocks, by orthogonal matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Adapter

# I - Q has no singular value below 1, so this bounds its condition, which float32 (7 digits) must bear.
_LARGEST = 1e4


def cayley(blocks: Tensor, constraint: float = 0.0) -> Tensor:
    """Return the orthogonal matrices (…, n, n) of unconstrained ones: (I + Q)(I - Q)⁻¹ with Q = B - Bᵀ.

    With a ``constraint`` above 0 the norm of all Q together is cut to it (COFT).
    Source: Qiu et al. 2023, OFT (arXiv 2306.07280), section 3.3.
    """
    q = blocks - blocks.mT
    if constraint > 0:
        norm = torch.linalg.vector_norm(q)
        q = q * (constraint / norm).clamp(max=1) if norm > 0 else q
    eye = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    # (I + Q) and (I - Q)⁻¹ commute, so the solver may stand on either side.
    return torch.linalg.solve(eye - q, (eye + q).expand_as(q))


def is_beyond_cayley(blocks: Tensor) -> bool:
    """Whether numbers are so large that float32 can't invert I - Q any more; trained ones are far below 1."""
    return float(blocks.float().abs().max()) > _LARGEST


@dataclass(frozen=True, eq=False)
class OftAdapter(Adapter):
    """One layer of an OFT file: ``blocks`` (k, n, n) for k·n outputs.

    ``constraint`` is the file's alpha times the outputs (0: none). ``rotations`` says that the blocks are the
    orthogonal matrices themselves, as LyCORIS stored them at first (``oft_diag``). ``rescale`` is a number per output.
    """

    blocks: Tensor
    constraint: float = 0.0
    rescale: Tensor | None = None
    rotations: bool = False

    @classmethod
    def match(cls, weights: Mapping[str, Tensor]) -> OftAdapter | None:
        """Return the adapter if these keys are OFT's, kohya's or LyCORIS', else None (BOFT has blocks of four axes)."""
        key = "oft_diag" if "oft_diag" in weights else "oft_blocks"
        blocks = weights.get(key)
        if blocks is None or weights.keys() - {key, "alpha", "rescale"} or blocks.ndim != 3:
            return None
        count, size, other = blocks.shape
        rescale = weights.get("rescale")
        if size != other or not count * size or (rescale is not None and rescale.numel() != count * size):
            return None
        if is_beyond_cayley(blocks):
            return None
        alpha = float(weights["alpha"]) if "alpha" in weights else 0.0
        return cls(blocks, alpha * count * size, rescale, key == "oft_diag")

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of outputs; the file tells nothing of the inputs."""
        return (self.blocks.shape[0] * self.blocks.shape[1],)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the weight has as many outputs."""
        return len(shape) > 1 and shape[0] == self.shape[0]

    def delta(self, weight: Tensor) -> Tensor:
        """Return Rᵀ W - W per block, then the rescaling, float32.

        Both trainers multiply from the side that gives R's transpose (LyCORIS modules/diag_oft.py, sd-scripts
        networks/oft.py: ``k n m, k n ... -> k m ...``).
        """
        blocks = self.blocks.to(weight.device).float()
        rotation = blocks if self.rotations else cayley(blocks, self.constraint)
        count, size, _ = blocks.shape
        rows = weight.float().reshape(count, size, -1)
        eye = torch.eye(size, device=weight.device)
        delta = ((rotation - eye).transpose(1, 2) @ rows).reshape(weight.shape)
        return delta if self.rescale is None else rescaled(weight, delta, self.rescale)


def rescaled(weight: Tensor, delta: Tensor, rescale: Tensor) -> Tensor:
    """Return the change that scaling every row of ``weight + delta`` makes of ``delta``."""
    rows = rescale.to(weight.device).float().reshape(-1, *[1] * (weight.ndim - 1))
    return rows * delta + (rows - 1) * weight.float()
