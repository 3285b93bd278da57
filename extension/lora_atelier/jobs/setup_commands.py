"""``python install.py trainer | doctor | sd-scripts``: what a webui's user types once. Standard library only.

``install.py`` hands itself over: how packages are installed is there, for people without a webui as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ..engines import sd_scripts as engine
from ..errors import JobError
from . import doctor as checks
from . import machine, sd_scripts_setup, setup
from .environment import STAMP
from .machine import Webui
from .torch_choice import Choice


class Installer(Protocol):
    """The parts of ``install.py`` that are used here."""

    ROOT: Path
    VENV: Path

    def install(self, groups: list[str], webui: Any = None, python: list[str] | None = None) -> bool: ...
    def install_torch(self, webui: Any = None) -> None: ...
    def install_torch_of(self, venv: Path, choice: Any, more: list[str] | None = None) -> None: ...
    def make_venv(self, venv: Path, python: list[str], system_packages: bool = False) -> None: ...
    def pip(self, venv: Path, arguments: list[str], title: str) -> None: ...
    def read_extras(self) -> dict[str, list[str]]: ...
    def stamp_of(self, requirements: list[str]) -> str: ...
    def digest(self, requirements: list[str]) -> str: ...
    def is_complete(self, venv: Path, wanted: dict[str, str]) -> bool: ...
    def write_stamp(self, venv: Path, known: dict[str, Any]) -> None: ...
    def spoken(self, said: Any) -> str: ...
    def report(self, kind: str, **values: Any) -> None: ...


def run(arguments: Sequence[str], installer: Any) -> int:
    """Do what the words behind ``install.py`` say and return the exit status. Raises ExtensionError, OSError, and the
    installer's own error."""
    command, *rest = arguments
    tools: Installer = installer
    options = _parser(command, tools.ROOT).parse_args(rest)
    if command == "sd-scripts":
        return sd_scripts(tools, options.data_dir.resolve(), options.webui)
    if command == "doctor":
        return doctor(tools, options.webui, rebuild=options.rebuild)
    return trainer(tools, options.webui)


def _parser(command: str, root: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python install.py {command}")
    parser.add_argument("--webui", type=Path, metavar="PATH", help="the webui's folder or its Python")
    if command == "sd-scripts":
        parser.add_argument("--data-dir", type=Path, default=root / "data", help="where it is kept (default: data)")
    if command == "doctor":
        parser.add_argument("--rebuild", action="store_true", help="make the trainer's environment anew")
    return parser


def trainer(tools: Installer, webui_path: Path | None) -> int:
    """Make the trainer's environment, and see whether its PyTorch sees the graphics card just as the webui's does."""
    webui = _webui(tools, webui_path)
    python = setup.trainer_python(webui)
    # Before anything is downloaded: a driver that is too old for every build is said now.
    choice = setup.choose_torch(python.version, webui)
    installed = tools.install(["trainer"], webui, list(python.command))
    tools.report("stage", stage="checking")
    seen = setup.look(tools.VENV, webui, choice)
    if not seen.agrees and not installed:
        # The environment was made for the demo, or when the webui's PyTorch or the driver was another.
        print("The environment's PyTorch does not suit this machine as it is now; another one then", flush=True)
        setup.drop_torch(tools.VENV)
        tools.report("stage", stage="torch")
        tools.install_torch(webui)
        seen = setup.look(tools.VENV, webui, choice)
    try:
        setup.check(seen)
    except JobError:
        # Whoever asks whether the environment is complete must hear no.
        (tools.VENV / STAMP).unlink(missing_ok=True)
        raise
    assert seen.torch is not None
    where = "the graphics card" if seen.torch.available else "the processor"
    print(f"The trainer's environment is complete: PyTorch {seen.torch.version} on {where}.")
    return 0


def doctor(tools: Installer, webui_path: Path | None, *, rebuild: bool) -> int:
    """Say what is there, what is wrong and how to mend it; with ``rebuild`` make the trainer's environment anew."""
    webui = _webui(tools, webui_path)
    if rebuild:
        setup.refuse_while_training(tools.ROOT / "data" / "runs")
        setup.remove(tools.VENV)
        trainer(tools, webui_path)
    requirements = tools.read_extras()["trainer"]
    checkout = engine.find(tools.ROOT / "data")
    facts = checks.look(
        tools.ROOT,
        requirements=tuple(requirements),
        current=tools.is_complete(tools.VENV, {"trainer": tools.stamp_of(requirements)}),
        webui=webui,
        sd_scripts=(str(checkout.folder), str(checkout.python or "")) if checkout is not None else ("", ""),
    )
    found = checks.findings(facts)
    for each in found:
        tools.report("finding", level=each.level, said=each.said.to_json(), mend=each.mend.to_json())
    print(checks.report(found, tools.spoken))
    return int(checks.worst(found) == "problem")


def sd_scripts(tools: Installer, data_dir: Path, webui_path: Path | None) -> int:
    """Fetch sd-scripts at the pinned commit and make its environment; what is there already is left alone."""
    webui = _webui(tools, webui_path)
    home = data_dir / "sd-scripts"
    print(f"Setting up sd-scripts in {home}", flush=True)
    sd_scripts_setup.fetch(home / "checkout", say=lambda text: print(f"  {text}", flush=True))
    venv, requirements = home / "venv", sd_scripts_setup.requirements(home / "checkout")
    stamp = {"sd-scripts": tools.digest(requirements)}
    if not tools.is_complete(venv, stamp):
        python = setup.trainer_python(None)
        tools.make_venv(venv, list(python.command))
        # Never the webui's PyTorch: torchvision must be of the same build, and the pinned packages of the same age.
        choice: Choice = setup.choose_torch(python.version, webui, reuse=False)
        tools.install_torch_of(venv, choice, ["torchvision"])
        tools.pip(venv, requirements, "Packages of sd-scripts")
        tools.write_stamp(venv, stamp)
    wrong = sd_scripts_setup.try_it(home / "checkout", venv)
    if wrong:
        (venv / STAMP).unlink()
        raise JobError(
            "sd-scripts is installed, but can't be started.",
            why="{reason}.",
            todo="Its log {log} holds the details.",
            reason=wrong.rstrip("."),
            log=str(venv / "install.log"),
        )
    print("sd-scripts is ready: let it train with  python install.py train --engine sd-scripts ...")
    return 0


def _webui(tools: Installer, named: Path | None) -> Webui | None:
    found = machine.find_webui(tools.ROOT, named)
    if named is not None and found is None:
        raise JobError(
            "There is no webui with a Python in {path}.",
            todo="Give the webui's folder, or the Python that it runs on.",
            path=str(named),
        )
    return found
