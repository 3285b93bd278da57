"""Tests one LoRA for pictures that come back, within a share of its training's time.

Ranked by loss gap, drawn from their own captions, compared as the guard compares, the weight halved. What is done is
judged beforehand by the training's own steps: drawing a picture takes as long as about ninety of them, which a short
training does not have. Sources: rights.md 3.4; Carlini et al. 2023, Extracting Training Data from Diffusion Models
(seeds that agree); T-LoRA 2025 (high timesteps overfit first).
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from .. import atomic
from ..config import TrainConfig
from ..datasets.items import Item
from ..models import sample as sampling
from ..rights import calibration, guard, memorisation, memorisation_cost, pdq
from ..rights.calibration import Prepared
from ..rights.fingerprints import DOUBT
from ..rights.guard import Finding, Near, Output
from ..rights.guard_log import side_by_side
from ..rights.memorisation import Compared, Drawn, Report, TooShort
from ..rights.memorisation_cost import COMPARING, DRAWING, MOST, SEEDS, STEPS
from ..rights.references import References
from . import noise
from .batches import BatchPlan
from .parts import Parts
from .run import Run
from .trainee import Batch, Example, Trainee

# Timesteps at which the loss is compared; high ones overfit first.
_LADDER = tuple(range(400, 901, 71))
# The least side, in pixels, that is drawn (``models.sample``); pictures of smaller buckets are not tested.
_LEAST_SIDE = 64
# Pictures that were seen so many times as often as the middle one are drawn beside the ``MOST`` first.
_OFTEN = 3
_BATCH_PIXELS = 256 * 256 * 4
# How many times ``SEEDS`` seeds have to stay away from a picture for a weight below 1 to be named.
_SURE = 2

T = TypeVar("T")


@dataclass(frozen=True)
class Allowed:
    """The training that a test comes after: its steps and seconds, and what one pass of a pixel took (seconds)."""

    steps: int
    train_seconds: float
    pixel_s: float


def pass_seconds(config: TrainConfig, plan: BatchPlan, step_s: float) -> float:
    """Seconds of one pass through the U-Net for each pixel of a picture, by those of a training step."""
    passes = memorisation_cost.step_passes(gradient_checkpointing=config.schedule.gradient_checkpointing)
    return step_s / (passes * config.schedule.accumulation * plan.mean_pixels())


def is_drawable(size: tuple[int, int]) -> bool:
    """Whether pictures of this (width, height) can be drawn."""
    return min(size) >= _LEAST_SIDE


@contextlib.contextmanager
def complete(this: Run, trainee: Trainee) -> Iterator[None]:
    """Within, the model has the parts that drawing needs; those that were read for it are freed afterwards."""
    model, config = trainee.model, this.config
    vae, encoders, tokenizers = model.vae, model.text_encoders, model.tokenizers
    parts = Parts.of(config.model, model.info, trainee.device)
    try:
        if model.vae is None:
            dtype = torch.float32 if config.model.no_half_vae else model.unet.dtype
            model.vae = parts.load("vae", dtype).vae
        if not model.text_encoders:
            read = parts.load("te", model.unet.dtype)
            model.text_encoders, model.tokenizers = read.text_encoders, read.tokenizers
        yield
    finally:
        model.vae, model.text_encoders, model.tokenizers = vae, encoders, tokenizers


class Examiner:
    """Tests one LoRA within a ``share`` of its training's time; the most suspicious pictures come first.

    What won't end within that time is not begun.
    """

    def __init__(
        self,
        this: Run,
        trainee: Trainee,
        tests: Sequence[tuple[Item, Example]],
        prepared: Sequence[Prepared],
        *,
        allowed: Allowed,
        share: float,
    ) -> None:
        self.this, self.trainee, self.tests = this, trainee, tests
        self.known: References = calibration.build("", prepared)
        self.began = time.monotonic()
        self.allowed, self.share = allowed, share
        self.seconds = share * allowed.train_seconds
        self.seed = this.config.schedule.seed
        self.cfg_scale = 3.0 if trainee.model.info.family == "toy" else 7.0
        # Seconds of a pass for each pixel, by what was done: foretold from the training's steps, then measured.
        self._pixel_s: dict[str, float] = {}

    def examine(self) -> Report:
        """The report; the pictures that came back first, then by loss gap."""
        gaps = self._gaps()
        chosen = self._chosen(gaps)
        # Where nothing could be compared in time, nothing can be drawn.
        fits = bool(chosen) and self._is_time(min(map(self._drawing_s, chosen)), self.seconds)
        tested: list[Drawn] = []
        if fits:
            with complete(self.this, self.trainee):
                for at in chosen:
                    made = self._tested(at, gaps[at], len(tested) + 1)
                    if made is not None:
                        tested.append(made)
        tested.sort(key=lambda each: (each.verdict == "nothing found", -each.gap))
        return Report(
            tested=tuple(tested),
            of=len(self.tests),
            silent=int((self.known.limits[:, 0] == 0).sum()),
            seeds=SEEDS,
            steps=STEPS,
            cfg_scale=self.cfg_scale,
            seed=self.seed,
            seconds=round(time.monotonic() - self.began, 2),
            compared=tuple(Compared(self.tests[at][0].path.name, round(gaps[at], 4)) for at in gaps),
            too_short=None if tested else self._too_short(),
        )

    def _too_short(self) -> TooShort | None:
        """Why nothing was drawn; None where there was nothing to draw, or the run is to end."""
        telling = self._telling()
        if not telling or self.this.stop_requested():
            return None
        needed = min(self._comparing_s(at) + self._drawing_s(at) for at in telling)
        steps = memorisation_cost.least_steps(self.allowed.steps, self.seconds, needed)
        return TooShort(round(needed, 2), round(self.seconds, 2), 100 * self.share, steps)

    # -------------------------------------------------------------------------------------------- which pictures

    def _telling(self) -> list[int]:
        """The pictures that can be drawn and told apart; those that were seen most often first."""
        drawable = [at for at, (_, example) in enumerate(self.tests) if is_drawable(example.size)]
        telling = [at for at in drawable if self.known.limits[at, 0]]
        return sorted(telling, key=lambda at: -self.tests[at][0].num_repeats)

    def _gaps(self) -> dict[int, float]:
        """The loss gaps of as many pictures as there is time for, the largest first."""
        telling = self._telling()
        gaps: dict[int, float] = {}
        for at in telling:
            pass_s = min(self._drawing_s(each) for each in telling) / DRAWING
            until = memorisation_cost.comparing_until(self.seconds, pass_s)
            gap = self._timed("compare", at, COMPARING, partial(self._gap, self.tests[at][1]), until=until)
            if gap is not None:
                gaps[at] = gap
        return dict(sorted(gaps.items(), key=lambda each: -each[1]))

    def _chosen(self, gaps: Mapping[int, float]) -> list[int]:
        """Which pictures to draw: those of the largest gaps, and those that were seen unusually often."""
        ranked = list(gaps)
        middle = statistics.median([self.tests[at][0].num_repeats for at in self._telling()]) if ranked else 1
        often = [at for at in ranked[MOST:] if self.tests[at][0].num_repeats > _OFTEN * middle]
        return [*ranked[:MOST], *often]

    @torch.no_grad()
    def _gap(self, example: Example) -> float:
        """How much lower the loss of a picture is with the LoRA than without: same noise, same timesteps."""
        mean, count = example.posteriors[0][0], len(_LADDER)
        batch = Batch(
            latents=mean.expand(count, *mean.shape),
            noises=torch.stack(
                [noise.gaussian(mean.shape, self.seed, "memorised", example.key, at) for at in range(count)]
            ),
            timesteps=torch.tensor(_LADDER),
            captions=[example.caption] * count,
            size=example.size,
        )
        on = float(self.trainee.loss_per_picture(batch).mean())
        with self.trainee.network.weighing(0.0):
            off = float(self.trainee.loss_per_picture(batch).mean())
        return off - on

    # -------------------------------------------------------------------------------------------- one picture

    def _tested(self, at: int, gap: float, number: int) -> Drawn | None:
        """Draw a picture at weight 1 and, if it comes back, at lower ones; None where there is no time for it."""
        item, example = self.tests[at]
        drawn = self._timed("draw", at, DRAWING, lambda: self._draw(example, 1.0))
        if drawn is None:
            return None
        found = [self._look(each) for each in drawn]
        worst = max(range(len(found)), key=lambda each: _rank(found[each]))
        if found[worst].verdict == "nothing found":
            return Drawn(item.path.name, round(gap, 4), "nothing found", found[worst].near, _agreement(drawn), 1.0)
        pair = self._keep_pair(drawn[worst], found[worst], number)

        def is_free(weight: float) -> bool | None:
            # That none came near is said of other seeds as well: they are drawn with as many again as at weight 1.
            for seeds in range(_SURE):
                draw = partial(self._draw, example, weight, seeds)
                # Such a weight is worth more than the next picture: what is left of the time may be overdrawn by half.
                lower = self._timed("draw", at, DRAWING, draw, until=1.5 * self.seconds)
                if lower is None:
                    return None
                if any(_is_near(self._look(each)) for each in lower):
                    return False
            return True

        free = memorisation.safest(is_free)
        verdict, near = found[worst].verdict, found[worst].near
        return Drawn(item.path.name, round(gap, 4), verdict, near, _agreement(drawn), free, pair)

    def _draw(self, example: Example, weight: float, part: int = 0) -> list[Image.Image]:
        """Pictures of the caption; each ``part`` has seeds of its own."""
        width, height = example.size
        numbers = range(part * SEEDS, (part + 1) * SEEDS)
        seeds = [noise.rng(self.seed, "memorised", example.key, at).randrange(1 << 32) for at in numbers]
        count = max(1, _BATCH_PIXELS // (width * height))
        pictures: list[Image.Image] = []
        with self.trainee.network.weighing(weight):
            for start in range(0, SEEDS, count):
                request = sampling.Txt2Img(
                    prompts=[example.caption],
                    steps=STEPS,
                    cfg_scale=self.cfg_scale,
                    width=width,
                    height=height,
                    seeds=seeds[start : start + count],
                    clip_skip=self.this.config.model.clip_skip or None,
                )
                pictures += sampling.sample(self.trainee.model, request)
        return pictures

    def _look(self, picture: Image.Image) -> Finding:
        return guard.compare(Output(picture), [(self.this.config.output.name, self.known)])

    def _keep_pair(self, picture: Image.Image, found: Finding, number: int) -> str:
        assert found.near is not None
        path = self.this.path / memorisation.FOLDER / f"{number:02}.png"
        pair = side_by_side(picture, self.known.picture(found.near.at), found.near.picture, found.near.lora)
        atomic.write_with(path, lambda file: pair.save(file, format="PNG"))
        return path.name

    # -------------------------------------------------------------------------------------------------- the time

    def _timed(self, kind: str, at: int, passes: int, work: Callable[[], T], *, until: float | None = None) -> T | None:
        """Do ``work`` on picture ``at`` if it will have ended after ``until`` seconds of the test, all of its time
        where that is None; else return None."""
        foretold = self._foretold(kind, at, passes)
        if self.this.stop_requested() or not self._is_time(foretold, self.seconds if until is None else until):
            return None
        began = time.monotonic()
        made = work()
        self._pixel_s[kind] = (time.monotonic() - began) / (passes * self._pixels(at))
        return made

    def _is_time(self, seconds: float, until: float) -> bool:
        return time.monotonic() - self.began + seconds <= until

    def _drawing_s(self, at: int) -> float:
        return self._foretold("draw", at, DRAWING)

    def _comparing_s(self, at: int) -> float:
        return self._foretold("compare", at, COMPARING)

    def _foretold(self, kind: str, at: int, passes: int) -> float:
        """Seconds of some passes of a picture, by the last work of this kind, of another, or by the training."""
        nearest = self._pixel_s.get("compare", self.allowed.pixel_s)
        return self._pixel_s.get(kind, nearest) * passes * self._pixels(at)

    def _pixels(self, at: int) -> int:
        width, height = self.tests[at][1].size
        return width * height


def _rank(found: Finding) -> tuple[int, float]:
    order = ("nothing found", "close", "copy-like")
    return order.index(found.verdict), guard.closeness(found.near) if found.near else 0.0


def _is_near(found: Finding) -> bool:
    """Whether a picture is like a training picture, or its hash leaves doubt: another seed may be nearer."""
    near: Near | None = found.near
    return found.verdict != "nothing found" or (near is not None and near.look == "whole" and near.value < DOUBT)


def _agreement(pictures: Sequence[Image.Image]) -> float:
    """The median distance between the pictures of several seeds, in bits."""
    hashes = np.stack([pdq.quick(pdq.luma(each)).bits for each in pictures])
    apart = pdq.distances(hashes, hashes)
    return float(np.median(apart[np.triu_indices(len(pictures), 1)]))
