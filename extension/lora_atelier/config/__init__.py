"""What a training run can be told: dataclasses <-> kohya's ``config_file`` and ``dataset_config`` TOML.

One field is one setting: its default, label, help and kohya's key stand in one place, and the form, the files,
the checks and the documentation are made from it. ``recipe`` gives the values that suit a goal and a model.
"""

from .blocks import block_weights
from .contradictions import model_problems
from .data import DataConfig, DatasetConfig, SubsetConfig
from .flags import Flags, over_dataset, read_flags
from .gui_presets import from_gui
from .imports import Imported, from_metadata
from .kind_options import KindOptions
from .kohya import Reading, from_kohya, read_kohya, to_kohya, try_kohya
from .loss import LossConfig
from .memory import MemoryConfig
from .model import ModelConfig
from .network import NetworkConfig
from .optimizer import OptimizerConfig
from .output import OutputConfig
from .recipes import GOALS, QUALITIES, recipe
from .sampling import SamplingConfig
from .schedule import ScheduleConfig
from .setting import setting
from .support import notes, unsupported
from .train import TrainConfig
from .validation import ValidationConfig

SCHEMA = 1

__all__ = [
    "GOALS",
    "QUALITIES",
    "SCHEMA",
    "DataConfig",
    "DatasetConfig",
    "Flags",
    "Imported",
    "KindOptions",
    "LossConfig",
    "MemoryConfig",
    "ModelConfig",
    "NetworkConfig",
    "OptimizerConfig",
    "OutputConfig",
    "Reading",
    "SamplingConfig",
    "ScheduleConfig",
    "SubsetConfig",
    "TrainConfig",
    "ValidationConfig",
    "block_weights",
    "from_gui",
    "from_kohya",
    "from_metadata",
    "model_problems",
    "notes",
    "over_dataset",
    "read_flags",
    "read_kohya",
    "recipe",
    "setting",
    "to_kohya",
    "try_kohya",
    "unsupported",
]
