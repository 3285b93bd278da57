"""Sample pictures of a training by the host's own sampler, where the host keeps its model while a training goes on.

The trainer asks for them through the run's folder ``previews`` and draws itself where nobody says every few seconds
that they are ready (``trainer/handed_out.py``). A thread of the host looks there; it draws what it finds with the
adapter that lies beside it, called by a name that only this picture's prompt has.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .. import atomic
from ..errors import ExtensionError
from .run_dir import RunDir
from .service import Jobs
from .view import RunView

FOLDER, READY, SCHEMA = "previews", "ready", 1
_POLL_S = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A picture as the trainer asks for it; its prompt calls the adapter. A sampler of no name is the host's choice."""

    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    cfg_scale: float
    sampler: str


class Previews:
    """Draws for the trainings of ``jobs``; ``start`` lets a thread see to it, without it ``tick`` does.

    ``draw`` makes one picture and raises ExtensionError; ``is_ready`` says whether it could now, for a run of this
    base model; ``refresh`` makes the host look for new adapters.
    """

    def __init__(
        self,
        jobs: Jobs,
        *,
        draw: Callable[[Preview], Image.Image],
        is_ready: Callable[[Path], bool],
        refresh: Callable[[], None],
    ) -> None:
        self._jobs, self._draw, self._is_ready, self._refresh = jobs, draw, is_ready, refresh
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._drawing: threading.Thread | None = None

    def start(self) -> None:
        """Let a thread see to it until ``end``; harmless when it does already."""
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._work, name="atelier-previews", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Let the thread end; a picture that is being drawn is finished."""
        self._ended.set()
        self._thread = None

    def _work(self) -> None:
        while not self._ended.wait(_POLL_S):
            try:
                self.tick()
            except Exception:  # the thread's edge: the next second may be better
                _log.exception("previews could not be seen to")

    def tick(self) -> None:
        """Say that we are there for those that go on, and begin to draw what is asked for unless something is drawn."""
        for view in self._jobs.list():
            if view.status != "running" or view.job is None or view.job.engine != "native":
                continue
            if not self._is_ready(Path(view.job.base_model)):
                continue
            folder = view.run.path / FOLDER
            with contextlib.suppress(OSError):
                folder.mkdir(exist_ok=True)
                (folder / READY).touch()
            self._begin(view)

    def _begin(self, view: RunView) -> None:
        if self._drawing is not None and self._drawing.is_alive():
            return
        asked = sorted((view.run.path / FOLDER).glob("step-*.json"))
        if asked:
            self._drawing = threading.Thread(target=self.draw_step, args=(view.run, asked[0]), daemon=True)
            self._drawing.start()

    def draw_step(self, run: RunDir, asked: Path) -> None:
        """Draw everything that one file asks for, and remove it; nothing here ends a training."""
        adapter = asked.with_suffix(".safetensors")
        try:
            with self._callable(adapter) as name:
                for each in _read(asked):
                    self._draw_one(run, each, name)
        except (OSError, ValueError, KeyError, TypeError):
            _log.exception("%s could not be drawn", asked)
        finally:
            for path in (asked, adapter):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _callable(self, adapter: Path) -> Iterator[str]:
        """A name by which a prompt can call the adapter, within."""
        name = f"atelier-preview-{uuid.uuid4().hex[:8]}"
        folder = self._jobs.lora_dir / name
        try:
            folder.mkdir(parents=True)
            try:
                os.link(adapter, folder / f"{name}.safetensors")
            except OSError:
                shutil.copy2(adapter, folder / f"{name}.safetensors")
            self._refresh()
            yield name
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._refresh()

    def _draw_one(self, run: RunDir, said: dict[str, Any], name: str) -> None:
        path = run.samples_dir / Path(str(said["file"])).name
        try:
            picture = self._draw(_preview(said, name))
            run.samples_dir.mkdir(exist_ok=True)
            atomic.write_with(path, lambda temporary: picture.save(temporary, format="PNG"))
        except Exception as error:
            if not isinstance(error, ExtensionError):
                _log.exception("a preview could not be drawn")
            reason = str(error).strip() or type(error).__name__
            atomic.write_text(run.path / FOLDER / f"{path.name}.failed", reason + "\n")


def _read(asked: Path) -> list[dict[str, Any]]:
    """What a file asks for; nothing for one of another version. Raises OSError, ValueError, KeyError."""
    said = json.loads(asked.read_text(encoding="utf-8"))
    return list(said["pictures"]) if said["schema"] == SCHEMA else []


def _preview(said: dict[str, Any], name: str) -> Preview:
    return Preview(
        prompt=f"{said['prompt']} <lora:{name}:1>",
        negative_prompt=str(said["negative_prompt"]),
        seed=int(said["seed"]),
        width=int(said["width"]),
        height=int(said["height"]),
        steps=int(said["steps"]),
        cfg_scale=float(said["cfg_scale"]),
        sampler=str(said["sampler"]),
    )
