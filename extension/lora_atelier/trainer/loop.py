"""The training loop: batches -> loss -> optimizer, with reports, measurements, samples, checkpoints and a way out."""

from __future__ import annotations

import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..config import LossConfig, TrainConfig
from ..errors import Message
from ..events import Stepped, Validated
from ..models.load import Model
from ..models.text import TextConditioning
from . import losses, noise, optimizers, schedules
from .averaging import Average, arrived
from .batches import BatchPlan, Place
from .conditions import draw_latents
from .network import LoraNetwork
from .watch import LOOK_EVERY, Look, Watch

REPORT_EVERY_S = 0.5


# What is measured on held-out pictures: the squared error, whatever is trained with.
PLAIN_LOSS = LossConfig()


@dataclass(frozen=True)
class Example:
    """One picture as a step needs it: posteriors (2, 4, h, w) plain and mirrored, its caption, its weight.

    ``loss_mask`` (1, h, w) weighs the latents' pixels of the plain picture; mirrored with it. ``varied``, where the
    caption is another each time, gives it for a draw, a step from 0 and the number of steps; ``caption`` is then what
    the picture is measured with.
    """

    posteriors: tuple[Tensor, ...]
    caption: str
    size: tuple[int, int]
    weight: float = 1.0
    key: str = ""
    loss_mask: Tensor | None = None
    varied: Callable[[random.Random, int, int], str] | None = None


@dataclass(frozen=True)
class Batch:
    """What one pass through the U-Net needs of b pictures of one size, on the CPU.

    Latents and noises (b, 4, h, w), timesteps (b,); ``seen_noises`` is what the U-Net sees where that is not what it is
    to tell; ``masks`` (b, 1, h, w).
    """

    latents: Tensor
    noises: Tensor
    timesteps: Tensor
    captions: Sequence[str]
    size: tuple[int, int]
    seen_noises: Tensor | None = None
    masks: Tensor | None = None


@dataclass
class Trainee:
    """What is trained, on what, and how a caption becomes conditioning."""

    model: Model
    network: LoraNetwork
    optimizer: torch.optim.Optimizer
    accelerator: Any
    alphas_cumprod: Tensor
    condition: Callable[[Sequence[str]], TextConditioning]
    average: Average | None = None

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def arrived(self) -> AbstractContextManager[None]:
        """Within, the network has the weights that a person gets; afterwards those of the next step, bit for bit."""
        return arrived(list(self.network.parameters()), self.optimizer, self.average)

    def loss_per_picture(self, batch: Batch, loss: LossConfig = PLAIN_LOSS) -> Tensor:
        """Loss of each picture, unweighted: (b,), on the device; ``loss`` says how errors are measured."""
        shares = self.alphas_cumprod[batch.timesteps]
        alphas = shares.to(self.device)
        latents, noises = batch.latents.to(self.device), batch.noises.to(self.device)
        seen = noises if batch.seen_noises is None else batch.seen_noises.to(self.device)
        kind = self.model.info.prediction_type
        with self.accelerator.autocast():
            text = self.condition(batch.captions)
            noisy = losses.add_noise(latents, seen, alphas).to(self.model.unet.dtype)
            predicted = self.model.prediction(noisy, batch.timesteps.to(self.device), text, size=batch.size)
        curved = loss.loss_type in ("huber", "smooth_l1")
        return losses.per_picture(
            predicted,
            losses.target(kind, latents, noises, alphas),
            kind=loss.loss_type,
            threshold=losses.huber_thresholds(batch.timesteps, shares, loss) if curved else None,
            mask=None if batch.masks is None else batch.masks.to(self.device),
        )


@dataclass
class _Step:
    """What is to be known of a step: loss and norm of the gradients, on the device (None: skipped), and its time."""

    loss: Tensor
    norm: Tensor | None
    seconds: float = 0.0


@dataclass
class Loop:
    """Runs the steps from ``step`` to the configured end; everything outside a step is a callback."""

    config: TrainConfig
    trainee: Trainee
    examples: Sequence[Example]
    plan: BatchPlan
    report: Callable[[Stepped], None]
    peak_memory: Callable[[], int]
    warn: Callable[[Message], None]
    step: int = 0
    watch: Watch = field(default_factory=Watch)
    _unread: list[_Step] = field(default_factory=list)
    _losses: list[float] = field(default_factory=list)
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    _reported: float = 0.0
    _size: Tensor | None = None

    def run(self, *, until: Callable[[int], bool]) -> None:
        """Step until the end or until ``until(step)``, asked after every step, says to leave.

        Raises DataError when the loss is no longer a number; the last state is then still good.
        """
        steps = self.config.schedule.steps
        while self.step < steps:
            began = time.monotonic()
            rate = schedules.factor(self.step, self.config.schedule, learning_rate=self.config.optimizer.learning_rate)
            for group in self.trainee.optimizer.param_groups:
                group["lr"] = group["peak_lr"] * rate
            made = self._optimize()
            self._unread.append(made)
            self.step += 1
            is_due = self._is_report_due()
            if is_due or self.step % LOOK_EVERY == 0:
                self._wait()
            made.seconds = time.monotonic() - began
            self._seconds.append(made.seconds)
            if is_due or self.step % LOOK_EVERY == 0:
                self.look()
            if is_due:
                self._report()
            if until(self.step):
                return

    def _optimize(self) -> _Step:
        """One optimizer step over its batches; what is to be known of it is still on the device."""
        accumulation, trainee = self.config.schedule.accumulation, self.trainee
        # Dropout is the only draw that torch makes by itself: it starts anew at each step.
        torch.manual_seed(noise.seed_of(self.config.schedule.seed, "dropout", self.step))
        trainee.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=trainee.device)
        for number in range(self.step * accumulation, (self.step + 1) * accumulation):
            loss = self._batch_loss(number) / accumulation
            trainee.accelerator.backward(loss)
            total = total + loss.detach()
        norm = self._clipped_norm()
        trainee.optimizer.step()
        # A loss scale (fp16) skips steps while it looks for its size: their gradients mean nothing.
        skipped = bool(getattr(trainee.optimizer, "step_was_skipped", False))
        if self.config.network.scale_weight_norms:
            trainee.network.limit_norms(self.config.network.scale_weight_norms)
        if trainee.average is not None:
            trainee.average.update(self.step + 1)
        return _Step(total, None if skipped else norm)

    def _clipped_norm(self) -> Tensor:
        """Clip the gradients where the settings ask for it; returns the norm that they had."""
        accelerator, parameters = self.trainee.accelerator, list(self.trainee.network.parameters())
        norm: Tensor
        if self.config.optimizer.max_grad_norm:
            norm = accelerator.clip_grad_norm_(parameters, self.config.optimizer.max_grad_norm)
            return norm
        accelerator.unscale_gradients()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return torch.zeros((), device=self.trainee.device)
        return torch.stack(torch._foreach_norm(gradients)).norm()

    def _batch_loss(self, number: int) -> Tensor:
        places = self.plan.batch(number)
        batch = self._batch(places, number)
        self.trainee.network.begin(number)
        per_picture = self.trainee.loss_per_picture(batch, self.config.loss)
        weights = torch.tensor([self.examples[place.index].weight for place in places])
        weights = weights * losses.weights(
            self.trainee.model.info.prediction_type,
            self.trainee.alphas_cumprod[batch.timesteps],
            self.config.loss,
        )
        return (per_picture * weights.to(per_picture.device)).mean()

    def _batch(self, places: Sequence[Place], number: int) -> Batch:
        """The pictures at ``places`` with all that is drawn for batch ``number``."""
        loss, seed = self.config.loss, self.config.schedule.seed
        examples = [self.examples[place.index] for place in places]
        latents = torch.stack([self._latents(place, number, at) for at, place in enumerate(places)])
        noises = [noise.training_noise(each, loss, seed, number, at) for at, each in enumerate(latents)]
        seen = [noise.seen_noise(each, loss, seed, number, at) for at, each in enumerate(noises)]
        return Batch(
            latents=latents,
            noises=torch.stack(noises),
            timesteps=noise.timesteps(len(places), loss, seed, number),
            captions=[self._caption(place, number, at) for at, place in enumerate(places)],
            size=examples[0].size,
            seen_noises=torch.stack(seen) if loss.ip_noise_gamma else None,
            masks=_masks(examples, places),
        )

    def _caption(self, place: Place, number: int, at: int) -> str:
        example, schedule = self.examples[place.index], self.config.schedule
        if place.without_caption or example.varied is None:
            return "" if place.without_caption else example.caption
        draw = noise.rng(schedule.seed, "caption", number, at)
        return example.varied(draw, number // schedule.accumulation, schedule.steps)

    def _latents(self, place: Place, number: int, at: int) -> Tensor:
        posterior = self.examples[place.index].posteriors[int(place.mirrored)]
        return draw_latents(posterior, self.config.schedule.seed, "latents", number, at)

    def look(self) -> None:
        """Read what is unread of the steps and let the watch judge it. Raises DataError if a loss is no number."""
        if not self._unread:
            return
        made, self._unread = self._unread, []
        size = torch.stack(torch._foreach_norm([each.detach() for each in self.trainee.network.parameters()]))
        moved = torch.ones(()) if self._size is None else (size != self._size).any()
        self._size = size
        norms = [step.norm for step in made if step.norm is not None]
        # One reading for all of it: each waits for the device.
        numbers = [each.detach().float().to(size.device) for each in (moved, *(step.loss for step in made), *norms)]
        has_moved, *read = torch.stack(numbers).tolist()
        losses, known = read[: len(made)], iter(read[len(made) :])
        self._losses += losses
        seen = Look(
            step=self.step,
            losses=losses,
            norms=[None if step.norm is None else next(known) for step in made],
            seconds=[step.seconds for step in made],
            moved=bool(has_moved),
        )
        for said in self.watch.look(seen):
            self.warn(said)

    def _wait(self) -> None:
        # The time of steps on a graphics card is known only when they are made, not when they are ordered.
        if self.trainee.device.type == "cuda":
            torch.cuda.synchronize(self.trainee.device)

    def _is_report_due(self) -> bool:
        return time.monotonic() - self._reported >= REPORT_EVERY_S or self.step >= self.config.schedule.steps

    def _report(self) -> None:
        mean = statistics.fmean(self._losses) if self._losses else 0.0
        self._losses.clear()
        self._reported = time.monotonic()
        # On a graphics card a step is ordered at once and waited for at a later one: only their mean says anything.
        average = statistics.fmean if self.trainee.device.type == "cuda" else statistics.median
        pace = average(self._seconds)
        steps = self.config.schedule.steps
        self.report(
            Stepped(
                step=self.step,
                steps=steps,
                loss=mean,
                learning_rate=optimizers.effective_rate(self.trainee.optimizer),
                seconds_per_step=pace,
                seconds_left=pace * (steps - self.step),
                peak_memory_bytes=self.peak_memory(),
            )
        )


def _masks(examples: Sequence[Example], places: Sequence[Place]) -> Tensor | None:
    """The pictures' masks (b, 1, h, w), mirrored where the picture is; ones for those without, None if none has one."""
    if all(example.loss_mask is None for example in examples):
        return None
    masks = []
    for example, place in zip(examples, places, strict=True):
        mask = example.loss_mask
        if mask is None:
            mask = torch.ones(1, *example.posteriors[0].shape[-2:])
        masks.append(mask.flip(-1) if place.mirrored else mask)
    return torch.stack(masks)


@torch.no_grad()
def heldout_loss(trainee: Trainee, examples: Sequence[Example], *, seed: int, timesteps: int = 8) -> float:
    """Mean loss on ``examples`` with noise and timesteps that are always the same; training's state is not touched."""
    trainee.network.eval()
    ladder = (torch.arange(timesteps) + 0.5).div(timesteps).mul(1000).long()
    total = 0.0
    for example in examples:
        mean = example.posteriors[0][0]
        noises = torch.stack([noise.gaussian(mean.shape, seed, "heldout", example.key, at) for at in range(timesteps)])
        batch = Batch(
            latents=mean.expand(timesteps, *mean.shape),
            noises=noises,
            timesteps=ladder,
            captions=[example.caption] * timesteps,
            size=example.size,
            masks=_masks([example] * timesteps, [Place(0)] * timesteps),
        )
        with trainee.arrived():
            total += float(trainee.loss_per_picture(batch).mean())
    trainee.network.train()
    return total / len(examples)


def validated(trainee: Trainee, examples: Sequence[Example], *, seed: int, step: int) -> Validated:
    """The held-out loss as an event."""
    return Validated(step=step, loss=heldout_loss(trainee, examples, seed=seed))
