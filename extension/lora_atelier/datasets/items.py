"""The pictures of a training run: where they are, what they are called, how often they are seen. Needs no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..config import DatasetConfig, SubsetConfig
from ..errors import DataError, Message, message
from . import metadata_files
from .buckets import Size
from .captions import Caption, find_caption
from .headers import PICTURE_SUFFIXES, read_size
from .processing import PLAIN, CaptionRules

# kohya's folder of folders: 10_momo is seen ten times an epoch, and "momo" is the caption of last resort.
_REPEATS_FOLDER = re.compile(r"(\d+)_(.+)")
_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class Item:
    """One picture of a run; ``width`` and ``height`` are as a viewer shows it (EXIF rotation applied)."""

    path: Path
    caption: str
    width: int
    height: int
    num_repeats: int = 1
    is_reg: bool = False
    flip_aug: bool = False
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    rules: CaptionRules = PLAIN
    dataset: int = 0
    mask: Path | None = None
    alpha_mask: bool = False
    random_crop: bool = False
    color_aug: bool = False
    diff_output_preservation: bool = False
    resize_interpolation: str = ""
    bucket: Size | None = None


def read_items(dataset: DatasetConfig, *, fallback: str = "", index: int = 0) -> tuple[list[Item], list[Message]]:
    """All usable pictures of a dataset in the order of their names, and what to say about the others.

    A picture whose header can't be read is left out and named. ``fallback`` is the caption of pictures that have
    none, where the subset gives no ``class_tokens``; ``index`` is the dataset's number in the run. Raises DataError
    for a folder or metadata file that can't be read, or if nothing is left.
    """
    subsets, remarks = read_subsets(dataset, fallback=fallback, index=index)
    return [item for _, items in subsets for item in items], remarks


def read_subsets(
    dataset: DatasetConfig, *, fallback: str = "", index: int = 0
) -> tuple[list[tuple[int, list[Item]]], list[Message]]:
    """As ``read_items``, with the pictures of each subset together: its number in the dataset, then its pictures."""
    found: list[tuple[int, list[Item]]] = []
    remarks: list[Message] = []
    broken: list[str] = []
    for number, subset in _once_each(dataset.subsets, remarks):
        parts = [subset] if _metadata_file(subset) else _parts(subset, remarks)
        readers = (_Reader(part, fallback, index, remarks, broken) for part in parts)
        found.append((number, [item for reader in readers for item in reader.items()]))
    if all(item.is_reg for _, items in found for item in items):
        raise _none_left(dataset, broken)
    return found, remarks


def _none_left(dataset: DatasetConfig, broken: Sequence[str]) -> DataError:
    folders = ", ".join(subset.image_dir or _metadata_file(subset) for subset in dataset.subsets)
    if broken:
        return DataError(
            "There is no picture to train on.",
            why="{folders} has none that can be read; these can't: {names}.",
            todo="Save them again as PNG or JPEG, or choose another folder.",
            folders=folders,
            names=", ".join(broken[:_NAMED_AT_MOST]) + (" …" if len(broken) > _NAMED_AT_MOST else ""),
        )
    inside = [name for subset in dataset.subsets if subset.image_dir for name in _folders_with_pictures(subset)]
    if inside:
        return DataError(
            "There is no picture to train on.",
            why="{folders} has none itself, and the folders inside it are not named for how often they are seen: "
            "{inside}.",
            todo="Choose the folder that holds the pictures, or rename it to 1_{first}: seen once an epoch.",
            folders=folders,
            inside=", ".join(inside[:_NAMED_AT_MOST]),
            first=inside[0],
        )
    return DataError(
        "There is no picture to train on.",
        why="{folders} has none that can be read.",
        todo="Put PNG, JPEG or WebP pictures there, or choose another folder.",
        folders=folders,
    )


def _folders_with_pictures(subset: SubsetConfig) -> list[str]:
    return [
        entry.name
        for entry in _entries(Path(subset.image_dir))
        if entry.is_dir()
        and any(Path(each.name).suffix.lower() in PICTURE_SUFFIXES for each in _entries(Path(entry.path)))
    ]


def _metadata_file(subset: SubsetConfig) -> str:
    return getattr(subset, "metadata_file", "") or ""


def _once_each(subsets: Sequence[SubsetConfig], remarks: list[Message]) -> Iterator[tuple[int, SubsetConfig]]:
    seen = set()
    for number, subset in enumerate(subsets):
        place = (subset.image_dir, _metadata_file(subset))
        if place in seen:
            remarks.append(
                message(
                    "The folder {folder} is listed twice in one dataset; the second is left out.",
                    folder=subset.image_dir or _metadata_file(subset),
                )
            )
            continue
        seen.add(place)
        yield number, subset


def _parts(subset: SubsetConfig, remarks: list[Message]) -> list[SubsetConfig]:
    """The subset itself, or kohya's numbered folders inside it if it holds no picture of its own."""
    folder = Path(subset.image_dir)
    entries = _entries(folder)
    folders = [entry for entry in entries if entry.is_dir()]
    numbered = [(entry, _REPEATS_FOLDER.fullmatch(entry.name)) for entry in folders]
    if any(Path(entry.name).suffix.lower() in PICTURE_SUFFIXES for entry in entries if entry.is_file()):
        _left_out(folder, [entry.name for entry, match in numbered if match], remarks)
        return [subset]
    parts = [
        replace(
            subset,
            image_dir=entry.path,
            num_repeats=int(match.group(1)),
            class_tokens=subset.class_tokens or match.group(2),
        )
        for entry, match in numbered
        if match and int(match.group(1))
    ]
    if parts:
        read = {part.image_dir for part in parts}
        _left_out(folder, [entry.name for entry in folders if entry.path not in read], remarks)
    return parts or [subset]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            "The folder {folder} can't be read.",
            why="{reason}.",
            todo="Check that it is there and may be read.",
            folder=str(folder),
            reason=error.strerror or str(error),
        ) from error


def _left_out(folder: Path, names: list[str], remarks: list[Message]) -> None:
    shown = [name for name in names if not name.startswith(".")]
    if shown:
        remarks.append(
            message(
                "Folders inside {folder} are left out: {names}. Only folders named like 10_name are read there, and "
                "only if no picture lies beside them.",
                folder=folder.name,
                names=", ".join(shown[:_NAMED_AT_MOST]) + (" …" if len(shown) > _NAMED_AT_MOST else ""),
            )
        )


@dataclass
class _Reader:
    """Reads one folder or metadata file; says in ``remarks`` what it leaves out or does instead.

    ``broken`` gathers the names of the pictures that can't be read.
    """

    subset: SubsetConfig
    fallback: str
    index: int
    remarks: list[Message]
    broken: list[str]
    uncaptioned: list[str] = field(default_factory=list)
    unmasked: list[str] = field(default_factory=list)
    captions: dict[Path, str] = field(default_factory=dict)
    foreign: list[Caption] = field(default_factory=list)

    def items(self) -> list[Item]:
        masks = self._masks()
        found = self._listed() if _metadata_file(self.subset) else self._beside()
        items = [self._item(path, caption, bucket, masks) for path, caption, bucket in found]
        kept = [item for item in items if item is not None]
        if kept:
            self._sum_up(len(kept))
        return kept

    def _sum_up(self, total: int) -> None:
        if self.uncaptioned:
            first: dict[str, str | int] = {
                "count": len(self.uncaptioned),
                "total": total,
                "name": self.uncaptioned[0],
            }
            if self._instead:
                self.remarks.append(
                    message(
                        "{count} of {total} pictures have no caption, the first is “{name}”; “{caption}” is used for "
                        "them.",
                        caption=self._instead,
                        **first,
                    )
                )
            else:
                self.remarks.append(
                    message(
                        "{count} of {total} pictures have no caption, the first is “{name}”; no word will call what is "
                        "learned from them. Write captions (a .txt beside each), or give a trigger.",
                        **first,
                    )
                )
        if self.unmasked:
            self.remarks.append(
                message(
                    "{count} of {total} pictures have no mask, the first is “{name}”; all of each is trained on.",
                    count=len(self.unmasked),
                    total=total,
                    name=self.unmasked[0],
                )
            )
        if self.foreign:
            self.remarks.append(
                message(
                    "{count} captions are not UTF-8; “{name}” was read as {encoding}: {text}",
                    count=len(self.foreign),
                    name=self.foreign[0].path.name,
                    encoding=self.foreign[0].encoding,
                    text=self.foreign[0].lines[0][:60],
                )
            )

    @property
    def _instead(self) -> str:
        return self.subset.class_tokens or self.fallback

    def _beside(self) -> Iterator[tuple[Path, str | None, Size | None]]:
        """The folder's pictures with the captions that lie beside them."""
        wildcard = bool(getattr(self.subset, "enable_wildcard", False))
        for entry in _entries(Path(self.subset.image_dir)):
            path = Path(entry.path)
            if path.suffix.lower() not in PICTURE_SUFFIXES or path.name.startswith("."):
                continue
            caption = find_caption(path, self.subset.caption_extension)
            if caption is not None:
                self._take_note(path, caption)
            yield path, caption.text(multiline=wildcard) if caption is not None else None, None

    def _take_note(self, picture: Path, caption: Caption) -> None:
        if caption.encoding in ("cp932", "cp1252"):
            self.foreign.append(caption)
        other = self.captions.setdefault(caption.path, picture.name)
        if other != picture.name:
            self.remarks.append(
                message(
                    "“{name}” and “{other}” share the caption {caption}.",
                    name=picture.name,
                    other=other,
                    caption=caption.path.name,
                )
            )

    def _listed(self) -> Iterator[tuple[Path, str | None, Size | None]]:
        """The pictures of the metadata file, in its order."""
        file = Path(_metadata_file(self.subset))
        folder = Path(self.subset.image_dir) if self.subset.image_dir else file.parent
        rules, missing = CaptionRules.of(self.subset), []
        for entry in metadata_files.read(file):
            path = _existing(folder / entry.name)
            if path is None:
                missing.append(entry.name)
                continue
            text = entry.text(rules.caption_separator, multiline=rules.enable_wildcard)
            yield path, text or None, entry.resolution
        if missing:
            self.remarks.append(
                message(
                    "{count} pictures of {file} are not there, the first is “{name}”; they are left out.",
                    count=len(missing),
                    file=file.name,
                    name=missing[0],
                )
            )

    def _masks(self) -> dict[str, Path] | None:
        """The mask pictures by the stem of their names; None where the subset has no folder of masks."""
        folder = getattr(self.subset, "conditioning_data_dir", "") or ""
        if not folder:
            return None
        paths = (Path(entry.path) for entry in _entries(Path(folder)))
        return {path.stem.casefold(): path for path in paths if path.suffix.lower() in PICTURE_SUFFIXES}

    def _item(self, path: Path, caption: str | None, bucket: Size | None, masks: dict[str, Path] | None) -> Item | None:
        size = read_size(path, self.remarks)
        if size is None:
            self.broken.append(path.name)
            return None
        if caption is None:
            self.uncaptioned.append(path.name)
        mask = masks.get(path.stem.casefold()) if masks is not None else None
        if masks is not None and mask is None:
            self.unmasked.append(path.name)
        subset = self.subset
        return Item(
            path=path,
            caption=self._instead if caption is None else caption,
            width=size[0],
            height=size[1],
            num_repeats=subset.num_repeats,
            is_reg=subset.is_reg,
            flip_aug=subset.flip_aug,
            caption_dropout_rate=subset.caption_dropout_rate,
            caption_dropout_every_n_epochs=getattr(subset, "caption_dropout_every_n_epochs", 0) or 0,
            rules=CaptionRules.of(subset),
            dataset=self.index,
            mask=mask,
            alpha_mask=bool(getattr(subset, "alpha_mask", False)),
            random_crop=bool(getattr(subset, "random_crop", False)),
            color_aug=bool(getattr(subset, "color_aug", False)),
            diff_output_preservation=subset.diff_output_preservation,
            resize_interpolation=getattr(subset, "resize_interpolation", "") or "",
            bucket=bucket,
        )


def _existing(path: Path) -> Path | None:
    """The picture at ``path``, or the one of that name with an ending: older tools leave the ending out."""
    if path.is_file():
        return path
    endings = (path.with_name(path.name + suffix) for suffix in sorted(PICTURE_SUFFIXES))
    return next((candidate for candidate in endings if candidate.is_file()), None)
