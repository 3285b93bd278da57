"""A real webui, started on the CPU with a folder of data of its own, so that the install itself stays as it is."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import kinds

ROOT = Path(__file__).parents[2]
TOKEN = "X-Atelier-Token"
_START_S = 600
_CALL_S = 900


class Webui:
    """The webui in ``folder``; everything that it writes goes below ``data``."""

    def __init__(self, folder: Path, data: Path) -> None:
        """``arguments`` are given to it beside those that it needs anyway, ``headers`` are sent with every call."""
        self.folder, self.data = folder, data
        self.kind = kinds.of(folder)
        self.models = data / "models"
        self.lora_dir = self.models / "Lora"
        self.arguments: Sequence[str] = ()
        self.headers: dict[str, str] = {}
        self.port = _free_port()
        self.log = data / "webui.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._token = ""

    @property
    def embeddings(self) -> Path:
        """The folder of words that stand for trained vectors."""
        return (self.models if self.kind.restarts else self.data) / "embeddings"

    @property
    def python(self) -> str:
        """LORA_ATELIER_WEBUI_PYTHON, or the environment in the webui's folder."""
        inside = self.folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        return os.environ.get("LORA_ATELIER_WEBUI_PYTHON") or str(inside)

    def install(self) -> None:
        """What "Install from URL" does, without a URL."""
        target = self.data / "extensions" / "sd-webui-lora-atelier"
        target.mkdir(parents=True)
        left_out = shutil.ignore_patterns("__pycache__")
        for name in ("extension", "javascript", "scripts"):
            shutil.copytree(ROOT / name, target / name, ignore=left_out)
        for name in ("install.py", "metadata.ini", "pyproject.toml", "style.css"):
            shutil.copy(ROOT / name, target)
        if (ROOT / ".venv").exists():
            (target / ".venv").symlink_to(ROOT / ".venv")
        self.lora_dir.mkdir(parents=True, exist_ok=True)
        if self.kind.settings:
            settings = {**self.kind.settings, "outdir_txt2img_samples": str(self.data / "outputs")}
            (self.data / "config.json").write_text(json.dumps(settings), encoding="utf-8")

    def start(self, *, answers: str = "/lora-atelier/v1/session") -> None:
        """Start it and wait until it answers. Raises RuntimeError with the end of its log."""
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False",
               "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}  # fmt: skip
        starts = self.starts()
        env.pop("PYTHONPATH", None)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.python, "launch.py", *self._options()], cwd=self.folder, env=env, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.wait(answers, starts=starts + 1)

    def starts(self) -> int:
        """How often it has said that it is up; SD.Next does not."""
        return self.log.read_text(errors="replace").count("Startup time:") if self.log.exists() else 0

    def wait(self, path: str = "/lora-atelier/v1/session", *, starts: int = 0) -> None:
        """Wait until it answers ``path``, our routes if nothing is said, and is not asked before it is up for the
        ``starts``-th time."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                break
            if self.starts() < starts and not self.kind.restarts:
                time.sleep(0.5)
                continue
            try:
                self._token = str(self.call("GET", path, seconds=10).get("token", ""))
                return
            except urllib.error.HTTPError as error:
                if error.code == 401:
                    return
                time.sleep(1)
            except (OSError, ValueError):
                time.sleep(1)
        raise RuntimeError("The webui does not answer:\n" + self.log.read_text(errors="replace")[-3000:])

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def packages(self) -> str:
        """What is installed in the webui's environment."""
        return subprocess.run([self.python, "-m", "pip", "freeze"], capture_output=True, text=True).stdout

    def call(self, method: str, path: str, body: object = None, *, seconds: float = _CALL_S) -> dict:
        """The JSON that a route answers. Raises OSError."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", TOKEN: self._token, **self.headers},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return json.load(answer)

    def ours(self, method: str, path: str, body: object = None) -> dict:
        """The answer of one of our routes, or of its refusal."""
        try:
            return self.call(method, f"/lora-atelier/v1/{path}", body)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def set(self, **options: object) -> None:
        """Change settings."""
        self.call("POST", "/sdapi/v1/options", options)

    def draw(self, prompt: str, **more: object) -> Drawn:
        """One request for pictures of 128 pixels in a few steps, always from the same seed."""
        request = {"prompt": prompt, **self.kind.request, **more}
        for _ in range(60):
            answer = self.call("POST", "/sdapi/v1/txt2img", request)
            if answer["images"]:
                return Drawn(answer)
            time.sleep(2)  # SD.Next answers so while it reads a model
        raise RuntimeError("The webui draws nothing:\n" + self.log.read_text(errors="replace")[-3000:])

    def theirs(self, prompt: str, **more: object) -> Drawn:
        """The same with the webui's own loader."""
        self.set(atelier_loader="webui")
        try:
            return self.draw(prompt, **more)
        finally:
            self.set(atelier_loader="LoRA Atelier")

    def choose(self, name: str) -> None:
        """Let it draw with another base model."""
        self.set(sd_model_checkpoint=self.kind.checkpoint(name))

    def _options(self) -> list[str]:
        named = [*self.kind.folders(self.data, self.folder), "--port", str(self.port)]
        return [*named, *self.kind.arguments, *self.arguments]


class Drawn:
    """Pictures and what was written beside them."""

    def __init__(self, answer: dict) -> None:
        from PIL import Image

        info = answer["info"]
        info = json.loads(info) if isinstance(info, str) else info
        data = [base64.b64decode(text.split(",", 1)[-1]) for text in answer["images"]]
        self.pictures = [Image.open(io.BytesIO(each)).convert("RGB") for each in data]
        self.text = str((info.get("infotexts") or [info.get("parameters", "")])[0])
        self.hash = hashlib.sha256(b"".join(each.tobytes() for each in self.pictures)).hexdigest()

    def difference(self, other: Drawn, at: int = 0) -> int:
        """How far the first picture and the other's ``at``-th one are apart at most, of 255 (256: another size)."""
        return self.difference_to(other.pictures[at])

    def difference_to(self, picture: Any) -> int:
        """The same to a picture that was not drawn by a request."""
        import numpy as np

        one, two = (np.asarray(each).astype(int) for each in (self.pictures[0], picture))
        return int(abs(one - two).max()) if one.shape == two.shape else 256

    def said(self, name: str) -> str:
        """What the picture's text says of ``name``, which may be the end of a name; empty if nothing."""
        found = re.search(rf'{re.escape(name)}: ("(?:\\.|[^"])*"|[^,\n]*)', self.text, re.IGNORECASE)
        return found[1].strip('"') if found else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
