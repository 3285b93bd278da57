"""Folders of pictures as the page shows them: dropped files, zip archives, or a folder of this machine.

What a picture is (size, caption, problems) is found out when it is shown and kept beside it, so that a folder of
5 000 pictures opens at once. Thumbnails are made when they are asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import unicodedata
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from PIL import Image, ImageOps, UnidentifiedImageError

from .. import atomic
from ..datasets.captions import decode, read_caption
from ..errors import DataError, ExtensionError, Message, message
from ..jobs.names import fresh_name
from ..jobs.service import PICTURE_SUFFIXES, free_bytes

THUMBNAIL_SIDE = 256
MAX_FILE_BYTES = 200_000_000
MAX_ARCHIVE_BYTES = 20_000_000_000
MAX_ARCHIVE_FILES = 50_000
_CAPTION_SUFFIXES = (".txt", ".caption")
_CAPTION_BYTES = 64_000
_SPARE_BYTES = 100_000_000
_WINDOWS_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")

# Says why a picture may not be used (a mark in the file that forbids it), or None.
Refusal = Callable[[Path], Message | None]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture; a ``refused`` one will not be trained on, and ``problems`` say why."""

    name: str
    width: int = 0
    height: int = 0
    caption: str = ""
    problems: tuple[Message, ...] = ()
    refused: bool = False


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A part of a folder's pictures, in the order of their names; ``total`` counts all of them."""

    total: int
    start: int
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class Received:
    """What has become of received files: pictures that were taken or refused, and files that were left out."""

    pictures: tuple[Picture, ...] = ()
    problems: tuple[Message, ...] = ()
    captions: int = 0


class PictureFolder:
    """The pictures in ``source``; what is known of them and their thumbnails lie in ``cache``."""

    def __init__(self, source: Path, cache: Path, refusal: Refusal | None = None) -> None:
        self.source = source
        self.cache = cache
        self._refusal = refusal
        self._known: dict[str, dict[str, Any]] | None = None
        self._lock = threading.RLock()

    def names(self) -> list[str]:
        """Names of the picture files. Raises DataError if the folder can't be read."""
        try:
            with os.scandir(self.source) as entries:
                names = [e.name for e in entries if _is_picture_name(e.name) and not e.name.startswith(".")]
        except OSError as error:
            raise _unreadable(self.source, error) from error
        return sorted(names)

    def listing(self, start: int = 0, count: int = 60) -> Listing:
        """The pictures from ``start`` on, at most ``count``. Raises DataError."""
        names = self.names()
        start = max(0, start)
        chosen = names[start : start + max(0, min(count, 500))]
        return Listing(total=len(names), start=start, pictures=tuple(self.picture(name) for name in chosen))

    def picture(self, name: str) -> Picture:
        """What is known of one picture; looked into only when it is new or has changed."""
        path = self.path(name)
        stat = path.stat()
        mark = [stat.st_size, stat.st_mtime_ns]
        with self._lock:
            known = self._load().get(name)
        if known is None or known.get("mark") != mark:
            probed = _probe(path, self._refusal)
            known = {"mark": mark, **probed}
            self._remember(name, known)
        return Picture(
            name=name,
            width=known["width"],
            height=known["height"],
            caption=read_caption(path, ".txt") or "",
            problems=tuple(Message.from_json(said) for said in known["problems"]),
            refused=known["refused"],
        )

    def path(self, name: str) -> Path:
        """The file of one picture. Raises DataError unless it is one plain name of a file in this folder."""
        path = self.source / name
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name or not path.is_file():
            raise DataError("There is no picture “{name}”.", todo="Reload the page.", name=name)
        return path

    def thumbnail(self, name: str) -> Path:
        """A JPEG of at most 256 × 256 pixels, made now or taken from before. Raises DataError."""
        path = self.path(name)
        stat = path.stat()
        key = hashlib.sha256(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}".encode("utf-8", "surrogatepass"))
        thumbnail = self.cache / "thumbnails" / f"{key.hexdigest()[:24]}.jpg"
        if not thumbnail.exists():
            try:
                atomic.write_with(thumbnail, lambda file: _make_thumbnail(path, file))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise _broken(name) from error
        return thumbnail

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
                    self._known[entry.pop("name")] = entry
                except (ValueError, KeyError, AttributeError):
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


@dataclass
class Uploads:
    """All folders that pages know of, under ``folder``; each has an id that is the name of its directory."""

    folder: Path
    refusal: Refusal | None = None
    _open: dict[str, PictureFolder] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=threading.RLock, repr=False)

    def create(self) -> str:
        """A new empty upload's id. Raises DataError if it can't be written."""
        upload = uuid.uuid4().hex[:12]
        try:
            (self.folder / upload / "pictures").mkdir(parents=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        return upload

    def open_folder(self, path: str) -> str:
        """The id under which a folder of this machine is shown; nothing is copied. Raises DataError."""
        source = Path(path.strip().strip('"'))
        with contextlib.suppress(RuntimeError):  # ~nobody: then it is no full path
            source = source.expanduser()
        if not path.strip() or not source.is_absolute():
            raise DataError(
                "“{path}” is no full path.", todo="Write it from the root, like {example}.", path=path.strip(),
                example=r"C:\Pictures\momo" if os.name == "nt" else "/home/me/pictures/momo",
            )  # fmt: skip
        if not source.is_dir():
            raise DataError(
                "There is no folder {path}.", todo="Check the path, or drop the pictures.", path=str(source)
            )
        upload = "f" + hashlib.sha256(str(source).encode("utf-8", "surrogatepass")).hexdigest()[:11]
        try:
            atomic.write_text(self.folder / upload / "folder.txt", str(source))
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        return upload

    def get(self, upload: str) -> PictureFolder:
        """The pictures of one upload. Raises DataError if there is none of this id."""
        with self._lock:
            if upload not in self._open:
                home = self.folder / upload
                if not re.fullmatch(r"[0-9a-f]{12}", upload) or not home.is_dir():
                    raise DataError("The dropped pictures are gone.", todo="Reload the page and drop them again.")
                named = home / "folder.txt"
                source = Path(named.read_text(encoding="utf-8")) if named.exists() else home / "pictures"
                self._open[upload] = PictureFolder(source, home / "cache", self.refusal)
            return self._open[upload]

    def is_own(self, upload: str) -> bool:
        """Whether the pictures were dropped, so that they are ours to change."""
        return (self.folder / upload / "pictures").is_dir()

    def remove(self, upload: str, name: str) -> None:
        """Take one dropped picture and its caption away; the original on the person's disk is not ours to touch."""
        folder = self._own(upload)
        path = folder.path(name)
        path.unlink()
        if not any(_is_picture_name(other.name) for other in path.parent.glob(_glob_escape(path.stem) + ".*")):
            path.with_suffix(".txt").unlink(missing_ok=True)

    def receive(self, upload: str, filename: str, stream: IO[bytes]) -> Received:
        """Take one file that a page sent: a picture, a caption or a zip archive of both.

        A file that is neither, or is broken, is left out and said so. Raises DataError when the disk is full.
        """
        folder = self._own(upload)
        name = plain_file_name(filename)
        suffix = Path(name).suffix.lower()
        try:
            if free_bytes(self.folder) < _SPARE_BYTES:
                raise OSError(28, "No space left on device")
            if suffix == ".zip":
                return self._archive(folder, name, stream)
            if suffix in _CAPTION_SUFFIXES:
                return _take_caption(folder, name, stream)
            if suffix in PICTURE_SUFFIXES:
                return _take_picture(folder, name, stream)
        except OSError as error:
            raise DataError(
                "“{name}” could not be kept.",
                why="{reason}.",
                todo="Make room on the disk, then drop it again.",
                name=name,
                reason=error.strerror or str(error),
            ) from error
        said = message("“{name}” is neither a picture, a caption (.txt) nor a .zip; it was left out.", name=name)
        return Received(problems=(said,))

    def _archive(self, folder: PictureFolder, name: str, stream: IO[bytes]) -> Received:
        try:
            with zipfile.ZipFile(stream) as archive:
                return _join(_take_members(folder, archive))
        except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, RuntimeError) as error:
            said = message("“{name}” can't be opened as a .zip archive ({reason}); it was left out.", name=name,
                           reason=str(error))  # fmt: skip
            return Received(problems=(said,))

    def _own(self, upload: str) -> PictureFolder:
        folder = self.get(upload)
        if not self.is_own(upload):
            raise DataError(
                "The pictures of a folder on this computer are not changed from here.",
                todo="Change them in the folder itself, or drop them into the page.",
            )
        return folder


def plain_file_name(filename: str) -> str:
    """The last part of a path that a browser or an archive names, made fit for every file system."""
    name = unicodedata.normalize("NFC", filename.replace("\\", "/").rsplit("/", 1)[-1])
    name = re.sub(r'[<>:"|?*\x00-\x1f\x7f]', "_", name).strip(" .") or "picture"
    if _WINDOWS_RESERVED.fullmatch(name):
        name = f"_{name}"
    stem, suffix = Path(name).stem, Path(name).suffix
    while len((stem + suffix).encode("utf-8", "replace")) > 180 and stem:
        stem = stem[:-1]
    return (stem.rstrip(" .") or "picture") + suffix[:20]


# ----------------------------------------------------------------------------------------------- receiving


def _take_picture(folder: PictureFolder, name: str, stream: IO[bytes]) -> Received:
    temporary = folder.source / f".{uuid.uuid4().hex}.tmp"
    try:
        size, digest = _copy(stream, temporary)
        if size > MAX_FILE_BYTES:
            said = message("It is larger than {limit} MB; it was left out.", limit=MAX_FILE_BYTES // 1_000_000)
            return Received(pictures=(Picture(name=name, problems=(said,), refused=True),))
        probed = _probe(temporary, None)
        if probed["refused"]:
            problems = tuple(Message.from_json(said) for said in probed["problems"])
            return Received(pictures=(Picture(name=name, problems=problems, refused=True),))
        target = folder.source / name
        if target.exists():
            if _digest(target) == digest:
                return Received(pictures=(folder.picture(name),))
            target = folder.source / _fresh_file(folder.source, name)
        atomic.replace(temporary, target)
        return Received(pictures=(folder.picture(target.name),))
    finally:
        temporary.unlink(missing_ok=True)


def _take_caption(folder: PictureFolder, name: str, stream: IO[bytes]) -> Received:
    data = stream.read(_CAPTION_BYTES + 1)
    if len(data) > _CAPTION_BYTES or b"\0" in data:
        return Received(problems=(message("“{name}” is no caption; it was left out.", name=name),))
    atomic.write_text(folder.source / Path(name).with_suffix(".txt").name, decode(data))
    return Received(captions=1)


def _take_members(folder: PictureFolder, archive: zipfile.ZipFile) -> Iterator[Received]:
    members = [m for m in archive.infolist() if not m.is_dir() and _is_wanted(m.filename)]
    if len(members) > MAX_ARCHIVE_FILES or sum(m.file_size for m in members) > MAX_ARCHIVE_BYTES:
        yield Received(problems=(message("The archive holds too much; unpack it and choose the folder."),))
        return
    # Two folders of an archive may hold the same name: a picture that was renamed takes its caption along.
    renamed: dict[PurePosixPath, str] = {}
    pictures = [m for m in members if _is_picture_name(m.filename)]
    for member in pictures:
        with archive.open(member) as stream:
            received = _take_picture(folder, plain_file_name(member.filename), stream)
        if received.pictures and not received.pictures[0].refused:
            renamed[PurePosixPath(member.filename).with_suffix("")] = Path(received.pictures[0].name).stem
        yield received
    for member in members:
        stem = renamed.get(PurePosixPath(member.filename).with_suffix(""))
        if member.filename.lower().endswith(_CAPTION_SUFFIXES) and stem is not None:
            with archive.open(member) as stream:
                yield _take_caption(folder, f"{stem}.txt", stream)


def _is_wanted(filename: str) -> bool:
    path = PurePosixPath(filename.replace("\\", "/"))
    hidden = "__MACOSX" in path.parts or path.name.startswith(".")
    return not hidden and (_is_picture_name(path.name) or path.suffix.lower() in _CAPTION_SUFFIXES)


def _join(parts: Iterator[Received]) -> Received:
    every = list(parts)
    return Received(
        pictures=tuple(picture for part in every for picture in part.pictures),
        problems=tuple(said for part in every for said in part.problems),
        captions=sum(part.captions for part in every),
    )


def _copy(stream: IO[bytes], target: Path) -> tuple[int, str]:
    """Write at most one byte more than is allowed; returns the size and the digest of what was written."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        while size <= MAX_FILE_BYTES:
            # What an archive says about its sizes may be a lie; only what comes out counts.
            block = stream.read(1 << 20)
            if not block:
                break
            file.write(block)
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fresh_file(folder: Path, name: str) -> str:
    taken = {other.stem for other in folder.iterdir()}
    return fresh_name(Path(name).stem[:60], taken) + Path(name).suffix


def _is_picture_name(name: str) -> bool:
    return Path(name).suffix.lower() in PICTURE_SUFFIXES


def _glob_escape(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)


# ----------------------------------------------------------------------------------------------- looking


def _probe(path: Path, refusal: Refusal | None) -> dict[str, Any]:
    """Size, problems and whether the picture can be used, as plain JSON; all pixels are read once."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; we name those that are too large
            with Image.open(path) as image:
                image.load()
                width, height = ImageOps.exif_transpose(image).size
                frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError:
        return _probed(0, 0, message("It has too many pixels; make it smaller."), refused=True)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError):
        return _probed(0, 0, message("It can't be read as a picture; it is left out."), refused=True)
    try:
        said = refusal(path) if refusal is not None else None
    except ExtensionError as error:
        said = error.what
    if said:
        return _probed(width, height, said, refused=True)
    if frames > 1:
        return _probed(width, height, message("It is animated; only its first picture is used."))
    if min(width, height) < 64:
        return _probed(width, height, message("It is very small; a larger picture teaches more."))
    return _probed(width, height)


def _probed(width: int, height: int, *problems: Message, refused: bool = False) -> dict[str, Any]:
    return {"width": width, "height": height, "problems": [asdict(said) for said in problems], "refused": refused}


def _make_thumbnail(source: Path, target: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(source) as image:
            image.draft("RGB", (THUMBNAIL_SIDE * 2, THUMBNAIL_SIDE * 2))  # JPEGs: decode no more than is needed
            upright = ImageOps.exif_transpose(image)
            upright.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            rgba = upright.convert("RGBA")
    flat = Image.new("RGB", rgba.size, "white")
    flat.paste(rgba, mask=rgba.getchannel("A"))
    flat.save(target, "JPEG", quality=85)


def _broken(name: str) -> DataError:
    return DataError("“{name}” can't be read as a picture.", todo="Save it again as PNG or JPEG.", name=name)


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(
        "The folder {folder} can't be read.",
        why="{reason}.",
        todo="Check that it is there and may be read.",
        folder=str(folder),
        reason=error.strerror or str(error),
    )


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        "The folder {folder} can't be written.",
        why="{reason}.",
        todo="Make room on the disk or allow writing there.",
        folder=str(folder),
        reason=error.strerror or str(error),
    )


def discard(folder: Path) -> None:
    """Remove an upload's directory with everything in it."""
    shutil.rmtree(folder, ignore_errors=True)
