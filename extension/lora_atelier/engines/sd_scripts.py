"""kohya's sd-scripts as an engine: where its checkout and its Python are, and the command that runs a job.

It is a program of its own (Apache-2.0) that the user has, or lets ``install.py sd-scripts`` fetch; none of it is ours.
Needs the standard library alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import JobError
from .base import Asked, Engine, Judged

# The commit that our knowledge of it was made with; other ones usually work as well.
COMMIT = "48d368fa557731ad0488c07304dfeba8c07910eb"
SOURCE = "https://github.com/kohya-ss/sd-scripts"
VARIABLE = "LORA_ATELIER_SD_SCRIPTS"
_SCRIPTS = {"sd1": "train_network.py", "sd2": "train_network.py", "sdxl": "sdxl_train_network.py"}


@dataclass(frozen=True)
class Checkout:
    """A folder with sd-scripts in it, and the Python that has its packages (None if there is none)."""

    folder: Path
    python: Path | None


def find(data_dir: Path, named: Path | None = None, env: Mapping[str, str] | None = None) -> Checkout | None:
    """The checkout to use: the one that is ``named``, else the environment variable's, else ours in ``data_dir``.

    None if there is none anywhere. Raises JobError if the one that was named is none.
    """
    given = (os.environ if env is None else env).get(VARIABLE, "").strip()
    wanted = named or (Path(given) if given else None)
    if wanted is not None:
        if not is_checkout(wanted):
            raise JobError(
                "There is no sd-scripts in {folder}.",
                why="The file train_network.py is not there.",
                todo="Give the folder that it was cloned into, or type  python install.py sd-scripts  to fetch it.",
                folder=str(wanted),
            )
        return Checkout(wanted.resolve(), python_of(wanted.resolve()))
    own = data_dir / "sd-scripts" / "checkout"
    return Checkout(own.resolve(), python_of(own.resolve())) if is_checkout(own) else None


def is_checkout(folder: Path) -> bool:
    """Whether sd-scripts lies in ``folder``."""
    return (folder / "train_network.py").is_file() and (folder / "library" / "train_util.py").is_file()


def python_of(folder: Path) -> Path | None:
    """The Python of a checkout's environment: inside it, or beside it as kohya_ss's and ours are."""
    for venv in (folder / "venv", folder / ".venv", folder.parent / "venv", folder.parent / ".venv"):
        python = venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"
        if python.is_file():
            return python
    return None


def _judge(asked: Asked) -> Judged:
    return Judged()


ENGINE = Engine("sd-scripts", "lora_atelier.jobs.supervisor", _judge)
