"""Presets: settings that someone keeps under a name, one TOML file each, to be copied and given away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import atomic
from ..errors import DataError, JobError
from .names import safe_name

_LARGEST = 200_000


@dataclass(frozen=True)
class Presets:
    """The presets in a folder; a name is that of its file."""

    folder: Path

    def names(self) -> list[str]:
        """Their names, sorted."""
        try:
            return sorted(path.stem for path in self.folder.glob("*.toml"))
        except OSError:
            return []

    def text(self, name: str) -> str:
        """One preset's file. Raises JobError if there is none."""
        try:
            return self._path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise JobError("There is no preset “{name}”.", todo="Reload the page.", name=name) from error

    def keep(self, name: str, text: str) -> str:
        """Keep a preset, in the place of one of the same name; returns the name that it has. Raises DataError."""
        safe = safe_name(name)
        if not safe:
            raise DataError("The preset has no name.", todo="Give it one.")
        if len(text) > _LARGEST:
            raise DataError("This preset is too long to be kept.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic.write_text(self._path(safe), text)
        except OSError as error:
            raise DataError(
                "The preset could not be kept.",
                why="{reason}.",
                todo="Make room on the disk or allow writing there, then try again.",
                reason=error.strerror or str(error),
            ) from error
        return safe

    def remove(self, name: str) -> None:
        """Remove a preset's file; harmless if it is gone. Raises DataError."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise DataError("The preset could not be removed.", why="{reason}.", reason=str(error)) from error

    def _path(self, name: str) -> Path:
        # The name comes from a browser: it must be one that we give.
        if not name or safe_name(name) != name:
            raise JobError("There is no preset “{name}”.", todo="Reload the page.", name=name)
        return self.folder / f"{name}.toml"
