"""The training loop: batches -> loss -> optimizer, with reports, measurements, samples, checkpoints and a way out."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..config import TrainConfig
from ..errors import DataError
from ..events import Stepped, Validated
from ..models.load import Model
from ..models.text import TextConditioning
from . import losses, noise
from .batches import BatchPlan, Place
from .conditions import draw_latents
from .network import LoraNetwork

REPORT_EVERY_S = 0.5


@dataclass(frozen=True)
class Example:
    """One picture as a step needs it: posteriors (2, 4, h, w) plain and mirrored, its caption, its weight."""

    posteriors: tuple[Tensor, ...]
    caption: str
    size: tuple[int, int]
    weight: float = 1.0
    key: str = ""


@dataclass
class Trainee:
    """What is trained, on what, and how a caption becomes conditioning."""

    model: Model
    network: LoraNetwork
    optimizer: torch.optim.Optimizer
    accelerator: Any
    alphas_cumprod: Tensor
    condition: Callable[[Sequence[str]], TextConditioning]

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def loss_per_picture(
        self, latents: Tensor, noises: Tensor, timesteps: Tensor, captions: Sequence[str], size: tuple[int, int]
    ) -> Tensor:
        """Loss of each picture, unweighted: (b,), on the device."""
        alphas = self.alphas_cumprod[timesteps].to(self.device)
        latents, noises = latents.to(self.device), noises.to(self.device)
        kind = self.model.info.prediction_type
        with self.accelerator.autocast():
            text = self.condition(captions)
            noisy = losses.add_noise(latents, noises, alphas).to(self.model.unet.dtype)
            predicted = self.model.prediction(noisy, timesteps.to(self.device), text, size=size)
        return losses.per_picture(predicted, losses.target(kind, latents, noises, alphas))


@dataclass
class Loop:
    """Runs the steps from ``step`` to the configured end; everything outside a step is a callback."""

    config: TrainConfig
    trainee: Trainee
    examples: Sequence[Example]
    plan: BatchPlan
    report: Callable[[Stepped], None]
    peak_memory: Callable[[], int]
    step: int = 0
    _losses: list[Tensor] = field(default_factory=list)
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    _reported: float = 0.0

    def run(self, *, until: Callable[[int], bool]) -> None:
        """Step until the end or until ``until(step)``, asked after every step, says to leave.

        Raises DataError when the loss is no longer a number; the last state is then still good.
        """
        steps = self.config.schedule.steps
        while self.step < steps:
            began = time.monotonic()
            rate = learning_rate_factor(self.step, self.config)
            for group in self.trainee.optimizer.param_groups:
                group["lr"] = group["peak_lr"] * rate
            self._losses.append(self._optimize())
            self.step += 1
            self._seconds.append(time.monotonic() - began)
            self._report(rate)
            if until(self.step):
                return

    def _optimize(self) -> Tensor:
        """One optimizer step over its batches; returns the mean loss, still on the device."""
        accumulation, trainee = self.config.schedule.accumulation, self.trainee
        # Dropout is the only draw that torch makes by itself: it starts anew at each step.
        torch.manual_seed(noise.seed_of(self.config.schedule.seed, "dropout", self.step))
        trainee.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=trainee.device)
        for number in range(self.step * accumulation, (self.step + 1) * accumulation):
            loss = self._batch_loss(number) / accumulation
            trainee.accelerator.backward(loss)
            total = total + loss.detach()
        if self.config.optimizer.max_grad_norm:
            trainee.accelerator.clip_grad_norm_(trainee.network.parameters(), self.config.optimizer.max_grad_norm)
        trainee.optimizer.step()
        return total

    def _batch_loss(self, number: int) -> Tensor:
        places, seed = self.plan.batch(number), self.config.schedule.seed
        examples = [self.examples[place.index] for place in places]
        latents = torch.stack([self._latents(place, number, at) for at, place in enumerate(places)])
        noises = torch.stack([self._noise(latents[0].shape, number, at) for at in range(len(places))])
        timesteps = noise.stratified_timesteps(len(places), seed, "timesteps", number)
        captions = [
            "" if place.without_caption else example.caption for place, example in zip(places, examples, strict=True)
        ]
        per_picture = self.trainee.loss_per_picture(latents, noises, timesteps, captions, examples[0].size)
        weights = torch.tensor([example.weight for example in examples])
        weights = weights * losses.min_snr_weights(
            self.trainee.model.info.prediction_type,
            self.trainee.alphas_cumprod[timesteps],
            self.config.loss.min_snr_gamma,
        )
        return (per_picture * weights.to(per_picture.device)).mean()

    def _latents(self, place: Place, number: int, at: int) -> Tensor:
        posterior = self.examples[place.index].posteriors[int(place.mirrored)]
        return draw_latents(posterior, self.config.schedule.seed, "latents", number, at)

    def _noise(self, shape: torch.Size, number: int, at: int) -> Tensor:
        seed, strength = self.config.schedule.seed, self.config.loss.noise_offset
        drawn = noise.gaussian(shape, seed, "noise", number, at)
        if not strength:
            return drawn
        return losses.offset_noise(drawn, noise.gaussian((shape[0], 1, 1), seed, "offset", number, at), strength)

    def check(self) -> float:
        """The mean loss since the last report. Raises DataError if it is no number: then these weights are lost."""
        # Reading the losses waits for the device, so it is done for many steps at once.
        mean = float(torch.stack(self._losses).mean()) if self._losses else 0.0
        if not math.isfinite(mean):
            raise DataError(
                "The training went wrong at step {step}: its loss is no longer a number.",
                why="The learning rate may be too high, or the precision of the computation too low.",
                todo="Halve the learning rate, or choose bf16 or no mixed precision, and train again.",
                step=self.step,
            )
        return mean

    def _report(self, rate: float) -> None:
        now, last = time.monotonic(), self.step >= self.config.schedule.steps
        if now - self._reported < REPORT_EVERY_S and not last:
            return
        mean = self.check()
        self._losses.clear()
        self._reported = now
        pace = statistics.median(self._seconds)
        steps = self.config.schedule.steps
        self.report(
            Stepped(
                step=self.step,
                steps=steps,
                loss=mean,
                learning_rate=self.config.optimizer.learning_rate * rate,
                seconds_per_step=pace,
                seconds_left=pace * (steps - self.step),
                peak_memory_bytes=self.peak_memory(),
            )
        )


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """The learning rate at ``step``, counted from 0, as a share of its peak: warm-up, then the schedule to the end."""
    schedule = config.schedule
    warmup = schedule.warmup * schedule.steps if schedule.warmup < 1 else schedule.warmup
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, schedule.steps - warmup)
    floor = schedule.floor
    if schedule.scheduler in ("cosine", "cosine_with_min_lr"):
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
    if schedule.scheduler == "linear":
        return floor + (1 - floor) * (1 - done)
    return 1.0


@torch.no_grad()
def heldout_loss(trainee: Trainee, examples: Sequence[Example], *, seed: int, timesteps: int = 8) -> float:
    """Mean loss on ``examples`` with noise and timesteps that are always the same; training's state is not touched."""
    trainee.network.eval()
    ladder = (torch.arange(timesteps) + 0.5).div(timesteps).mul(1000).long()
    total = 0.0
    for example in examples:
        mean = example.posteriors[0][0]
        noises = torch.stack([noise.gaussian(mean.shape, seed, "heldout", example.key, at) for at in range(timesteps)])
        latents = mean.expand(timesteps, *mean.shape)
        loss = trainee.loss_per_picture(latents, noises, ladder, [example.caption] * timesteps, example.size)
        total += float(loss.mean())
    trainee.network.train()
    return total / len(examples)


def validated(trainee: Trainee, examples: Sequence[Example], *, seed: int, step: int) -> Validated:
    """The held-out loss as an event."""
    return Validated(step=step, loss=heldout_loss(trainee, examples, seed=seed))
