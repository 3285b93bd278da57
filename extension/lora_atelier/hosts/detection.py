"""Which webui this process is, and the Host for it."""

from __future__ import annotations

import importlib.util
from importlib import import_module
from pathlib import Path

from .webui import WebuiHost

# Everything of a person's that outlives the extension is in this folder of the webui's data.
DATA_FOLDER = "lora-atelier"


def kind() -> str:
    """ "sdnext", "forge", "reforge", "forge-classic", "a1111", or "" where this is no webui that we know.

    Told by the modules that only one of them has: version texts are missing where git is, and forks keep old ones.
    """
    if not _has("modules"):
        return ""
    if _has("installer") and _has("modules.sd_offload"):
        return "sdnext"
    if _has("backend") and _has("backend.patcher"):
        return "forge"
    if _has("ldm_patched"):
        return "reforge" if _has("ldm_patched.modules.weight_adapter") else "forge-classic"
    return "a1111" if _has("modules.sd_hijack") else ""


def make() -> WebuiHost | None:
    """The Host of the webui that runs us; None where there is none that we know."""
    found = kind()
    if not found:
        return None
    return _classes()[found](_data_dir(), _lora_dirs())


def _classes() -> dict[str, type[WebuiHost]]:
    from .a1111 import A1111Host
    from .forge import ForgeHost
    from .ldm_patched import ClassicHost, ReForgeHost
    from .sdnext import SdNextHost

    return {each.id: each for each in (A1111Host, ForgeHost, ReForgeHost, ClassicHost, SdNextHost)}


def _has(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _data_dir() -> Path:
    paths = import_module("modules.paths")
    return Path(paths.script_path, paths.data_path, DATA_FOLDER).absolute()


def _lora_dirs() -> list[Path]:
    """The folder that new LoRAs go into first, then those of older versions' names where they exist."""
    script_path = import_module("modules.paths").script_path
    options = import_module("modules.shared").cmd_opts
    named = [getattr(options, name, None) for name in ("lora_dir", "lyco_dir_backcompat", "lyco_dir")]
    paths = [Path(script_path, str(each)).absolute() for each in named if each]
    if not paths:
        paths = [Path(import_module("modules.paths").models_path, "Lora").absolute()]
    return list(dict.fromkeys([paths[0], *(path for path in paths[1:] if path.is_dir())]))
