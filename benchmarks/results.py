"""What every benchmark gives: rows, printed as a table, written as JSON, and judged by their budgets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One result. ``ratio`` is value / anchor, the same of a peer in the same run.

    ``budget`` is for the ratio where there is one, else for the value. ``ok`` is None where nothing is judged: no
    budget, or a peer that is not installed.
    """

    name: str
    value: float
    unit: str
    anchor: float | None = None
    ratio: float | None = None
    budget: float | None = None
    ok: bool | None = None


def report(rows: Sequence[Row], file: Path | None) -> int:
    """Print the rows, write them to ``file`` if one is given; returns 1 if a budget was missed, else 0."""
    width = max(len(row.name) for row in rows)
    units = max(len(row.unit) for row in rows)
    print(f"{'':{width}} {'value':>10} {'unit':{units}} {'anchor':>9} {'ratio':>7} {'budget':>7}")
    for row in rows:
        anchor, ratio, budget = ("" if each is None else f"{each:.3f}" for each in (row.anchor, row.ratio, row.budget))
        verdict = "" if row.budget is None else "no peer" if row.ok is None else "ok" if row.ok else "MISSED"
        print(f"{row.name:{width}} {row.value:10.3f} {row.unit:{units}} {anchor:>9} {ratio:>7} {budget:>7}  {verdict}")
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    return 0 if all(row.ok is not False for row in rows) else 1
