"""What can be changed in a run that ran out of memory without changing what it learns."""

from __future__ import annotations

import dataclasses

from .. import config_files
from ..config import TrainConfig
from ..errors import JobError
from .run_dir import RunDir


def less_memory(config: TrainConfig, *, has_state: bool) -> TrainConfig | None:
    """The same training with less memory; None where nothing is left to change.

    Gradient checkpointing may be turned on at any time. Smaller batches, as many more of them in a step, may not once
    there is a state (``has_state``): which pictures meet in a step would be others.
    """
    schedule, data = config.schedule, config.data
    if not schedule.gradient_checkpointing:
        return dataclasses.replace(config, schedule=dataclasses.replace(schedule, gradient_checkpointing=True))
    batch = max((dataset.batch_size for dataset in data.datasets), default=1)
    if has_state or batch == 1 or any(dataset.batch_size != batch for dataset in data.datasets):
        return None
    return dataclasses.replace(
        config,
        schedule=dataclasses.replace(schedule, accumulation=schedule.accumulation * batch),
        data=dataclasses.replace(
            data, datasets=tuple(dataclasses.replace(dataset, batch_size=1) for dataset in data.datasets)
        ),
    )


def take_less_memory(run: RunDir) -> None:
    """Change the settings of a run in its directory so that it takes less memory.

    Raises JobError where nothing is left to change or the files can't be written, ConfigError where they can't be read.
    """
    changed = less_memory(config_files.read(run.path), has_state=(run.state_dir / "latest").exists())
    if changed is None:
        raise JobError(
            "Everything that saves memory without changing the result is on already.",
            todo="Close other programs and press Resume, or begin a new training with a smaller resolution.",
        )
    try:
        config_files.write(changed, run.path)
    except OSError as error:
        raise JobError(
            "The settings of the training could not be changed.",
            why="{reason}.",
            todo="Make room on the disk or allow writing there, then try again.",
            reason=error.strerror or str(error),
        ) from error
