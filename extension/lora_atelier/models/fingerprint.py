"""What a part of a base model is, told from its bytes without loading it: what was computed with it can be kept.

Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from .. import safetensors_header
from ..errors import ModelError
from ..safetensors_header import BrokenFileError
from .detect import ModelInfo

# Where the parts lie in a checkpoint, and in a diffusers folder; the tokenizer is half of what a text encoder does.
_PREFIXES = {"vae": ("first_stage_model.",), "te": ("cond_stage_model.", "conditioner.embedders.")}
_FOLDERS = {"vae": ("vae",), "te": ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")}
_ENDINGS = (".safetensors", ".json", ".txt")
_PIECE_BYTES = 1 << 22


def files_of(info: ModelInfo, part: str) -> list[Path]:
    """The files that ``part`` ("vae" or "te") is read from; it can only change with one of them. Raises ModelError."""
    if info.kind == "checkpoint":
        return [info.path]
    folders = [info.path / name for name in _FOLDERS[part]]
    try:
        found = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
    except OSError as error:
        raise _unreadable(info, error) from error
    return sorted(file for file in found if file.suffix in _ENDINGS and file.is_file())


def fingerprint(info: ModelInfo, part: str) -> str:
    """32 hex digits that stand for the weights and settings of ``part``, whatever its file is called.

    Reads the part once. Raises ModelError if a file can't be read.
    """
    prefixes = _PREFIXES[part] if info.kind == "checkpoint" else ("",)
    digest = hashlib.sha256(f"{info.family} {part}\n".encode())
    try:
        for file in files_of(info, part):
            if info.kind == "diffusers":
                digest.update(f"{file.parent.name}/{file.name}\n".encode())
            pieces = _weights(file, prefixes) if file.suffix == ".safetensors" else (file.read_bytes(),)
            for piece in pieces:
                digest.update(piece)
    except (OSError, BrokenFileError) as error:
        raise _unreadable(info, error) from error
    return digest.hexdigest()[:32]


def _weights(path: Path, prefixes: tuple[str, ...]) -> Iterator[bytes | memoryview]:
    """Name, type, shape and bytes of every tensor whose name begins with one of ``prefixes``."""
    header = safetensors_header.read(path)
    buffer = bytearray(_PIECE_BYTES)
    with path.open("rb", buffering=0) as file:
        for key, tensor in sorted(header.tensors.items()):
            if not key.startswith(prefixes):
                continue
            yield json.dumps([key, tensor.dtype, tensor.shape]).encode()
            file.seek(tensor.offset)
            left = tensor.size_bytes
            while left:
                count = file.readinto(memoryview(buffer)[:left])
                if not count:
                    raise BrokenFileError(f"the file ends within {key}")
                yield memoryview(buffer)[:count]
                left -= count


def _unreadable(info: ModelInfo, error: Exception) -> ModelError:
    return ModelError("{path} can't be read.", why="{error}.", path=str(info.path), error=str(error))
