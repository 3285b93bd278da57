"""Which pictures a step sees: a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from . import noise


@dataclass(frozen=True)
class Place:
    """One picture in a batch: its index in the run's list, whether mirrored, whether without its caption."""

    index: int
    mirrored: bool = False
    without_caption: bool = False


@dataclass(frozen=True)
class Sight:
    """What the plan must know of a picture: its bucket, how often an epoch shows it, and its two chances.

    In every ``caption_dropout_every_n_epochs``-th epoch, counted from 1, it has no caption; 0 is never. ``dataset``
    tells whose pictures share batches, of ``batch_size``, in which the network counts ``multiplier`` times.
    """

    bucket: tuple[int, int]
    repeats: int = 1
    mirror_rate: float = 0.0
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    dataset: int = 0
    batch_size: int = 1
    multiplier: float = 1.0


# The pictures of a batch are of one dataset and one bucket.
_Group = tuple[int, tuple[int, int]]


@dataclass
class BatchPlan:
    """Batches of one dataset and bucket each. An epoch shows every picture as often as it repeats, in its own order."""

    sights: Sequence[Sight]
    seed: int
    _epochs: dict[int, list[list[int]]] = field(default_factory=dict, repr=False)

    @cached_property
    def batches_per_epoch(self) -> int:
        """The number of batches; short ones, where a bucket does not divide, count as well."""
        return sum(-(-count // size) for count, size in self._counts().values())

    def batch(self, number: int) -> list[Place]:
        """The places of batch ``number``, counted from 0 over all epochs."""
        epoch, index = divmod(number, self.batches_per_epoch)
        return [self._place(i, epoch, number, at) for at, i in enumerate(self._epoch(epoch)[index])]

    def pixels(self, places: Sequence[Place]) -> int:
        """Pixels of a batch."""
        width, height = self.sights[places[0].index].bucket
        return width * height * len(places)

    def mean_pixels(self) -> float:
        """Pixels of a batch, on average over an epoch."""
        shown = sum(sight.repeats * sight.bucket[0] * sight.bucket[1] for sight in self.sights)
        return shown / self.batches_per_epoch

    def showings(self, batches: int) -> list[int]:
        """How often each picture is in the first ``batches`` batches."""
        epochs, rest = divmod(batches, self.batches_per_epoch)
        counts = [epochs * sight.repeats for sight in self.sights]
        for members in self._shuffled(epochs)[:rest]:
            for index in members:
                counts[index] += 1
        return counts

    def multiplier(self, number: int) -> float:
        """How often the network counts in batch ``number``."""
        return self.sights[self.batch(number)[0].index].multiplier

    def _place(self, index: int, epoch: int, number: int, at: int) -> Place:
        sight, draw = self.sights[index], noise.rng(self.seed, "place", number, at)
        mirrored, dropped = draw.random() < sight.mirror_rate, draw.random() < sight.caption_dropout_rate
        every = sight.caption_dropout_every_n_epochs
        return Place(index, mirrored, dropped or (every > 0 and (epoch + 1) % every == 0))

    def _epoch(self, epoch: int) -> list[list[int]]:
        if epoch not in self._epochs:
            # A run goes forward: only the epoch it is in is kept.
            self._epochs = {epoch: self._shuffled(epoch)}
        return self._epochs[epoch]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        draw = noise.rng(self.seed, "epoch", epoch)
        groups: dict[_Group, list[int]] = {}
        for index, sight in enumerate(self.sights):
            groups.setdefault((sight.dataset, sight.bucket), []).extend([index] * sight.repeats)
        batches = []
        for group in sorted(groups):
            members = groups[group]
            size = self.sights[members[0]].batch_size
            draw.shuffle(members)
            batches += [members[at : at + size] for at in range(0, len(members), size)]
        draw.shuffle(batches)
        return batches

    def _counts(self) -> Mapping[_Group, tuple[int, int]]:
        """How often the pictures of each group are shown in an epoch, and how many of them at once."""
        counts: dict[_Group, tuple[int, int]] = {}
        for sight in self.sights:
            group = sight.dataset, sight.bucket
            counts[group] = counts.get(group, (0, 0))[0] + sight.repeats, sight.batch_size
        return counts


def balanced_repeats(repeats: Sequence[int], is_reg: Sequence[bool]) -> list[int]:
    """Repeats under which an epoch shows about as many regularisation pictures as others, as sd-scripts does.

    Regularisation pictures keep at least one showing each, so that none is read in vain.
    """
    shown = sum(count for count, reg in zip(repeats, is_reg, strict=True) if not reg)
    reg_shown = sum(count for count, reg in zip(repeats, is_reg, strict=True) if reg)
    factor = max(1, round(shown / reg_shown)) if reg_shown else 1
    return [count * factor if reg else count for count, reg in zip(repeats, is_reg, strict=True)]
