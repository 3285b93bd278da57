"""Everything a training run is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from ..errors import Problem
from .contradictions import contradictions
from .data import DataConfig
from .loss import LossConfig
from .memory import MemoryConfig
from .model import ModelConfig
from .network import NetworkConfig
from .optimizer import OptimizerConfig
from .output import OutputConfig
from .sampling import SamplingConfig
from .schedule import ScheduleConfig
from .validation import ValidationConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a training run is told; ``problems`` yields all that is wrong with it, not only the first."""

    model: ModelConfig = ModelConfig()
    output: OutputConfig = OutputConfig()
    network: NetworkConfig = NetworkConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    memory: MemoryConfig = MemoryConfig()
    loss: LossConfig = LossConfig()
    sampling: SamplingConfig = SamplingConfig()
    validation: ValidationConfig = ValidationConfig()
    data: DataConfig = DataConfig()

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong: group by group, then between the groups."""
        for group in fields(self):
            yield from getattr(self, group.name).problems()
        yield from contradictions(self)
