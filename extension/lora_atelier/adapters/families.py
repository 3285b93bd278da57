"""The closed list of adapter families, and what a layer's weights in a file make of the layer's parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import keys
from .base import Adapter, scale_of
from .boft import BoftAdapter
from .dora import DoraAdapter, lengths_by_output
from .full import FullAdapter, SparseAdapter
from .glora import GloraAdapter
from .ia3 import Ia3Adapter
from .loha import LohaAdapter
from .lokr import LokrAdapter
from .lora import LoraAdapter
from .oft import OftAdapter

# In the order in which they are asked; each claims only what it knows whole.
FAMILIES = (
    LoraAdapter,
    LohaAdapter,
    LokrAdapter,
    FullAdapter,
    Ia3Adapter,
    OftAdapter,
    BoftAdapter,
    GloraAdapter,
)
# What every Stable Diffusion but the inpainting models reads: the latents' channels.
_LATENT_CHANNELS = 4
_BIASES = ("diff_b", "b_norm")
_DORA = ("dora_scale", "lora_magnitude_vector")
# No weight has more axes or a larger one.
_MOST_AXES, _LARGEST_SIZE = 8, 1 << 31
_SPARSE = ("bias_indices", "bias_values", "bias_size")


def group(tensors: Mapping[str, Tensor]) -> keys.Grouped[Tensor]:
    """Return a file's tensors by layer as ``keys.group`` does, each as ``match`` understands it."""
    grouped = keys.group(tensors)
    return replace(grouped, layers=lengths_by_output(grouped.layers))


def match(weights: Mapping[str, Tensor]) -> Mapping[str, Adapter] | None:
    """Return the adapters that a layer's weights are, by the parameter they change ("weight", "bias").

    ``weights`` are one layer's tensors by key suffix. None if no family knows all of them: nothing may be dropped.
    """
    if "alpha" in weights and weights["alpha"].numel() != 1:
        return None
    rest = dict(weights)
    found: dict[str, Adapter] = {}
    for suffix in _BIASES:
        if suffix in rest:
            if "bias" in found:
                return None
            found["bias"] = FullAdapter(rest.pop(suffix).reshape(-1))
    if not rest.keys() - {"alpha"}:
        return found or None
    sparse = [rest.pop(key) for key in _SPARSE if key in rest]
    dora = [rest.pop(key) for key in _DORA if key in rest]
    adapter: Adapter | None = next((a for family in FAMILIES if (a := family.match(rest)) is not None), None)
    if adapter is None or len(sparse) not in (0, 3) or len(dora) > 1:
        return None
    if sparse:
        adapter = _sparse(adapter, rest, *sparse)
    if dora and adapter is not None:
        adapter = DoraAdapter.around(adapter, dora[0].squeeze() if "lora_magnitude_vector" in weights else dora[0])
    if adapter is None:
        return None
    return {"weight": adapter, **found}


def _sparse(
    inner: Adapter, weights: Mapping[str, Tensor], indices: Tensor, values: Tensor, size: Tensor
) -> SparseAdapter | None:
    if indices.ndim != 2 or indices.shape != (size.numel(), values.numel()) or not 1 <= size.numel() <= _MOST_AXES:
        return None
    indices = indices.long()
    sizes = tuple(int(each) for each in size.reshape(-1).tolist())
    if min(sizes) < 1 or max(sizes) > _LARGEST_SIZE:
        return None
    if bool(((indices < 0) | (indices >= torch.tensor(sizes)[:, None])).any()):
        return None
    rank = weights["lora_down.weight"].shape[0] if "lora_down.weight" in weights else 1
    return SparseAdapter(inner, indices, values.reshape(-1), sizes, scale_of(weights, rank))


def fitted(adapter: Adapter, shape: Sequence[int]) -> Adapter | None:
    """Return the adapter as it fits a parameter of this shape, or None.

    An inpainting model's first convolution reads nine channels, of which the first four are the ones that adapters of
    ordinary models know: there the change of the others is zero, as AUTOMATIC1111 does it.
    """
    if adapter.fits(shape):
        return adapter
    narrow = (shape[0], _LATENT_CHANNELS, *shape[2:]) if len(shape) == 4 and shape[1] == 9 else ()
    return PaddedAdapter(adapter) if narrow and adapter.fits(narrow) else None


@dataclass(frozen=True, eq=False)
class PaddedAdapter(Adapter):
    """An adapter for the first channels that a convolution reads; the others stay as they are."""

    inner: Adapter

    @property
    def shape(self) -> tuple[int, ...]:
        """The inner adapter's."""
        return self.inner.shape

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the inner adapter fits the first channels."""
        return self.inner.fits((shape[0], _LATENT_CHANNELS, *shape[2:]))

    def delta(self, weight: Tensor) -> Tensor:
        """The inner change of the first channels, zero elsewhere."""
        delta = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        delta[:, :_LATENT_CHANNELS] = self.inner.delta(weight[:, :_LATENT_CHANNELS])
        return delta

    def with_rank(self, rank: int) -> PaddedAdapter:
        """Return it around the inner adapter cut to ``rank``."""
        return PaddedAdapter(self.inner.with_rank(rank))


__all__ = ["FAMILIES", "Adapter", "PaddedAdapter", "fitted", "group", "match"]
