"""A LoRA's training pictures -> what the guard keeps of them, with limits that the pictures set themselves.

Pictures of one character in one pose are near each other and no copies, and an output in that pose is none either. So
an output is like a training picture only if it is nearer to it than every other training picture is.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import fingerprints, grid, keypoints
from .fingerprints import CERTAIN, DOUBT, FLAG, FLAG_PARTS, NUM_VIEWS, Fingerprint
from .keypoints import Points
from .pdq import BYTES, Bits, Luma
from .references import Reference, References

# The longer side of the copies, and how they are kept: about 20 KB a picture.
_COPY_SIDE, _COPY_QUALITY = 384, 85
# Two pictures nearer than ``CERTAIN`` are one picture if their colours agree as well, of 255.
_SAME_COLOURS = 12.0
_COLOUR_SIDE = 16
# A copy that a model made differs by about this many bits; a lower limit would find none.
_FEWEST_BITS = 8
# Of more pictures than this only the whole is calibrated: each of them is compared with all others.
_MOST_COMPARED = 300
# Laid upon each other, an output must have so much more in common with a picture than another training picture has.
_APART, _NEVER = 0.15, 2.0
# So many of the nearest other pictures are compared by corners, which takes milliseconds each.
_NEIGHBOURS = 8


@dataclass(frozen=True, eq=False)
class Prepared:
    """A training picture on its way to the references: its small copy, and what is compared."""

    name: str
    sha256: str
    copy: bytes
    luma: Luma
    seen: Fingerprint
    strips: Bits
    points: Points
    colours: NDArray[np.float32]


def prepare(name: str, sha256: str, picture: Image.Image) -> Prepared:
    """All that is kept of one training picture, and what calibration needs."""
    small = fingerprints.shrunk(_on_white(picture), _COPY_SIDE)
    kept = io.BytesIO()
    small.save(kept, "JPEG", quality=_COPY_QUALITY)
    luma = fingerprints.trimmed(fingerprints.brightness(picture))
    return Prepared(
        name=name,
        sha256=sha256,
        copy=kept.getvalue(),
        luma=luma,
        seen=fingerprints.of_brightness(luma),
        strips=grid.strip_hashes(luma),
        points=keypoints.of_training(luma),
        colours=np.asarray(small.resize((_COLOUR_SIDE, _COLOUR_SIDE), Image.Resampling.BOX), dtype=np.float32),
    )


def build(model_hash: str, pictures: Iterable[Prepared]) -> References:
    """The references of the LoRA with these tensors."""
    listed = list(pictures)
    return References(
        model_hash=model_hash,
        pictures=tuple(
            Reference(each.name, each.sha256, each.seen.quality, *limits)
            for each, limits in zip(listed, calibrated(listed), strict=True)
        ),
        views=np.stack([each.seen.views for each in listed]) if listed else np.empty((0, NUM_VIEWS, BYTES), np.uint8),
        strips=np.stack([each.strips for each in listed]) if listed else np.empty((0, 1, BYTES), np.uint8),
        copies=tuple(each.copy for each in listed),
    )


def calibrated(pictures: Sequence[Prepared]) -> list[tuple[int, int, int, float, float]]:
    """The limits ``whole``, ``windows``, ``corners``, ``blocks`` and ``parts`` of each picture.

    The same picture twice does not count as another. ``whole`` is 0 where a picture says nothing: too few edges, or
    another training picture that can hardly be told from it.
    """
    if not pictures:
        return []
    views = np.stack([each.seen.views for each in pictures])
    parts = np.concatenate([views, np.stack([each.strips for each in pictures])], axis=1)
    limits = []
    for at, one in enumerate(pictures):
        apart = fingerprints.distance(one.seen, views)
        others = [n for n, other in enumerate(pictures) if n != at and not _is_same(one, other, int(apart[n]))]
        others.sort(key=lambda n: int(apart[n]))
        whole = min([FLAG, *(int(apart[n]) for n in others)])
        if not one.seen.is_telling or whole < _FEWEST_BITS:
            limits.append((0, 0, keypoints.FLAG, _NEVER, 0.0))
            continue
        alike = fingerprints.composition_distance(one.seen, views[others])
        composed = float(min([FLAG_PARTS, *alike]))
        if len(pictures) > _MOST_COMPARED:
            limits.append((whole, grid.FLAG, keypoints.FLAG, keypoints.IN_PLACE, composed))
            continue
        asked = grid.hashes(one.luma)
        windows = min([grid.FLAG, *grid.distance(asked, parts[others]).tolist()])
        points = keypoints.of_output(one.luma)
        agreeing = [keypoints.agreement(pictures[n].points, points).count for n in others[:_NEIGHBOURS]]
        corners = max([keypoints.FLAG, *(2 * count for count in agreeing)])
        near = [n for n in others[:_NEIGHBOURS] if apart[n] < DOUBT]
        laid = [in_place(pictures[n].luma, one.luma).share for n in near]
        blocks = max([keypoints.IN_PLACE, *(share + _APART for share in laid)])
        limits.append((whole, windows, corners, blocks, composed))
    return limits


def in_place(training: Luma, output: Luma) -> keypoints.Overlap:
    """What two pictures have in common laid upon each other, or one upon the other's mirror image."""
    small = fingerprints.reduced(training, keypoints.TRAINING_SIDE)
    both = (keypoints.in_place(small, each) for each in (output, np.ascontiguousarray(output[:, ::-1])))
    return max(both, key=lambda each: each.share)


def _is_same(one: Prepared, other: Prepared, apart: int) -> bool:
    """Whether two files are one picture: the same content, or nearly the same hash and colours."""
    if one.sha256 == other.sha256:
        return True
    return apart <= CERTAIN and float(np.abs(one.colours - other.colours).mean()) < _SAME_COLOURS


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        above = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return picture.convert("RGB")
