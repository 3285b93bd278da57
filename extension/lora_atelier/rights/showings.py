"""How often a training has shown each of its pictures: what comes most often is what is memorised first.

It stays in the run's directory, for the report; the LoRA file says nothing of single pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import atomic

SCHEMA = 1
FILE = "rights-showings.json"


@dataclass(frozen=True)
class Showings:
    """Up to ``step``, how often the picture of each sha256 was shown; 0 for those that were only measured on."""

    step: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)

    def write(self, run_dir: Path) -> None:
        """Write them into the run's directory. Raises OSError."""
        said = {"schema": SCHEMA, "step": self.step, "counts": dict(self.counts)}
        atomic.write_text(run_dir / FILE, json.dumps(said, indent=1) + "\n")

    @classmethod
    def read(cls, run_dir: Path) -> Showings | None:
        """What a run wrote; None where it did not (the other engine shuffles by itself) or it can't be read."""
        try:
            said = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
            counts = {str(sha256): int(count) for sha256, count in said["counts"].items()}
            return cls(int(said["step"]), counts) if said["schema"] <= SCHEMA else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
