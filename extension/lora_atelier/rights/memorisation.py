"""What the memorisation test of a LoRA found: which training pictures come back, and up to which weight none does.

It holds for the prompts and seeds of the test and says nothing of others. Needs no torch: ``trainer.memorising`` draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import Message, message
from . import memorisation_cost
from .guard import DETECTOR, Near, Verdict

SCHEMA = 1
FILE, FOLDER = memorisation_cost.FILE, "memorisation"
# The weights that are tried below 1, highest first.
WEIGHTS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)


@dataclass(frozen=True)
class Drawn:
    """One training picture that was drawn from its own caption: ``gap`` is how much the LoRA lowers its loss.

    ``safe_weight`` is the largest weight at which none of the seeds came near a training picture: 1 where none did at
    all, 0 where all weights did, None where the time did not suffice to find it. ``agreement`` is the median distance
    in bits between the seeds: memorised pictures are the same at every seed. ``pair`` is a file in ``FOLDER``.
    """

    name: str
    gap: float
    verdict: Verdict
    near: Near | None
    agreement: float
    safe_weight: float | None
    pair: str = ""


@dataclass(frozen=True)
class Compared:
    """One training picture whose loss was compared: ``gap`` is how much the LoRA lowers it."""

    name: str
    gap: float


@dataclass(frozen=True)
class TooShort:
    """Why no picture was drawn: drawing one takes ``needed_s`` seconds, and the test's part of the training has
    ``share_s``, which are ``percent`` of it. A training of ``least_steps`` would have the time."""

    needed_s: float
    share_s: float
    percent: float
    least_steps: int


@dataclass(frozen=True)
class Report:
    """The test of one LoRA: the pictures that were drawn, of how many; ``silent`` ones can't be compared.

    ``compared`` are those whose loss was looked at, the largest gap first; ``too_short`` says why none was drawn, where
    that was a question of time.
    """

    tested: tuple[Drawn, ...]
    of: int
    silent: int
    seeds: int
    steps: int
    cfg_scale: float
    seed: int
    seconds: float
    detector: str = DETECTOR
    compared: tuple[Compared, ...] = ()
    too_short: TooShort | None = None

    @property
    def hits(self) -> tuple[Drawn, ...]:
        """The pictures that came back at weight 1."""
        return tuple(each for each in self.tested if each.verdict != "nothing found")

    @property
    def safe_weight(self) -> float | None:
        """Up to which weight no training picture came back in this test; None where none did at weight 1."""
        if not self.hits:
            return None
        return min(0.0 if each.safe_weight is None else each.safe_weight for each in self.hits)

    def stamp(self) -> dict[str, Any]:
        """What the LoRA file says of the test: numbers, no names."""
        said: dict[str, Any] = {
            "schema": SCHEMA,
            "tested": len(self.tested),
            "of": self.of,
            "silent": self.silent,
            "seeds": self.seeds,
            "hits": len(self.hits),
            "compared": len(self.compared),
            "detector": self.detector,
        }
        if self.safe_weight is not None:
            said["safe_weight"] = self.safe_weight
        return said

    def to_json(self) -> dict[str, Any]:
        """All of it, names included: it stays in the run's directory."""
        return {
            "schema": SCHEMA,
            **asdict(self),
            "hits": len(self.hits),
            "safe_weight": self.safe_weight,
            "said": self.said.to_json(),
        }

    def write(self, run_dir: Path) -> None:
        """Write ``memorisation.json`` into the run's directory. Raises OSError."""
        atomic.write_text(run_dir / FILE, json.dumps(self.to_json(), ensure_ascii=False, indent=1) + "\n")

    @property
    def said(self) -> Message:
        """The result in a sentence."""
        if self.hits and self.safe_weight:
            return message(
                "Memorisation: {hits} of {tested} tested pictures come back at weight 1, the first is “{name}”; up to "
                "weight {weight} none did in this test.",
                hits=len(self.hits),
                tested=len(self.tested),
                name=self.hits[0].name,
                weight=self.safe_weight,
            )
        if self.hits:
            return message(
                "Memorisation: {hits} of {tested} tested pictures come back, the first is “{name}”, at every weight "
                "that was tried. See it fewer times, or train for fewer steps.",
                hits=len(self.hits),
                tested=len(self.tested),
                name=self.hits[0].name,
            )
        if self.too_short is not None:
            return self._without_drawing(self.too_short)
        if not self.tested:
            return message(
                "Memorisation: no picture was tested; {silent} of {total} are too plain or too much alike to compare.",
                silent=self.silent,
                total=self.of,
            )
        return message(
            "Memorisation: none of {tested} tested pictures came back, of {total} in all, with {seeds} seeds each.",
            tested=len(self.tested),
            total=self.of,
            seeds=self.seeds,
        )

    def _without_drawing(self, why: TooShort) -> Message:
        values = {
            "needed": _shown_s(why.needed_s),
            "share": _shown_s(why.share_s),
            "percent": round(why.percent, 1),
            "steps": why.least_steps,
        }
        if self.compared:
            return message(
                "Memorisation: no picture was drawn, as one takes about {needed} s and the test has {percent} % of the "
                "training's time, {share} s. Of {count} compared by their loss, “{name}” is remembered best. Train "
                "{steps} steps or more, or give the test a larger share (atelier_memorisation).",
                **values,
                count=len(self.compared),
                name=self.compared[0].name,
            )
        return message(
            "Memorisation: nothing was tested, as one picture takes about {needed} s and the test has {percent} % of "
            "the training's time, {share} s. Train {steps} steps or more, or give it a larger share "
            "(atelier_memorisation).",
            **values,
        )


def _shown_s(seconds: float) -> float:
    """Seconds as a person reads them: whole ones from ten on."""
    return round(seconds) if seconds >= 10 else round(seconds, 1)


def safest(is_free: Callable[[float], bool | None]) -> float | None:
    """The largest of ``WEIGHTS`` at which nothing comes back, by halving: likeness falls smoothly with the weight.

    0 where it does at all of them; None where ``is_free`` could not answer in time and nothing is known.
    """
    low, high = 0, len(WEIGHTS)  # WEIGHTS[high] and below are free, in index order from the highest weight
    known = False
    while low < high:
        middle = (low + high) // 2
        free = is_free(WEIGHTS[middle])
        if free is None:
            break
        known = True
        if free:
            high = middle
        else:
            low = middle + 1
    if high < len(WEIGHTS):
        return WEIGHTS[high]
    return 0.0 if known else None
