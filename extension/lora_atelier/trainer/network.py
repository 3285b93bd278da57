"""The adapter while it is trained: a low-rank branch beside each chosen layer of the frozen model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config import NetworkConfig
from . import noise
from .sizes import Size, layer_sizes


class LoraBranch(nn.Module):
    """``up(down(x)) * alpha / rank``, added to one frozen layer's output.

    Shapes: linear down (r, i), up (o, r); convolution down (r, i, k, k), up (o, r, 1, 1). Source: Hu et al. 2021,
    LoRA, eq. 3; ``down`` starts as PyTorch starts a linear layer, ``up`` as nothing, as in kohya's files.
    While training, a share of the inner values (``dropout``) and of each picture's inner places (``rank_dropout``) is
    set to zero and the rest enlarged by as much; ``left_out`` lets the layer answer alone.
    """

    def __init__(
        self,
        layer: nn.Module,
        rank: int,
        alpha: float,
        *,
        dropout: float = 0.0,
        rank_dropout: float = 0.0,
        seed: int,
        name: str,
    ) -> None:
        super().__init__()
        weight = layer.weight
        assert isinstance(weight, Tensor)
        self.alpha, self.scale = alpha, alpha / rank
        self.dropout, self.rank_dropout = dropout, rank_dropout
        self.left_out = False
        out_features, *in_shape = weight.shape
        bound = 1 / math.sqrt(math.prod(in_shape))
        start = torch.empty(rank, *in_shape).uniform_(-bound, bound, generator=noise.generator(seed, "down", name))
        ones = [1] * (weight.dim() - 2)
        self.down = nn.Parameter(start.to(weight.device))
        self.up = nn.Parameter(torch.zeros(out_features, rank, *ones, device=weight.device))
        self._layer = [layer]  # in a list, so that the frozen layer is no submodule and never saved

    def forward(self, x: Tensor) -> Tensor:
        layer = self._layer[0]
        if isinstance(layer, nn.Conv2d):
            out = nn.functional.conv2d(
                x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups
            )
            if self.left_out and self.training:
                return out
            inner = nn.functional.conv2d(x, self.down, None, layer.stride, layer.padding, layer.dilation)
            return out + nn.functional.conv2d(self._dropped(inner, 1) * self.scale, self.up)
        assert isinstance(layer, nn.Linear)
        out = nn.functional.linear(x, layer.weight, layer.bias)
        if self.left_out and self.training:
            return out
        inner = self._dropped(nn.functional.linear(x, self.down), -1)
        # One kernel for product, scale and sum.
        rows = torch.addmm(out.flatten(0, -2), inner.flatten(0, -2), self.up.to(inner.dtype).T, alpha=self.scale)
        return rows.view_as(out)

    def _dropped(self, inner: Tensor, rank_axis: int) -> Tensor:
        if not self.training:
            return inner
        if self.dropout:
            inner = nn.functional.dropout(inner, self.dropout)
        if self.rank_dropout:
            around = [inner.shape[0]] + [1] * (inner.dim() - 1)
            around[rank_axis] = inner.shape[rank_axis]
            kept = torch.rand(around, device=inner.device) >= self.rank_dropout
            inner = inner * kept / (1 - self.rank_dropout)
        return inner


class DoraBranch(LoraBranch):
    """LoRA with each output's length learned apart: ``(W x + change) * magnitude / ‖W + up·down * scale‖ + bias``.

    ``magnitude`` (o, 1, …), LyCORIS' ``dora_scale``, starts as the lengths of the frozen weight's rows, so that nothing
    is changed. Source: Liu et al. 2024, DoRA (arXiv 2402.09353), eq. 5, by rows as LyCORIS and PEFT; the norm is a
    constant to the gradient, their section 4.3.
    """

    def __init__(self, layer: nn.Module, rank: int, alpha: float, **options: Any) -> None:
        super().__init__(layer, rank, alpha, **options)
        self.magnitude = nn.Parameter(self._lengths(changed=False))

    def forward(self, x: Tensor) -> Tensor:
        layer = self._layer[0]
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        out = super().forward(x)
        if self.left_out and self.training:
            return out
        factor = self.magnitude / self._lengths(changed=True)
        around = (1, -1, *[1] * (out.dim() - 2)) if isinstance(layer, nn.Conv2d) else (-1,)
        factor = factor.view(around).to(out.dtype)
        if layer.bias is None:
            return out * factor
        bias = layer.bias.view(around)
        return (out - bias) * factor + bias

    @torch.no_grad()
    def _lengths(self, *, changed: bool) -> Tensor:
        """The norm of each row of the weight, (o, 1, …) float32, with or without the change."""
        weight = self._layer[0].weight
        assert isinstance(weight, Tensor)
        whole = weight.detach().float().flatten(1)
        if changed:
            # Outside of autocast, which would multiply in half precision.
            with torch.autocast(whole.device.type, enabled=False):
                whole = torch.addmm(whole, self.up.flatten(1), self.down.flatten(1), alpha=self.scale)
        norms = torch.linalg.vector_norm(whole, dim=1) + torch.finfo(torch.float32).eps
        return norms.view(-1, *[1] * (weight.dim() - 1))


class LoraNetwork(nn.Module):
    """All branches of a run, by kohya's layer names; while attached, the layers answer with their branch added."""

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        config: NetworkConfig,
        *,
        seed: int,
        sizes: Mapping[str, Size] | None = None,
    ) -> None:
        """``sizes`` has the rank and alpha of each layer that gets a branch; None takes the settings'."""
        super().__init__()
        self.branches = nn.ModuleDict()
        self._module_dropout, self._seed = config.module_dropout, seed
        kind = DoraBranch if config.algorithm == "dora" else LoraBranch
        sizes = layer_sizes(layers, config) if sizes is None else sizes
        self._layers = {name: layer for name, layer in layers.items() if name in sizes}
        for name, layer in self._layers.items():
            self.branches[name] = kind(
                layer,
                *sizes[name],
                dropout=config.dropout,
                rank_dropout=config.rank_dropout,
                seed=seed,
                name=name,
            )

    def attach(self) -> None:
        """Let every layer answer through its branch."""
        for name, layer in self._layers.items():
            layer.forward = self.branches[name].forward  # type: ignore[method-assign]

    def detach(self) -> None:
        """Let every layer answer alone again."""
        for layer in self._layers.values():
            layer.__dict__.pop("forward", None)

    def begin(self, number: int) -> None:
        """Draw which layers answer alone in batch ``number``: each with the chance ``module_dropout``, never all."""
        if not self._module_dropout:
            return
        draws = {name: noise.rng(self._seed, "module dropout", number, name).random() for name in self.branches}
        # Without any branch there would be no gradient, and no step.
        last = max(draws, key=draws.__getitem__)
        for name, branch in self.branches.items():
            assert isinstance(branch, LoraBranch)
            branch.left_out = draws[name] < self._module_dropout and name != last

    @torch.no_grad()
    def limit_norms(self, most: float) -> None:
        """Scale every layer's change down whose Frobenius norm is above ``most``, both matrices by the same factor.

        Source: sd-scripts' scale_weight_norms. ‖up·down‖² is the inner product of the two Gram matrices (rank, rank),
        which spares the whole product; nothing waits for the device.
        """
        for branch in self.branches.values():
            assert isinstance(branch, LoraBranch)
            down, up = branch.down.flatten(1), branch.up.flatten(1)
            norm = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt() * branch.scale
            factor = (most / norm.clamp(min=most)).sqrt()
            branch.down.mul_(factor)
            branch.up.mul_(factor)

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The adapter file's content: kohya's keys, alpha as a scalar, all in ``dtype`` on the CPU."""
        return {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in self._named()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights that ``tensors(torch.float32)`` gave. Raises KeyError if one is missing."""
        for name, branch in self.branches.items():
            assert isinstance(branch, LoraBranch)
            branch.down.copy_(tensors[f"{name}.lora_down.weight"])
            branch.up.copy_(tensors[f"{name}.lora_up.weight"])
            if isinstance(branch, DoraBranch):
                branch.magnitude.copy_(tensors[f"{name}.dora_scale"])

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for name, branch in self.branches.items():
            assert isinstance(branch, LoraBranch)
            yield f"{name}.alpha", torch.tensor(branch.alpha)
            yield f"{name}.lora_down.weight", branch.down
            yield f"{name}.lora_up.weight", branch.up
            if isinstance(branch, DoraBranch):
                yield f"{name}.dora_scale", branch.magnitude
