"""``python -m lora_atelier.trainer RUN_DIR``: exit 0 finished, 3 stopped on request, 1 failed, 2 called wrongly."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Train what RUN_DIR describes, or go on with it; everything that happens is told in its events.jsonl.

    With ``--dry-run`` a few steps are made, and what the whole would take is written to its measured.json.
    """
    *options, path = sys.argv[1:] or [""]
    if not path or options not in ([], ["--dry-run"]):
        print("usage: python -m lora_atelier.trainer [--dry-run] RUN_DIR", file=sys.stderr)
        return 2
    from .run import run

    return run(Path(path), dry=bool(options))


if __name__ == "__main__":
    raise SystemExit(main())
