"""The guard's log: a line for each picture, with the LoRAs at their weights, and both pictures where they are near.

It is appended only. Who must show that a measure against copies was taken has it here (rights.md 1.4, dependence).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .. import atomic
from .guard import Finding
from .references import References

SCHEMA = 1
FILE, PAIRS = "guard.jsonl", "pairs"
DECISIONS = ("kept", "discarded", "drawn again", "weight lowered")
_CELL, _MARGIN, _LINE = 384, 16, 22


@dataclass(frozen=True)
class LoraAt:
    """A LoRA that a picture was made with, the hash of its tensors and its weights."""

    name: str
    model_hash: str
    te: float
    unet: float


@dataclass(frozen=True)
class GuardLog:
    """The log in one folder."""

    folder: Path

    def add(self, picture: str, finding: Finding | None, loras: Sequence[LoraAt], *, pair: str = "") -> None:
        """Append what was found of a picture (its path below the outputs). Raises OSError."""
        found = finding.to_json() if finding is not None else None
        self._append({"picture": picture, "finding": found, "pair": pair, "loras": [asdict(each) for each in loras]})

    def decide(self, picture: str, decision: str) -> None:
        """Append what the person decided on a picture, one of ``DECISIONS``. Raises OSError, ValueError."""
        if decision not in DECISIONS:
            raise ValueError(decision)
        self._append({"picture": picture, "decision": decision})

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every line, oldest first; lines that are damaged or of a newer version are passed over. Raises OSError."""
        try:
            lines = (self.folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("schema", SCHEMA + 1) <= SCHEMA:
                yield entry

    def find(self, picture: str) -> dict[str, Any] | None:
        """The newest finding of a picture, with the newest ``decision`` on it; None if it is not there."""
        found, decision = None, None
        for entry in self.entries():
            if entry.get("picture") == picture:
                if "decision" in entry:
                    decision = entry["decision"]
                else:
                    found, decision = entry, None
        return None if found is None else {**found, "decision": decision}

    def keep_pair(self, name: str, pair: Image.Image) -> str:
        """Write a pair of pictures; returns its file's name. Raises OSError."""
        path = self.folder / PAIRS / f"{name}.png"
        number = 2
        while path.exists():
            path, number = path.with_name(f"{name}-{number}.png"), number + 1
        atomic.write_with(path, lambda file: pair.save(file, format="PNG"))
        return path.name

    def _append(self, entry: Mapping[str, Any]) -> None:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        line = json.dumps({"schema": SCHEMA, "time": now, **entry}, ensure_ascii=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def of(data_dir: Path) -> GuardLog:
    """The log of a data folder: ``rights/guard.jsonl`` in it, pairs in ``rights/pairs``."""
    return GuardLog(data_dir / "rights")


def pair_of(output: Image.Image, finding: Finding, known: References) -> Image.Image:
    """The output and the training picture that it is near, side by side."""
    assert finding.near is not None
    return side_by_side(output, known.picture(finding.near.at), finding.near.picture, finding.near.lora)


def side_by_side(output: Image.Image, training: Image.Image, name: str, lora: str) -> Image.Image:
    """Two pictures of one height with what they are above them."""
    cells = [_fitted(each) for each in (output, training)]
    height = max(cell.height for cell in cells)
    size = (2 * _CELL + 3 * _MARGIN, height + 2 * _MARGIN + _LINE)
    made = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(made), _font()
    titles = ("output", f"training picture {_plain(name)} of {_plain(lora)}")
    for column, (cell, text) in enumerate(zip(cells, titles, strict=True)):
        left = _MARGIN + column * (_CELL + _MARGIN)
        made.paste(cell, (left, _MARGIN + _LINE))
        pen.text((left, _MARGIN), text[:56], fill="black", font=font)
    return made


def _font() -> Any:
    try:
        return ImageFont.load_default(15)
    except TypeError:  # Pillow before 10.1, as AUTOMATIC1111's webui has it, knows one size
        return ImageFont.load_default()


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture as wide as a cell, or as high where it is a tall one."""
    picture = picture.convert("RGB")
    scale = _CELL / max(picture.size)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def _plain(text: str) -> str:
    """The text with what Pillow's own font can't draw replaced."""
    return text.encode("latin-1", errors="replace").decode("latin-1")
