"""What a changed parameter was before: a copy, or the checkpoint that is read again row by row."""

from __future__ import annotations

import contextlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from ..errors import OriginalsLostError

# Numbers that are handled at once, about: on a processor the float32 scratch then stays in its cache; a GPU wants fewer
# and larger pieces.
_CPU_BLOCK, _GPU_BLOCK = 1 << 20, 1 << 27
# Matrix products are made in tiles of so many rows.
_TILE_ROWS = 16


class Rows(Protocol):
    """One stored parameter of an open checkpoint, as a matrix: everything behind the first size is a row's numbers."""

    @property
    def count(self) -> int: ...

    @property
    def columns(self) -> int: ...

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows (n, columns) in their stored dtype, valid until the next call. Raises OSError, ValueError."""
        ...


class OpenWeights(Protocol):
    """A checkpoint that is open."""

    def rows(self, layer: str, parameter: str) -> Rows | None:
        """Return where a layer's parameter is stored, or None if it is not stored number by number."""
        ...


class StoredWeights(Protocol):
    """The file (or files) that a host's model was read from. Between uses no handle is kept and nothing is mapped."""

    def stamp(self) -> Hashable:
        """Size, time and identity of the files: another stamp means that they may have changed. Raises OSError."""
        ...

    def open(self) -> AbstractContextManager[OpenWeights]:
        """Open the files for reading. Raises OSError, ValueError if they are broken."""
        ...


class Original(ABC):
    """The unchanged numbers of one parameter, in the dtype and on the device that the parameter has now."""

    @abstractmethod
    def rows(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Return rows of the parameter as a matrix, valid until the next call, dtype and device as ``like``."""

    def whole(self, like: Tensor) -> Tensor:
        """Return the whole parameter in the shape of ``like``."""
        return self.rows(0, row_count(like), like).reshape(like.shape)

    def write(self, target: Tensor) -> None:
        """Put the unchanged numbers into ``target``."""
        for start, stop in blocks(target):
            part = target[start:stop]
            part.copy_(self.rows(start, stop, target).reshape(part.shape))


class Copied(Original):
    """A copy in memory. It follows the parameter to another device or precision, as the host converts its own."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.detach().clone(memory_format=torch.contiguous_format)

    def rows(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Rows of the copy."""
        if (self._tensor.dtype, self._tensor.device) != (like.dtype, like.device):
            self._tensor = self._tensor.to(like.device, like.dtype)
        return as_matrix(self._tensor)[start:stop]


class Originals:
    """Keeps what parameters were before they were changed, in memory or in the checkpoint."""

    def __init__(self, checkpoint: StoredWeights | None) -> None:
        self._checkpoint = checkpoint
        self._open: OpenWeights | None = None
        self._stack = contextlib.ExitStack()
        self._stamp: Hashable = None

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """While this lasts the checkpoint may be open; afterwards no handle is left."""
        try:
            yield
        finally:
            self._open = None
            self._stack.close()

    def keep(self, layer: str, parameter: str, live: Tensor, *, reread: bool) -> Original:
        """Return the original of an unchanged parameter: with ``reread`` no copy, if the file has its very bits."""
        if reread and self._checkpoint is not None:
            original = Reread(self, layer, parameter)
            with contextlib.suppress(OSError, ValueError, OriginalsLostError):
                stamp = self._checkpoint.stamp()
                if self._stamp in (None, stamp) and self.rows_of(layer, parameter) and original.matches(live):
                    self._stamp = stamp
                    return original
        return Copied(live)

    def is_unchanged(self) -> bool:
        """Whether the checkpoint is the file that originals were found in, as far as its size and times tell."""
        try:
            return self._checkpoint is not None and self._checkpoint.stamp() == self._stamp
        except OSError:
            return False

    def found_again(self) -> None:
        """Say that every original in use has been compared with the checkpoint as it is now."""
        assert self._checkpoint is not None
        self._stamp = self._checkpoint.stamp()

    def forget(self) -> None:
        """Say that no original is in use."""
        self._stamp = None

    def rows_of(self, layer: str, parameter: str) -> Rows | None:
        """Return where a parameter is stored, opening the checkpoint if need be. Raises OSError, ValueError."""
        if self._open is None:
            assert self._checkpoint is not None
            self._open = self._stack.enter_context(self._checkpoint.open())
        return self._open.rows(layer, parameter)


class Reread(Original):
    """Rows of the checkpoint, read each time that they are needed. Raises OriginalsLostError where that fails."""

    def __init__(self, originals: Originals, layer: str, parameter: str) -> None:
        self._originals, self._layer, self._parameter = originals, layer, parameter
        # Shape, dtype and CRC-32 of what is stored: what another file in its place would hardly have.
        self._fingerprint: tuple[int, int, torch.dtype | None, int] | None = None

    def rows(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Rows as they are stored, converted as the model's loader converts them."""
        return self._read(start, stop, like).to(like.device, like.dtype)

    def matches(self, live: Tensor) -> bool:
        """Whether the file has the very bits of ``live``; what these are is remembered, as a fingerprint."""
        checksum, dtype = 0, None
        for start, stop in blocks(live):
            stored = self._read(start, stop, live)
            part = live[start:stop]
            if not same_bits(part, stored.to(live.device, live.dtype).reshape(part.shape)):
                return False
            checksum, dtype = _checksum(stored, checksum), stored.dtype
        self._fingerprint = row_count(live), live.numel() // row_count(live), dtype, checksum
        return True

    def is_stored_still(self) -> bool:
        """Whether the file has what it had when ``matches`` looked at it."""
        try:
            rows = self._originals.rows_of(self._layer, self._parameter)
            if rows is None:
                return False
            checksum, dtype = 0, None
            for start, stop in _ranges(rows.count, rows.columns, _CPU_BLOCK):
                stored = rows.read(start, stop)
                checksum, dtype = _checksum(stored, checksum), stored.dtype
        except (OSError, ValueError):
            return False
        return self._fingerprint == (rows.count, rows.columns, dtype, checksum)

    def _read(self, start: int, stop: int, like: Tensor) -> Tensor:
        try:
            rows = self._originals.rows_of(self._layer, self._parameter)
            if rows is None or (rows.count, rows.columns) != (row_count(like), like.numel() // row_count(like)):
                raise lost()
            return rows.read(start, stop)
        except (OSError, ValueError) as error:
            raise lost() from error


def _checksum(stored: Tensor, before: int) -> int:
    """The CRC-32 of everything read so far: four times as fast as the fastest secure hash, and nobody is deceived."""
    return zlib.crc32(stored.view(torch.uint8).numpy().data, before)


def lost() -> OriginalsLostError:
    """The error for originals that can't be read again."""
    return OriginalsLostError(
        "The base model has to be loaded again.",
        why="Its file was changed or removed while a LoRA was on, so its own weights can't be read from it any more.",
        todo="Put the file back, or choose another base model.",
    )


def row_count(tensor: Tensor) -> int:
    """The rows of a parameter as a matrix; a vector is a column."""
    return tensor.shape[0] if tensor.ndim else 1


def as_matrix(tensor: Tensor) -> Tensor:
    """Return a view of a contiguous parameter as a matrix."""
    return tensor.view(row_count(tensor), -1)


def blocks(tensor: Tensor) -> list[tuple[int, int]]:
    """Cut a parameter into ranges of rows that are handled at once."""
    rows = row_count(tensor)
    wanted = _CPU_BLOCK if tensor.device.type == "cpu" else _GPU_BLOCK
    return _ranges(rows, tensor.numel() // max(1, rows), wanted)


def _ranges(rows: int, columns: int, wanted: int) -> list[tuple[int, int]]:
    """Equal parts of about ``wanted`` numbers: a small rest would be multiplied at a fraction of the speed."""
    parts = max(1, round(rows * columns / wanted))
    step = max(1, -(-rows // parts))
    if step > _TILE_ROWS:
        step = -(-step // _TILE_ROWS) * _TILE_ROWS
    return [(start, min(rows, start + step)) for start in range(0, rows, step)]


# Whole numbers as wide as others, by their bytes: to look at bits.
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape and dtype hold the same bits; unlike ``==`` this knows NaN and -0."""
    kind = BITS[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))
