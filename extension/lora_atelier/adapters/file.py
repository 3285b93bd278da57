"""Adapter files on disk: read whole, written so that the bytes depend on the content alone, hashed as kohya does."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import atomic
from ..errors import AdapterFormatError, AdapterNotFoundError
from ..safetensors_header import BrokenFileError
from ..safetensors_tensors import NAMES, TensorFile
from . import hashes

_PICKLES = {".pt", ".ckpt", ".pth", ".bin"}
# The library's own order of number formats (safetensors 0.8, enum Dtype), as far as adapters use them.
_DTYPE_ORDER = (
    *(torch.bool, torch.uint8, torch.int8, torch.float8_e5m2, torch.float8_e4m3fn),
    *(torch.int16, torch.float16, torch.bfloat16, torch.int32, torch.float32, torch.float64, torch.int64),
)


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """The content of an adapter file: tensors by key, in their stored dtypes, and the metadata's texts.

    ``content_hash``, 64 hex digits, stands for the weights: ``adapters.hashes`` says how.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    content_hash: str


def read(path: Path) -> AdapterFile:
    """Return the content of an adapter file.

    Raises AdapterNotFoundError if it is gone, AdapterFormatError if it is a pickle, broken, or can't be read.
    """
    if path.suffix.lower() in _PICKLES:
        raise AdapterFormatError(
            "{name} was not opened.",
            why="{suffix} files are Python pickles, which can run any program when they are opened.",
            todo="Use the .safetensors version of this LoRA.",
            name=path.name,
            suffix=path.suffix,
        )
    try:
        with TensorFile(path) as opened:
            metadata = opened.header.metadata
            tensors = {key: opened.read(key) for key in opened.header.tensors}
            content_hash = hashes.said(metadata) or opened.content_hash()
    except FileNotFoundError as error:
        raise AdapterNotFoundError(
            "{name} is no longer there.",
            why="There is no file {path}.",
            todo="Refresh the list of LoRAs.",
            name=path.name,
            path=str(path),
        ) from error
    except BrokenFileError as error:
        raise AdapterFormatError(
            "{name} can't be read as a LoRA.",
            why="The file is broken or incomplete: {reason}.",
            todo="Download or copy it again.",
            name=path.name,
            reason=str(error),
        ) from error
    except OSError as error:
        raise AdapterFormatError(
            "{name} can't be read.", why="{error}.", todo="", name=path.name, error=str(error)
        ) from error
    return AdapterFile(path, tensors, metadata, content_hash)


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write an adapter file, whole or not at all, and return its ``sshs_model_hash``.

    ``sshs_model_hash`` and ``sshs_legacy_hash`` are added to the metadata. The same content gives the same bytes, and
    the metadata comes first, so that a list of files can be made from their first kilobytes. Raises OSError.
    """
    blocks = {key: _bytes(tensors[key]) for key in _order(tensors)}
    computed = _hashes(tensors, blocks, metadata)
    header = _header(tensors, {**metadata, **computed})

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(header)
            for block in blocks.values():
                file.write(block)

    atomic.write_with(path, fill)
    return computed["sshs_model_hash"]


def stored(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str, tuple[int, ...], memoryview]]:
    """Name, dtype and shape of each tensor as ``write`` writes them, and its bytes."""
    for key, tensor in tensors.items():
        yield key, NAMES[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape), _bytes(tensor)


def model_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the ``sshs_model_hash`` of a file that ``write`` makes of these tensors."""
    return _sha256(_bytes(tensors[key]) for key in _order(tensors))


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """Return a CRC-32 of all keys and numbers: a quick way to see whether a file still says what it said."""
    found = 0
    for key, tensor in tensors.items():
        found = zlib.crc32(_bytes(tensor), zlib.crc32(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode(), found))
    return found


def _hashes(tensors: Mapping[str, Tensor], blocks: Mapping[str, memoryview], said: Mapping[str, str]) -> dict[str, str]:
    """kohya's two hashes (sd-scripts train_util.precalculate_safetensors_hashes).

    The older one covers 64 KiB from 1 MiB on of the file as it would be with its ``ss_`` metadata alone.
    """
    header = _header(tensors, {key: text for key, text in said.items() if key.startswith("ss_")})
    start, window, at = 0x100000, bytearray(), 0
    for block in (memoryview(header), *blocks.values()):
        window += block[max(0, start - at) : max(0, start + 0x10000 - at)]
        at += len(block)
    return {
        "sshs_model_hash": _sha256(iter(blocks.values())),
        "sshs_legacy_hash": hashlib.sha256(window).hexdigest()[:8],
    }


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    at = 0
    for key in _order(tensors):
        tensor = tensors[key]
        size = tensor.numel() * tensor.element_size()
        dtype = NAMES[str(tensor.dtype).removeprefix("torch.")]
        entries[key] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _order(tensors: Mapping[str, Tensor]) -> list[str]:
    """The order of the safetensors library: the largest numbers first, so that all stay aligned; then by name."""
    return sorted(tensors, key=lambda key: (-_DTYPE_ORDER.index(tensors[key].dtype), key))


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _sha256(blocks: Iterator[memoryview]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()
