"""kohya's metadata files: the captions of many pictures in one JSON or JSON-lines file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, Message, message
from .buckets import Size
from .captions import decode


@dataclass(frozen=True)
class Entry:
    """What a metadata file says of one picture; ``resolution`` is the bucket that kohya's preparation chose."""

    name: str
    caption: str = ""
    tags: str = ""
    resolution: Size | None = None

    def text(self, separator: str, *, multiline: bool) -> str:
        """Caption and tags in one; the tags behind each line where one line is chosen by lot."""
        lines = [line.strip() for line in self.caption.splitlines() if line.strip()]
        tags = separator.join(part.strip() for part in self.tags.splitlines() if part.strip())
        kept = (lines if multiline else lines[:1]) or [""]
        return "\n".join(separator.join(part for part in (line, tags) if part) for line in kept)


def read(path: Path) -> list[Entry]:
    """All entries of a ``.json`` or ``.jsonl`` file in their order. Raises DataError naming what is wrong and where."""
    try:
        text = decode(path.read_bytes())
    except OSError as error:
        raise DataError(
            "The metadata file {file} can't be read.",
            why="{reason}.",
            todo="Check that it is there and may be read.",
            file=str(path),
            reason=error.strerror or str(error),
        ) from error
    rows = _lines(path, text) if path.suffix.lower() == ".jsonl" else _table(path, text)
    return [_entry(path, name, said) for name, said in rows]


def _table(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    said = _parsed(path, text, 1)
    if not isinstance(said, Mapping):
        raise _wrong(path, message("It is no table of pictures."))
    yield from said.items()


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        said = _parsed(path, line, number)
        if not isinstance(said, Mapping) or not isinstance(said.get("image_path"), str):
            raise _wrong(path, message("Line {line} has no image_path.", line=number))
        yield said["image_path"], said


def _parsed(path: Path, text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        line = first_line + getattr(error, "lineno", 1) - 1
        reason = str(getattr(error, "msg", error))
        raise _wrong(path, message("Line {line}: {reason}.", line=line, reason=reason)) from error


def _entry(path: Path, name: str, said: Any) -> Entry:
    if not isinstance(said, Mapping):
        raise _wrong(path, message("What it says of “{name}” is no table.", name=name))
    texts = {key: said.get(key) or "" for key in ("caption", "tags")}
    for key, value in texts.items():
        # Some tools write the tags as a list.
        texts[key] = ", ".join(map(str, value)) if isinstance(value, list) else value
        if not isinstance(texts[key], str):
            raise _wrong(path, message("The {key} of “{name}” is no text.", key=key, name=name))
    return Entry(name, texts["caption"], texts["tags"], _resolution(said.get("train_resolution")))


def _resolution(said: Any) -> Size | None:
    if not isinstance(said, list) or len(said) != 2 or not all(isinstance(side, int) and side >= 8 for side in said):
        return None
    return said[0] // 8 * 8, said[1] // 8 * 8


def _wrong(path: Path, why: Message) -> DataError:
    return DataError(
        "“{file}” is no metadata file of pictures.",
        why=why.template,
        todo="Correct it; kohya's form is a caption and tags by a picture's path.",
        **{**why.values, "file": path.name},
    )
