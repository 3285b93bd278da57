"""The pictures of a run: read, admitted, some held out, shown as a step needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import Image

from ..config import DatasetConfig, TrainConfig
from ..datasets import buckets, pixels
from ..datasets.buckets import Framing, Size
from ..datasets.items import Item, read_items
from ..datasets.record import Entry
from ..rights import gate
from . import noise
from .batches import BatchPlan, Sight, balanced_repeats
from .run import Run

_FEWEST_FOR_HOLDING_OUT = 8


@dataclass(frozen=True)
class Shown:
    """A picture cut to its bucket, and how opaque it is there ("L"); None where it has no transparency."""

    picture: Image.Image
    opacity: Image.Image | None


@dataclass
class Pictures:
    """What a run trains on and what it measures on; ``datasets`` says at which resolution each picture is seen."""

    admitted: gate.Admitted
    train: list[Item]
    heldout: list[Item]
    datasets: dict[Item, DatasetConfig]
    warnings: tuple[Any, ...] = ()
    _framings: dict[Item, Framing] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[Item]:
        yield from self.train
        yield from self.heldout

    def framing(self, item: Item) -> Framing:
        """The picture's bucket and how it is cut to it: that of its metadata file, else the nearest one."""
        if item not in self._framings:
            if item.bucket is not None:
                self._framings[item] = buckets.cover(item.width, item.height, item.bucket)
            else:
                self._framings[item] = buckets.frame(item.width, item.height, self.datasets[item])
        return self._framings[item]

    def show(self, item: Item, corner: Size | None = None) -> Shown:
        """The admitted picture, cut to its bucket around its middle, or from ``corner`` of the scaled picture.

        Raises RightsError if its file changed, DataError if it is broken.
        """
        upright = pixels.upright(self.admitted.open(item))
        framing, opacity = self.framing(item), pixels.alpha(upright)
        parts = (pixels.on_white(upright), opacity)
        picture, opaque = (
            None if part is None else pixels.framed(part, framing, corner, item.resize_interpolation) for part in parts
        )
        assert picture is not None
        return Shown(picture, opaque)

    def remove(self, item: Item) -> None:
        """Leave out a picture that turned out broken."""
        (self.train if item in self.train else self.heldout).remove(item)

    def entry(self, item: Item, *, held_out: bool, mask_sha256: str = "") -> Entry:
        """What the run's list says of a picture."""
        framing = self.framing(item)
        use = {
            "bucket": framing.bucket,
            "resized": framing.resized,
            "repeats": item.num_repeats,
            "is_reg": item.is_reg,
            "held_out": held_out,
            "flip_aug": item.flip_aug,
            "caption_dropout_rate": item.caption_dropout_rate,
            "caption_dropout_every_n_epochs": item.caption_dropout_every_n_epochs,
            "alpha_mask": item.alpha_mask,
            "mask": mask_sha256,
            "resize_interpolation": item.resize_interpolation,
            **{name: True for name in ("random_crop", "color_aug", "diff_output_preservation") if getattr(item, name)},
            **asdict(item.rules),
        }
        return Entry(item.path.name, self.admitted.sha256(item), item.caption, use)


def read_pictures(this: Run) -> Pictures:
    """All pictures of the run, admitted; some held out. Raises DataError, RightsError."""
    this.preparing("pictures")
    warnings, datasets = [], {}
    for index, dataset in enumerate(this.config.data.datasets):
        items, remarks = read_items(dataset, fallback=this.job.trigger, index=index)
        warnings += remarks
        datasets.update(dict.fromkeys(items, dataset))
    admitted = gate.admit(list(datasets), this.path, whose=this.job.whose)
    warnings += (*admitted.refused, *admitted.remarks)
    # The gate may have given other repeats, and an item is known by all that it is.
    datasets = {item: this.config.data.datasets[item.dataset] for item in admitted.items}
    own = [item for item in admitted.items if not item.is_reg]
    split = this.config.validation.split
    held = round(len(own) * split) if len(own) >= _FEWEST_FOR_HOLDING_OUT and split else 0
    held = max(1, held) if split and len(own) >= _FEWEST_FOR_HOLDING_OUT else held
    chosen = set(noise.rng(this.config.validation.seed, "held out").sample(range(len(own)), held))
    heldout = [item for at, item in enumerate(own) if at in chosen]
    apart = set(heldout)
    train = [item for item in admitted.items if item not in apart]
    return Pictures(admitted, train, heldout, datasets, tuple(warnings))


def plan_of(config: TrainConfig, pictures: Pictures) -> BatchPlan:
    """Which of the training pictures each step sees."""
    repeats = _repeats(pictures.train)
    sights = [
        Sight(
            pictures.framing(item).bucket,
            count,
            mirror_rate=0.5 if item.flip_aug else 0.0,
            caption_dropout_rate=item.caption_dropout_rate,
            caption_dropout_every_n_epochs=item.caption_dropout_every_n_epochs,
            dataset=item.dataset,
            batch_size=pictures.datasets[item].batch_size,
            multiplier=pictures.datasets[item].network_multiplier,
        )
        for item, count in zip(pictures.train, repeats, strict=True)
    ]
    return BatchPlan(sights, config.schedule.seed)


def _repeats(items: Sequence[Item]) -> list[int]:
    """How often an epoch shows each picture; regularisation pictures as often as the others of their dataset."""
    found = [item.num_repeats for item in items]
    for dataset in {item.dataset for item in items if not item.is_reg}:
        members = [at for at, item in enumerate(items) if item.dataset == dataset]
        balanced = balanced_repeats([found[at] for at in members], [items[at].is_reg for at in members])
        for at, count in zip(members, balanced, strict=True):
            found[at] = count
    return found
