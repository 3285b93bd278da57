"""Fetching sd-scripts at the pinned commit, and what its environment needs. Standard library only."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from ..engines import sd_scripts
from ..errors import JobError
from .environment import trainer_environment, venv_python

# Not needed to train a LoRA, or in the way: 8-bit optimizers need CUDA and are installed by those who want them, the
# checkout itself is on the path, torch comes first and from elsewhere.
_LEFT_OUT = re.compile(r"(bitsandbytes|torch|torchvision|xformers|-e|--)\b", re.IGNORECASE)
# The same library without windows, which servers lack the system's libraries for.
_REPLACED = {"opencv-python": "opencv-python-headless"}


def fetch(folder: Path, *, say: Callable[[str], None], source: str = sd_scripts.SOURCE) -> None:
    """Put the pinned commit of sd-scripts into ``folder``; goes on where it was interrupted, changes nothing that is
    complete. Raises JobError without git, without a network, or if someone changed what is there.
    """
    if not shutil.which("git"):
        raise JobError(
            "sd-scripts can't be fetched.",
            why="The program git is not installed.",
            todo="Install it (https://git-scm.com/), or clone {source} yourself and name the folder with --sd-scripts.",
            source=source,
        )
    if sd_scripts.is_checkout(folder) and _git(folder, "rev-parse", "HEAD")[1] == sd_scripts.COMMIT:
        say("the checkout is there already")
        return
    folder.mkdir(parents=True, exist_ok=True)
    say(f"fetching {source} at {sd_scripts.COMMIT[:8]} ...")
    steps = (
        ("init", "--quiet"),
        ("fetch", "--quiet", "--depth", "1", source, sd_scripts.COMMIT),
        ("checkout", "--quiet", "--detach", sd_scripts.COMMIT),
    )
    for step in steps:
        status, said = _git(folder, *step)
        if status:
            raise JobError(
                "sd-scripts can't be fetched.",
                why="git says: {reason}.",
                todo="Check the internet connection and that {folder} may be written to, then type the same command "
                "again.",
                reason=_reason(said),
                folder=str(folder),
            )


def _reason(said: str) -> str:
    """The line in which git says what is wrong; advice for people comes behind it."""
    lines = said.splitlines() or ["nothing"]
    fatal = [line.removeprefix("fatal: ") for line in lines if line.startswith("fatal: ")]
    return (fatal or lines[-1:])[0].rstrip(".")


def _git(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout.decode("utf-8", errors="replace").strip()


def requirements(folder: Path) -> list[str]:
    """What pip is to install for a checkout, besides PyTorch. Raises OSError."""
    found = []
    for line in (folder / "requirements.txt").read_text(encoding="utf-8").splitlines():
        wanted = line.partition("#")[0].strip()
        if not wanted or _LEFT_OUT.match(wanted):
            continue
        name = re.match(r"[\w.-]+", wanted)
        if name and name[0] in _REPLACED:
            wanted = _REPLACED[name[0]] + wanted[name.end() :]
        found.append(wanted)
    return found


def try_it(folder: Path, venv: Path) -> str:
    """What is wrong with a checkout and its environment, told by starting it; "" if it starts."""
    launcher = Path(sd_scripts.__file__).with_name("kohya_launch.py")
    done = subprocess.run(
        [str(venv_python(venv)), str(launcher), "--checkout", str(folder), "--script", "train_network.py", "--", "-h"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=trainer_environment(),
    )
    lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
    return (lines[-1] if lines else f"exit status {done.returncode}") if done.returncode else ""
