"""The tensors of a .safetensors file, read one by one into memory of their own.

Nothing is mapped: a mapped file can't be replaced on Windows, and one that is cut short kills the process on Linux.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from . import safetensors_header
from .safetensors_header import BrokenFileError, Header

_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
}
NAMES = {name: key for key, name in _DTYPES.items()}
_PIECE_BYTES = 1 << 18


class Buffer:
    """Bytes that one reading after the other uses: fresh memory costs more time than what is read into it."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def of(self, size_bytes: int) -> Tensor:
        """The first ``size_bytes`` of it, as long as nobody asks again."""
        if self._bytes.numel() < size_bytes:
            self._bytes = torch.empty(size_bytes, dtype=torch.uint8)
        return self._bytes[:size_bytes]


class TensorFile:
    """An open .safetensors file; ``read`` gives one tensor, with its own memory, in its stored dtype."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: Header = safetensors_header.read(path)
        self._file = path.open("rb", buffering=0)

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def read(self, key: str, buffer: Buffer | None = None) -> Tensor:
        """Return one tensor; in ``buffer``, where one is given, until that is used again.

        Raises KeyError if the file has none of that name, BrokenFileError if it got shorter.
        """
        info = self.header.tensors[key]
        part = torch.empty(info.size_bytes, dtype=torch.uint8) if buffer is None else buffer.of(info.size_bytes)
        self._fill(part, info.offset, key)
        return part.view(_dtype(info.dtype, key)).reshape(info.shape)

    def read_rows(self, key: str, start: int, stop: int, buffer: Tensor) -> Tensor:
        """Return rows ``start`` to ``stop`` of a tensor as a matrix: everything behind its first size is one row.

        They are read into the beginning of ``buffer`` (bytes), which must be large enough and stays theirs.
        """
        info = self.header.tensors[key]
        row_bytes = info.size_bytes // max(1, info.shape[0] if info.shape else 1)
        part = buffer[: (stop - start) * row_bytes]
        self._fill(part, info.offset + start * row_bytes, key)
        return part.view(_dtype(info.dtype, key)).reshape(stop - start, -1)

    def content_hash(self) -> str:
        """Return the SHA-256 of everything behind the header, 64 hex digits. Raises OSError."""
        digest, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE_BYTES))
        self._file.seek(self.header.data_offset)
        while count := self._file.readinto(buffer):
            digest.update(buffer[:count])
        return digest.hexdigest()

    def _fill(self, buffer: Tensor, offset: int, key: str) -> None:
        if not buffer.numel():
            return
        view = buffer.numpy().data
        self._file.seek(offset)
        done = 0
        while done < len(view):
            count = self._file.readinto(view[done:])
            if not count:
                raise BrokenFileError(f"the file ends within {key}")
            done += count


def read_all(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return every tensor of a small file and its metadata. Raises BrokenFileError or OSError."""
    with TensorFile(path) as file:
        return {key: file.read(key) for key in file.header.tensors}, file.header.metadata


def dtype_of(name: str) -> torch.dtype | None:
    """The dtype that a header's name stands for; None for one that this torch does not know."""
    dtype = getattr(torch, _DTYPES[name], None)
    return dtype if isinstance(dtype, torch.dtype) else None


def _dtype(name: str, key: str) -> torch.dtype:
    dtype = dtype_of(name)
    if dtype is None:
        raise BrokenFileError(f"this torch can't read {key}, which is stored as {name}")
    return dtype
