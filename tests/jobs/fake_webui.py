"""A webui's site-packages with a PyTorch in it that can be imported and computes nothing."""

import hashlib
import json
import sys
from pathlib import Path

from lora_atelier.jobs import machine

TORCH = """
import typing_extensions_of_torch
from torch import version
__version__ = version.__version__
class cuda:
    @staticmethod
    def is_available():
        return {available}
"""


def make_site_packages(folder, version="2.9.0+cu128", *, available=False):
    """torch with a library and a helper made for it, a package that must stay unseen, and what torch needs."""
    tag = version.partition("+")[2]
    cuda = f"{tag[2:-1]}.{tag[-1]}" if tag.startswith("cu") else None
    files = {
        "torch/__init__.py": TORCH.format(available=available),
        "torch/version.py": f"__version__ = {version!r}\ncuda = {cuda!r}\nhip = None\n",
        "torch/nn/__init__.py": "from . import functional\n",
        "torch/nn/functional.py": "",
        "torchgen/__init__.py": "",
        "nvidia/cublas/lib/libcublas.so.12": "ELF",
        "triton/__init__.py": "",
        "transformers/__init__.py": "",
        "typing_extensions_of_torch.py": "",
    }
    packages = {
        "torch": (version, ["torch/__init__.py", "torch/version.py", "torchgen/__init__.py", "../../bin/torchrun"]),
        "nvidia_cublas_cu12": ("12.8.4.1", ["nvidia/cublas/lib/libcublas.so.12"]),
        "triton": ("3.5.0", ["triton/__init__.py"]),
        "transformers": ("4.30.2", ["transformers/__init__.py"]),
    }
    for name, (number, listed) in packages.items():
        info = f"{name}-{number}.dist-info"
        files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {number}\n"
        files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in listed)
        files[f"{info}/INSTALLER"] = "pip\n"
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def fingerprint(folder):
    """One hash of all names and bytes below ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def webui(folder, version="2.9.0+cu128", *, python=None, available=False):
    """A webui with this site-packages folder, on this Python."""
    version_of_python = python or sys.version_info[:2]
    tag = version.partition("+")[2] or "cpu"
    return machine.Webui(
        machine.Python((sys.executable,), version_of_python, torch=version),
        machine.Torch(version, tag, folder, available),
    )


def make_venv(folder, *, stamp=None):
    """The outline of an environment of ours: an interpreter's name, a site-packages folder, perhaps a stamp."""
    from lora_atelier.jobs.environment import STAMP, venv_python

    version = "python{}.{}".format(*sys.version_info[:2])
    (folder / "lib" / version / "site-packages").mkdir(parents=True)
    python = venv_python(folder)
    python.parent.mkdir(parents=True, exist_ok=True)
    python.touch()
    if stamp is not None:
        (folder / STAMP).write_text(json.dumps(stamp))
    return folder
