"""What is allowed and probably not meant: said, never refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..errors import Problem, problem
from .optimizer import SCHEDULE_FREE, SELF_TUNING
from .train import TrainConfig


def advice(config: TrainConfig) -> Iterator[Problem]:
    """Yield what a person should hear of before the start."""
    yield from _optimizer(config)
    yield from _length(config)
    loss = config.loss
    if loss.min_snr_gamma and loss.debiased_estimation_loss:
        yield problem(
            "loss.debiased_estimation_loss",
            "min_snr_gamma and debiased_estimation_loss both weigh the timesteps; together they hardly train the "
            "clean ones.",
        )
    if config.model.v2 and config.model.clip_skip:
        yield problem("model.clip_skip", "Stable Diffusion 2 leaves out its last layer already; clip_skip is unusual.")
    for d, dataset in enumerate(config.data.datasets):
        folders = Counter(subset.image_dir for subset in dataset.subsets if subset.image_dir)
        for folder, times in folders.items():
            if times > 1:
                yield problem(
                    f"data.datasets.{d}",
                    "The folder {folder} is given {times} times in one dataset; it is used once, as in sd-scripts.",
                    folder=folder,
                    times=times,
                )


def _optimizer(config: TrainConfig) -> Iterator[Problem]:
    optimizer, schedule = config.optimizer, config.schedule
    if optimizer.optimizer in SELF_TUNING and optimizer.learning_rate < 0.1:
        yield problem(
            "optimizer.learning_rate",
            "{optimizer} finds the size of its steps itself; its learning rate should be 1, not {rate}.",
            optimizer=optimizer.optimizer,
            rate=optimizer.learning_rate,
        )
    if optimizer.optimizer in SCHEDULE_FREE and schedule.scheduler not in ("constant", "constant_with_warmup"):
        yield problem(
            "schedule.scheduler",
            "{optimizer} needs no schedule; choose constant.",
            optimizer=optimizer.optimizer,
        )
    if optimizer.optimizer == "Adafactor" and not _says(optimizer.optimizer_args, "relative_step", "False"):
        yield problem(
            "optimizer.optimizer_args",
            "Adafactor sets the learning rate itself; give relative_step=False to use yours.",
        )
    if optimizer.optimizer not in SELF_TUNING and optimizer.learning_rate > 0.02:
        yield problem(
            "optimizer.learning_rate",
            "The learning rate {rate} is very high for {optimizer}; 0.0001 is usual.",
            rate=optimizer.learning_rate,
            optimizer=optimizer.optimizer,
        )


def _length(config: TrainConfig) -> Iterator[Problem]:
    output = config.output
    for name, every in (
        ("save_last_n_steps", "save_every_n_steps"),
        ("save_last_n_epochs", "save_every_n_epochs"),
    ):
        by_ratio = name == "save_last_n_epochs" and output.save_n_epoch_ratio
        if getattr(output, name) and not getattr(output, every) and not by_ratio:
            yield problem(f"output.{name}", "{name} has no effect without {every}.", name=name, every=every)


def _says(arguments: tuple[str, ...], name: str, value: str) -> bool:
    return any(argument.replace(" ", "") == f"{name}={value}" for argument in arguments)
