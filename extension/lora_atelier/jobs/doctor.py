"""What there is of LoRA Atelier's environments, what is wrong with them, and how to mend it. Standard library only.

``look`` asks the machine, ``findings`` is pure: from what was seen to sentences.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import Message, message
from . import host_torch, machine, setup
from .environment import is_complete, venv_python
from .torch_choice import OLDEST, OLDEST_PYTHON, numbers

Level = Literal["ok", "warning", "problem"]
# Room for the environment with a CUDA build of PyTorch, unpacked beside the download.
_ROOM_BYTES = 12_000_000_000
# Windows refuses paths of more than 260 characters by default; packages need some 180 of them.
_LONGEST_ROOT = 80


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``mend`` says what to do where it is not as it should be."""

    level: Level
    said: Message
    mend: Message = Message("")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was seen. ``requirements`` are pyproject.toml's for the trainer, ``installed`` the versions by name."""

    root: str
    windows: bool = False
    exists: bool = False
    python: tuple[int, int] | None = None
    complete: bool = False
    current: bool = False
    requirements: tuple[str, ...] = ()
    installed: Mapping[str, str] = field(default_factory=dict)
    torch: machine.Torch | None = None
    link: host_torch.Link | None = None
    link_version: str = ""
    webui: machine.Webui | None = None
    card: str = ""
    card_expected: bool = False
    free_bytes: int = 0
    sd_scripts: str = ""
    sd_scripts_python: str = ""


def look(
    root: Path,
    *,
    requirements: tuple[str, ...],
    current: bool,
    webui: machine.Webui | None,
    sd_scripts: tuple[str, str] = ("", ""),
) -> Facts:
    """See how things stand in the extension's folder ``root``; ``current`` says whether the environment was completed
    with just these requirements, ``sd_scripts`` where that checkout and its Python are."""
    venv = root / ".venv"
    python = machine.about([str(venv_python(venv))]) if venv_python(venv).exists() else None
    try:
        packages = setup.site_packages(venv)
    except LookupError:
        packages = None
    link = host_torch.linked(packages) if packages is not None else None
    card = machine.card()
    expected = webui.torch.available if webui is not None and webui.torch is not None else card is not None
    return Facts(
        root=str(root),
        windows=venv_python(venv).suffix == ".exe",
        exists=venv.exists(),
        python=python.version if python is not None else None,
        complete=is_complete(venv),
        current=current,
        requirements=requirements,
        installed=_installed(packages) if packages is not None else {},
        torch=machine.about_torch([str(venv_python(venv))]) if python is not None and python.torch else None,
        link=link,
        link_version=host_torch.version_now(link) if link is not None else "",
        webui=webui,
        card=f"{card.kind} {'.'.join(map(str, card.driver))}".strip() if card is not None else "",
        card_expected=expected,
        free_bytes=shutil.disk_usage(root).free,
        sd_scripts=sd_scripts[0],
        sd_scripts_python=sd_scripts[1],
    )


def findings(facts: Facts) -> list[Finding]:
    """Everything to say about ``facts``, in the order in which one thing depends on another."""
    found = [*_webui(facts), *_python(facts)]
    if facts.python is not None:
        found += [*_packages(facts), *_torch(facts)]
    return [*found, *_place(facts), *_sd_scripts(facts)]


def _mend(facts: Facts, *, rebuild: bool = False) -> Message:
    if rebuild:
        return message("Type  python install.py doctor --rebuild  in {folder}.", folder=facts.root)
    return message("Type  python install.py trainer  in {folder}.", folder=facts.root)


def _webui(facts: Facts) -> Iterator[Finding]:
    webui = facts.webui
    if webui is None:
        yield Finding("ok", message("There is no webui around this folder; LoRA Atelier stands alone."))
        return
    version = ".".join(map(str, webui.python.version))
    if webui.torch is None:
        yield Finding(
            "warning",
            message("The webui's Python is {version}; its PyTorch is missing or broken.", version=version),
            message("Start the webui once, then look again."),
        )
        return
    torch = webui.torch
    said = message(
        "The webui's Python is {version}, its PyTorch {torch} ({tag}).",
        version=version,
        torch=torch.version,
        tag=torch.tag,
    )
    yield Finding("ok", said)


def _python(facts: Facts) -> Iterator[Finding]:
    if not facts.exists:
        yield Finding("problem", message("The trainer's environment is missing."), _mend(facts))
    elif facts.python is None:
        said = message(
            "The trainer's environment is there, but its Python does not start: the one that it was made "
            "with was moved, updated or removed."
        )
        yield Finding("problem", said, _mend(facts, rebuild=True))
    elif facts.python < OLDEST_PYTHON:
        said = message(
            "The trainer's environment has Python {version}, which is too old.",
            version=".".join(map(str, facts.python)),
        )
        yield Finding("problem", said, _mend(facts, rebuild=True))
    elif not facts.complete:
        yield Finding("problem", message("The trainer's environment was not completed."), _mend(facts))
    else:
        version = ".".join(map(str, facts.python))
        yield Finding("ok", message("The trainer's environment has Python {version}.", version=version))


def _packages(facts: Facts) -> Iterator[Finding]:
    if facts.complete and not facts.current:
        said = message("LoRA Atelier was updated since its environment was made, and needs other packages now.")
        yield Finding("warning", said, _mend(facts))
    wrong = 0
    for requirement in facts.requirements:
        name, least = _parse(requirement)
        if name == "torch":
            continue
        version = facts.installed.get(name, "")
        if not version:
            wrong += 1
            yield Finding("problem", message("The package {package} is missing.", package=name), _mend(facts))
        elif numbers(version) < least:
            wrong += 1
            said = message(
                "The package {package} is {version}; {least} or newer is needed.",
                package=name,
                version=version,
                least=".".join(map(str, least)),
            )
            yield Finding("problem", said, _mend(facts))
    if not wrong:
        yield Finding("ok", message("Its {count} packages are there.", count=len(facts.requirements)))


def _torch(facts: Facts) -> Iterator[Finding]:
    if facts.link is not None:
        yield from _link(facts, facts.link)
    torch = facts.torch
    if torch is None:
        said = message("The trainer's PyTorch is missing or can't be imported.")
        yield Finding("problem", said, _mend(facts, rebuild=facts.complete))
    elif numbers(torch.version)[:2] < OLDEST:
        said = message("The trainer's PyTorch is {version}, which is too old.", version=torch.version)
        yield Finding("problem", said, _mend(facts, rebuild=True))
    elif torch.available:
        yield Finding("ok", message("PyTorch {version} sees the graphics card.", version=torch.version))
    elif facts.card_expected:
        said = message(
            "PyTorch {version} does not see the graphics card ({card}).", version=torch.version, card=facts.card or "?"
        )
        yield Finding("problem", said, _mend(facts, rebuild=True))
    else:
        yield Finding("ok", message("PyTorch {version} computes on the processor.", version=torch.version))


def _link(facts: Facts, link: host_torch.Link) -> Iterator[Finding]:
    if not facts.link_version:
        said = message("The webui's PyTorch, which the trainer uses, is no longer in {folder}.", folder=link.folder)
        yield Finding("problem", said, _mend(facts, rebuild=True))
    elif facts.link_version != link.version:
        said = message(
            "The webui's PyTorch, which the trainer uses, was {before} and is now {now}.",
            before=link.version,
            now=facts.link_version,
        )
        yield Finding("problem", said, _mend(facts, rebuild=True))
    else:
        yield Finding("ok", message("PyTorch is the webui's own, in {folder}.", folder=link.folder))


def _place(facts: Facts) -> Iterator[Finding]:
    if facts.windows and len(facts.root) > _LONGEST_ROOT:
        said = message(
            "The folder's path is {count} characters long; Windows may refuse the files in it.", count=len(facts.root)
        )
        yield Finding("warning", said, message("Move the webui nearer to the top of the disk, for example to C:\\ai."))
    if facts.free_bytes < _ROOM_BYTES and not facts.complete:
        said = message(
            "The disk has {free} GB left; the environment may need {needed} GB.",
            free=round(facts.free_bytes / 1e9, 1),
            needed=round(_ROOM_BYTES / 1e9),
        )
        yield Finding("warning", said, message("Make room first."))


def _sd_scripts(facts: Facts) -> Iterator[Finding]:
    if not facts.sd_scripts:
        yield Finding("ok", message("sd-scripts, the second engine, is not installed; nothing needs it."))
    elif not facts.sd_scripts_python:
        said = message("sd-scripts is in {folder}, without a Python of its own.", folder=facts.sd_scripts)
        yield Finding("problem", said, message("Type  python install.py sd-scripts  to make one."))
    else:
        yield Finding("ok", message("sd-scripts, the second engine, is in {folder}.", folder=facts.sd_scripts))


def _parse(requirement: str) -> tuple[str, tuple[int, ...]]:
    """The name and the least version that a requirement such as "diffusers>=0.35" asks for."""
    found = re.match(r"([\w.-]+)(?:\[.*?\])?\s*(?:[>=]=\s*([\d.]+))?", requirement)
    assert found is not None
    return found[1].lower(), numbers(found[2] or "0")


def _installed(packages: Path) -> dict[str, str]:
    return {
        re.sub(r"[-_.]+", "-", each.metadata["Name"] or "").lower(): each.version
        for each in importlib.metadata.distributions(path=[str(packages)])
    }


def worst(found: list[Finding]) -> Level:
    """The gravest level among findings."""
    levels: tuple[Level, ...] = ("problem", "warning")
    return next((level for level in levels if any(each.level == level for each in found)), "ok")


def report(found: list[Finding], say: Callable[[Message], str]) -> str:
    """The findings as lines for a console; ``say`` translates."""
    marks = {"ok": "ok  ", "warning": "!   ", "problem": "XX  "}
    lines = []
    for each in found:
        lines.append(marks[each.level] + say(each.said))
        if each.mend:
            lines.append("      -> " + say(each.mend))
    return "\n".join(lines)
