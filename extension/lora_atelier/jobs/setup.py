"""Making the trainer's environment beside a webui: PyTorch that fits, taken from the webui where that goes, and looked
at afterwards. What is downloaded, ``install.py`` downloads. Standard library only.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .. import locking
from ..errors import JobError
from . import host_torch, machine
from .environment import venv_python
from .torch_choice import Choice, can_reuse, choose


def site_packages(venv: Path) -> Path:
    """Where the packages of a virtual environment lie. Raises LookupError if it has no such folder."""
    for folder in (venv / "Lib" / "site-packages", *sorted(venv.glob("lib/python3.*/site-packages"))):
        if folder.is_dir():
            return folder
    raise LookupError(str(venv))


def trainer_python(webui: machine.Webui | None) -> machine.Python:
    """The Python to make the trainer's environment with. Raises JobError if this machine has none that is suited.

    The webui's own minor version comes first where that lets its PyTorch be used; then one that has the venv module.
    """
    found = list(machine.pythons(webui.python if webui is not None else None))
    if not found:
        raise JobError(
            "There is no Python that the trainer can run on.",
            why="It needs Python 3.11, 3.12 or 3.13 with 64 bits, and none was found on this machine.",
            todo="Install Python 3.12 from https://www.python.org/downloads/ (the webui goes on with its own), "
            "then try again.",
        )
    host = webui.host_torch() if webui is not None else None
    return min(found, key=lambda it: (host is None or not can_reuse(host, it.version), not it.has_venv))


def choose_torch(python: tuple[int, int], webui: machine.Webui | None, *, reuse: bool = True) -> Choice:
    """The build of PyTorch for a trainer on this version of Python; without ``reuse`` one of its own.

    Raises JobError as ``choose`` does.
    """
    return choose(machine.machine(python, webui, reuse=reuse))


def link_torch(venv: Path, webui: machine.Webui) -> host_torch.Link | None:
    """Let ``venv`` use the webui's PyTorch; None, and nothing changed, if that can't be written.

    The small packages that it needs are not the webui's: they must be installed before it can be imported.
    """
    if webui.torch is None:
        return None
    try:
        return host_torch.link(webui.torch.folder, site_packages(venv))
    except (LookupError, OSError):
        host_torch.unlink(site_packages(venv))
        return None


def keep_link_if_it_works(venv: Path) -> bool:
    """Whether the linked PyTorch can be imported; the link is taken back if not."""
    if machine.about_torch([str(venv_python(venv))]) is not None:
        return True
    host_torch.unlink(site_packages(venv))
    return False


@dataclass(frozen=True)
class Seen:
    """The graphics card as the trainer's PyTorch sees it, and as it should: by the webui's, else by the driver."""

    torch: machine.Torch | None
    expected: bool

    @property
    def agrees(self) -> bool:
        return self.torch is not None and self.torch.available == self.expected


def look(venv: Path, webui: machine.Webui | None, choice: Choice) -> Seen:
    """What the trainer's PyTorch sees, beside what is expected of it."""
    if webui is not None and webui.torch is not None:
        expected = webui.torch.available
    else:
        expected = choice.kind in ("cuda", "rocm")
    return Seen(machine.about_torch([str(venv_python(venv))]), expected)


def check(seen: Seen) -> None:
    """Raise JobError unless the trainer's PyTorch sees the graphics card just as the webui's does."""
    if seen.agrees:
        return
    if seen.torch is None:
        raise JobError(
            "The trainer's PyTorch can't be imported.",
            why="Its files are incomplete, or a library that they need is missing.",
            todo="Type  python install.py doctor --rebuild  to make the environment anew.",
        )
    if seen.expected:
        raise JobError(
            "The trainer's PyTorch ({version}) does not see the graphics card.",
            why="A training would run on the processor, many times slower.",
            todo="Update the card's driver and restart; or set TORCH_INDEX_URL to the index of the build that your "
            "card needs (see https://pytorch.org/get-started/locally/), then type  python install.py doctor --rebuild",
            version=seen.torch.version,
        )
    raise JobError(
        "The trainer's PyTorch ({version}) sees a graphics card that the webui's does not use.",
        why="The webui was set up for the processor, or its own PyTorch is broken.",
        todo="Start the webui once and see which device it names; then type  python install.py doctor --rebuild",
        version=seen.torch.version,
    )


def drop_torch(venv: Path) -> None:
    """Take PyTorch out of an environment: the link to the webui's, or the copy."""
    host_torch.unlink(site_packages(venv))
    subprocess.run(
        [str(venv_python(venv)), "-m", "pip", "uninstall", "--yes", "--quiet", "torch"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=machine.clean_environment(),
    )


def refuse_while_training(runs: Path) -> None:
    """Raise JobError if a training runs in the environment that is to be changed."""
    for lock in runs.glob("*/lock"):
        if locking.is_locked(lock):
            raise JobError(
                "The environment can't be made anew while a training runs in it.",
                todo="Stop the training, or wait until it ends.",
            )


def remove(venv: Path) -> None:
    """Delete an environment of ours, by way of another name: one that is half deleted must never be taken for whole.

    Raises OSError if it can't be renamed (Windows: a program runs in it).
    """
    old = venv.with_name(venv.name + "-old")
    shutil.rmtree(old, ignore_errors=True)
    if venv.exists():
        venv.rename(old)
        shutil.rmtree(old, ignore_errors=True)
