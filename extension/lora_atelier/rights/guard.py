"""The guard: is an output like a training picture of the LoRAs that made it? It finds copies of compositions.

It sees neither style nor a person's or character's likeness, and says so. It never decides: it shows both pictures.

First look: PDQ of the whole and of parts (``fingerprints``), each against each and all at their places, and where that
leaves doubt, block by block. Second look, where the first found nothing: windows (``grid``) and corners
(``keypoints``). Third look, where the person has a model for it: ``embedder``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from ..errors import RightsError
from . import calibration, fingerprints, grid, keypoints, references
from .fingerprints import ALGORITHM, DOUBT
from .pdq import Bits, Luma
from .references import References

Verdict = Literal["copy-like", "close", "nothing found"]
Look = Literal["whole", "parts", "blocks", "windows", "corners", "embedder"]

DETECTOR = f"{ALGORITHM}, parts, blocks, windows, corners v2"
# The corners of at most so many training pictures are compared, the nearest by their hashes: 5 CPU milliseconds each.
MOST_CORNERS = 40
_MOST_LAID = 6
_ORDER: tuple[Verdict, ...] = ("nothing found", "close", "copy-like")


@dataclass(frozen=True)
class Used:
    """A LoRA that an output was made with: its name, its file and the hash of its tensors."""

    name: str
    path: Path
    model_hash: str


@dataclass(frozen=True)
class Near:
    """The training picture that an output is most like: whose it is, and by which look.

    ``value`` and ``limit`` are bits that differ (whole, parts, windows), a share of the picture that is the same
    (blocks), places that agree (corners) or a cosine (embedder).
    """

    lora: str
    picture: str
    at: int
    look: Look
    value: float
    limit: float


@dataclass(frozen=True)
class Finding:
    """What the guard found of one output. ``silent`` pictures say nothing about copies: too few edges, or another
    training picture that can't be told from it; of the LoRAs in ``unknown`` no pictures are kept here."""

    verdict: Verdict
    near: Near | None = None
    compared: int = 0
    silent: int = 0
    unknown: tuple[str, ...] = ()
    milliseconds: float = 0.0
    detector: str = DETECTOR

    def to_json(self) -> dict[str, Any]:
        """The finding as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Finding:
        """The finding that ``to_json`` gave. Raises KeyError, TypeError, ValueError for anything else."""
        if said["verdict"] not in _ORDER:
            raise ValueError(said["verdict"])
        near = Near(**said["near"]) if said["near"] is not None else None
        return cls(**{**said, "near": near, "unknown": tuple(said["unknown"])})


class Embeds(Protocol):
    """A model of the person's own that says how alike two pictures are."""

    name: str

    def likeness(self, picture: Image.Image, known: References) -> np.ndarray[Any, Any]:
        """The cosine of the output's and each training picture's embedding, (n,)."""
        ...


@dataclass(eq=False)
class Output:
    """An output while it is looked at; what several LoRAs need of it is made once."""

    picture: Image.Image
    luma: Luma = field(init=False)
    seen: fingerprints.Fingerprint = field(init=False)
    _second: tuple[Bits, list[tuple[keypoints.Points, Luma]]] | None = None

    def __post_init__(self) -> None:
        self.luma = fingerprints.trimmed(fingerprints.brightness(self.picture))
        self.seen = fingerprints.of_brightness(self.luma)

    @property
    def second(self) -> tuple[Bits, list[tuple[keypoints.Points, Luma]]]:
        """What the second look needs: windows, and corners of the output as it is and mirrored."""
        if self._second is None:
            luma = fingerprints.reduced(self.luma, keypoints.OUTPUT_SIDE)
            both = [luma, np.ascontiguousarray(luma[:, ::-1])]
            self._second = (grid.hashes(self.luma), [(keypoints.of_output(each), each) for each in both])
        return self._second


class Guard:
    """Compares outputs with the training pictures of LoRAs; what is kept beside a LoRA is read once."""

    def __init__(self, *, embedder: Embeds | None = None, second_look: bool = True) -> None:
        self._embedder = embedder
        self._second_look = second_look
        self._known: dict[tuple[Path, int, int], References | None] = {}

    def examine(self, picture: Image.Image, used: Iterable[Used]) -> tuple[Finding, list[RightsError]]:
        """The finding for one output, and what could not be read."""
        began = time.perf_counter()
        known, unknown, errors = self._read(used)
        if not any(len(each) for _, each in known):
            return Finding("nothing found", unknown=tuple(unknown)), errors
        found = compare(Output(picture), known, embedder=self._embedder, second_look=self._second_look)
        took = (time.perf_counter() - began) * 1000
        return replace(found, unknown=tuple(unknown), milliseconds=round(took, 1)), errors

    def known(self, used: Used) -> References | None:
        """What is kept of a LoRA's pictures; None where nothing is, or it is another file's. Raises RightsError."""
        path = references.beside(used.path)
        try:
            stat = path.stat()
        except OSError:
            return None
        key = path, stat.st_mtime_ns, stat.st_size
        if key not in self._known:
            self._known = {old: kept for old, kept in self._known.items() if old[0] != path}
            self._known[key] = references.read(path)
        kept = self._known[key]
        return kept if kept is not None and kept.model_hash == used.model_hash else None

    def _read(self, used: Iterable[Used]) -> tuple[list[tuple[str, References]], list[str], list[RightsError]]:
        known, unknown, errors = [], [], []
        for each in used:
            try:
                kept = self.known(each)
            except RightsError as error:
                errors.append(error)
                kept = None
            if kept is None:
                unknown.append(each.name)
            else:
                known.append((each.name, kept))
        return known, unknown, errors


def compare(
    output: Output,
    known: Sequence[tuple[str, References]],
    *,
    embedder: Embeds | None = None,
    second_look: bool = True,
) -> Finding:
    """The strongest finding of an output among the training pictures of some LoRAs."""
    found: list[tuple[Verdict, Near]] = []
    for name, kept in known:
        if len(kept):
            found.append(_compare_one(output, name, kept, second_look=second_look))
            if embedder is not None:
                found.append(_by_embedder(output, name, kept, embedder))
    verdict, near = max(found, key=lambda each: (_ORDER.index(each[0]), closeness(each[1])))
    silent = sum(int((kept.limits[:, 0] == 0).sum()) for _, kept in known)
    compared = sum(len(kept) for _, kept in known) - silent
    return Finding(verdict, near, compared, silent)


def _compare_one(output: Output, name: str, kept: References, *, second_look: bool) -> tuple[Verdict, Near]:
    limits = kept.limits
    can_tell = limits[:, 0] > 0
    apart = np.where(can_tell, fingerprints.distance(output.seen, kept.views), 256)
    # An output without edges has a hash that says nothing.
    if not output.seen.is_telling:
        apart = np.full_like(apart, 256)

    def near(at: int, look: Look, value: float) -> Near:
        return Near(name, kept.pictures[at].name, int(at), look, float(value), float(getattr(kept.pictures[at], look)))

    below = apart - limits[:, 0]
    nearest = int(below.argmin())
    best: tuple[Verdict, Near] = ("nothing found", near(nearest, "whole", apart[nearest]))
    if below[nearest] < 0:
        return "copy-like", best[1]
    if output.seen.is_telling:
        composed = fingerprints.composition_distance(output.seen, kept.views)
        alike = composed - [each.parts if each.whole else 0.0 for each in kept.pictures]
        at = int(alike.argmin())
        if alike[at] < 0:
            return "copy-like", near(at, "parts", round(float(composed[at]), 1))
    laid = _laid_in_place(output, kept, apart)
    if laid is not None:
        verdict, share, at = laid
        return verdict, near(at, "blocks", round(share, 3))
    if not second_look:
        return best
    chosen = [int(at) for at in np.argsort(apart, kind="stable") if can_tell[at]]
    if not chosen:
        return best
    windows, sides = output.second
    if output.seen.is_telling:
        parts = grid.distance(windows, kept.windows[chosen]) - limits[chosen, 1]
        at = int(parts.argmin())
        if parts[at] < 0:
            return "copy-like", near(chosen[at], "windows", parts[at] + limits[chosen[at], 1])
    found = [(*_by_corners(kept, at, sides), at) for at in chosen[:MOST_CORNERS]]
    verdict, count, at = max(found, key=lambda each: (_ORDER.index(each[0]), each[1]))
    return (verdict, near(at, "corners", count)) if verdict != "nothing found" else best


def _laid_in_place(output: Output, kept: References, apart: np.ndarray[Any, Any]) -> tuple[Verdict, float, int] | None:
    """What is found by laying the output upon the pictures that hashes leave in doubt: the share that is the same."""
    found: list[tuple[Verdict, float, int]] = []
    for at in np.argsort(apart, kind="stable")[:_MOST_LAID]:
        if apart[at] >= DOUBT:
            break
        lies, limit = calibration.in_place(kept.corners(int(at))[1], output.luma), kept.pictures[at].blocks
        if lies.blocks >= keypoints.BLOCKS and lies.share >= limit:
            found.append(("copy-like", lies.share, int(at)))
        elif lies.blocks >= keypoints.BLOCKS and lies.share >= limit - keypoints.IN_PLACE + keypoints.FLAG_IN_PLACE:
            found.append(("close", lies.share, int(at)))
    return max(found, key=lambda each: (_ORDER.index(each[0]), each[1]), default=None)


def _by_corners(kept: References, at: int, sides: Sequence[tuple[keypoints.Points, Luma]]) -> tuple[Verdict, int]:
    """What the corners of one training picture say of an output and its mirror image, and how many places agree."""
    verdict: Verdict = "nothing found"
    most = 0
    points, luma = kept.corners(at)
    for theirs, output in sides:
        agreed = keypoints.agreement(points, theirs)
        if agreed.moves is None or agreed.count < keypoints.LEAST:
            continue
        lies = keypoints.overlap(luma, output, agreed.moves)
        most = max(most, agreed.count)
        if lies.share >= keypoints.SHARE and lies.blocks >= keypoints.BLOCKS:
            return "copy-like", agreed.count
        if agreed.count >= kept.pictures[at].corners and lies.share >= keypoints.FLAG_SHARE:
            verdict = "close"
    return verdict, most


def _by_embedder(output: Output, name: str, kept: References, embedder: Embeds) -> tuple[Verdict, Near]:
    from .embedder import REVIEW, STRONG

    likeness = embedder.likeness(output.picture, kept)
    at = int(likeness.argmax())
    value = float(likeness[at])
    verdict: Verdict = "copy-like" if value > STRONG else "close" if value > REVIEW else "nothing found"
    return verdict, Near(name, kept.pictures[at].name, at, "embedder", value, REVIEW)


def closeness(near: Near) -> float:
    """How far beyond its limit something is, to choose among findings of one verdict."""
    if near.look in ("whole", "parts", "windows"):
        return (near.limit - near.value) / 256
    if near.look == "blocks":
        return near.value - near.limit
    if near.look == "corners":
        return (near.value - near.limit) / 100
    return near.value - near.limit
