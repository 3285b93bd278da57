"""What the commands below ``rights`` share: the console; files, with a sentence where they fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import atomic, locales
from .errors import DataError, Message, message


@dataclass(frozen=True)
class Console:
    """Where everything is kept, and the language of who reads the console."""

    data_dir: Path
    lang: str

    def say(self, said: Message) -> None:
        print(locales.sentence(said, self.lang))


def asked(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except OSError as error:
        raise unreadable(str(error.filename or ""), error) from error


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(str(path), error) from error


def unreadable(name: str, error: OSError) -> DataError:
    return DataError(
        "“{name}” can't be read.",
        why="{reason}.",
        todo="Check that it is there and may be read.",
        name=name,
        reason=error.strerror or str(error),
    )


def write(at: Console, path: Path, text: str) -> None:
    try:
        atomic.write_text(path, text)
    except OSError as error:
        raise DataError(
            "{file} can't be written.",
            why="{reason}.",
            todo="Choose another place with --output.",
            file=str(path),
            reason=error.strerror or str(error),
        ) from error
    at.say(message("Written: {file}", file=str(path)))
