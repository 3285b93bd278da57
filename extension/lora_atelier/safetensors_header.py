"""What a .safetensors file says of itself: names, shapes, dtypes, metadata. Needs no torch and reads no weights.

Format: https://github.com/huggingface/safetensors#format (8 bytes little-endian length, JSON header, tensor bytes).
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The format's own limit; a length above it means that the file is something else.
_MAX_HEADER_BYTES = 100_000_000
_METADATA = re.compile(rb'\s*\{\s*"__metadata__"\s*:\s*(?=\{)')
_OFFSETS = re.compile(rb'"data_offsets"\s*:\s*\[\s*\d+\s*,\s*(\d+)\s*\]')
_ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}


class BrokenFileError(ValueError):
    """The bytes are not a complete .safetensors file; the text says which rule they break.

    Whoever opened the file turns this into a sentence that says what the file was to be: adapter or base model.
    """


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: ``offset`` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Header:
    """A checked header: every tensor lies inside the file and has as many bytes as its shape needs."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_offset: int


def read(path: Path) -> Header:
    """Return the header of a .safetensors file. Raises BrokenFileError, or OSError from the file system."""
    return parse(*_header_bytes(path))


def read_metadata(path: Path) -> Mapping[str, str]:
    """Return the metadata of a .safetensors file, ten times as fast as ``read`` where the file is as usual.

    Usual is what the safetensors library writes: the metadata first, the last tensor's end the end of the file. Any
    other file is read and checked as a whole. Raises as ``read`` does.
    """
    header, file_bytes = _header_bytes(path)
    ends = _OFFSETS.findall(header[-4096:])
    start = _METADATA.match(header)
    if ends and start is not None and 8 + len(header) + int(ends[-1]) == file_bytes:
        try:
            metadata, _ = json.JSONDecoder().raw_decode(header.decode("utf-8"), start.end())
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
            metadata = None
        if isinstance(metadata, dict):
            return {str(key): str(value) for key, value in metadata.items()}
    return parse(header, file_bytes).metadata


def _header_bytes(path: Path) -> tuple[bytes, int]:
    """The header's JSON bytes, and the size of the whole file."""
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = file.read(8)
        if len(length) < 8:
            raise BrokenFileError("the file is empty or only a few bytes long")
        (header_bytes,) = struct.unpack("<Q", length)
        if header_bytes > _MAX_HEADER_BYTES:
            raise BrokenFileError("it does not begin with a safetensors header")
        if 8 + header_bytes > file_bytes:
            raise BrokenFileError("the header is cut off")
        return file.read(header_bytes), file_bytes


def parse(header: bytes, file_bytes: int) -> Header:
    """Return the header whose JSON bytes are given, checked against the size of the whole file."""
    try:
        entries = json.loads(header.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BrokenFileError("the header is not JSON") from error
    if not isinstance(entries, dict):
        raise BrokenFileError("the header is not a JSON object")
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise BrokenFileError("its metadata is not a JSON object")
    start = 8 + len(header)
    tensors = {str(key): _tensor(key, entry, start, file_bytes) for key, entry in entries.items()}
    return Header(tensors, {str(key): str(value) for key, value in metadata.items()}, start)


def _tensor(key: str, entry: Any, start: int, file_bytes: int) -> TensorInfo:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
    except (TypeError, KeyError, ValueError) as error:
        raise BrokenFileError(f"the entry of {key} makes no sense") from error
    if dtype not in _ITEM_BYTES:
        raise BrokenFileError(f"{key} has the unknown number format {dtype}")
    if min((*shape, begin), default=0) < 0 or end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise BrokenFileError(f"the size of {key} does not match its shape")
    if start + end > file_bytes:
        raise BrokenFileError(f"the file ends before {key}; it is {start + end - file_bytes} bytes or more too short")
    return TensorInfo(dtype, shape, start + begin, end - begin)
