"""The pictures and captions of a run, laid out in folders of the run as sd-scripts reads them rightly.

What it would stumble over is gone then: every picture was decoded, stands upright and is opaque, has a name of its own
and a caption in UTF-8, and every mask has its picture's size. Pictures that need none of that are second names of the
admitted files, so that they cost no room.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from ..config import TrainConfig, to_kohya
from ..datasets import pixels
from ..datasets.items import Item, read_subsets
from ..errors import DataError, Message, RightsError, message
from ..rights import gate

# What its own readers open without a plug-in; other pictures are written as PNG.
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_ORIENTATION = 0x0112


@dataclass
class LaidOut:
    """The dataset file over the folders that were made, how many pictures there are, and what to say about others."""

    admitted: gate.Admitted
    dataset: dict[str, Any] = field(default_factory=dict)
    pictures: int = 0
    remarks: list[Message] = field(default_factory=list)
    _hashes: dict[Path, tuple[str, str]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise RightsError if a picture is no longer the one that was laid out: a second name of a file shows what
        someone writes into the first."""
        for path, (name, sha256) in self._hashes.items():
            if not path.is_file() or _sha256(path) != sha256:
                raise RightsError(
                    "“{name}” is no longer the picture that this training began with.",
                    why="Its file changed.",
                    todo="Put the old file back and press Resume, or start a new training.",
                    name=name,
                )

    def note(self, path: Path, name: str, sha256: str) -> None:
        """Remember what was put at ``path``, and under what name its owner knows it."""
        self._hashes[path] = (name, sha256)


def lay_out(
    config: TrainConfig,
    folder: Path,
    *,
    run_dir: Path,
    trigger: str,
    whose: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LaidOut:
    """Fill ``folder`` anew with all admitted pictures of the run. ``progress`` may raise to end it.

    A picture that can't be decoded is left out and named. Raises DataError if none is left, RightsError as
    ``gate.admit`` does, OSError.
    """
    subsets: list[tuple[int, int, list[Item]]] = []
    remarks: list[Message] = []
    for index, dataset in enumerate(config.data.datasets):
        found, said = read_subsets(dataset, fallback=trigger, index=index)
        subsets += [(index, number, items) for number, items in found]
        remarks += said
    admitted = gate.admit([item for _, _, items in subsets for item in items], run_dir, whose=whose)
    laid = LaidOut(admitted, remarks=[*remarks, *admitted.refused, *admitted.remarks])
    shutil.rmtree(folder, ignore_errors=True)
    done = 0
    _, laid.dataset = to_kohya(config)
    entries = laid.dataset["datasets"]
    wanted = [entry.pop("subsets") for entry in entries]
    for entry in entries:
        entry["subsets"] = []
    for index, number, items in subsets:
        usable = [kept for item in items if (kept := admitted.admitted(item)) is not None]
        masked = bool(wanted[index][number].get("conditioning_data_dir"))
        # kohya's numbered folders inside one subset: each number of repeats is a subset of its own.
        for repeats, group in groupby(usable, key=lambda item: item.num_repeats):
            place = folder / f"{index + 1}-{number + 1}-{len(entries[index]['subsets']) + 1}"
            count = 0
            for item in group:
                done += 1
                progress(done, len(admitted.items))
                count += _put(laid, item, place, count, masked)
            if count:
                entries[index]["subsets"].append(_subset(wanted[index][number], place, repeats))
                laid.pictures += 0 if items[0].is_reg else count
    laid.dataset["datasets"] = [entry for entry in entries if entry["subsets"]]
    if not laid.pictures:
        raise DataError(
            "There is no picture to train on.",
            why="None of the pictures can be decoded.",
            todo="Save them again as PNG or JPEG.",
        )
    return laid


def _subset(said: dict[str, Any], place: Path, repeats: int) -> dict[str, Any]:
    # Every picture has its caption beside it, or none on purpose.
    kept = {key: value for key, value in said.items() if key not in ("class_tokens", "metadata_file", "cache_info")}
    kept |= {"image_dir": str(place), "caption_extension": ".txt", "num_repeats": repeats}
    if kept.get("conditioning_data_dir"):
        kept["conditioning_data_dir"] = str(_masks(place))
    return kept


def _masks(place: Path) -> Path:
    return place.with_name(place.name + "-masks")


def _put(laid: LaidOut, item: Item, place: Path, number: int, masked: bool) -> bool:
    """Put one picture, its caption and, where the others have one, its mask into ``place``; False if it turns out to
    be broken."""
    try:
        picture = laid.admitted.open(item)
    except DataError as error:
        laid.remarks.append(message("“{name}” is left out: {reason}", name=item.path.name, reason=str(error)))
        return False
    place.mkdir(parents=True, exist_ok=True)
    stem = f"{number:06d}"
    if _is_plain(item, picture):
        path = place / f"{stem}{item.path.suffix.lower()}"
        _link_or_copy(item.path, path)
        laid.note(path, item.path.name, laid.admitted.sha256(item))
    else:
        shown = pixels.upright(picture)
        path = place / f"{stem}.png"
        (shown if item.alpha_mask else pixels.on_white(shown)).save(path, compress_level=1)
        laid.note(path, item.path.name, _sha256(path))
    if item.caption.strip():
        (place / f"{stem}.txt").write_text(item.caption.strip() + "\n", encoding="utf-8", newline="\n")
    if masked:
        _masks(place).mkdir(exist_ok=True)
        _mask(item, pixels.upright(picture).size).save(_masks(place) / f"{stem}.png", compress_level=1)
    return True


def _is_plain(item: Item, picture: Image.Image) -> bool:
    """Whether sd-scripts sees in the file what a viewer shows: it knows no rotation and no transparency."""
    opaque = picture.mode in ("RGB", "L") and "transparency" not in picture.info
    return (
        (opaque or (item.alpha_mask and picture.mode == "RGBA"))
        and item.path.suffix.lower() in _SUFFIXES
        and picture.getexif().get(_ORIENTATION, 1) == 1
    )


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _mask(item: Item, size: tuple[int, int]) -> Image.Image:
    """The picture's mask at its size, all white where it has none: white is learned. Raises DataError."""
    if item.mask is not None:
        try:
            with Image.open(item.mask) as mask:
                # sd-scripts reads the red of a coloured mask.
                red = pixels.upright(mask).convert("RGB").getchannel(0)
                return red if red.size == size else red.resize(size, Image.Resampling.BILINEAR)
        except OSError as error:
            raise DataError(
                "The mask “{name}” can't be read.",
                why="{reason}.",
                todo="Save it again as PNG.",
                name=item.mask.name,
                reason=str(error).rstrip("."),
            ) from error
    return Image.new("L", size, 255)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block
