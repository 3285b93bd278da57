"""What every family of adapters is: the change of one parameter of a layer, at multiplier 1."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Adapter(ABC):
    """The change of one parameter (a weight, a bias) of one layer.

    Whatever the family, a multiplier m means W + m·(W'(1) - W), so that 0 is exactly nothing and 1 is what was trained;
    ``delta`` is W'(1) - W. An adapter never writes to its own tensors or to the weight that it is given.
    """

    # Whether ``delta`` looks at the weight's numbers, and not only at its shape and device.
    reads_weight = True
    # Whether ``factors`` gives the change as a product of two small matrices.
    is_low_rank = False

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the weights that this is for, as far as the file tells: some families know the rows alone."""

    @abstractmethod
    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at multiplier 1, float32, in the shape and on the device of the unchanged ``weight``."""

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a parameter of this shape can be changed by this adapter; sizes of 1 at the end do not count.

        A 1x1 convolution in one version of a model is a linear layer in another, with the same numbers.
        """
        return trimmed(self.shape) == trimmed(shape)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Return U (o, r) and D (r, n), float32, whose product is the flattened change; None if it is no such product.

        A family that has factors does not depend on the weight.
        """
        return None

    def to(self, device: torch.device) -> Adapter:
        """Return the adapter with its tensors on ``device``, in the precision that they are stored in."""
        this: Any = self  # every family is a dataclass
        moved = {field.name: _moved(getattr(this, field.name), device) for field in dataclasses.fields(this)}
        changed: Adapter = dataclasses.replace(this, **moved)
        return changed

    def with_rank(self, rank: int) -> Adapter:
        """Return the adapter cut to its first ``rank`` components; a family that can't be cut returns itself."""
        return self


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, (Tensor, Adapter)):
        return value.to(device)
    return tuple(_moved(each, device) for each in value) if isinstance(value, tuple) else value


def trimmed(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without the sizes of 1 at its end, of which a convolution has two more than a linear layer."""
    shape = tuple(shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def scale_of(weights: Mapping[str, Tensor], rank: int) -> float:
    """Return alpha / rank. A file without alpha means alpha = rank (kohya, LyCORIS)."""
    return float(weights["alpha"]) / rank if "alpha" in weights else 1.0


def matrix(tensor: Tensor) -> Tensor:
    """Return a tensor as float32 with its first size as rows and all others as columns."""
    return tensor.float().reshape(tensor.shape[0], -1)


def columns(shape: Sequence[int]) -> int:
    """The columns of a weight as a matrix: everything behind its first size."""
    return math.prod(tuple(shape)[1:])
