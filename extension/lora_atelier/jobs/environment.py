"""Which Python runs the trainer: the environment that ``install.py`` made, or ours where that has all it needs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
from pathlib import Path

from ..errors import JobError

ROOT = Path(__file__).resolve().parents[3]
PACKAGE_PARENT = Path(__file__).resolve().parents[2]
# ``install.py`` writes into it what of an environment is complete, by group: nothing while it is being made.
STAMP, _GROUP = "lora-atelier.json", "trainer"
_NEEDED = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "PIL")

# What webuis leave in the environment for themselves, and what would make the trainer load their packages or call
# home: whole families by prefix, then single names.
_SCRUBBED_PREFIXES = ("PYTHON", "UV_", "PIP_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DIFFUSERS_", "ACCELERATE_",
                      "GRADIO_", "CONDA_", "WANDB_", "TORCH_FORCE_", "__PYVENV")  # fmt: skip
_SCRUBBED = {
    "COMMANDLINE_ARGS",
    "VIRTUAL_ENV",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM",
    "TORCH_COMMAND",
    "REQS_FILE",
    "LAUNCH_SCRIPT",
}
# Of these families, what a person sets for the trainer: where ``log_with = wandb`` may send a run's curves.
_KEPT = {"WANDB_API_KEY", "WANDB_BASE_URL"}
_SET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "PYTHONUTF8": "1",
}
# Unless the user says otherwise: torch's threads sleep while they wait for each other instead of spinning. On cores
# that something else uses too (a picture is drawn while a training runs) spinning takes ten times the processor time.
_PREFERRED = {"OMP_WAIT_POLICY": "PASSIVE"}


def venv_python(venv: Path) -> Path:
    """The interpreter of a virtual environment on this system."""
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"


def trainer_python(root: Path = ROOT) -> Path:
    """The interpreter that has the trainer's packages.

    Raises JobError, which says what to type, if neither the environment beside the extension nor ours has them.
    """
    own = venv_python(root / ".venv")
    if own.exists() and is_complete(root / ".venv"):
        return own
    if _has_everything():
        return Path(sys.executable)
    raise JobError(
        "The training can't start: its environment is missing.",
        why="LoRA Atelier trains with packages of its own, so that the webui's are never touched.",
        todo="Type  python install.py trainer  once in {folder}, then try again.",
        folder=str(root),
    )


def is_complete(venv: Path) -> bool:
    """Whether the trainer's packages were installed in this environment to their end."""
    try:
        return _GROUP in json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _has_everything() -> bool:
    if sys.version_info < (3, 11) or any(importlib.util.find_spec(name) is None for name in _NEEDED):
        return False
    major, minor, *_ = importlib.metadata.version("torch").split(".")
    return (int(major), int(minor)) >= (2, 6)


def trainer_environment(inherited: dict[str, str] | None = None) -> dict[str, str]:
    """The environment variables of a trainer process: ours, without what the webui set for itself."""
    given = dict(os.environ) if inherited is None else inherited
    kept = {
        name: value
        for name, value in given.items()
        if name.upper() in _KEPT or (name.upper() not in _SCRUBBED and not name.upper().startswith(_SCRUBBED_PREFIXES))
    }
    return {**_PREFERRED, **kept, **_SET, "PYTHONPATH": str(PACKAGE_PARENT)}
