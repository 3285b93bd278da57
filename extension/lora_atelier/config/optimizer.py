"""How the adapter's weights are moved: optimizer, learning rates, averaging."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import Problem, problem
from .arguments import argument_problems, parsed
from .setting import SAME, checked, setting

# Optimizers that take betas=(beta1, beta2) and weight_decay, with their own defaults of these three. For all others
# the three settings do not apply, and optimizer_args says everything.
BETAS: dict[str, tuple[float, float, float]] = {
    "AdamW": (0.9, 0.999, 0.01),
    "AdamW8bit": (0.9, 0.999, 0.01),
    "PagedAdamW": (0.9, 0.999, 0.01),
    "PagedAdamW8bit": (0.9, 0.999, 0.01),
    "PagedAdamW32bit": (0.9, 0.999, 0.01),
    "Lion": (0.9, 0.99, 0.0),
    "Lion8bit": (0.9, 0.99, 0.0),
    "PagedLion8bit": (0.9, 0.99, 0.0),
    "Prodigy": (0.9, 0.999, 0.0),
    "DAdaptAdam": (0.9, 0.999, 0.0),
    "DAdaptLion": (0.9, 0.999, 0.0),
    "AdamWScheduleFree": (0.9, 0.999, 0.0),
    "RAdamScheduleFree": (0.9, 0.999, 0.0),
}
# sd-scripts' names. Any class of torch.optim and any dotted path may be given as well.
OPTIMIZERS = (
    *BETAS,
    "SGDNesterov",
    "SGDNesterov8bit",
    "SGDScheduleFree",
    "DAdaptation",
    "DAdaptAdamPreprint",
    "DAdaptAdaGrad",
    "DAdaptAdan",
    "DAdaptAdanIP",
    "DAdaptSGD",
    "Adafactor",
)
# They find the size of a step themselves: the learning rate is a factor, and 1 is right.
SELF_TUNING = frozenset(
    ("Prodigy", "DAdaptation", "DAdaptAdamPreprint", "DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptAdanIP",
     "DAdaptLion", "DAdaptSGD")
)  # fmt: skip
# They replace the schedule; one beside them is wrong.
SCHEDULE_FREE = frozenset(("AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree"))


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the adapter's weights are moved."""

    learning_rate: float = setting(1e-4, "Learning rate", "Size of a step of the U-Net's adapter.", kohya="unet_lr")
    te_learning_rate: float = setting(
        5e-5, "Learning rate of the text encoder", "Used when the text encoder is trained.", kohya="text_encoder_lr"
    )
    te2_learning_rate: float = setting(
        0.0,
        "Learning rate of SDXL's second text encoder",
        "0 takes that of the first.",
        kohya="text_encoder_lr",
        least=0,
    )
    optimizer: str = setting(
        "AdamW",
        "Optimizer",
        "AdamW suits nearly everything; a class of torch.optim or a dotted path may be given too.",
        kohya="optimizer_type",
    )
    beta1: float = setting(0.9, "Beta 1", "Memory of the mean gradient.", kohya="betas", least=0, most=0.9999)
    beta2: float = setting(0.99, "Beta 2", "Memory of the squared gradient.", kohya="betas", least=0, most=0.99999)
    weight_decay: float = setting(
        0.01, "Weight decay", "Pull of the adapter towards nothing.", kohya="weight_decay", least=0
    )
    optimizer_args: tuple[str, ...] = setting(
        (), "More of the optimizer", "Further arguments of the optimizer, each written name=value.", kohya=SAME
    )
    max_grad_norm: float = setting(
        1.0, "Gradient limit", "Larger gradients are scaled down; 0 is off.", kohya=SAME, least=0
    )
    ema_decay: float = setting(
        0.0,
        "Averaging",
        "The LoRA is the mean over its last steps: 0.99 looks back 100 steps; 0 is off.",
        least=0,
        most=0.99999,
    )

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the optimizer's class, but for the learning rate. Raises ValueError (see problems)."""
        given = parsed(self.optimizer_args)
        if self.optimizer in BETAS:
            given |= {"betas": (self.beta1, self.beta2), "weight_decay": self.weight_decay}
        return given

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong with these settings."""
        yield from checked("optimizer", self)
        yield from argument_problems("optimizer.optimizer_args", self.optimizer_args)
        if not self.optimizer:
            yield problem("optimizer.optimizer", "There is no optimizer; AdamW suits nearly everything.")
        elif "." not in self.optimizer and not self.optimizer.isidentifier():
            yield problem(
                "optimizer.optimizer",
                "“{name}” can't be the name of an optimizer; AdamW is usual.",
                name=self.optimizer,
            )
        names = {argument.partition("=")[0].strip() for argument in self.optimizer_args}
        for name in sorted(names & {"betas", "weight_decay", "lr"}):
            if self.optimizer in BETAS or name == "lr":
                yield problem(
                    "optimizer.optimizer_args", "“{name}” has a setting of its own; take it out of here.", name=name
                )
        for name in ("learning_rate", "te_learning_rate"):
            if not 0 < getattr(self, name) < 10:
                yield problem(
                    f"optimizer.{name}",
                    "The learning rate is {value}; it must lie between 0 and 10 (0.0001 is usual).",
                    value=getattr(self, name),
                )
