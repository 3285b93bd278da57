"""A loaded model's weights where they lie on disk, by layer: what is read again instead of being kept in memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import ModelError
from ..safetensors_tensors import Buffer
from . import detect, load
from .detect import ModelInfo
from .layers import places
from .load import Model, Stored

# Everything of a model that layers belong to; its VAE has none.
_PARTS = ("unet", "text_encoder", "text_encoder_2")


@dataclass(frozen=True, eq=False)
class StoredRows:
    """A stored parameter as a matrix of ``count`` rows and ``columns`` numbers each."""

    stored: Stored
    buffer: Buffer
    first: int
    count: int
    columns: int
    row_bytes: int

    @classmethod
    def of(cls, stored: Stored, buffer: Buffer) -> StoredRows | None:
        """Return the rows of a stored weight, or None where they are not together (transposed)."""
        info = stored.file.header.tensors[stored.key]
        if stored.transposed or not info.shape or not info.size_bytes:
            return None
        count = info.shape[0] // 3 if stored.third is not None else info.shape[0]
        numbers = 1
        for size in info.shape[1:]:
            numbers *= size
        return cls(stored, buffer, count * (stored.third or 0), count, numbers, info.size_bytes // info.shape[0])

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows (n, columns) in their stored dtype, until the next reading. Raises OSError, ValueError."""
        buffer = self.buffer.of((stop - start) * self.row_bytes)
        return self.stored.file.read_rows(self.stored.key, self.first + start, self.first + stop, buffer)


class StoredModel:
    """The files that ``model`` was loaded from. No handle is kept and nothing is mapped between two uses."""

    def __init__(self, model: Model) -> None:
        self._info: ModelInfo = model.info
        self._files = _files(model.info)
        self._places = {name: (part, path) for name, (part, path, _) in places(model).items()}
        self._roots = {
            "unet": model.unet,
            **dict(zip(_PARTS[1:], model.text_encoders, strict=False)),
        }

    def stamp(self) -> Hashable:
        """Size, time and identity of every file. Raises OSError."""
        stats = [path.stat() for path in self._files]
        return tuple((stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev) for stat in stats)

    @contextmanager
    def open(self) -> Iterator[_Open]:
        """Open the files for reading. Raises OSError, ValueError if they are broken."""
        with load.open_source(self._info) as source:
            yield _Open(self, source, Buffer())


def _files(info: ModelInfo) -> list[Path]:
    if info.kind != "diffusers":
        return [info.path]
    folders = (info.path / part for part in _PARTS)
    return [path for folder in folders if folder.is_dir() for path in detect.weights_files(folder)]


class _Open:
    def __init__(self, model: StoredModel, source: load.ModelSource, buffer: Buffer) -> None:
        self._model, self._source, self._buffer = model, source, buffer

    def rows(self, layer: str, parameter: str) -> StoredRows | None:
        """Return where a layer's parameter is stored, or None if it is not stored number by number.

        Raises OSError where the files are gone.
        """
        part, path = self._model._places[layer]
        try:
            stored = self._source.find(part, f"{path}.{parameter}" if path else parameter, self._model._roots[part])
        except ModelError as error:
            raise FileNotFoundError(str(error)) from error
        return StoredRows.of(stored, self._buffer) if stored is not None else None
