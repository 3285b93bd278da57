"""The webui's PyTorch, used by the trainer's environment without a copy: some gigabytes and minutes less.

In the environment's site-packages lie then a ``.pth`` line with the finder that it calls, and copies of the
``.dist-info`` folders of PyTorch and of the libraries made for it, so that pip and ``importlib.metadata`` take them for
installed. The webui's files are only read. Standard library only.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import host_torch_finder

_PTH = "lora_atelier_host_torch.pth"
_FINDER = "lora_atelier_host_torch_finder.py"
NOTE = "host-torch.json"
# Packages that hold compiled libraries for PyTorch and come with its build; all else it needs is installed anew.
_COMPANIONS = re.compile(r"(nvidia|cuda|triton|pytorch[-_]triton)([-_.].*)?$", re.IGNORECASE)
# Without the list of its files pip can't uninstall a package: not even a mistaken pip can reach the webui's.
_NOT_COPIED = {"RECORD", "INSTALLER", "direct_url.json"}


@dataclass(frozen=True)
class Link:
    """Where a reused PyTorch lies, which it is, and the top-level packages that are shown of its folder."""

    folder: str
    version: str
    packages: tuple[str, ...]


def link(folder: Path, site_packages: Path) -> Link:
    """Let the environment of ``site_packages`` use the PyTorch in ``folder``. Raises OSError, and LookupError if there
    is none."""
    found = {_normal(d.metadata["Name"]): d for d in importlib.metadata.distributions(path=[str(folder)])}
    if "torch" not in found:
        raise LookupError("torch")
    distributions = [found["torch"], *(found[name] for name in sorted(found) if _COMPANIONS.match(name))]
    packages = sorted({package for each in distributions for package in _packages(each)})
    made = Link(str(folder), found["torch"].version, tuple(packages))
    unlink(site_packages)
    for each in distributions:
        _copy_info(each, folder, site_packages)
    shutil.copyfile(host_torch_finder.__file__, site_packages / _FINDER)
    call = f"import {_FINDER.removesuffix('.py')} as f; f.install({made.folder!a}, {made.packages!a})\n"
    (site_packages / _PTH).write_text(call, encoding="ascii")
    note = json.dumps({**asdict(made), "info": [_info_name(each) for each in distributions]}, indent=1)
    (site_packages / NOTE).write_text(note + "\n", encoding="utf-8")
    return made


def unlink(site_packages: Path) -> None:
    """Take back what ``link`` wrote; harmless where it wrote nothing."""
    for name in _read_note(site_packages).get("info", []):
        if re.fullmatch(r"[\w.+-]+\.dist-info", str(name)):
            shutil.rmtree(site_packages / name, ignore_errors=True)
    for name in (_PTH, _FINDER, NOTE):
        (site_packages / name).unlink(missing_ok=True)


def linked(site_packages: Path) -> Link | None:
    """The link that ``site_packages`` has; None where PyTorch is the environment's own."""
    note = _read_note(site_packages)
    try:
        return Link(str(note["folder"]), str(note["version"]), tuple(map(str, note["packages"])))
    except (KeyError, TypeError):
        return None


def version_now(made: Link) -> str:
    """The version of the PyTorch that a link leads to now; "" if it is gone."""
    for each in importlib.metadata.distributions(name="torch", path=[made.folder]):
        return str(each.version)
    return ""


def _read_note(site_packages: Path) -> dict[str, Any]:
    try:
        note = json.loads((site_packages / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _normal(name: str | None) -> str:
    return re.sub(r"[-_.]+", "-", name or "").lower()


def _packages(distribution: importlib.metadata.Distribution) -> set[str]:
    """The importable names that a package brings, from the list of its files."""
    tops = {file.parts[0] for file in distribution.files or [] if len(file.parts) > 1 or file.suffix == ".py"}
    names = {re.sub(r"\.py$", "", top) for top in tops}
    return {name for name in names if name.isidentifier() and name != "__pycache__"}


def _info_name(distribution: importlib.metadata.Distribution) -> str:
    return str(getattr(distribution, "_path").name)  # noqa: B009 - private, the same from Python 3.10 to 3.14


def _copy_info(distribution: importlib.metadata.Distribution, folder: Path, site_packages: Path) -> None:
    source, target = folder / _info_name(distribution), site_packages / _info_name(distribution)
    if not source.is_dir():  # an egg-info file or a zipped egg: pip then installs its own
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in source.iterdir():
        if file.is_file() and file.name not in _NOT_COPIED:
            shutil.copyfile(file, target / file.name)
