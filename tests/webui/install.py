"""A real webui, started on the CPU with a folder of data of its own, so that the install itself stays as it is."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOKEN = "X-Atelier-Token"
_START_S = 600
_CALL_S = 900
# Options of all that are no SD.Next.
_CPU = ("--skip-prepare-environment", "--skip-version-check", "--skip-torch-cuda-test", "--api", "--no-hashing",
        "--disable-console-progressbars", "--do-not-download-clip")  # fmt: skip


class Webui:
    """The webui in ``folder``; everything that it writes goes below ``data``."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.kind = _kind(folder)
        self.lora_dir = data / "models" / "Lora"
        self.checkpoint_dir = data / "models" / "Stable-diffusion"
        self.port = _free_port()
        self.log = data / "webui.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._token = ""

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
        for folder in (self.lora_dir, self.checkpoint_dir):
            folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start it and wait until it answers. Raises RuntimeError with the end of its log."""
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False",
               "OMP_WAIT_POLICY": "PASSIVE"}  # fmt: skip
        env.pop("PYTHONPATH", None)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.python, "launch.py", *self._options()], cwd=self.folder, env=env, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.wait()

    def wait(self) -> None:
        """Wait until our routes answer: after a start, or after "Reload UI"."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                break
            try:
                self._token = str(self.call("GET", "/lora-atelier/v1/session", seconds=10)["token"])
                return
            except (OSError, ValueError, KeyError):
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
            {"Content-Type": "application/json", TOKEN: self._token},
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
        """One request for pictures of 128 pixels and 3 steps, always from the same seed."""
        size = {"width": 128, "height": 128, "steps": 3, "cfg_scale": 5, "seed": 7, "sampler_name": "Euler"}
        return Drawn(self.call("POST", "/sdapi/v1/txt2img", {"prompt": prompt, **size, **more}))

    def _options(self) -> list[str]:
        options = ["--data-dir", str(self.data), "--port", str(self.port)]
        if self.kind == "a1111":
            return [*options, *_CPU, "--use-cpu", "all", "--no-half"]
        if self.kind == "sdnext":
            return [*options, "--use-cpu", "all", "--skip-all", "--quick", "--skip-git", "--debug"]
        return [*options, *_CPU, "--always-cpu"]


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

    def difference(self, other: Drawn) -> int:
        """How far the first pictures are apart at most, of 255."""
        import numpy as np

        one, two = (np.asarray(each.pictures[0]).astype(int) for each in (self, other))
        return int(abs(one - two).max())


def _kind(folder: Path) -> str:
    if (folder / "installer.py").exists():
        return "sdnext"
    if (folder / "backend").is_dir():
        return "forge"
    return "ldm_patched" if (folder / "ldm_patched").is_dir() else "a1111"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
