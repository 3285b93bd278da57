"""What a .safetensors file says of itself: names, shapes, dtypes, metadata. Needs no torch and reads no weights.

Format: https://github.com/huggingface/safetensors#format (8 bytes little-endian length, JSON header, tensor bytes).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The format's own limit; a length above it means that the file is something else.
_MAX_HEADER_BYTES = 100_000_000
# Holds the header of most adapter files.
_FIRST_PIECE_BYTES = 1 << 16
_METADATA = re.compile(r'\s*\{\s*"__metadata__"\s*:\s*(?=\{)')
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
    """Return the metadata of a .safetensors file, as ``skim`` does."""
    return skim(path).metadata


@dataclass(frozen=True)
class Skimmed:
    """The metadata, and the JSON text of the tensors' entries, not parsed: enough to see what a file is."""

    metadata: Mapping[str, str]
    entries: str


def skim(path: Path) -> Skimmed:
    """Return what a .safetensors file says of itself, ten times as fast as ``read`` where the file is as usual.

    Usual is what the safetensors library writes: the metadata first or none, the last tensor's end the end of the
    file. Any other file is read and checked as a whole. Raises as ``read`` does.
    """
    header, file_bytes = _header_bytes(path)
    last = _OFFSETS.match(header, max(0, header.rfind(b'"data_offsets"')))
    if last is not None and 8 + len(header) + int(last.group(1)) == file_bytes:
        try:
            text = header.decode("utf-8")
            start = _METADATA.match(text)
            if start is None and '"__metadata__"' not in text:
                return Skimmed({}, text)
            if start is not None:
                metadata, end = json.JSONDecoder().raw_decode(text, start.end())
                return Skimmed(_texts(metadata), text[end:])
        except (ValueError, RecursionError):
            pass  # read as a whole, it says what is wrong
    parsed = parse(header, file_bytes)
    entries = {key: {"dtype": info.dtype, "shape": info.shape} for key, info in parsed.tensors.items()}
    return Skimmed(parsed.metadata, json.dumps(entries, ensure_ascii=False))


def _header_bytes(path: Path) -> tuple[bytes, int]:
    """The header's JSON bytes, and the size of the whole file."""
    # The system's own calls: of a list of ten thousand files they take half the time that Python's files take.
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        if hasattr(os, "posix_fadvise"):
            # Else Linux reads on into the weights, which nobody asked for.
            with contextlib.suppress(OSError):
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        file_bytes = os.fstat(file).st_size
        start = os.read(file, _FIRST_PIECE_BYTES)
        if len(start) < 8:
            raise BrokenFileError("the file is empty or only a few bytes long")
        (header_bytes,) = struct.unpack_from("<Q", start)
        if 8 + header_bytes > file_bytes:
            if header_bytes > _MAX_HEADER_BYTES:
                raise BrokenFileError("it does not begin with a safetensors header")
            missing = 8 + header_bytes - file_bytes
            raise BrokenFileError(f"the header is cut off: {missing} of its {header_bytes} bytes are missing")
        if header_bytes > _MAX_HEADER_BYTES:
            megabytes = header_bytes // 1_000_000
            raise BrokenFileError(f"its header is {megabytes} MB long, and no program reads more than 100 MB")
        header = start[8 : 8 + header_bytes]
        while len(header) < header_bytes:
            piece = os.read(file, header_bytes - len(header))
            if not piece:
                raise BrokenFileError("the file became shorter while it was read")
            header += piece
        return header, file_bytes
    finally:
        os.close(file)


def parse(header: bytes, file_bytes: int) -> Header:
    """Return the header whose JSON bytes are given, checked against the size of the whole file."""
    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=_once)
    except BrokenFileError:
        raise
    except (ValueError, RecursionError) as error:
        # Not only JSON's own error: Python reads no whole number of more than 4300 digits.
        raise BrokenFileError("the header is not JSON") from error
    if not isinstance(entries, dict):
        raise BrokenFileError("the header is not a JSON object")
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise BrokenFileError("its metadata is not a JSON object")
    start = 8 + len(header)
    tensors = {str(key): _tensor(key, entry, start, file_bytes) for key, entry in entries.items()}
    _check_apart(tensors)
    try:
        "".join(tensors).encode()
    except UnicodeEncodeError as error:
        raise BrokenFileError("the name of a tensor holds half of a character") from error
    return Header(tensors, _texts(metadata), start)


def _texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The metadata as texts. JSON can write half of a surrogate pair, which can't be printed, stored or hashed."""
    texts = {str(key): str(value) for key, value in metadata.items()}
    try:
        "".join((*texts, *texts.values())).encode()
    except UnicodeEncodeError:
        return {_whole(key): _whole(value) for key, value in texts.items()}
    return texts


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a name that stands in it twice would mean one thing here and another in other programs."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BrokenFileError(f"its header names {key} twice")
            seen.add(key)
    return found


def _check_apart(tensors: Mapping[str, TensorInfo]) -> None:
    before, end = "", 0
    for key, info in sorted(tensors.items(), key=lambda item: item[1].offset):
        if info.size_bytes and info.offset < end:
            raise BrokenFileError(f"{before} and {key} share bytes")
        if info.size_bytes:
            before, end = key, info.offset + info.size_bytes


def _tensor(key: str, entry: Any, start: int, file_bytes: int) -> TensorInfo:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise BrokenFileError(f"the entry of {key} makes no sense") from error
    if max(shape, default=0) >= 1 << 63 or len(shape) > 64:
        raise BrokenFileError(f"the entry of {key} makes no sense")
    if dtype not in _ITEM_BYTES:
        raise BrokenFileError(f"{key} has the unknown number format {dtype}")
    if min((*shape, begin), default=0) < 0 or end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise BrokenFileError(f"the size of {key} does not match its shape")
    if start + end > file_bytes:
        raise BrokenFileError(f"the file ends before {key}; it is {start + end - file_bytes} bytes or more too short")
    return TensorInfo(dtype, shape, start + begin, end - begin)
