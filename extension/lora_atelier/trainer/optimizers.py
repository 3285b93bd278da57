"""Optimizers by sd-scripts' names, by a class of torch.optim, or by a dotted path; most have packages of their own.

What they have in common is torch's protocol. Two kinds need care: those that find the size of a step take one
learning rate for all parts, and schedule-free ones train other weights than they arrive at (``averaging``).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..config import OptimizerConfig
from ..config.optimizer import SELF_TUNING
from ..errors import ConfigError, Message, message

Groups = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """Where an optimizer's class is, what the package is called in an index, and what sd-scripts gives it unasked."""

    module: str
    name: str
    package: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _source(package: str, module: str, *names: str, **renamed: str) -> dict[str, Source]:
    return {name: Source(module, renamed.get(name, name), package) for name in (*names, *renamed)}


_NESTEROV = {"momentum": 0.9, "nesterov": True}
SOURCES: Mapping[str, Source] = {
    "SGDNesterov": Source("torch.optim", "SGD", defaults=_NESTEROV),
    "SGDNesterov8bit": Source("bitsandbytes.optim", "SGD8bit", "bitsandbytes", _NESTEROV),
    **_source(
        "bitsandbytes",
        "bitsandbytes.optim",
        *("AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit", "Lion8bit", "PagedLion8bit"),
    ),
    **_source("lion-pytorch", "lion_pytorch", "Lion"),
    **_source("prodigyopt", "prodigyopt", "Prodigy"),
    **_source("schedulefree", "schedulefree", "AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree"),
    **_source("dadaptation", "dadaptation", "DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptLion", "DAdaptSGD"),
    **_source(
        "dadaptation",
        "dadaptation.experimental",
        "DAdaptAdamPreprint",
        "DAdaptAdanIP",
        DAdaptation="DAdaptAdamPreprint",
    ),
    # torch has another Adafactor, without the arguments that recipes name.
    "Adafactor": Source("transformers.optimization", "Adafactor", "transformers", {"relative_step": True}),
}
# They call for the loss several times a step, or for sparse gradients.
_UNFIT = ("LBFGS", "SparseAdam")
# One kernel for all parameters on a graphics card.
_FUSED = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)


def make(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of these parameter groups, ready for its first step; each group keeps its learning rate.

    ``groups`` hold "params" and "lr", and get "peak_lr", which the schedule multiplies. Raises ConfigError where the
    optimizer is not installed, unknown, or refuses its arguments.
    """
    source = SOURCES.get(config.optimizer) or _named(config.optimizer)
    given = {**source.defaults, **config.arguments()}
    cls = _class(config.optimizer, source)
    own = [{**group, "peak_lr": group["lr"]} for group in groups]
    if config.optimizer == "Adafactor":
        given["relative_step"] = given["relative_step"] or given.get("warmup_init", False)
        if given["relative_step"]:
            # It refuses a learning rate beside its own.
            own = [{**group, "lr": None} for group in own]
            given["lr"] = None
    if cls in _FUSED and "foreach" not in given and _on_gpu(groups):
        given.setdefault("fused", True)
    try:
        made: torch.optim.Optimizer = cls(own, **{"lr": groups[0]["lr"], **given})
    except (TypeError, ValueError, AssertionError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(
            "The optimizer {name} can't be used like this.",
            why="{reason}.",
            todo="Correct optimizer_args, or choose AdamW.",
            name=config.optimizer,
            reason=(str(error) or type(error).__name__).rstrip("."),
        ) from error
    train = getattr(made, "train", None)
    if callable(train):
        train()
    return made


def with_one_rate(groups: Groups, config: OptimizerConfig) -> tuple[Groups, Message | None]:
    """The groups as the optimizer can take them, and what to tell a person if they had to be changed.

    Those that find the size of a step themselves have one for all parts; sd-scripts takes the first rate as well.
    """
    if config.optimizer not in SELF_TUNING or len({group["lr"] for group in groups}) == 1:
        return groups, None
    rate = groups[0]["lr"]
    said = message(
        "{optimizer} knows one learning rate for everything it trains; {rate} is used for all parts.",
        optimizer=config.optimizer,
        rate=rate,
    )
    return [{**group, "lr": rate} for group in groups], said


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take the state that ``state_dict`` gave, read onto the CPU. Raises KeyError, ValueError, RuntimeError."""
    optimizer.load_state_dict(state)
    # torch moves what belongs to a parameter to its device, but not what a group keeps for all, as Prodigy does.
    for group in optimizer.param_groups:
        for key, value in group.items():
            if isinstance(value, torch.Tensor):
                group[key] = value.to(group["params"][0].device)


def effective_rate(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate of the first group now; of a self-tuning optimizer with the factor that it found.

    Waits for the device where that factor lies there.
    """
    group = optimizer.param_groups[0]
    return float(group["lr"] or 0.0) * float(group.get("d", 1.0))


def described(config: OptimizerConfig) -> str:
    """Class and arguments as sd-scripts writes them into a file: ``torch.optim.adamw.AdamW(weight_decay=0.01,…)``."""
    source = SOURCES.get(config.optimizer) or _named(config.optimizer)
    cls = _class(config.optimizer, source)
    given = ",".join(f"{name}={value}" for name, value in sorted({**source.defaults, **config.arguments()}.items()))
    return f"{cls.__module__}.{cls.__qualname__}" + (f"({given})" if given else "")


def _named(name: str) -> Source:
    module, _, last = name.rpartition(".")
    return Source(module or "torch.optim", last, module.partition(".")[0])


def _class(name: str, source: Source) -> Any:
    if source.name in _UNFIT:
        raise ConfigError(
            "The optimizer {name} can't train a LoRA.",
            why="It is made for another kind of training.",
            todo="Choose AdamW.",
            name=name,
        )
    try:
        return getattr(importlib.import_module(source.module), source.name)
    except ImportError as error:
        raise _missing(name, source, error) from error
    except AttributeError as error:
        raise ConfigError(
            "There is no optimizer “{name}”.",
            why="{module} has no {cls}.",
            todo="Choose AdamW, or correct the name; capitals count.",
            name=name,
            module=source.module,
            cls=source.name,
        ) from error


def _missing(name: str, source: Source, error: ImportError) -> ConfigError:
    # What fails may be a part of the package, not the package.
    absent = isinstance(error, ModuleNotFoundError) and error.name == source.module.partition(".")[0]
    if not absent:
        return ConfigError(
            "The optimizer {name} can't be loaded.",
            why="{reason}.",
            todo="Choose AdamW, or install {package} again.",
            name=name,
            reason=str(error).rstrip("."),
            package=source.package or source.module,
        )
    package = source.package or source.module.partition(".")[0]
    return ConfigError(
        "There is no optimizer “{name}” yet.",
        why="The package {package} is not installed in the trainer's environment.",
        todo="Install it there (python -m pip install {package}), correct the name, or choose AdamW.",
        name=name,
        package=package,
    )


def _on_gpu(groups: Groups) -> bool:
    return all(parameter.is_cuda for group in groups for parameter in group["params"])
