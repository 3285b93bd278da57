"""The folder of what training computed once and may need again: encoded pictures and captions, masks.

Every file's name says what it was made from, so that nothing in it is ever wrong, only unused; whatever is broken or
gone is made again. Needs no torch.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The last one holds what stands for the parts of base models.
LATENTS, TEXTS, MASKS, MODELS = "latents", "texts", "masks", "models"
_KINDS = (LATENTS, TEXTS, MASKS, MODELS)
MOST_BYTES = 20_000_000_000
# Not used in three months.
OLDEST_S = 90 * 86_400
# What a killed process left half written; nobody writes one file for longer.
_TEMPORARY_S = 86_400


@dataclass(frozen=True)
class CacheFolder:
    """The cache at ``root``. Files are touched when they are used, so that the least used ones can be removed."""

    root: Path

    @classmethod
    def of_run(cls, run_dir: Path) -> CacheFolder:
        """Beside the runs, so that the next run of the same pictures finds it; inside a run that stands alone."""
        return cls((run_dir.parents[1] if run_dir.parent.name in ("runs", "dry runs") else run_dir) / "cache")

    def path(self, kind: str, name: str) -> Path:
        """Where the file ``name`` of ``kind`` is or would be; the first two letters part them over folders."""
        return self.root / kind / name[:2] / name

    def touch(self, path: Path) -> None:
        """Note that a file was used now."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def size_bytes(self) -> int:
        """What all files take."""
        return sum(size for _, size, _ in self._files())

    def clean(
        self, *, most_bytes: int = MOST_BYTES, oldest_s: float = OLDEST_S, used_since: float | None = None
    ) -> int:
        """Remove what was not used for ``oldest_s`` seconds, then the least used until ``most_bytes`` are left.

        What was used after ``used_since`` (seconds since 1970) stays whatever it takes. Returns the bytes freed; what
        can't be removed is passed over.
        """
        now = time.time()
        files = sorted(self._files(), key=lambda file: file[2])
        total = sum(size for _, size, _ in files)
        freed = 0
        for path, size, used in files:
            left_over = path.suffix == ".tmp" and now - used > _TEMPORARY_S
            in_use = used_since is not None and used >= used_since
            if not left_over and (in_use or (now - used <= oldest_s and total - freed <= most_bytes)):
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                freed += size
        return freed

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        for kind in _KINDS:
            for path in (self.root / kind).glob("*/*"):
                try:
                    said = path.stat()
                except OSError:  # removed by another run
                    continue
                yield path, said.st_size, said.st_mtime
