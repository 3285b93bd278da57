"""The training loop: batches -> loss -> optimizer, with reports, what a watch says of them, and a way out."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..config import TrainConfig
from ..errors import Message
from ..events import Stepped
from . import losses, noise, optimizers, schedules
from .batches import BatchPlan, Place
from .conditions import draw_latents
from .encoding import Encoder
from .trainee import Batch, Example, Trainee, stacked_masks
from .watch import LOOK_EVERY, Look, Watch

REPORT_EVERY_S = 0.5


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
    encoder: Encoder | None = None
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
        self._size = self._sizes()
        while self.step < steps:
            self._encode_ahead()
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

    def _encode_ahead(self) -> None:
        """Have the pictures of the coming step encoded: that is done once, and so is no part of a step's time."""
        if self.encoder is None or not self.encoder.waiting:
            return
        accumulation = self.config.schedule.accumulation
        for number in range(self.step * accumulation, (self.step + 1) * accumulation):
            for place in self.plan.batch(number):
                example = self.examples[place.index]
                if example.fresh is None:
                    example.posteriors[int(place.mirrored)]

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
        self.trainee.network.begin(number, multiplier=self.plan.multiplier(number))
        per_picture = self.trainee.loss_per_picture(batch, self.config.loss, self.trainee.compiled)
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
        seen_pictures = [
            example.seen(noise.rng(seed, "fresh", number, at), place.mirrored)
            for at, (example, place) in enumerate(zip(examples, places, strict=True))
        ]
        drawn = [draw_latents(each, seed, "latents", number, at) for at, (each, _) in enumerate(seen_pictures)]
        latents = torch.stack(drawn)
        noises = [noise.training_noise(each, loss, seed, number, at) for at, each in enumerate(latents)]
        preserved = [example.preserved for example in examples]
        seen = [noise.seen_noise(each, loss, seed, number, at) for at, each in enumerate(noises)]
        return Batch(
            latents=latents,
            noises=torch.stack(noises),
            timesteps=noise.timesteps(len(places), loss, seed, number),
            captions=[self._caption(place, number, at) for at, place in enumerate(places)],
            size=examples[0].size,
            seen_noises=torch.stack(seen) if loss.ip_noise_gamma else None,
            masks=stacked_masks([mask for _, mask in seen_pictures], latents),
            preserved=torch.tensor(preserved) if any(preserved) else None,
        )

    def _caption(self, place: Place, number: int, at: int) -> str:
        example, schedule = self.examples[place.index], self.config.schedule
        if place.without_caption or example.varied is None:
            return "" if place.without_caption else example.caption
        draw = noise.rng(schedule.seed, "caption", number, at)
        return example.varied(draw, number // schedule.accumulation, schedule.steps)

    def look(self) -> None:
        """Read what is unread of the steps and let the watch judge it. Raises DataError if a loss is no number."""
        if not self._unread:
            return
        made, self._unread = self._unread, []
        size, before = self._sizes(), self._size
        moved = torch.ones(()) if before is None else (size != before).any()
        # Those that were nothing: their norm is the way that they have come since.
        grown = torch.zeros(()) if before is None else (size * (before == 0)).norm()
        is_from_nothing = torch.zeros(()) if before is None else (before == 0).any()
        self._size = size
        norms = [step.norm for step in made if step.norm is not None]
        # One reading for all of it: each waits for the device.
        numbers = [
            each.detach().float().to(size.device)
            for each in (moved, grown, is_from_nothing, *(step.loss for step in made), *norms)
        ]
        has_moved, way, has_way, *read = torch.stack(numbers).tolist()
        losses, known = read[: len(made)], iter(read[len(made) :])
        self._losses += losses
        seen = Look(
            step=self.step,
            losses=losses,
            norms=[None if step.norm is None else next(known) for step in made],
            seconds=[step.seconds for step in made],
            moved=bool(has_moved),
            reach=self._reach(way, len(made)) if has_way and self.config.schedule.steps >= LOOK_EVERY else None,
        )
        for said in self.watch.look(seen):
            self.warn(said)

    def pace(self) -> float:
        """Seconds of a step, by the last ones; 0 before the first."""
        if not self._seconds:
            return 0.0
        # On a graphics card a step is ordered at once and waited for at a later one: only their mean says anything.
        average = statistics.fmean if self.trainee.device.type == "cuda" else statistics.median
        return average(self._seconds)

    def _reach(self, way: float, steps: int) -> float:
        """How far the weights would come in the whole run at the full learning rate, by ``way`` in ``steps``."""
        group = self.trainee.optimizer.param_groups[0]
        # While the rate warms up, the way says little of what is to come.
        share = group["lr"] / group["peak_lr"] if group.get("peak_lr") and 0 < group["lr"] < group["peak_lr"] else 1.0
        return float(way / share * self.config.schedule.steps / steps)

    def _sizes(self) -> Tensor:
        """The norm of each parameter, on the device."""
        return torch.stack(torch._foreach_norm([each.detach() for each in self.trainee.network.parameters()]))

    def _wait(self) -> None:
        # The time of steps on a graphics card is known only when they are made, not when they are ordered.
        if self.trainee.device.type == "cuda":
            torch.cuda.synchronize(self.trainee.device)

    def _is_report_due(self) -> bool:
        return time.monotonic() - self._reported >= REPORT_EVERY_S or self.step >= self.config.schedule.steps

    def _encoding_left_s(self) -> float:
        """Seconds for the pictures that later steps are the first to see."""
        if self.encoder is None:
            return 0.0
        largest = max(sight.batch_size for sight in self.plan.sights)
        left = (self.config.schedule.steps - self.step) * self.config.schedule.accumulation * largest
        return self.encoder.left_s(left)

    def _report(self) -> None:
        mean = statistics.fmean(self._losses) if self._losses else 0.0
        self._losses.clear()
        self._reported = time.monotonic()
        pace = self.pace()
        steps = self.config.schedule.steps
        self.report(
            Stepped(
                step=self.step,
                steps=steps,
                loss=mean,
                learning_rate=optimizers.effective_rate(self.trainee.optimizer),
                seconds_per_step=pace,
                seconds_left=pace * (steps - self.step) + self._encoding_left_s(),
                peak_memory_bytes=self.peak_memory(),
            )
        )
