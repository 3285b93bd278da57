"""What was computed once, as tensors on disk: encoded pictures and captions, by what they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .. import atomic
from ..datasets.cache import MODELS, CacheFolder
from ..models.detect import ModelInfo
from ..models.fingerprint import files_of, fingerprint
from ..safetensors_header import BrokenFileError
from ..safetensors_tensors import read_all

# A file system may give two writings of one file the same time if they follow each other closely.
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class TensorCache:
    """One kind of tensors in the cache folder."""

    folder: CacheFolder
    kind: str

    def read(self, name: str) -> Mapping[str, Tensor] | None:
        """The tensors kept under ``name``; None where there are none that can be read."""
        path = self.folder.path(self.kind, f"{name}.safetensors")
        try:
            tensors, _ = read_all(path)
        except (OSError, BrokenFileError):
            return None
        self.folder.touch(path)
        return tensors

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors. A cache that can't be written (disk full) costs time at the next run and nothing else."""
        from safetensors.torch import save

        try:
            atomic.write_bytes(self.folder.path(self.kind, f"{name}.safetensors"), save(dict(tensors)))
        except OSError as error:
            print(f"The cache can't be written: {error}")


def part_key(folder: CacheFolder, info: ModelInfo, part: str) -> str:
    """16 hex digits that stand for a part of the model ("vae" or "te"); see ``fingerprint``.

    Raises ModelError.
    """
    return kept_key(folder, f"{info.path.resolve()} {part}", files_of(info, part), lambda: fingerprint(info, part)[:16])


def kept_key(folder: CacheFolder, place: str, files: list[Path], make: Callable[[], str]) -> str:
    """What ``make`` reads out of ``files`` and stands for them; ``place`` tells it from others.

    It is kept with size, time and number of the files, so that unchanged ones are not read again for it. Raises what
    ``make`` raises.
    """
    path = folder.path(MODELS, f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.json")
    before: list[list[int]] = []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        before = _identity(files)
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["files"] == before:
            folder.touch(path)
            return str(said["key"])
    key = make()
    with contextlib.suppress(OSError):
        settled = all(time.time_ns() - changed > _SETTLED_NS for _, changed, _ in before)
        if settled and before == _identity(files):
            atomic.write_text(path, json.dumps({"files": before, "key": key}))
    return key


def _identity(files: list[Path]) -> list[list[int]]:
    """Size, time (ns) and number of each file: while they stay, so do its bytes."""
    return [[said.st_size, said.st_mtime_ns, said.st_ino] for said in (file.stat() for file in files)]
