"""A branch that rebuilds the layer's weight in each step, from the frozen one and the change that a file would make.

The change is computed by the very functions that the loader applies a file with (``adapters``), so what is trained is
what a file does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TypedDict

import torch
from torch import Tensor, nn

from ..adapters.base import Adapter
from ..adapters.dora import DoraAdapter
from .branches import Branch, applied, frozen

Start = dict[str, Tensor]


class Extras(TypedDict, total=False):
    """What every kind takes; see ``RebuiltBranch``."""

    lengths: str
    dropout: float
    rank_dropout: float
    rank_dropout_scale: bool


class RebuiltBranch(Branch):
    """A branch whose parameters are a file's tensors by their key suffixes, and whose change is an ``Adapter``'s.

    ``fixed`` are tensors of the file that are not trained. With ``lengths`` ("output" or "input") DoRA stands around
    the change. ``product`` names the tensors that the change is a product of: all of them times f make it f to the
    power of their number times as large.

    While training, a share of the change's answers (``dropout``) or of its rows (``rank_dropout``) is left out. Rows
    are only enlarged by as much with ``rank_dropout_scale``: so LyCORIS, unlike kohya's LoRA.
    """

    unscaled = ("dora_scale", "rescale")
    product: tuple[str, ...] = ()

    def __init__(
        self,
        layer: nn.Module,
        start: Start,
        *,
        fixed: Mapping[str, Tensor] | None = None,
        lengths: str = "",
        dropout: float = 0.0,
        rank_dropout: float = 0.0,
        rank_dropout_scale: bool = False,
    ) -> None:
        super().__init__(layer)
        device = frozen(layer).device
        if lengths:
            start["dora_scale"] = _lengths(frozen(layer), on_input=lengths == "input")
        # No parameter may have a dot in its name.
        self._suffixes = {suffix.replace(".", "_"): suffix for suffix in start}
        for name, suffix in self._suffixes.items():
            self.register_parameter(name, nn.Parameter(start[suffix].to(device)))
        self._fixed, self._on_input = dict(fixed or {}), lengths == "input"
        self.dropout, self.rank_dropout, self._enlarges = dropout, rank_dropout, rank_dropout_scale

    @abstractmethod
    def inner(self) -> Adapter:
        """The change of the weight, without DoRA."""

    def tensor(self, suffix: str) -> Tensor:
        """The parameter that the file holds under ``suffix``. Raises AttributeError."""
        found: Tensor = getattr(self, suffix.replace(".", "_"))
        return found

    def adapter(self) -> Adapter:
        """The change of the weight."""
        if "dora_scale" not in self._suffixes:
            return self.inner()
        return DoraAdapter(self.inner(), self.tensor("dora_scale").reshape(-1), self._on_input)

    def bias_change(self) -> Tensor | None:
        """The change of the bias; most kinds make none."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        layer, weight = self.layer, frozen(self.layer)
        bias = layer.bias
        assert bias is None or isinstance(bias, Tensor)
        if self.is_out:
            return applied(layer, x, weight, bias)
        # Outside of autocast, which would compute the change in half precision.
        with torch.autocast(weight.device.type, enabled=False):
            change, bias_change = self.adapter().delta(weight), self.bias_change()
            change = self._rows_dropped(change) * self.strength if self.training else change
            bias_change = None if bias_change is None else bias_change * self.strength
        if weight.dtype == torch.float32 and not (self.dropout and self.training):
            both = bias if bias_change is None else bias_change if bias is None else bias + bias_change
            return applied(layer, x, weight + change, both)
        # In half precision a small change would be lost in the weight's last digits: it answers apart.
        answer = applied(layer, x, change.to(weight.dtype), None if bias_change is None else bias_change.to(weight))
        if self.dropout and self.training:
            answer = nn.functional.dropout(answer, self.dropout)
        return applied(layer, x, weight, bias) + answer

    def _rows_dropped(self, change: Tensor) -> Tensor:
        if not self.rank_dropout:
            return change
        kept = (torch.rand(change.shape[0], device=change.device) >= self.rank_dropout).to(change.dtype)
        if self._enlarges:
            kept = kept / kept.mean().clamp(min=1 / change.shape[0])
        return change * kept.view(-1, *[1] * (change.dim() - 1))

    def named(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._fixed.items()
        for suffix in self._suffixes.values():
            yield suffix, self.tensor(suffix)

    @torch.no_grad()
    def take(self, stored: Mapping[str, Tensor]) -> None:
        for suffix in self._suffixes.values():
            self.tensor(suffix).copy_(stored[suffix])

    @torch.no_grad()
    def limit_norm(self, most: float) -> None:
        norm = torch.linalg.vector_norm(self._limited())
        factor = (most / norm.clamp(min=most)) ** (1 / len(self.product))
        for suffix in self.product:
            self.tensor(suffix).mul_(factor)

    def _limited(self) -> Tensor:
        return self.inner().delta(frozen(self.layer))


@torch.no_grad()
def _lengths(weight: Tensor, *, on_input: bool) -> Tensor:
    """The norm of each row, (o, 1, …), or of each column, (1, i, 1, …); the loader adds the same to a row of zeros."""
    axis = 1 if on_input else 0
    others = [at for at in range(weight.dim()) if at != axis]
    norms = torch.linalg.vector_norm(weight.detach().float(), dim=others, keepdim=True)
    return norms + torch.finfo(torch.float32).eps
