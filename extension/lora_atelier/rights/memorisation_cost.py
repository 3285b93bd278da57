"""What the memorisation test takes, foretold from the time of a pass through the U-Net, and as it took.

Needs neither torch nor Pillow.

A pass is one picture through the U-Net once, forward. A picture is compared by its loss first, then drawn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# What a run keeps of its test.
FILE = "memorisation.json"
# Timesteps at which the loss is compared, with the LoRA and without; seeds that are drawn, and steps of each.
TIMESTEPS, SEEDS, STEPS = 8, 4, 20
# Pictures that are drawn at most, beside those that were seen unusually often.
MOST = 12
COMPARING = 2 * TIMESTEPS
# Guidance makes two passes of each step. Decoding is about three: 1.2e12 multiplications at 512 pixels beside 0.4e12.
DRAWING = SEEDS * (2 * STEPS + 3)
# What comparing may take of the time, so that drawing has some.
COMPARING_SHARE = 0.4


def step_passes(*, gradient_checkpointing: bool) -> int:
    """The passes that a training step is for each of its pictures: forward, and backward to the frozen layers' inputs,
    which takes as long; with gradient checkpointing forward twice."""
    return 3 if gradient_checkpointing else 2


@dataclass(frozen=True)
class Foretold:
    """How many pictures are compared and drawn, and how many seconds that takes."""

    compared: int = 0
    drawn: int = 0
    seconds: float = 0.0


def comparing_until(share_s: float, pass_s: float) -> float:
    """Seconds that comparing may take of ``share_s``: less where one picture can be drawn as well, all where not."""
    left = share_s - DRAWING * pass_s
    return min(COMPARING_SHARE * share_s, left) if left >= COMPARING * pass_s else share_s


def foretell(share_s: float, passes_s: Sequence[float]) -> Foretold:
    """What will be done within ``share_s`` seconds of pictures whose pass takes ``passes_s`` seconds each."""
    if not passes_s or share_s <= 0:
        return Foretold()
    until, spent, compared = comparing_until(share_s, min(passes_s)), 0.0, 0
    for each in passes_s:
        if spent + COMPARING * each <= until:
            spent, compared = spent + COMPARING * each, compared + 1
    drawn = 0
    for each in sorted(passes_s)[: min(MOST, compared)]:
        if spent + DRAWING * each <= share_s:
            spent, drawn = spent + DRAWING * each, drawn + 1
    return Foretold(compared, drawn, spent)


def least_steps(steps: int, share_s: float, needed_s: float) -> int:
    """The steps of a training whose share would suffice for ``needed_s``, to two digits, rounded up."""
    exact = steps * needed_s / share_s
    unit = 10 ** max(0, math.floor(math.log10(exact)) - 1) if exact > 0 else 1
    return math.ceil(exact / unit) * unit


def seconds_of(run_dir: Path) -> float:
    """How long the test of a run took; 0 where there was none."""
    try:
        return float(json.loads((run_dir / FILE).read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
