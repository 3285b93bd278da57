"""The .safetensors file that a webui's model was read from, as the place where unchanged weights are read again.

Only names and sizes are known here; whether the file holds the very numbers of the live model is found out layer by
layer before it is relied on (``loader.originals``), whatever the webui did to them while it loaded.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ..models.layers import Layer
from ..safetensors_tensors import Buffer, TensorFile


@dataclass(frozen=True)
class Place:
    """The key of a stored parameter, and which of its rows are a layer's; None for all."""

    key: str
    rows: tuple[int, int] | None = None


class CheckpointFile:
    """A checkpoint's file between two uses: no handle is kept and nothing is mapped."""

    def __init__(self, path: Path, places: Mapping[tuple[str, str], Place]) -> None:
        """``places`` of parameters by layer and "weight" or "bias"."""
        self.path = path
        self.places = places

    def stamp(self) -> Hashable:
        """Size, time and identity of the file. Raises OSError."""
        stat = self.path.stat()
        return stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev

    @contextmanager
    def open(self) -> Iterator[_Open]:
        """Open the file for reading. Raises OSError, ValueError if it is broken."""
        with TensorFile(self.path) as file:
            yield _Open(file, self.places)


class _Open:
    def __init__(self, file: TensorFile, places: Mapping[tuple[str, str], Place]) -> None:
        self._file, self._places, self._buffer = file, places, Buffer()

    def rows(self, layer: str, parameter: str) -> _Rows | None:
        """Where a parameter is stored; None if the file has no such key."""
        place = self._places.get((layer, parameter))
        info = self._file.header.tensors.get(place.key) if place is not None else None
        if place is None or info is None or not info.shape or not info.size_bytes:
            return None
        first, stop = place.rows or (0, info.shape[0])
        numbers = 1
        for size in info.shape[1:]:
            numbers *= size
        row_bytes = info.size_bytes // info.shape[0]
        return _Rows(self._file, place.key, self._buffer, first, stop - first, numbers, row_bytes)


@dataclass(frozen=True, eq=False)
class _Rows:
    file: TensorFile
    key: str
    buffer: Buffer
    first: int
    count: int
    columns: int
    row_bytes: int

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows (n, columns) in their stored dtype, until the next reading. Raises OSError, ValueError."""
        part = self.buffer.of((stop - start) * self.row_bytes)
        return self.file.read_rows(self.key, self.first + start, self.first + stop, part)


def places(root: nn.Module, layers: Mapping[str, Layer]) -> dict[tuple[str, str], Place]:
    """Return where the parameters of ``layers`` are in a single file: ldm's names are those of its modules.

    The webui puts its own modules around text encoders, under the name ``wrapped``, after it has read the file.
    """
    paths = {id(module): path.replace(".wrapped", "") for path, module in root.named_modules()}
    found = {}
    for name, layer in layers.items():
        path = paths.get(id(layer.module))
        if path is not None:
            for parameter, own in (("weight", layer.weight), ("bias", layer.bias)):
                found[name, parameter] = Place(f"{path}.{own}", layer.rows)
    return found
