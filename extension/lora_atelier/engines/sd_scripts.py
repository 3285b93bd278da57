"""kohya's sd-scripts as an engine: where its checkout and its Python are, and the command that runs a job.

It is a program of its own (Apache-2.0) that the user has, or lets ``install.py sd-scripts`` fetch; none of it is ours.
Needs the standard library alone, but for ``write_tokenizers``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import atomic
from ..errors import JobError, Problem, problem
from .base import Asked, Engine, Judged
from .kohya_files import set_right

# The commit that our knowledge of it was made with; other ones usually work as well.
COMMIT = "48d368fa557731ad0488c07304dfeba8c07910eb"
SOURCE = "https://github.com/kohya-ss/sd-scripts"
VARIABLE = "LORA_ATELIER_SD_SCRIPTS"
# The folders that it looks for inside tokenizer_cache_dir, and what each of them pads with.
_TOKENIZERS = {
    "openai_clip-vit-large-patch14": "<|endoftext|>",
    "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k": "!",
    "stabilityai_stable-diffusion-2": "!",
}
_TOKENIZER_CONFIG = "tokenizer_config.json"
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


def command(checkout: Checkout, family: str, options: Path, *, done: int, stop: Path, state: Path) -> list[str]:
    """What starts a sitting: ``options`` is the config file, ``done`` the steps made before; the file ``stop`` ends it
    with its state in ``state``. Raises JobError if the checkout has no environment."""
    if checkout.python is None:
        raise JobError(
            "The sd-scripts in {folder} has no environment.",
            why="There is no folder venv or .venv in it or beside it.",
            todo="Make one as its README says, or type  python install.py sd-scripts  for a copy with all it needs.",
            folder=str(checkout.folder),
        )
    return [
        str(checkout.python),
        str(Path(__file__).with_name("kohya_launch.py")),
        *("--checkout", str(checkout.folder), "--script", _SCRIPTS.get(family, "train_network.py")),
        *("--done", str(done), "--stop", str(stop), "--state", str(state)),
        *("--", "--config_file", str(options)),
    ]


def write_tokenizers(folder: Path) -> None:
    """Put CLIP's word list where ``tokenizer_cache_dir`` is looked through, lest it be asked for on the internet; what
    is there already stays.

    Needs the trainer's environment. Raises ModelError without open_clip_torch, OSError.
    """
    if all((folder / name / _TOKENIZER_CONFIG).is_file() for name in _TOKENIZERS):
        return
    from ..models.tokenizer import clip_words

    words, merges = clip_words()
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    for name, pad in _TOKENIZERS.items():
        about = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": 77,
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": pad,
        }
        (folder / name).mkdir(parents=True, exist_ok=True)
        atomic.write_text(folder / name / "vocab.json", json.dumps(words))
        atomic.write_text(folder / name / "merges.txt", "\n".join(lines) + "\n")
        # The last one: whatever has it is complete.
        atomic.write_text(folder / name / _TOKENIZER_CONFIG, json.dumps(about))


def _judge(asked: Asked) -> Judged:
    problems: list[Problem] = []
    if asked.family == "toy":
        problems.append(
            problem(
                "model.base_model",
                "sd-scripts can't train LoRA Atelier's own small base model; choose another one, or our own trainer.",
            )
        )
    try:
        checkout = find(asked.data_dir, asked.checkout)
    except JobError as error:
        problems += [Problem("engine", part) for part in error.parts()]
    else:
        problems += _problems_of(checkout)
    files, warnings = set_right(asked.main, asked.dataset, family=asked.family, device=asked.device)
    return Judged((*problems, *files.problems), warnings)


def _problems_of(checkout: Checkout | None) -> list[Problem]:
    if checkout is None:
        return [
            problem(
                "engine",
                "There is no sd-scripts on this machine: type  python install.py sd-scripts  to fetch it, or name the "
                "folder that it was cloned into.",
            )
        ]
    if checkout.python is None:
        return [
            problem(
                "engine",
                "The sd-scripts in {folder} has no environment (venv) in it or beside it: make one as its README says, "
                "or type  python install.py sd-scripts  to fetch a copy with all it needs.",
                folder=str(checkout.folder),
            )
        ]
    return []


ENGINE = Engine("sd-scripts", "lora_atelier.jobs.supervisor", _judge)
