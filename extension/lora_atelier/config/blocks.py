"""Factors of the learning rate for the blocks of the U-Net, as sd-scripts writes them: numbers, or a curve's name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping

from ..errors import Problem, problem

# How a factor grows over the blocks, from 0 to 1; ``x`` runs from 0 to 1.
CURVES: Mapping[str, Callable[[float], float]] = {
    "sine": lambda x: math.sin(math.pi / 2 * x),
    "cosine": lambda x: math.cos(math.pi / 2 * x),
    "linear": lambda x: x,
    "reverse_linear": lambda x: 1 - x,
    "zeros": lambda x: 0.0,
}
# Blocks that have a factor or a rank of their own, by family: down, middle, up.
BLOCKS: Mapping[str, tuple[int, int, int]] = {"sd1": (12, 1, 12), "sd2": (12, 1, 12), "sdxl": (9, 3, 9)}
# Ranks by block: SDXL's U-Net has two places more, the embeddings before it and the output after it.
DIMS: Mapping[str, int] = {"sd1": 25, "sd2": 25, "sdxl": 23}


def block_weights(text: str, count: int, *, threshold: float = 0.0) -> tuple[float, ...]:
    """The factors of ``count`` blocks: ``"1,0.5,…"``, or a curve like ``"sine+0.25"``; 1 each if there is none.

    Factors that are not above ``threshold`` are 0: such blocks are not trained. Raises ValueError if the text is
    neither, or has another number of factors.
    """
    text = text.strip()
    if not text:
        return (1.0,) * count
    name, _, offset = text.partition("+")
    if name.strip() in CURVES:
        curve, base = CURVES[name.strip()], float(offset or 0)
        factors = [curve(at / max(1, count - 1)) + base for at in range(count)]
    else:
        factors = [float(part) for part in text.split(",")]
    if len(factors) != count or not all(math.isfinite(factor) and factor >= 0 for factor in factors):
        raise ValueError(text)
    return tuple(factor if factor > threshold else 0.0 for factor in factors)


def weight_problems(where: str, text: str) -> Iterator[Problem]:
    """A problem if ``text`` holds neither numbers nor a curve, whatever their count."""
    name, _, offset = text.partition("+")
    try:
        numbers = [float(offset or 0)] if name.strip() in CURVES else [float(part) for part in text.split(",") if text]
    except ValueError:
        near = difflib.get_close_matches(name.strip(), CURVES, n=1)
        yield problem(
            where,
            "“{text}” is neither numbers parted by commas nor a curve; the nearest curve is “{near}”.",
            text=text,
            near=near[0] if near else "linear",
        )
        return
    if not all(0 <= number < math.inf for number in numbers):
        yield problem(where, "“{text}” has a number below 0; factors of a learning rate are 0 or more.", text=text)
