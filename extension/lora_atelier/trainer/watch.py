"""Notices what goes wrong in silence while a run goes on, and says it with a remedy.

Pure: it is fed with numbers, and yields sentences. Each kind of trouble is said once in a run.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import DataError, Message, message

# How often losses and gradients are read: reading waits for a graphics card, and trouble is to be noticed within 20
# steps of its beginning, so that there are two readings in these.
LOOK_EVERY = 10

# A gradient of this norm moves nothing in float32 beside weights of 0.01.
_ZERO_NORM = 1e-12
_ZERO_STEPS = 5
# From step to step the norm changes tenfold with the timestep alone; its median over ten steps does not.
_EXPLODED, _EXPLODED_NORM, _FEWEST_NORMS = 20.0, 1_000.0, 20
# Buckets of several shapes differ by less.
_SLOWER, _SLOW_S = 3.0, 0.05
_UNMOVED_STEPS = 10
# Share of the loss, over a whole run, that is as good as none.
_UNREACHED = 1e-3
# Standard deviation of a picture's pixels (0 to 255): a cloudless sky has more.
_FLAT = 4.0
# What a VAE that fails makes is black; a plain ground that a model draws because it was asked for has 1.4.
_BLANK = 1.0
_FLATTENED = 0.2
# Relative change of a loss with fixed noise and timesteps that is as good as none, and when it is judged.
_STILL, _STILL_MEASUREMENTS = 1e-3, 4


def diverged(step: int, kept: int = 0) -> DataError:
    """The end of a run whose loss or weights are no longer numbers; ``kept`` is the step of its last good state."""
    why = "The learning rate may be too high, or the precision of the computation too low."
    if kept:
        return DataError(
            "The training went wrong at step {step}: its loss or its weights are no longer numbers.",
            why=why,
            todo="The checkpoint of step {kept} is good. To train on, start anew with half the learning rate, or with "
            "bf16 or no mixed precision.",
            step=step,
            kept=kept,
        )
    return DataError(
        "The training went wrong at step {step}: its loss or its weights are no longer numbers.",
        why=why,
        todo="Halve the learning rate, or choose bf16 or no mixed precision, and train again.",
        step=step,
    )


@dataclass(frozen=True)
class Look:
    """What was read of the steps since the look before, the last of which is ``step``.

    ``norms`` are those of the gradients, before clipping; a step that a loss scale skipped has None. ``seconds`` are
    those of each step; ``moved`` says whether any weight is another than at the look before. ``reach`` is how far the
    weights that began as nothing will have come at the end, at the pace of these steps (their norm); None where that
    is not known.
    """

    step: int
    losses: Sequence[float]
    norms: Sequence[float | None]
    seconds: Sequence[float] = ()
    moved: bool = True
    reach: float | None = None


@dataclass
class Watch:
    """What a run was like so far; ``kept`` is the step of its last good state."""

    kept: int = 0
    _said: set[str] = field(default_factory=set)
    _zeros: int = 0
    _norms: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    _seconds: list[float] = field(default_factory=list)
    _paces: list[float] = field(default_factory=list)
    _unmoved: int = 0
    _deviations: dict[str, float] = field(default_factory=dict)
    _measured: list[float] = field(default_factory=list)

    def look(self, seen: Look) -> Iterator[Message]:
        """What to say of these steps. Raises DataError if a loss or a norm is no number."""
        known = [norm for norm in seen.norms if norm is not None]
        if not all(math.isfinite(number) for number in (*seen.losses, *known)):
            raise diverged(seen.step, self.kept)
        yield from self._gradients(known)
        yield from self._movement(0 if seen.moved else len(known))
        yield from self._reach(seen, known)
        self._seconds += seen.seconds
        while len(self._seconds) >= LOOK_EVERY:
            window, self._seconds = self._seconds[:LOOK_EVERY], self._seconds[LOOK_EVERY:]
            yield from self._pace(statistics.fmean(window))

    def _gradients(self, norms: Sequence[float]) -> Iterator[Message]:
        for norm in norms:
            self._zeros = self._zeros + 1 if norm < _ZERO_NORM else 0
            if self._zeros >= _ZERO_STEPS and self._first("zero"):
                yield message(
                    "Nothing has been learned for {count} steps: all gradients are zero. See whether the masks are "
                    "black or a weight of the loss is 0; with fp16, choose bf16 or no mixed precision.",
                    count=self._zeros,
                )
        self._norms.extend(norms)
        recent, before = list(self._norms)[-LOOK_EVERY:], list(self._norms)[:-LOOK_EVERY]
        if len(recent) < LOOK_EVERY:
            return
        now = statistics.median(recent)
        usual = statistics.median(before) if len(before) >= _FEWEST_NORMS - LOOK_EVERY else math.inf
        if (now > _EXPLODED_NORM or now > _EXPLODED * usual > 0) and self._first("exploding"):
            yield message(
                "The gradients have become very large: {now} (they were {usual}). The picture may break soon. Stop, "
                "halve the learning rate, and let max_grad_norm be 1.",
                now=_short(now),
                usual=_short(usual) if usual < math.inf else "–",
            )

    def _movement(self, unmoved: int) -> Iterator[Message]:
        self._unmoved = self._unmoved + unmoved if unmoved else 0
        # Where there are no gradients, that is what is to be said.
        if self._unmoved >= _UNMOVED_STEPS and "zero" not in self._said and self._first("unmoved"):
            yield message(
                "The LoRA has not changed for {count} steps. The learning rate is 0, or too small for the precision: "
                "raise it.",
                count=self._unmoved,
            )

    def _reach(self, seen: Look, norms: Sequence[float]) -> Iterator[Message]:
        """To the first order a loss changes by no more than the way of the weights times the norm of its gradient."""
        if seen.reach is None or not norms or not seen.losses or {"zero", "unmoved"} & self._said:
            return
        most = seen.reach * max(norms)
        if most < _UNREACHED * statistics.fmean(seen.losses) and self._first("unreached"):
            yield message(
                "The loss will not move: at this pace the LoRA changes it by {change} over the whole run. Raise the "
                "learning rate; 0.0001 is usual.",
                change=_short(most),
            )

    def _pace(self, seconds: float) -> Iterator[Message]:
        # The first steps compile and allocate.
        usual = statistics.median(self._paces[1:]) if len(self._paces) > 1 else math.inf
        self._paces.append(seconds)
        if seconds > _SLOW_S and seconds > _SLOWER * usual and self._first("pace"):
            yield message(
                "A step takes {now} s now; it took {usual} s. Another program may use the machine, or the graphics "
                "card's memory is full and main memory takes its place: close other programs, or choose a smaller "
                "batch or resolution.",
                now=_short(seconds),
                usual=_short(usual),
            )

    def sampled(self, file: str, prompt: str, deviation: float) -> Iterator[Message]:
        """What to say of a sample picture with this standard deviation of its pixels (0 to 255)."""
        first = self._deviations.setdefault(prompt, deviation)
        # A prompt whose picture was plain from the start tells nothing by being plain.
        least = max(_FLAT, _FLATTENED * first) if first >= _FLAT else _BLANK
        if deviation < least and self._first("flat"):
            if first < _BLANK:
                yield message(
                    "The sample {file} is one plain colour, and was before anything was trained: the VAE may fail in "
                    "half precision. Set no_half_vae, or choose no mixed precision.",
                    file=file,
                )
                return
            yield message(
                "The sample {file} has nearly become one plain colour: the training goes too far. Stop, take an "
                "earlier checkpoint, and halve the learning rate.",
                file=file,
            )

    def measured(self, step: int, loss: float) -> Iterator[Message]:
        """What to say of a held-out loss. Raises DataError if it is no number."""
        if not math.isfinite(loss):
            raise diverged(step, self.kept)
        self._measured.append(loss)
        first = self._measured[0]
        farthest = max(abs(each - first) for each in self._measured)
        if len(self._measured) >= _STILL_MEASUREMENTS and farthest < _STILL * first and self._first("still"):
            yield message(
                "The held-out loss has not moved in {step} steps: it was {before} and is {now}. Raise the learning "
                "rate, and see whether the captions fit the pictures.",
                step=step,
                before=_short(first),
                now=_short(loss),
            )

    def _first(self, kind: str) -> bool:
        """Whether this kind of trouble is said for the first time; from now on it is said."""
        if kind in self._said:
            return False
        self._said.add(kind)
        return True


def _short(number: float) -> str:
    return f"{number:.3g}"
