"""What stands beside one frozen layer while it is trained: the branch that every kind of adapter is, and LoRA's."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from . import noise


class Branch(nn.Module, ABC):
    """The trained part of one layer, whose ``forward`` answers instead of the layer's.

    While training, a layer whose branch is ``left_out`` answers alone, and the change counts ``multiplier`` times;
    otherwise once, as it will from the file. ``unscaled`` names parameters that weight decay must spare (lengths, which
    would take the frozen weight with them); ``second`` names those that start as nothing, which LoRA+ lets learn
    faster.
    """

    unscaled: tuple[str, ...] = ()
    second: tuple[str, ...] = ()

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.left_out = False
        self.multiplier = 1.0
        self._layer = [layer]  # in a list, so that the frozen layer is no submodule and never saved

    @property
    def layer(self) -> nn.Module:
        """The frozen layer."""
        return self._layer[0]

    @property
    def is_out(self) -> bool:
        """Whether the layer answers alone now."""
        return self.left_out and self.training

    @property
    def strength(self) -> float:
        """How often the change counts now."""
        return self.multiplier if self.training else 1.0

    def begin(self, seed: int, number: int, name: str) -> None:
        """Draw what is drawn once for batch ``number``; most kinds draw nothing."""

    @abstractmethod
    def named(self) -> Iterator[tuple[str, Tensor]]:
        """What the file holds of this layer, by key suffix."""

    @abstractmethod
    def take(self, stored: Mapping[str, Tensor]) -> None:
        """Take what ``named`` gave. Raises KeyError if something is missing, RuntimeError if it has another shape."""

    @abstractmethod
    def limit_norm(self, most: float) -> None:
        """Scale the change down to the Frobenius norm ``most`` if it is larger; nothing waits for the device."""


def frozen(layer: nn.Module) -> Tensor:
    """The frozen weight of a layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def applied(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a linear layer, a convolution or a norm answers with another weight and bias."""
    if isinstance(layer, nn.Conv2d):
        return nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    if isinstance(layer, nn.GroupNorm):
        return nn.functional.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    if isinstance(layer, nn.LayerNorm):
        return nn.functional.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
    return nn.functional.linear(x, weight, bias)


def uniform(shape: tuple[int, ...], *key: noise.Key) -> Tensor:
    """Numbers as PyTorch starts a linear layer or a convolution of this shape with."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return torch.empty(shape).uniform_(-bound, bound, generator=noise.generator(*key))


def dropped(inner: Tensor, rank_axis: int, *, dropout: float, rank_dropout: float) -> Tensor:
    """Inner values with some set to zero, and whole inner places of some pictures; see ``LoraBranch``."""
    if dropout:
        inner = nn.functional.dropout(inner, dropout)
    if rank_dropout:
        around = [inner.shape[0]] + [1] * (inner.dim() - 1)
        around[rank_axis] = inner.shape[rank_axis]
        kept = torch.rand(around, device=inner.device) >= rank_dropout
        inner = inner * kept / (1 - rank_dropout)
    return inner


class LoraBranch(Branch):
    """``up(down(x)) * alpha / rank``, added to one frozen layer's output.

    Shapes: linear down (r, i), up (o, r); convolution down (r, i, k, k), up (o, r, 1, 1). Source: Hu et al. 2021,
    LoRA, eq. 3; ``down`` starts as PyTorch starts a linear layer, ``up`` as nothing, as in kohya's files.
    While training, a share of the inner values (``dropout``) and of each picture's inner places (``rank_dropout``) is
    set to zero and the rest enlarged by as much. LoRA-FA (Zhang et al. 2023, arXiv 2308.03303) is this with a ``down``
    that needs no gradient.
    """

    second = ("up",)

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
        super().__init__(layer)
        weight = frozen(layer)
        self.alpha, self.scale = alpha, alpha / rank
        self.dropout, self.rank_dropout = dropout, rank_dropout
        out_features, *in_shape = weight.shape
        ones = [1] * (weight.dim() - 2)
        self.down = nn.Parameter(uniform((rank, *in_shape), seed, "down", name).to(weight.device))
        self.up = nn.Parameter(torch.zeros(out_features, rank, *ones, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.Conv2d):
            out = applied(layer, x, layer.weight, layer.bias)
            if self.is_out:
                return out
            inner = nn.functional.conv2d(x, self.down, None, layer.stride, layer.padding, layer.dilation)
            return out + nn.functional.conv2d(self._dropped(inner, 1) * self._factor(), self.up)
        assert isinstance(layer, nn.Linear)
        out = nn.functional.linear(x, layer.weight, layer.bias)
        if self.is_out:
            return out
        inner = self._dropped(nn.functional.linear(x, self.down), -1)
        # One kernel for product, scale and sum.
        up = self.up.to(inner.dtype).T
        rows = torch.addmm(out.flatten(0, -2), inner.flatten(0, -2), up, alpha=self._factor())
        return rows.view_as(out)

    def _factor(self) -> float:
        return self.scale * self.strength

    def _dropped(self, inner: Tensor, rank_axis: int) -> Tensor:
        if not self.training:
            return inner
        return dropped(inner, rank_axis, dropout=self.dropout, rank_dropout=self.rank_dropout)

    def named(self) -> Iterator[tuple[str, Tensor]]:
        yield "alpha", torch.tensor(self.alpha)
        yield "lora_down.weight", self.down
        yield "lora_up.weight", self.up

    @torch.no_grad()
    def take(self, stored: Mapping[str, Tensor]) -> None:
        self.down.copy_(stored["lora_down.weight"])
        self.up.copy_(stored["lora_up.weight"])

    @torch.no_grad()
    def limit_norm(self, most: float) -> None:
        # ‖up·down‖² is the inner product of the two Gram matrices (rank, rank), which spares the whole product.
        down, up = self.down.flatten(1), self.up.flatten(1)
        norm = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt() * self.scale
        factor = (most / norm.clamp(min=most)).sqrt()
        self.down.mul_(factor)
        self.up.mul_(factor)


class DoraBranch(LoraBranch):
    """LoRA with each output's length learned apart: ``(W x + change) * magnitude / ‖W + up·down * scale‖ + bias``.

    ``magnitude`` (o, 1, …), LyCORIS' ``dora_scale``, starts as the lengths of the frozen weight's rows, so that nothing
    is changed. Source: Liu et al. 2024, DoRA (arXiv 2402.09353), eq. 5, by rows as LyCORIS and PEFT; the norm is a
    constant to the gradient, their section 4.3.
    """

    unscaled = ("magnitude",)

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
        super().__init__(layer, rank, alpha, dropout=dropout, rank_dropout=rank_dropout, seed=seed, name=name)
        self.magnitude = nn.Parameter(self._lengths(changed=False))

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        if self.is_out:
            return applied(layer, x, layer.weight, layer.bias)
        strength = self.strength
        if strength != 1.0:
            alone = applied(layer, x, layer.weight, layer.bias)
            return alone + (self._whole(x) - alone) * strength
        return self._whole(x)

    def _factor(self) -> float:
        # The direction is that of the whole change; how often it counts is said of the answer.
        return self.scale

    def _whole(self, x: Tensor) -> Tensor:
        layer = self.layer
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        out = super().forward(x)
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
        weight = frozen(self.layer)
        whole = weight.detach().float().flatten(1)
        if changed:
            # Outside of autocast, which would multiply in half precision.
            with torch.autocast(whole.device.type, enabled=False):
                whole = torch.addmm(whole, self.up.flatten(1).float(), self.down.flatten(1).float(), alpha=self.scale)
        norms = torch.linalg.vector_norm(whole, dim=1) + torch.finfo(torch.float32).eps
        return norms.view(-1, *[1] * (weight.dim() - 1))

    def named(self) -> Iterator[tuple[str, Tensor]]:
        yield from super().named()
        yield "dora_scale", self.magnitude

    @torch.no_grad()
    def take(self, stored: Mapping[str, Tensor]) -> None:
        super().take(stored)
        self.magnitude.copy_(stored["dora_scale"])


class DyloraBranch(Branch):
    """LoRA of which each step trains one block of ranks, with those before it as they are and none behind it.

    So the file is good when it is cut to any number of blocks. Source: Valipour et al. 2022, DyLoRA (arXiv 2210.07558),
    algorithm 1 with the blocks before frozen. The change of the first b of r ranks counts √(r/b) times, as in
    sd-scripts (networks/dylora.py), whose tool puts that into the smaller file; LyCORIS multiplies by the block's size
    while training and not in the file, which is then weaker than what was trained.
    """

    second = ("ups",)

    def __init__(
        self,
        layer: nn.Module,
        rank: int,
        alpha: float,
        block: int,
        *,
        dropout: float = 0.0,
        rank_dropout: float = 0.0,
        seed: int,
        name: str,
    ) -> None:
        super().__init__(layer)
        weight = frozen(layer)
        self.alpha, self.rank, self.block = alpha, rank, block
        self.dropout, self.rank_dropout = dropout, rank_dropout
        out_features, *in_shape = weight.shape
        ones = [1] * (weight.dim() - 2)
        down = uniform((rank, *in_shape), seed, "down", name).to(weight.device)
        up = torch.zeros(out_features, rank, *ones, device=weight.device)
        # Apart, so that the optimizer leaves alone what a step does not train.
        self.downs = nn.ParameterList([part.clone() for part in down.split(block)])
        self.ups = nn.ParameterList([part.contiguous() for part in up.split(block, dim=1)])
        self._chosen = len(self.downs) - 1

    def begin(self, seed: int, number: int, name: str) -> None:
        self._chosen = noise.rng(seed, "dylora", number, name).randrange(len(self.downs))

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        out = applied(layer, x, frozen(layer), layer.bias)  # type: ignore[arg-type]
        if self.is_out:
            return out
        down, up = self._matrices()
        factor = self.alpha / self.rank * math.sqrt(self.rank / down.shape[0]) * self.strength
        if isinstance(layer, nn.Conv2d):
            inner = nn.functional.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation)
            return out + nn.functional.conv2d(self._dropped(inner, 1) * factor, up)
        return out + nn.functional.linear(self._dropped(nn.functional.linear(x, down), -1) * factor, up)

    def _dropped(self, inner: Tensor, rank_axis: int) -> Tensor:
        if not self.training:
            return inner
        return dropped(inner, rank_axis, dropout=self.dropout, rank_dropout=self.rank_dropout)

    def _matrices(self) -> tuple[Tensor, Tensor]:
        if not self.training:
            return torch.cat(list(self.downs)), torch.cat(list(self.ups), dim=1)
        at = self._chosen
        down = [*(part.detach() for part in self.downs[:at]), self.downs[at]]
        up = [*(part.detach() for part in self.ups[:at]), self.ups[at]]
        return torch.cat(down), torch.cat(up, dim=1)

    def named(self) -> Iterator[tuple[str, Tensor]]:
        yield "alpha", torch.tensor(self.alpha)
        yield "lora_down.weight", torch.cat(list(self.downs))
        yield "lora_up.weight", torch.cat(list(self.ups), dim=1)

    @torch.no_grad()
    def take(self, stored: Mapping[str, Tensor]) -> None:
        for part, value in zip(self.downs, stored["lora_down.weight"].split(self.block), strict=True):
            part.copy_(value)
        for part, value in zip(self.ups, stored["lora_up.weight"].split(self.block, dim=1), strict=True):
            part.copy_(value)

    @torch.no_grad()
    def limit_norm(self, most: float) -> None:
        down, up = torch.cat(list(self.downs)).flatten(1), torch.cat(list(self.ups), dim=1).flatten(1)
        norm = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt() * self.alpha / self.rank
        factor = (most / norm.clamp(min=most)).sqrt()
        for part in (*self.downs, *self.ups):
            part.mul_(factor)
