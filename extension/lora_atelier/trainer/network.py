"""The adapter while it is trained: a branch beside each chosen layer of the frozen model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..config import NetworkConfig
from . import noise
from .branches import Branch
from .kinds import make_branch
from .sizes import Size, layer_sizes


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
        sizes = layer_sizes(layers, config) if sizes is None else sizes
        self._layers = {name: layer for name, layer in layers.items() if name in sizes}
        for name, layer in self._layers.items():
            self.branches[name] = make_branch(layer, config, sizes[name], seed=seed, name=name)

    def named_branches(self) -> Iterator[tuple[str, Branch]]:
        """Every branch with its layer's name."""
        for name, branch in self.branches.items():
            assert isinstance(branch, Branch)
            yield name, branch

    def attach(self) -> None:
        """Let every layer answer through its branch."""
        for name, layer in self._layers.items():
            layer.forward = self.branches[name].forward  # type: ignore[method-assign]

    def detach(self) -> None:
        """Let every layer answer alone again."""
        for layer in self._layers.values():
            layer.__dict__.pop("forward", None)

    @contextmanager
    def weighing(self, multiplier: float) -> Iterator[None]:
        """Within, each layer answers with its change counted ``multiplier`` times, as the loader applies it.

        That is W + m (W' - W), whatever the kind: layers are linear in their weights.
        """
        for name, layer in self._layers.items():
            layer.forward = _weighed(layer, self.branches[name], multiplier)  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.attach()

    def begin(self, number: int, *, multiplier: float = 1.0) -> None:
        """Draw what is another in batch ``number``, and let the change count ``multiplier`` times in it.

        Each layer answers alone with the chance ``module_dropout``, never all of them.
        """
        draws: dict[str, float] = {}
        if self._module_dropout:
            draws = {name: noise.rng(self._seed, "module dropout", number, name).random() for name in self.branches}
        # Without any branch there would be no gradient, and no step.
        last = max(draws, key=draws.__getitem__, default="")
        for name, branch in self.named_branches():
            branch.begin(self._seed, number, name)
            branch.multiplier = multiplier
            branch.left_out = name != last and draws.get(name, 1.0) < self._module_dropout

    def limit_norms(self, most: float) -> None:
        """Scale every layer's change down whose Frobenius norm is above ``most``, all its matrices by the same factor.

        Source: sd-scripts' scale_weight_norms.
        """
        for _, branch in self.named_branches():
            branch.limit_norm(most)

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The adapter file's content: kohya's keys, alpha as a scalar, all in ``dtype`` on the CPU."""
        return {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in self._named()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights that ``tensors(torch.float32)`` gave. Raises KeyError if one is missing."""
        by_layer: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            name, _, suffix = key.partition(".")
            by_layer.setdefault(name, {})[suffix] = tensor
        for name, branch in self.named_branches():
            branch.take(by_layer[name])

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for name, branch in self.named_branches():
            yield from ((f"{name}.{suffix}", tensor) for suffix, tensor in branch.named())


def _weighed(layer: nn.Module, branch: nn.Module, multiplier: float) -> Callable[[Tensor], Tensor]:
    """A layer's answer with its branch's change counted ``multiplier`` times."""
    if multiplier == 1.0:
        return branch.forward

    def forward(x: Tensor) -> Tensor:
        alone = type(layer).forward(layer, x)
        return alone if multiplier == 0.0 else alone + multiplier * (branch(x) - alone)

    return forward
