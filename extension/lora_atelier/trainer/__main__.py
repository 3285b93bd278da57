"""``python -m lora_atelier.trainer RUN_DIR``: exit 0 finished, 3 stopped on request, 1 failed, 2 wrong call."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Train what RUN_DIR describes, or go on with it; everything that happens is told in its events.jsonl."""
    if len(sys.argv) != 2:
        print("usage: python -m lora_atelier.trainer RUN_DIR", file=sys.stderr)
        return 2
    from .run import run

    return run(Path(sys.argv[1]))


if __name__ == "__main__":
    raise SystemExit(main())
