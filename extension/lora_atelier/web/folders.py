"""One folder of pictures as the page shows it: what each picture is, what is wrong with it, its thumbnail, its marks.

What a picture is (size, problems, how it looks) is found out when it is shown and kept in ``cache``, so that a folder
of 5 000 pictures opens at once. A person's marks (left out, another caption) are kept there too: a folder of this
machine is never changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from .. import atomic
from ..datasets import looks
from ..datasets.captions import read_caption
from ..datasets.headers import read_size
from ..errors import DataError, Message, message
from ..jobs.forms import PICTURE_SUFFIXES
from .probing import Refusal, probe, write_thumbnail

THUMBNAIL_SIDE = 256
_LONGEST_CAPTION = 20_000
# Bumped when what is kept of a picture changes, so that it is looked at again.
_LOOKED = 4


@dataclass(frozen=True)
class Issue:
    """What is wrong with one picture. ``kind`` is "broken", "prohibited", "large", "small", "blurred", "face",
    "duplicate", "caption" or "animated"; the first three are never trained on. ``other`` is the picture that it
    doubles."""

    kind: str
    said: Message
    other: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture; a ``refused`` one will not be trained on, and ``issues`` say why. ``print`` is its fingerprint."""

    name: str
    width: int = 0
    height: int = 0
    caption: str = ""
    issues: tuple[Issue, ...] = ()
    refused: bool = False
    print: str = ""

    @property
    def problems(self) -> tuple[Message, ...]:
        """What is wrong, in words."""
        return tuple(issue.said for issue in self.issues)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A part of a folder's pictures, in the order of their names; ``total`` counts all of them.

    ``looked`` counts those that were looked into: only among these are near-duplicates known. ``counts`` are the
    pictures of each kind of issue among them, ``left_out`` the names of those that the person took out.
    """

    total: int
    start: int
    pictures: tuple[Picture, ...]
    looked: int = 0
    counts: Mapping[str, int] | None = None
    left_out: tuple[str, ...] = ()


class PictureFolder:
    """The pictures in ``source``; what is known of them, their thumbnails and their marks lie in ``cache``.

    ``links``: whether symbolic links are followed, as whoever may name any folder of this machine may want.
    """

    def __init__(self, source: Path, cache: Path, refusal: Refusal | None = None, *, links: bool = False) -> None:
        self.links = links
        self.source = source
        self.cache = cache
        self._refusal = refusal
        self._known: dict[str, dict[str, Any]] | None = None
        # The fingerprints that were compared last, and which of their pictures are nearly the same.
        self._compared: tuple[dict[str, str], dict[str, str]] = ({}, {})
        self._lock = threading.RLock()

    # ------------------------------------------------------------------------------------------- listing

    def all_names(self) -> list[str]:
        """Names of the picture files, also of those left out. Raises DataError if the folder can't be read."""
        try:
            with os.scandir(self.source) as entries:
                named = [e for e in entries if is_picture_name(e.name) and not e.name.startswith(".")]
                names = [e.name for e in named if self.links or not e.is_symlink()]
        except OSError as error:
            raise _unreadable(self.source, error) from error
        return sorted(names)

    def names(self) -> list[str]:
        """Names of the pictures that are to be used. Raises DataError."""
        left_out = self.left_out()
        return [name for name in self.all_names() if name not in left_out]

    def listing(
        self,
        start: int = 0,
        count: int = 60,
        *,
        side: int = 0,
        only: str = "",
        among: Collection[str] | None = None,
        look: bool = True,
    ) -> Listing:
        """The pictures from ``start`` on, at most ``count``; ``only`` those with an issue of one kind, or "any"; or
        those ``among`` some names.

        ``side`` is the size that the base model learns at: smaller pictures are said. Without ``look`` pictures that
        were never looked into are told by their headers, which takes a thousandth of the time. Raises DataError.
        """
        names, left_out = self.names(), self.left_out()
        known = self._looked_at(names, side)
        names_shown = names
        if among is not None:
            names_shown = [name for name in names if name in among]
        elif only:
            names_shown = [n for n in names if n in known and any(only in ("any", i.kind) for i in known[n].issues)]
        start = max(0, start)
        chosen = names_shown[start : start + max(0, min(count, 500))]
        fresh = [name for name in chosen if name not in known]
        told = known
        if fresh and look:
            for name in fresh:
                self.picture(name)
            told = known = self._looked_at(names, side)
        elif fresh:
            told = {**known, **{name: self._header(name) for name in fresh}}
        counts: dict[str, int] = {}
        for picture in known.values():
            for kind in {issue.kind for issue in picture.issues}:
                counts[kind] = counts.get(kind, 0) + 1
        gone = tuple(name for name in self.all_names() if name in left_out)
        shown = tuple(told[name] for name in chosen if name in told)
        return Listing(
            total=len(names_shown),
            start=start,
            pictures=shown,
            looked=len(known),
            counts=counts,
            left_out=gone,
        )

    def look_on(self, seconds: float = 1.0) -> int:
        """Look into more pictures for about so long; returns how many are left. Raises DataError."""
        deadline = time.monotonic() + seconds
        left = [name for name in self.names() if not self._is_known(name)]
        for done, name in enumerate(left):
            if time.monotonic() > deadline:
                return len(left) - done
            self.picture(name)
        return 0

    def picture(self, name: str) -> Picture:
        """What is known of one picture alone; looked into only when it is new or has changed. Raises DataError."""
        path = self.path(name)
        stat = path.stat()
        mark = [stat.st_size, stat.st_mtime_ns, _LOOKED]
        with self._lock:
            known = self._load().get(name)
        if known is None or known.get("mark") != mark:
            known = {"mark": mark, **probe(path, self._refusal)}
            self._remember(name, known)
        return _picture(name, known, self.caption(name))

    def _header(self, name: str) -> Picture:
        """What is known of a picture before it is looked into; 0 × 0 pixels where its header can't be read."""
        width, height = read_size(self.path(name), []) or (0, 0)
        return Picture(name=name, width=width, height=height, caption=self.caption(name))

    def path(self, name: str) -> Path:
        """The file of one picture. Raises DataError unless it is one plain name of a file in this folder."""
        path = self.source / name
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name or "\0" in name or not path.is_file():
            raise DataError("There is no picture “{name}”.", todo="Reload the page.", name=name)
        # A link could lead to any file of this machine, and its thumbnail would show it.
        if path.is_symlink() and not self.links:
            raise DataError("There is no picture “{name}”.", todo="Reload the page.", name=name)
        return path

    def _is_known(self, name: str) -> bool:
        """Whether a picture need not be looked into: it is known, or it is gone."""
        try:
            stat = (self.source / name).stat()
        except OSError:
            return True
        with self._lock:
            known = self._load().get(name)
        return known is not None and known.get("mark") == [stat.st_size, stat.st_mtime_ns, _LOOKED]

    def _looked_at(self, names: list[str], side: int) -> dict[str, Picture]:
        """Those of the pictures that were looked into, with what is wrong with them among each other."""
        with self._lock:
            table = self._load()
            known = {name: _picture(name, table[name], self.caption(name)) for name in names if self._is_known(name)
                     and name in table}  # fmt: skip
        twins = self._twins({n: p.print for n, p in known.items() if p.print and not p.refused})
        some_captions = any(picture.caption for picture in known.values())
        return {
            name: replace(picture, issues=(*picture.issues, *_among(picture, twins.get(name), some_captions, side)))
            for name, picture in known.items()
        }

    def _twins(self, prints: dict[str, str]) -> dict[str, str]:
        """What ``looks.near_duplicates`` says, which takes a second for 5 000 pictures and is asked with each page."""
        prints_before, twins = self._compared
        if prints != prints_before:
            twins = looks.near_duplicates(prints)
            self._compared = (prints, twins)
        return twins

    # ------------------------------------------------------------------------------------------- marks

    def unreadable(self) -> frozenset[str]:
        """Names of files that are no pictures which can be read, among those that were looked into."""
        with self._lock:
            known = self._load()
            return frozenset(name for name, entry in known.items() if entry["refused"] and not entry["width"])

    def left_out(self) -> frozenset[str]:
        """Names of files that the person took out of the training."""
        return frozenset(str(name) for name in self._marks().get("left_out", []))

    def captions(self) -> dict[str, str]:
        """Captions that the person wrote here, by the picture's name."""
        written = self._marks().get("captions", {})
        return {str(name): str(text) for name, text in written.items()} if isinstance(written, dict) else {}

    def caption(self, name: str) -> str:
        """A picture's caption: the one written here, else the one beside it."""
        written = self.captions().get(name)
        return written if written is not None else read_caption(self.source / name, ".txt") or ""

    def leave_out(self, names: list[str], *, out: bool = True) -> None:
        """Take pictures out of the training, or back into it. Raises DataError."""
        chosen = [self.path(name).name for name in names if out]
        with self._lock:
            marks = self._marks()
            kept = [name for name in marks.get("left_out", []) if name not in names]
            marks["left_out"] = sorted({*kept, *chosen})
            self._mark(marks)

    def write_caption(self, name: str, text: str) -> None:
        """Give a picture another caption. Raises DataError."""
        if len(text) > _LONGEST_CAPTION or "\0" in text:
            raise DataError("The caption is too long; {most} characters are the most.", most=_LONGEST_CAPTION)
        plain = self.path(name).name
        with self._lock:
            marks = self._marks()
            marks["captions"] = {**self.captions(), plain: " ".join(text.split())}
            self._mark(marks)

    def take_marks(self, other: PictureFolder, names: Mapping[str, str]) -> None:
        """Take over what was left out and written of another folder's pictures, whose ``names`` here are given; what
        was written here stays. Raises DataError."""
        with self._lock:
            marks = self._marks()
            out = {names[name] for name in other.left_out() if name in names}
            written = {names[name]: text for name, text in other.captions().items() if name in names}
            marks["left_out"] = sorted({*map(str, marks.get("left_out", [])), *out})
            marks["captions"] = {**written, **self.captions()}
            self._mark(marks)

    def _marks(self) -> dict[str, Any]:
        path = self.cache / "marks.json"
        try:
            stat = path.stat()
            key = (stat.st_size, stat.st_mtime_ns)
            if getattr(self, "_marks_key", None) != key:
                found = json.loads(path.read_text(encoding="utf-8"))
                self._marks_kept: dict[str, Any] = found if isinstance(found, dict) else {}
                self._marks_key = key
            return dict(self._marks_kept)
        except (OSError, ValueError):
            return {}

    def _mark(self, marks: Mapping[str, Any]) -> None:
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            atomic.write_text(self.cache / "marks.json", json.dumps(marks, ensure_ascii=False) + "\n")
        except OSError as error:
            raise DataError(
                "The change could not be kept.",
                why="{reason}.",
                todo="Make room on the disk, then try again.",
                reason=error.strerror or str(error),
            ) from error

    # ------------------------------------------------------------------------------------------- thumbnails

    def thumbnail(self, name: str, side: int = THUMBNAIL_SIDE) -> Path:
        """A JPEG of at most ``side`` × ``side`` pixels, made now or taken from before. Raises DataError."""
        path = self.path(name)
        stat = path.stat()
        said = f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}" + (f"\0{side}" if side != THUMBNAIL_SIDE else "")
        key = hashlib.sha256(said.encode("utf-8", "surrogatepass"))
        thumbnail = self.cache / "thumbnails" / f"{key.hexdigest()[:24]}.jpg"
        if not thumbnail.exists():
            try:
                atomic.write_with(thumbnail, lambda file: write_thumbnail(path, file, side))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise DataError(
                    "“{name}” can't be read as a picture.", todo="Save it again as PNG or JPEG.", name=name
                ) from error
        return thumbnail

    # ------------------------------------------------------------------------------------------- what is known

    def _load(self) -> dict[str, dict[str, Any]]:
        if self._known is None:
            self._known = {}
            try:
                lines = (self.cache / "index.jsonl").read_text(encoding="utf-8").splitlines()
            except OSError:
                lines = []
            for line in lines:
                try:
                    entry = json.loads(line)
                    if isinstance(entry["issues"], list):
                        self._known[entry.pop("name")] = entry
                except (ValueError, KeyError, AttributeError, TypeError):
                    continue
        return self._known

    def _remember(self, name: str, entry: dict[str, Any]) -> None:
        with self._lock:
            self._load()[name] = entry
            try:
                self.cache.mkdir(parents=True, exist_ok=True)
                with (self.cache / "index.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"name": name, **entry}) + "\n")
            except OSError:
                return  # a full disk costs only looking again


def is_picture_name(name: str) -> bool:
    """Whether a file of this name is shown as a picture."""
    return Path(name).suffix.lower() in PICTURE_SUFFIXES


def _picture(name: str, known: Mapping[str, Any], caption: str) -> Picture:
    issues = tuple(Issue(str(each["kind"]), Message.from_json(each["said"])) for each in known["issues"])
    return Picture(
        name=name,
        width=known["width"],
        height=known["height"],
        caption=caption,
        issues=issues,
        refused=known["refused"],
        print=known.get("print", ""),
    )


def _among(picture: Picture, twin: str | None, some_captions: bool, side: int) -> Iterator[Issue]:
    """What is wrong with a picture among the others, and for a model that learns at ``side``."""
    if picture.refused:
        return
    if twin is not None:
        yield Issue("duplicate", message("It is nearly the same picture as “{other}”.", other=twin), twin)
    if side and min(picture.width, picture.height) >= 64 and picture.width * picture.height < (side * 0.75) ** 2:
        said = message(
            "It is {width} × {height} pixels; the model learns at {side}, so it will be enlarged and look soft.",
            width=picture.width,
            height=picture.height,
            side=side,
        )
        yield Issue("small", said)
    if some_captions and not picture.caption:
        yield Issue("caption", message("It has no caption; the trigger word alone will stand for it."))


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(
        "The folder {folder} can't be read.",
        why="{reason}.",
        todo="Check that it is there and may be read.",
        folder=str(folder),
        reason=error.strerror or str(error),
    )
