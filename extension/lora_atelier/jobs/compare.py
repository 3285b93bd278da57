"""A run's checkpoints side by side: pictures of one prompt and seed by the host's own sampler, checkpoints × weights.

The grid lies in the run's folder ``compare`` (``grid.json`` and its pictures) and is the only state; it is drawn by a
thread of the host and can be looked at while it grows.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .. import atomic, locales
from ..errors import AlreadyRunningError, ExtensionError, JobError
from .checkpoints import Checkpoint, checkpoints, spread
from .run_dir import RunDir
from .view import RunView

MOST_CHECKPOINTS = 8
MOST_WEIGHTS = 6
FOLDER = "compare"
# Names that were made for single pictures, here and in ``previews``; no picture takes a day.
_LEFT_OVERS, _ABANDONED_S = ("atelier-compare-*", "atelier-preview-*"), 86_400.0
_log = logging.getLogger(__name__)

# Draws one picture of a prompt, which calls LoRAs by their names, with a seed. Raises ExtensionError.
Paint = Callable[[str, int], Image.Image]


class Comparison:
    """The grids of one host, of which one at a time is drawn. ``lora_dir`` is where the host finds LoRAs."""

    def __init__(self, paint: Paint, lora_dir: Path, refresh: Callable[[], None]) -> None:
        self._paint = paint
        self._lora_dir = lora_dir
        self._refresh = refresh
        self._lock = threading.Lock()
        self._drawing: Path | None = None
        self._cancelled = threading.Event()

    def start(self, view: RunView, *, prompt: str, weights: Sequence[float], seed: int = 1, most: int = 5) -> None:
        """Begin a new grid in the place of the last one. Raises JobError, AlreadyRunningError."""
        chosen = spread(checkpoints(view), max(1, min(most, MOST_CHECKPOINTS)))
        if not chosen or view.job is None:
            raise JobError("There is no checkpoint to compare yet.", todo="Wait for the first one, or press Save now.")
        wanted = list(dict.fromkeys(round(float(weight), 3) for weight in weights))[:MOST_WEIGHTS] or [0.8]
        folder = view.run.path / FOLDER
        _sweep(self._lora_dir)
        with self._lock:
            if self._drawing is not None:
                raise AlreadyRunningError("Another comparison is being drawn.", todo="Wait until it is ready.")
            try:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True, exist_ok=True)
                grid = {
                    "prompt": prompt.strip() or view.job.trigger,
                    "seed": seed,
                    "weights": wanted,
                    "steps": [each.step for each in chosen],
                    "kinds": {str(each.step): each.kind for each in chosen},
                    "done": 0,
                    "state": "drawing",
                    "created": time.time(),
                }
                _write(folder, grid)
            except OSError as error:
                raise JobError("The comparison could not be begun.", why="{reason}.", reason=str(error)) from error
            self._drawing = folder
            self._cancelled.clear()
        threading.Thread(target=self._draw, args=(folder, grid, chosen), name="atelier-compare", daemon=True).start()

    def cancel(self) -> None:
        """End the grid that is being drawn; what is drawn stays."""
        self._cancelled.set()

    def state(self, run: RunDir, lang: str) -> dict[str, Any] | None:
        """The grid of a run, or None if there is none; one that nobody draws any more is "ended"."""
        folder = run.path / FOLDER
        try:
            grid = json.loads((folder / "grid.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(grid, dict):
            return None
        if grid.get("state") == "drawing" and self._drawing != folder:
            grid["state"] = "ended"
        if isinstance(grid.get("error"), dict):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                grid["error"] = locales.sentence(ExtensionError.from_json(grid["error"]), lang)
        grid["files"] = sorted(path.name for path in folder.glob("*.png"))
        return grid

    # ------------------------------------------------------------------------------------------- drawing

    def _draw(self, folder: Path, grid: dict[str, Any], chosen: Sequence[Checkpoint]) -> None:
        # The host finds LoRAs by their names in its folder; these go again when the grid is ready.
        names = Path(f"atelier-compare-{uuid.uuid4().hex[:6]}")
        links = self._lora_dir / names
        try:
            links.mkdir(parents=True)
            for each in chosen:
                _link(each.path, links / f"{names}-{each.step}.safetensors")
            self._refresh()
            pictures: list[list[Image.Image]] = []
            for each in chosen:
                row: list[Image.Image] = []
                for weight in grid["weights"]:
                    if self._cancelled.is_set():
                        raise _CancelledError
                    picture = self._paint(f"{grid['prompt']} <lora:{names}-{each.step}:{weight:g}>", grid["seed"])
                    atomic.write_with(folder / file_name(each.step, weight), _saver(picture))
                    row.append(picture)
                    grid["done"] += 1
                    _write(folder, grid)
                pictures.append(row)
            atomic.write_with(folder / "grid.png", _saver(_sheet(pictures)))
            grid["state"] = "finished"
        except _CancelledError:
            grid["state"] = "ended"
        except ExtensionError as error:
            grid |= {"state": "failed", "error": error.to_json()}
        except Exception as error:  # the thread's edge: the page must learn of it
            _log.exception("a comparison failed")
            failed = JobError("The comparison failed.", why="{reason}.", reason=str(error) or type(error).__name__)
            grid |= {"state": "failed", "error": failed.to_json()}
        finally:
            shutil.rmtree(links, ignore_errors=True)
            with contextlib.suppress(OSError):
                _write(folder, grid)
            self._drawing = None
            self._refresh()


class _CancelledError(Exception):
    pass


def file_name(step: int, weight: float) -> str:
    """The picture of one cell."""
    return f"step-{step:06d}-{weight:g}.png"


def _write(folder: Path, grid: dict[str, Any]) -> None:
    atomic.write_text(folder / "grid.json", json.dumps(grid, ensure_ascii=False) + "\n")


def _saver(picture: Image.Image) -> Callable[[Path], None]:
    return lambda temporary: picture.save(temporary, format="PNG")


def _sweep(lora_dir: Path) -> None:
    """Remove what a program that was ended in the middle left in the LoRA folder."""
    for pattern in _LEFT_OVERS:
        for folder in lora_dir.glob(pattern):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """All pictures in one, rows below each other."""
    width = max(sum(picture.width for picture in row) for row in rows)
    sheet = Image.new("RGB", (width, sum(max(p.height for p in row) for row in rows)), "white")
    top = 0
    for row in rows:
        left = 0
        for picture in row:
            sheet.paste(picture, (left, top))
            left += picture.width
        top += max(picture.height for picture in row)
    return sheet
