"""What there is on this machine to make the trainer's environment of: the webui's Python and its PyTorch, other
Pythons, the graphics card. Programs are asked, nothing is written. Standard library only.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .torch_choice import OLDEST_PYTHON, Card, HostTorch, Machine, kind_of_tag, numbers, parse_nvidia_smi, tag_of

_TIMEOUT_S = 120.0
# Newest first among those that PyTorch, diffusers and transformers all have wheels for.
TRAINER_PYTHONS = ((3, 12), (3, 13), (3, 11))

# Asked of a Python that is not ours, with -B and -I: it writes no bytecode, and nothing of ours is seen by it.
_ABOUT_PYTHON = (
    "import sys, json, importlib.util as u; from importlib.metadata import version, PackageNotFoundError\n"
    "try: torch = version('torch')\n"
    "except PackageNotFoundError: torch = ''\n"
    "print(json.dumps({'python': sys.version_info[:2], 'bits': 64 if sys.maxsize > 2**32 else 32, 'torch': torch,"
    " 'venv': u.find_spec('venv') is not None and u.find_spec('ensurepip') is not None,"
    " 'pip': u.find_spec('pip') is not None}))"
)
_ABOUT_TORCH = (
    "import json, os, torch; v = torch.version\n"
    "print(json.dumps({'version': torch.__version__, 'cuda': v.cuda, 'hip': getattr(v, 'hip', None),"
    " 'folder': os.path.dirname(os.path.dirname(torch.__file__)),"
    " 'available': torch.cuda.is_available(),"
    " 'xpu': hasattr(torch, 'xpu') and torch.xpu.is_available()}))"
)


@dataclass(frozen=True)
class Python:
    """An interpreter that answered: its command, version, and whether it can make a virtual environment by itself."""

    command: tuple[str, ...]
    version: tuple[int, int]
    has_venv: bool = True
    has_pip: bool = True
    torch: str = ""


@dataclass(frozen=True)
class Torch:
    """A PyTorch that could be imported: ``folder`` is the site-packages folder that it lies in."""

    version: str
    tag: str
    folder: Path
    available: bool


@dataclass(frozen=True)
class Webui:
    """The webui that the extension is installed in, as far as its Python and its PyTorch are concerned."""

    python: Python
    torch: Torch | None

    def host_torch(self) -> HostTorch | None:
        """What the choice of a build needs of it; None where it has no PyTorch that works."""
        if self.torch is None:
            return None
        return HostTorch(self.torch.version, self.torch.tag, self.python.version, self.torch.available)


# ------------------------------------------------------------------------------------------------ Pythons


def about(command: Sequence[str]) -> Python | None:
    """What the interpreter of this command is; None if there is none behind it, or one of 32 bits."""
    said = _ask(command, _ABOUT_PYTHON)
    if said is None or said["bits"] != 64:
        return None
    major, minor = said["python"]
    return Python(tuple(command), (major, minor), said["venv"], said["pip"], said["torch"])


def about_torch(command: Sequence[str]) -> Torch | None:
    """The PyTorch of an interpreter; None if it has none that can be imported."""
    said = _ask(command, _ABOUT_TORCH)
    if said is None:
        return None
    tag = tag_of(said["version"], said["cuda"], said["hip"])
    available = bool(said["xpu"] if kind_of_tag(tag) == "xpu" else said["available"])
    return Torch(said["version"], tag, Path(said["folder"]), available)


def find_webui(root: Path, named: Path | None = None) -> Webui | None:
    """The webui around the extension's folder ``root``, or the one that ``named`` (its folder or its Python) says."""
    for candidate in _webui_pythons(root, named):
        if candidate.is_file():
            python = about([str(candidate)])
            if python is not None:
                return Webui(python, about_torch(python.command) if python.torch else None)
    return None


def _webui_pythons(root: Path, named: Path | None) -> Iterator[Path]:
    if named is not None and not named.is_dir():
        yield named
        return
    if named is None and root.parent.name != "extensions":
        return
    base = named if named is not None else root.parent.parent
    # A1111, Forge, reForge, SD.Next: venv; the one-click packages for Windows: a whole Python beside the webui.
    for folder in (base / "venv", base / ".venv"):
        yield folder / "Scripts" / "python.exe" if _is_windows() else folder / "bin" / "python"
    for folder in (base.parent / "system" / "python", base / "python_embeded", base.parent / "python_embeded"):
        yield folder / "python.exe"


def pythons(first: Python | None = None) -> Iterator[Python]:
    """The Pythons of this machine that the trainer can run on, the best first; ``first`` is tried before all others.

    Those that have no venv module come last.
    """
    seen: set[tuple[str, ...]] = set()
    without_venv: list[Python] = []
    if first is not None and first.version in TRAINER_PYTHONS:
        yield first
    for command in _commands():
        if command in seen:
            continue
        seen.add(command)
        python = about(command)
        if python is None or python.version not in TRAINER_PYTHONS:
            continue
        if python.has_venv:
            yield python
        else:
            without_venv.append(python)
    yield from without_venv


def _commands() -> Iterator[tuple[str, ...]]:
    if sys.version_info[:2] >= OLDEST_PYTHON:
        yield (sys.executable,)
    names = [f"{major}.{minor}" for major, minor in TRAINER_PYTHONS]
    for name in names:
        if _is_windows() and shutil.which("py"):
            yield ("py", f"-{name}")
        if shutil.which(f"python{name}"):
            yield (f"python{name}",)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for name in names:
        yield from ((str(path),) for path in sorted(pyenv.glob(f"versions/{name}.*/bin/python")))
    if shutil.which("uv"):
        for name in names:
            said = _said(["uv", "python", "find", "--no-python-downloads", name])
            if said:
                yield (said.strip(),)


# ------------------------------------------------------------------------------------------------ the card


def card() -> Card | None:
    """The graphics card that PyTorch could use, told by its driver; None without one."""
    said = _said([_nvidia_smi(), "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"])
    found = parse_nvidia_smi(said) or parse_nvidia_smi(
        _said([_nvidia_smi(), "--query-gpu=driver_version", "--format=csv,noheader"])
    )
    return found or _rocm()


def _nvidia_smi() -> str:
    found = shutil.which("nvidia-smi")
    if found is None and _is_windows():
        # Where drivers put it that are not on the search path.
        return str(Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvidia-smi.exe")
    return found or "nvidia-smi"


def _rocm() -> Card | None:
    if not Path("/dev/kfd").exists():  # the amdgpu driver's door to computing
        return None
    try:
        version = Path("/opt/rocm/.info/version").read_text(encoding="ascii")
    except (OSError, ValueError):
        return Card("rocm")
    return Card("rocm", numbers(version.strip()))


def machine(python: tuple[int, int], webui: Webui | None, *, reuse: bool = True) -> Machine:
    """All that the choice of a build depends on, for a trainer on this version of Python."""
    host = webui.host_torch() if webui is not None else None
    return Machine(platform.system(), python, host, card(), dict(os.environ), reuse)


def _is_windows() -> bool:
    return os.name == "nt"


# ------------------------------------------------------------------------------------------------ asking


def clean_environment() -> dict[str, str]:
    """Our environment variables without those that tell a Python where to look for packages."""
    return {name: value for name, value in os.environ.items() if not re.match(r"PYTHON(HOME|PATH|STARTUP)$", name)}


def _ask(command: Sequence[str], program: str) -> dict[str, Any] | None:
    said = _said([*command, "-B", "-I", "-c", program])
    try:
        # A host's site may print words of its own first.
        found = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return found if isinstance(found, dict) else None


def _said(command: Sequence[str]) -> str:
    """What a program prints; "" if it can't be started, fails, or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            env=clean_environment(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", errors="replace") if done.returncode == 0 else ""
