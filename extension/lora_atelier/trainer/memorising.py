"""The memorisation test at the end of a training: which pictures does the LoRA give back, and up to which weight?

Ranked by loss gap, drawn from their own captions, compared as the guard compares, the weight halved; all of it within
a share of the training's own time. Sources: rights.md 3.4; Carlini et al. 2023, Extracting Training Data from
Diffusion Models (seeds that agree); T-LoRA 2025 (high timesteps overfit first).
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from .. import atomic
from ..datasets.items import Item
from ..errors import ExtensionError, message
from ..models import sample as sampling
from ..rights import calibration, guard, memorisation, pdq, references
from ..rights.calibration import Prepared
from ..rights.fingerprints import DOUBT
from ..rights.guard import Finding, Near, Output
from ..rights.guard_log import side_by_side
from ..rights.memorisation import Drawn, Report
from ..rights.references import References
from . import noise
from .parts import Parts
from .pictures import Pictures
from .run import Run
from .trainee import Batch, Example, Trainee

# Timesteps at which the loss is compared; high ones overfit first.
_LADDER = tuple(range(400, 901, 71))
_SEEDS, _STEPS = 4, 20
# The least side, in pixels, that is drawn (``models.sample``); pictures of smaller buckets are not tested.
_LEAST_SIDE = 64
# Pictures that are drawn at most, beside those that were seen three times as often as the middle one.
_MOST = 12
_OFTEN = 3
_BATCH_PIXELS = 256 * 256 * 4

T = TypeVar("T")


@dataclass
class Memorised:
    """What the end of a training knows of its pictures: the test's report, and what the guard keeps beside the LoRA."""

    prepared: list[Prepared] = field(default_factory=list)
    report: Report | None = None

    def keep(self, adapter: Path, model_hash: str) -> None:
        """Write the pictures' fingerprints beside the LoRA. Raises OSError."""
        if self.prepared:
            calibration.build(model_hash, self.prepared).write(references.beside(adapter))


def memorise(
    this: Run,
    trainee: Trainee,
    pictures: Pictures,
    examples: Sequence[Example],
    *,
    train_seconds: float,
    best: Path | None = None,
) -> Memorised:
    """Take the pictures' fingerprints and test what was trained; ``best`` is the adapter file that is the result.

    Whatever fails is a warning: the LoRA must not be lost to it. Writes the report into the run's directory.
    """
    found = Memorised()
    share = this.config.validation.memorisation
    try:
        own = [(item, example) for item, example in zip(pictures.train, examples, strict=True) if not item.is_reg]
        prepared = {item: made for item, _ in own if (made := _prepared(pictures, item)) is not None}
        found.prepared = list(prepared.values())
        if share and prepared:
            tests = [(item, example) for item, example in own if item in prepared]
            with _weights(trainee, best), complete(this, trainee):
                examiner = Examiner(this, trainee, tests, found.prepared, seconds=share * train_seconds)
                found.report = examiner.examine()
            found.report.write(this.path)
            if found.report.hits:
                this.warn(found.report.said)
            print(found.report.said, flush=True)
    except (ExtensionError, OSError, RuntimeError, MemoryError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        this.warn(message("The memorisation test failed: {reason}.", reason=reason))
    return found


def _prepared(pictures: Pictures, item: Item) -> Prepared | None:
    """What is kept of a picture as the model saw it; None if its file is another now."""
    try:
        return calibration.prepare(item.path.name, pictures.admitted.sha256(item), pictures.show(item).picture)
    except ExtensionError:
        return None


@contextlib.contextmanager
def _weights(trainee: Trainee, best: Path | None) -> Iterator[None]:
    """Within, the network has the weights of the result; afterwards those of training."""
    with trainee.arrived():
        if best is None:
            yield
            return
        trained = trainee.network.tensors(torch.float32)
        try:
            trainee.network.load({key: tensor.float() for key, tensor in load_file(best).items()})
            yield
        finally:
            trainee.network.load(trained)


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
        trainee.network.eval()
        yield
    finally:
        trainee.network.train()
        model.vae, model.text_encoders, model.tokenizers = vae, encoders, tokenizers


class Examiner:
    """Tests one LoRA within ``seconds``; what does not fit into them is not done, the most suspicious comes first."""

    def __init__(
        self,
        this: Run,
        trainee: Trainee,
        tests: Sequence[tuple[Item, Example]],
        prepared: Sequence[Prepared],
        *,
        seconds: float,
    ) -> None:
        self.this, self.trainee, self.tests = this, trainee, tests
        self.known: References = calibration.build("", prepared)
        self.began = time.monotonic()
        self.seconds = seconds
        self.seed = this.config.schedule.seed
        self.cfg_scale = 3.0 if trainee.model.info.family == "toy" else 7.0
        self._took: dict[str, float] = {}

    def examine(self) -> Report:
        """The report; the pictures that came back first, then by loss gap."""
        silent = int((self.known.limits[:, 0] == 0).sum())
        tested: list[Drawn] = []
        for at, gap in self._chosen():
            made = self._tested(at, gap, len(tested) + 1)
            if made is None:
                break
            tested.append(made)
        tested.sort(key=lambda each: (each.verdict == "nothing found", -each.gap))
        return Report(
            tested=tuple(tested),
            of=len(self.tests),
            silent=silent,
            seeds=_SEEDS,
            steps=_STEPS,
            cfg_scale=self.cfg_scale,
            seed=self.seed,
            seconds=round(time.monotonic() - self.began, 2),
        )

    # -------------------------------------------------------------------------------------------- which pictures

    def _chosen(self) -> list[tuple[int, float]]:
        """Which pictures to draw and their loss gaps: the largest first."""
        drawable = [at for at, (_, example) in enumerate(self.tests) if min(example.size) >= _LEAST_SIDE]
        telling = [at for at in drawable if self.known.limits[at, 0]]
        # Where the time does not suffice for all, those that were seen most often.
        telling.sort(key=lambda at: -self.tests[at][0].num_repeats)
        gaps: dict[int, float] = {}
        for at in telling:
            gap = self._timed("rank", partial(self._gap, self.tests[at][1]), share=0.4)
            if gap is None:
                break
            gaps[at] = gap
        ranked = sorted(gaps.items(), key=lambda each: -each[1])
        middle = statistics.median([self.tests[at][0].num_repeats for at in telling]) if telling else 1
        often = [each for each in ranked[_MOST:] if self.tests[each[0]][0].num_repeats > _OFTEN * middle]
        return [*ranked[:_MOST], *often]

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
        drawn = self._timed("draw", lambda: self._draw(example, 1.0))
        if drawn is None:
            return None
        found = [self._look(each) for each in drawn]
        worst = max(range(len(found)), key=lambda each: _rank(found[each]))
        if found[worst].verdict == "nothing found":
            return Drawn(item.path.name, round(gap, 4), "nothing found", found[worst].near, _agreement(drawn), 1.0)
        pair = self._keep_pair(drawn[worst], found[worst], number)

        def is_free(weight: float) -> bool | None:
            # A safe weight is worth more than the next picture: what is left of the time may be overdrawn by half.
            lower = self._timed("draw", lambda: self._draw(example, weight), share=1.5)
            return None if lower is None else not any(_is_near(self._look(each)) for each in lower)

        free = memorisation.safest(is_free)
        verdict, near = found[worst].verdict, found[worst].near
        return Drawn(item.path.name, round(gap, 4), verdict, near, _agreement(drawn), free, pair)

    def _draw(self, example: Example, weight: float) -> list[Image.Image]:
        width, height = example.size
        seeds = [noise.rng(self.seed, "memorised", example.key, at).randrange(1 << 32) for at in range(_SEEDS)]
        count = max(1, _BATCH_PIXELS // (width * height))
        pictures: list[Image.Image] = []
        with self.trainee.network.weighing(weight):
            for start in range(0, _SEEDS, count):
                request = sampling.Txt2Img(
                    prompts=[example.caption],
                    steps=_STEPS,
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

    def _timed(self, kind: str, work: Callable[[], T], *, share: float = 1.0) -> T | None:
        """Do ``work`` if it will end within ``share`` of the time, judged by the last of its kind; else None.

        The first of a kind is done where any time is left.
        """
        now = time.monotonic()
        if self.this.stop_requested() or now - self.began + self._took.get(kind, 0.0) > share * self.seconds:
            return None
        made = work()
        self._took[kind] = time.monotonic() - now
        return made


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
