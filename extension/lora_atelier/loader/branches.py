"""Changes beside a layer instead of in its weight: for weights that can't be written, as those of quantised models."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import AdapterMismatchError
from .merging import Change, concatenated, dense_sum
from .originals import Copied

_WRITABLE = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def is_writable(weight: Tensor) -> bool:
    """Whether a change can be put into the numbers themselves.

    Whole numbers are codes of a quantised weight, and eight bits of float would round most of a change away.
    """
    return weight.dtype in _WRITABLE and type(weight) in (Tensor, nn.Parameter)


def shape_of(module: nn.Module, weight: Tensor) -> tuple[int, ...]:
    """Return the shape that a layer's weight has for its adapters; packed weights have another one in memory."""
    if not is_writable(weight):
        if isinstance(module, nn.Linear):
            return (module.out_features, module.in_features)
        if isinstance(module, nn.Conv2d):
            return (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
    return tuple(weight.shape)


class Branch:
    """A layer's changes, added to its output on every call: y + U (D x), for a convolution with its own stride.

    ``remove`` takes it away; the layer's weight is never touched.
    """

    def __init__(self, layer: str, module: nn.Module, changes: Sequence[Change]) -> None:
        """Raises AdapterMismatchError if the layer is neither linear nor a convolution, or its weight can't be read."""
        weight: Any = module.weight
        self._shape = shape_of(module, weight)
        if len(self._shape) not in (2, 4) or getattr(module, "groups", 1) != 1:
            raise AdapterMismatchError("The layer {layer} can't be changed in this model.", layer=layer)
        like = torch.empty(self._shape, device=weight.device) if tuple(weight.shape) != self._shape else weight
        reads = any(adapter.reads_weight for adapter, _ in changes)
        original = Copied(_readable(layer, weight, self._shape) if reads else like)
        factors = concatenated(changes, weight.device)
        dense = dense_sum(changes, original, like.float())
        self._matrices = [matrix for matrix in (*(factors or ()), dense) if matrix is not None]
        self._low_rank = factors is not None
        self._handle = module.register_forward_hook(self._add)

    def remove(self) -> None:
        """Take the branch away; the layer gives again what it gave before."""
        self._handle.remove()
        self._matrices.clear()

    def _add(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        given: Tensor = args[0]
        if (self._matrices[0].dtype, self._matrices[0].device) != (given.dtype, given.device):
            self._matrices = [matrix.to(given.device, given.dtype) for matrix in self._matrices]
        matrices = list(self._matrices)
        changed = output
        if self._low_rank:
            up, down = matrices.pop(0), matrices.pop(0)
            inner = self._apply(module, given, down, first=True)
            changed = _sum(changed, self._apply(module, inner, up, first=False))
        for dense in matrices:
            changed = _sum(changed, self._apply(module, given, dense, first=True))
        return changed

    def _apply(self, module: Any, given: Tensor, matrix: Tensor, *, first: bool) -> Tensor:
        if len(self._shape) == 2:
            return functional.linear(given, matrix)
        if not first:
            return functional.conv2d(given, matrix[:, :, None, None])
        kernel = matrix.reshape(-1, *self._shape[1:])
        return functional.conv2d(given, kernel, None, module.stride, module.padding, module.dilation)


def _sum(output: Tensor, change: Tensor) -> Tensor:
    """Without gradients in the output's own memory: the layer made it for this call alone."""
    return (output + change).to(output.dtype) if torch.is_grad_enabled() else output.add_(change)


def _readable(layer: str, weight: Any, shape: tuple[int, ...]) -> Tensor:
    """A quantised weight's numbers, for the families whose change depends on them."""
    if weight.dtype.is_floating_point and tuple(weight.shape) == shape:
        return weight.detach().float()
    # A plain tensor of codes has a ``dequantize``, too, which gives the codes themselves.
    knows_its_scale = weight.is_quantized or type(weight) not in (Tensor, nn.Parameter)
    if knows_its_scale:
        with contextlib.suppress(AttributeError, RuntimeError):
            return weight.dequantize().float().reshape(shape)
    raise AdapterMismatchError(
        "The change of {layer} can't be computed.",
        why="It depends on the layer's weight, which is quantised in a way that can't be read.",
        todo="Load this model in half precision, or use a LoRA or LoCon file.",
        layer=layer,
    )
