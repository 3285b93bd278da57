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
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

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

Spots = NDArray[np.int16]


def groups(
    items: Sequence[Item],
    sha256: Callable[[Item], str],
    read: Callable[[Item], bytes],
    known: Callable[[Item], str | None] = lambda item: None,
) -> dict[str, str]:
    """Each picture that is nearly the same as an earlier one of its dataset -> the path of that one.

    ``read`` gives a picture's bytes; it is not asked for those that have the same as another, nor, where ``known`` has
    their fingerprint, for those that are near no other.
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
            known_print = known(item)
            looks[path] = _Look.of(read(item)) if known_print is None else _Look.known(known_print, partial(read, item))
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


@dataclass(eq=False)  # arrays have no single truth value to compare by
class _Look:
    """A picture's hash (32 bytes), and its brightness on ``_SPOTS`` × ``_SPOTS`` spots, None where it can't be seen."""

    bits: pdq.Bits
    _spots: Callable[[], Spots | None]

    @classmethod
    def of(cls, data: bytes) -> _Look | None:
        """The look of a picture's bytes; None for one with too little to see, or that can't be decoded."""
        small = _small(data)
        bits = _bits(small) if small is not None else None
        return None if small is None or bits is None else cls(bits, lambda: _spots(small))

    @classmethod
    def known(cls, fingerprint: str, read: Callable[[], bytes]) -> _Look | None:
        """The look of a picture whose fingerprint is known; its bytes are read when its spots are asked for."""

        def spots() -> Spots | None:
            small = _small(read())
            return _spots(small) if small is not None else None

        return cls(np.frombuffer(bytes.fromhex(fingerprint), np.uint8), spots) if fingerprint else None

    @cached_property
    def spots(self) -> Spots | None:
        return self._spots()


def _first_alike(look: _Look, earlier: Sequence[_Look]) -> int | None:
    """The number of the first one that shows the same, or None."""
    if not earlier:
        return None
    away = pdq.distances(look.bits[None], np.stack([one.bits for one in earlier]))[0]
    near = (int(number) for number in np.flatnonzero(away <= NEAR_BITS))
    return next((number for number in near if _is_alike(look, earlier[number])), None)


def _is_alike(one: _Look, other: _Look) -> bool:
    if one.spots is None or other.spots is None:
        return False
    return bool(np.abs(one.spots - other.spots).max() <= _OTHER_DETAIL)


def _small(data: bytes) -> Image.Image | None:
    """The picture upright and small; None for one that can't be decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as picture:
                picture.draft("RGB", (_SIDE, _SIDE))  # JPEGs: decode no more than is needed
                return _shrunk(ImageOps.exif_transpose(picture).convert("RGB"))
    except Exception:  # decoders fail in many ways; whoever uses the picture says so
        return None


def _shrunk(picture: Image.Image) -> Image.Image:
    scale = max(picture.size) / _SIDE
    if scale <= 1:
        return picture
    size = (max(1, round(picture.width / scale)), max(1, round(picture.height / scale)))
    return picture.resize(size, Image.Resampling.BOX)


def _bits(small: Image.Image) -> pdq.Bits | None:
    """The hash of a small picture; None for one with too little to see."""
    made = pdq.quick(np.asarray(small.convert("L"), dtype=np.float32))
    return pdq.packed(made.cosines[None])[0] if made.quality >= LEAST_QUALITY else None


def _spots(small: Image.Image) -> Spots:
    return np.asarray(small.convert("L").resize((_SPOTS, _SPOTS), Image.Resampling.BOX), dtype=np.int16)


def fingerprint(data: bytes) -> str:
    """The hash of a picture as hexadecimal digits, "" for one with too little to see."""
    small = _small(data)
    return "" if small is None else fingerprint_of(small)


def fingerprint_of(picture: Image.Image) -> str:
    """The same of a decoded RGB picture, upright."""
    bits = _bits(_shrunk(picture))
    return "" if bits is None else bits.tobytes().hex()


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
