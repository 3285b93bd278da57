"""A VAE that is used instead of a base model's own: one .safetensors file, or a diffusers folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from ..safetensors_header import BrokenFileError
from ..safetensors_tensors import TensorFile
from . import detect, ldm
from .detect import ModelInfo
from .load import ModelSource, Stored, empty_vae, fill, open_source
from .tokenizer import ClipTokenizer

_CONFIG = "config.json"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
# What stands before a key of ldm: nothing, or what a whole checkpoint has there.
_PREFIXES = ("", "first_stage_model.", "vae.")


def files_of(path: Path) -> list[Path]:
    """The weights of a VAE at ``path``, and its configuration where it has one. Raises ModelError if it is none."""
    folder = path / "vae" if (path / "vae").is_dir() else path
    found = [folder / _WEIGHTS, folder / _CONFIG] if path.is_dir() else [path]
    if path.suffix.lower() in detect.PICKLES:
        raise ModelError(
            "The VAE {path} was not opened.",
            why="{suffix} files are Python pickles, which can run any program when they are opened.",
            todo="Use the .safetensors version of this VAE.",
            path=str(path),
            suffix=path.suffix,
        )
    if not all(file.is_file() for file in found):
        raise ModelError(
            "There is no VAE at {path}.",
            todo="Give the path of a .safetensors file or of a diffusers folder with a VAE.",
            path=str(path),
        )
    return found


def vae_key(path: Path) -> str:
    """16 hex digits that stand for a VAE's weights and settings. Reads it once. Raises ModelError."""
    digest = hashlib.sha256()
    try:
        for file in files_of(path):
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    except OSError as error:
        raise ModelError("{path} can't be read.", why="{error}.", path=str(path), error=str(error)) from error
    return digest.hexdigest()[:16]


def load_vae(path: Path, info: ModelInfo, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The VAE at ``path`` for the base model ``info``, in eval mode. Raises ModelError.

    A single file has no configuration: it must be built like the base model's own.
    """
    files = files_of(path)
    try:
        with open_source(info) as base, _Source(info, files, base) as source:
            config = source.config("vae")
            vae_dtype = torch.float32 if dtype == torch.float16 and config.get("force_upcast") else dtype
            return fill(empty_vae(config), source, "vae", vae_dtype, device)
    except BrokenFileError as error:
        raise ModelError(
            "{path} can't be read as a model.",
            why="The file is broken or incomplete: {reason}.",
            todo="Download or copy it again.",
            path=str(path),
            reason=str(error),
        ) from error
    except OSError as error:
        raise ModelError("{path} can't be read.", why="{error}.", path=str(path), error=str(error)) from error


class _Source(ModelSource):
    def __init__(self, info: ModelInfo, files: list[Path], base: ModelSource) -> None:
        self.info = replace(info, path=files[0])
        self._base = base
        self._said = detect.read_json(files[1]) if len(files) > 1 else {}
        self._file = TensorFile(files[0])
        self._keys = self._file.header.tensors

    def __exit__(self, *_: object) -> None:
        self._file.__exit__(None, None, None)

    def config(self, part: str) -> Mapping[str, Any]:
        return self._said or self._base.config(part)

    def scheduler_config(self) -> dict[str, Any]:
        return self._base.scheduler_config()

    def tokenizer(self, part: str) -> ClipTokenizer:
        return self._base.tokenizer(part)

    def find(self, part: str, key: str, module: nn.Module) -> Stored | None:
        config: Any = module.config
        own = ldm.vae_path(key, len(config.block_out_channels))
        names = (key, *(f"{prefix}{own}" for prefix in _PREFIXES))
        return next((Stored(self._file, name) for name in names if name in self._keys), None)
