"""Pictures that are nearly the same share one budget of repeats: what comes several times is what is memorised first.

The same bytes; or PDQ hashes at most 31 of 256 bits apart (what its authors call confident), where both have enough to
see (quality 50), and no spot that differs: a drawing in one pose with other eyes or another mouth has nearly the same
hash, and is a picture of its own. Source: Somepalli et al. 2023 (duplication drives copying).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..datasets.items import Item
from ..errors import Message, message
from . import pdq

NEAR_BITS = 31
LEAST_QUALITY = 50
_SIDE = 256
# Brightness is compared on so many spots a side; one that differs by more (of 255) is another detail. On a drawn
# face and a fractal: JPEG of quality 30, half the size, a blur of two pixels at most 23; another mouth 154.
_SPOTS = 48
_OTHER_DETAIL = 45
# Above this the comparison itself takes long; the same bytes are found at any number.
MOST = 2000


def groups(items: Sequence[Item], sha256: Callable[[Item], str], read: Callable[[Item], bytes]) -> dict[str, str]:
    """Each picture that is nearly the same as an earlier one of its dataset -> the path of that one.

    ``read`` gives a picture's bytes; it is not asked for those that have the same as another.
    """
    found: dict[str, str] = {}
    firsts: dict[tuple[int, str], str] = {}
    distinct: list[Item] = []
    for item in items:
        first = firsts.setdefault((item.dataset, sha256(item)), str(item.path))
        if first != str(item.path):
            found[str(item.path)] = first
        else:
            distinct.append(item)
    if len(distinct) > MOST:
        return found
    kept: dict[int, tuple[list[str], list[_Look]]] = {}
    looks: dict[str, _Look | None] = {}
    for item in distinct:
        path = str(item.path)
        if path not in looks:
            looks[path] = _look(read(item))
        look = looks[path]
        if look is None:
            continue
        paths, earlier = kept.setdefault(item.dataset, ([], []))
        alike = _first_alike(look, earlier)
        if alike is not None:
            found[path] = paths[alike]
            continue
        paths.append(path)
        earlier.append(look)
    return found


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class _Look:
    """A picture's hash (32 bytes), and its brightness on ``_SPOTS`` × ``_SPOTS`` spots."""

    bits: pdq.Bits
    spots: NDArray[np.int16]


def _first_alike(look: _Look, earlier: Sequence[_Look]) -> int | None:
    """The number of the first one that shows the same, or None."""
    if not earlier:
        return None
    away = pdq.distances(look.bits[None], np.stack([one.bits for one in earlier]))[0]
    near = (int(number) for number in np.flatnonzero(away <= NEAR_BITS))
    return next((n for n in near if np.abs(look.spots - earlier[n].spots).max() <= _OTHER_DETAIL), None)


def _look(data: bytes) -> _Look | None:
    """How a picture looks; None for one with too little to see, or that can't be decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as picture:
                picture.draft("RGB", (_SIDE, _SIDE))  # JPEGs: decode no more than is needed
                small = picture.convert("RGB")
                small.thumbnail((_SIDE * 2, _SIDE * 2), Image.Resampling.BOX)
        made = pdq.quick(pdq.luma(small))
    except Exception:  # decoders fail in many ways; whoever uses the picture says so
        return None
    if made.quality < LEAST_QUALITY:
        return None
    spots = np.asarray(small.convert("L").resize((_SPOTS, _SPOTS), Image.Resampling.BOX), dtype=np.int16)
    return _Look(pdq.packed(made.cosines[None])[0], spots)


def fingerprint(data: bytes) -> str:
    """The hash of a picture as hexadecimal digits, "" for one with too little to see."""
    look = _look(data)
    return "" if look is None else look.bits.tobytes().hex()


def is_near(one: str, other: str) -> bool:
    """Whether two fingerprints are of nearly the same picture; "" is near nothing."""
    if len(one) != len(other) or not one:
        return False
    return (int(one, 16) ^ int(other, 16)).bit_count() <= NEAR_BITS


def shared(items: Sequence[Item], grouped: Mapping[str, str]) -> tuple[dict[Item, int], list[Message]]:
    """The repeats of each item, those of each group brought to one budget: the highest that one of it had.

    The first ones get the larger part. What is left without any gets 0, and is said.
    """
    members: dict[tuple[int, str], list[Item]] = {}
    for item in items:
        members.setdefault((item.dataset, grouped.get(str(item.path), "") or str(item.path)), []).append(item)
    repeats: dict[Item, int] = {}
    for group in members.values():
        whole, rest = divmod(max(item.num_repeats for item in group), len(group))
        for number, item in enumerate(group):
            repeats[item] = whole + (number < rest) if len(group) > 1 else item.num_repeats
    said = [
        message(
            "“{name}” is nearly the same picture as “{other}” and is left out: together they are seen as often as one.",
            name=item.path.name,
            other=_name(grouped[str(item.path)]),
        )
        for item in items
        if not repeats[item]
    ]
    return repeats, said


def _name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
