"""The pictures of a run: read, admitted, some held out, turned into what a step needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..config import DatasetConfig, TrainConfig
from ..datasets import buckets, pixels
from ..datasets.buckets import Framing
from ..datasets.items import Item, read_items
from ..errors import DataError, message
from ..models.load import Model
from ..rights import gate
from . import noise
from .batches import BatchPlan, Sight, balanced_repeats
from .conditions import LatentCache, vae_key
from .loop import Example
from .run import Run, StopRequestedError

_FEWEST_FOR_HOLDING_OUT = 8


@dataclass
class Pictures:
    """What a run trains on and what it measures on; ``resolved`` says what each picture's bucket is."""

    admitted: gate.Admitted
    train: list[Item]
    heldout: list[Item]
    datasets: dict[Item, DatasetConfig]
    warnings: tuple[Any, ...] = ()

    def framing(self, item: Item) -> Framing:
        """The picture's bucket and how it is cut to it."""
        return buckets.frame(item.width, item.height, self.datasets[item])

    def open(self, item: Item) -> Image.Image:
        """The admitted picture, cut to its bucket. Raises RightsError if its file changed, DataError if broken."""
        shown = pixels.upright(self.admitted.open(item))
        return pixels.framed(pixels.on_white(shown), self.framing(item))


def read_pictures(this: Run) -> Pictures:
    """All pictures of the run, admitted; some held out. Raises DataError, RightsError."""
    this.preparing("pictures")
    warnings, datasets = [], {}
    for dataset in this.config.data.datasets:
        items, remarks = read_items(dataset, fallback=this.job.trigger)
        warnings += remarks
        datasets.update(dict.fromkeys(items, dataset))
    admitted = gate.admit(list(datasets), this.path, whose=this.job.whose)
    warnings += admitted.refused
    own = [item for item in admitted.items if not item.is_reg]
    split = this.config.validation.split
    held = round(len(own) * split) if len(own) >= _FEWEST_FOR_HOLDING_OUT and split else 0
    held = max(1, held) if split and len(own) >= _FEWEST_FOR_HOLDING_OUT else held
    chosen = set(noise.rng(this.config.validation.seed, "held out").sample(range(len(own)), held))
    heldout = [item for at, item in enumerate(own) if at in chosen]
    apart = set(heldout)
    train = [item for item in admitted.items if item not in apart]
    return Pictures(admitted, train, heldout, datasets, tuple(warnings))


def read_examples(this: Run, model: Model, pictures: Pictures) -> tuple[list[Example], list[Example]]:
    """Posteriors and captions of all pictures; one that turns out broken is named and left out.

    Without held-out pictures, training pictures are measured on. Raises DataError if none is left.
    """
    cache = LatentCache(_cache_folder(this.path), model, vae_key(model))
    total = len(pictures.train) + len(pictures.heldout)
    done = 0

    def build(items: list[Item]) -> list[Example]:
        nonlocal done
        made = []
        for item in list(items):
            if this.stop_requested():
                raise StopRequestedError
            try:
                made.append(_example(this, cache, pictures, item))
            except DataError as error:
                items.remove(item)
                this.warn(message("“{name}” is left out: {reason}", name=item.path.name, reason=str(error)))
            done += 1
            this.preparing("latents", done, total)
        return made

    train, heldout = build(pictures.train), build(pictures.heldout)
    if all(item.is_reg for item in pictures.train):
        raise DataError(
            "There is no picture to train on.",
            why="None of the pictures can be decoded.",
            todo="Save them again as PNG or JPEG.",
        )
    own = [example for example, item in zip(train, pictures.train, strict=True) if not item.is_reg]
    return train, heldout or own[:4]


def _example(this: Run, cache: LatentCache, pictures: Pictures, item: Item) -> Example:
    framing, sha256 = pictures.framing(item), pictures.admitted.sha256(item)
    sides = (False, True) if item.flip_aug else (False,)
    return Example(
        posteriors=tuple(cache.posterior(sha256, side, framing, lambda: pictures.open(item)) for side in sides),
        caption=item.caption,
        size=framing.bucket,
        weight=this.config.loss.prior_weight if item.is_reg else 1.0,
        key=sha256,
    )


def _cache_folder(run_dir: Path) -> Path:
    """Beside the runs, so that the next run of the same pictures finds it; in a run that stands alone, inside it."""
    return (run_dir.parents[1] if run_dir.parent.name == "runs" else run_dir) / "cache" / "latents"


def plan_of(config: TrainConfig, pictures: Pictures, examples: Sequence[Example]) -> BatchPlan:
    """Which of the training pictures each step sees."""
    repeats = balanced_repeats([item.num_repeats for item in pictures.train], [item.is_reg for item in pictures.train])
    sights = [
        Sight(example.size, count, 0.5 if item.flip_aug else 0.0, item.caption_dropout_rate)
        for item, example, count in zip(pictures.train, examples, repeats, strict=True)
    ]
    datasets = config.data.datasets
    return BatchPlan(sights, max(dataset.batch_size for dataset in datasets), config.schedule.seed)
