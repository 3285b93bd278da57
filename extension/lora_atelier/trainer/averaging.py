"""The weights that a person gets, where those are not the ones that the next step starts from.

An average over the last steps (EMA) lies apart; a schedule-free optimizer computes what it has arrived at from what it
trains. Going there and back by arithmetic leaves rounding errors, so the trained weights are copied back instead:
looking at a run changes nothing in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of parameters, float32, on their device.

    m ← d·m + (1 - d)·p with d = min(``decay``, (1 + t) / (10 + t)) at step t, counted from 1: the first steps, which
    are mostly the start's, are soon forgotten. Source: Polyak & Juditsky 1992; the warm-up is TensorFlow's
    ExponentialMovingAverage.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._parameters = list(parameters)
        self._means = [parameter.detach().float().clone() for parameter in self._parameters]

    def update(self, step: int) -> None:
        """Take in the parameters as they are after ``step`` steps."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        now = [parameter.detach().float() for parameter in self._parameters]
        torch._foreach_lerp_(self._means, now, weight)

    @torch.no_grad()
    def show(self) -> None:
        """Put the average into the parameters."""
        for parameter, mean in zip(self._parameters, self._means, strict=True):
            parameter.copy_(mean)

    def state_dict(self) -> dict[str, Any]:
        """The averages in the parameters' order."""
        return {"means": [mean.cpu() for mean in self._means]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the averages that ``state_dict`` gave. Raises KeyError, ValueError, RuntimeError if they do not fit."""
        for mean, kept in zip(self._means, state["means"], strict=True):
            mean.copy_(kept)


@contextmanager
def arrived(
    parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, average: Average | None
) -> Iterator[None]:
    """Within, the parameters are what a person gets; afterwards bit for bit what the next step starts from."""
    schedule_free = is_schedule_free(optimizer)
    if average is None and not schedule_free:
        yield
        return
    trained = [parameter.detach().clone() for parameter in parameters]
    try:
        if average is not None:
            average.show()
        else:
            optimizer.eval()  # type: ignore[attr-defined]
        yield
    finally:
        if average is None:
            optimizer.train()  # type: ignore[attr-defined]
        _put_back(parameters, trained)


def is_schedule_free(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer trains other weights than it arrives at, and changes between them by train and eval."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return "train_mode" in inner.param_groups[0] and callable(getattr(inner, "eval", None))


@torch.no_grad()
def _put_back(parameters: Sequence[nn.Parameter], trained: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, trained, strict=True):
        parameter.copy_(value)
