"""The settings that suit a goal and a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .data import DataConfig, DatasetConfig
from .loss import LossConfig
from .model import ModelConfig
from .network import NetworkConfig
from .optimizer import OptimizerConfig
from .output import OutputConfig
from .schedule import ScheduleConfig
from .train import TrainConfig

GOALS = ("character", "style", "object")
QUALITIES = {"draft": 0.4, "good": 1.0, "best": 1.8}


@dataclass(frozen=True)
class _Recipe:
    """What suits one goal on one family; ``views`` are pictures seen in all: base + per_image · N, at most cap.

    ``warmup`` is a share of the steps, ``averaging`` the decay of the average over the last steps, 0 for none.
    """

    rank: int
    learning_rate: float
    views: tuple[int, int, int]
    batch_size: int
    resolution: int
    conv_rank: int = 0
    warmup: float = 0.05
    averaging: float = 0.0


# Image-views, ranks and rates for SD 1.x and SDXL: the first, still unswept version of the project's reference
# on other trainers' defaults. "toy" is the embedded base model, whose character was measured by
# `benchmarks/learning.py`: fast from the first step, and the noise that such a rate leaves is averaged away.
_RECIPES: dict[tuple[str, str], _Recipe] = {
    ("toy", "character"): _Recipe(8, 6e-3, (7200, 0, 7200), 8, 128, 8, warmup=0.0, averaging=0.95),
    ("toy", "style"): _Recipe(16, 1e-3, (3200, 0, 3200), 8, 128, 8),
    ("toy", "object"): _Recipe(16, 1e-3, (3200, 0, 3200), 8, 128),
    ("sd1", "character"): _Recipe(16, 2e-4, (2000, 20, 6000), 2, 512),
    ("sd1", "style"): _Recipe(32, 1.5e-4, (3000, 20, 10000), 4, 512, 8),
    ("sd1", "object"): _Recipe(16, 2e-4, (1500, 20, 4000), 2, 512),
    ("sd2", "character"): _Recipe(16, 2e-4, (2000, 20, 6000), 2, 768),
    ("sd2", "style"): _Recipe(32, 1.5e-4, (3000, 20, 10000), 4, 768, 8),
    ("sd2", "object"): _Recipe(16, 2e-4, (1500, 20, 4000), 2, 768),
    ("sdxl", "character"): _Recipe(16, 1e-4, (2000, 25, 6000), 2, 1024),
    ("sdxl", "style"): _Recipe(32, 1e-4, (4000, 25, 12000), 4, 1024, 16),
    ("sdxl", "object"): _Recipe(16, 1e-4, (1500, 20, 4000), 2, 1024),
}


def recipe(*, goal: str, family: str, num_images: int, quality: str = "good") -> TrainConfig:
    """The settings that suit ``goal`` on a model of ``family``, without pictures, model or name.

    Counted in image-views (steps × batch), so that the number of pictures changes the length only as said.
    Raises KeyError for a goal, family or quality that is not in the tables (the form offers no other).
    """
    values = _RECIPES[family, goal]
    base, per_image, cap = values.views
    views = min(base + per_image * num_images, cap) * QUALITIES[quality]
    toy = family == "toy"
    return TrainConfig(
        model=ModelConfig(v2=family == "sd2"),
        output=OutputConfig(precision="float" if toy else "fp16"),
        network=NetworkConfig(
            rank=values.rank,
            alpha=values.rank / 2,
            conv_rank=values.conv_rank,
            conv_alpha=max(values.conv_rank / 2, 1.0),
        ),
        optimizer=OptimizerConfig(learning_rate=values.learning_rate, ema_decay=values.averaging),
        schedule=ScheduleConfig(
            steps=max(1, math.ceil(views / values.batch_size)),
            scheduler="cosine_with_min_lr",
            warmup=values.warmup,
            floor=0.1,
        ),
        loss=LossConfig(min_snr_gamma=0.0 if toy else 5.0),
        data=DataConfig(
            datasets=(
                DatasetConfig(
                    resolution=(values.resolution, values.resolution),
                    batch_size=values.batch_size,
                    min_bucket_reso=values.resolution // 2,
                    max_bucket_reso=values.resolution * 2,
                    bucket_reso_steps=32 if toy else 64,
                ),
            )
        ),
    )
