"""What pages send: dropped files, zip archives, or the path of a folder of this machine. Each is a folder to show."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import threading
import unicodedata
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .. import atomic
from ..datasets.captions import CAPTION_SUFFIXES, decode
from ..errors import DataError, Message, message
from ..jobs.forms import PICTURE_SUFFIXES
from ..jobs.names import fresh_name
from ..jobs.service import free_bytes
from .folders import Issue, Picture, PictureFolder, is_picture_name
from .probing import Refusal, probe

MAX_FILE_BYTES = 200_000_000
MAX_ARCHIVE_BYTES = 20_000_000_000
MAX_ARCHIVE_FILES = 50_000
# What rights/signals_sidecar.py reads beside pictures, and the record of rights itself.
_RIGHTS_SUFFIXES = (".xmp", ".json", ".jsonl", ".headers", ".html", ".htm", ".har", ".xml")
_WITH_PICTURES = (*CAPTION_SUFFIXES, *_RIGHTS_SUFFIXES)
_RIGHTS_BYTES = 64_000_000
_CAPTION_BYTES = 64_000
# What an upload must leave free: the training itself, and the person's other programs, need room as well.
_SPARE_BYTES = 2_000_000_000
# Holds the id of the upload that this one is a copy of.
_ORIGINAL = "original.txt"
_WINDOWS_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")


@dataclass(frozen=True, kw_only=True)
class Received:
    """What has become of received files: pictures that were taken or refused, and files that were left out."""

    pictures: tuple[Picture, ...] = ()
    problems: tuple[Message, ...] = ()
    captions: int = 0


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
                self._open[upload] = PictureFolder(source, home / "cache", self.refusal, links=named.exists())
            return self._open[upload]

    def is_own(self, upload: str) -> bool:
        """Whether the pictures were dropped, so that they are ours to change."""
        return (self.folder / upload / "pictures").is_dir()

    # ------------------------------------------------------------------------------------------- copies

    def copies_id(self, upload: str) -> str:
        """The id under which copies of an upload are, or would be: always the same one."""
        return hashlib.sha256(f"copies of {upload}".encode()).hexdigest()[:12]

    def copies_of(self, upload: str) -> PictureFolder:
        """A folder for copies of an upload's pictures, which is an upload of its own; its pictures are not there yet.

        Copies that were made before are removed, what was left out and written of them is kept. Raises DataError.
        """
        made = self.copies_id(upload)
        home = self.folder / made
        try:
            shutil.rmtree(home / "pictures", ignore_errors=True)
            atomic.write_text(home / _ORIGINAL, upload)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        with self._lock:
            self._open.pop(made, None)
        return self.get(made)

    def original_of(self, upload: str) -> str:
        """The upload that this one is a copy of, or ""."""
        try:
            return (self.folder / upload / _ORIGINAL).read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def forget(self, upload: str) -> None:
        """Remove an upload with all that is known of it."""
        with self._lock:
            self._open.pop(upload, None)
        discard(self.folder / upload)

    def remove(self, upload: str, name: str) -> None:
        """Take one dropped picture and its caption away; the original on the person's disk is not ours to touch."""
        folder = self._own(upload)
        path = folder.path(name)
        path.unlink()
        if not any(is_picture_name(other.name) for other in path.parent.glob(_glob_escape(path.stem) + ".*")):
            path.with_suffix(".txt").unlink(missing_ok=True)

    def receive(self, upload: str, filename: str, stream: IO[bytes]) -> Received:
        """Take one file that a page sent: a picture, a caption or a zip archive of both.

        A file that is neither, or is broken, is left out and said so. Raises DataError when the disk is full.
        """
        folder = self._own(upload)
        name = plain_file_name(filename)
        suffix = Path(name).suffix.lower()
        try:
            _require_room(self.folder, stream)
            if suffix == ".zip":
                return self._archive(folder, name, stream)
            if suffix in CAPTION_SUFFIXES:
                return _take_caption(folder, name, stream)
            if suffix in PICTURE_SUFFIXES:
                return _take_picture(folder, name, stream)
            if suffix in _RIGHTS_SUFFIXES:
                return _take_rights(folder, name, stream)
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


def _require_room(folder: Path, stream: IO[bytes]) -> None:
    """Raise OSError if keeping the file would leave too little on the disk."""
    here = stream.tell()
    size = stream.seek(0, os.SEEK_END) - here
    stream.seek(here)
    _require_free(folder, size)


def _require_free(folder: Path, size: int) -> None:
    if free_bytes(folder) - size < _SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
            return Received(pictures=(Picture(name=name, issues=(Issue("large", said),), refused=True),))
        probed = probe(temporary, None)
        if probed["refused"]:
            issues = tuple(Issue(each["kind"], Message.from_json(each["said"])) for each in probed["issues"])
            return Received(pictures=(Picture(name=name, issues=issues, refused=True),))
        target = folder.source / name
        if target.exists():
            if _digest(target) == digest:
                folder.leave_out([name], out=False)  # whoever drops it again wants it
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


def _take_rights(folder: PictureFolder, name: str, stream: IO[bytes]) -> Received:
    """A file that speaks of pictures' rights; nothing in it is read before somebody asks for them."""
    data = stream.read(_RIGHTS_BYTES + 1)
    if len(data) > _RIGHTS_BYTES:
        said = message(
            "“{name}” is larger than {limit} MB; it was left out.", name=name, limit=_RIGHTS_BYTES // 1_000_000
        )
        return Received(problems=(said,))
    atomic.write_bytes(folder.source / name, data)
    return Received()


def _take_members(folder: PictureFolder, archive: zipfile.ZipFile) -> Iterator[Received]:
    members = [m for m in archive.infolist() if not m.is_dir() and _is_wanted(m.filename)]
    if len(members) > MAX_ARCHIVE_FILES or sum(m.file_size for m in members) > MAX_ARCHIVE_BYTES:
        yield Received(problems=(message("The archive holds too much; unpack it and choose the folder."),))
        return
    _require_free(folder.source, sum(m.file_size for m in members))
    # Two folders of an archive may hold the same name: a picture that was renamed takes its caption along.
    renamed: dict[PurePosixPath, str] = {}
    pictures = [m for m in members if is_picture_name(m.filename)]
    for member in pictures:
        with archive.open(member) as stream:
            received = _take_picture(folder, plain_file_name(member.filename), stream)
        if received.pictures and not received.pictures[0].refused:
            renamed[PurePosixPath(member.filename).with_suffix("")] = Path(received.pictures[0].name).stem
        yield received
    for member in members:
        stem = renamed.get(PurePosixPath(member.filename).with_suffix(""))
        if member.filename.lower().endswith(CAPTION_SUFFIXES) and stem is not None:
            with archive.open(member) as stream:
                yield _take_caption(folder, f"{stem}.txt", stream)
        elif PurePosixPath(member.filename).suffix.lower() in _RIGHTS_SUFFIXES:
            with archive.open(member) as stream:
                yield _take_rights(folder, plain_file_name(member.filename), stream)


def _is_wanted(filename: str) -> bool:
    path = PurePosixPath(filename.replace("\\", "/"))
    hidden = "__MACOSX" in path.parts or path.name.startswith(".")
    return not hidden and (is_picture_name(path.name) or path.suffix.lower() in _WITH_PICTURES)


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


def _glob_escape(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)


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
