"""Which build of PyTorch the trainer's environment gets: a table and pure functions. Standard library only.

The facts it decides from are gathered by ``machine``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import JobError

VERSION = "2.13.0"
OLDEST = (2, 6)
# The trainer's Python; PyTorch has no wheels of VERSION for older ones.
OLDEST_PYTHON = (3, 11)
INDEX = "https://download.pytorch.org/whl/"

How = Literal["reuse", "index", "default"]
Kind = Literal["cuda", "rocm", "xpu", "mps", "cpu"]


@dataclass(frozen=True)
class HostTorch:
    """A webui's own PyTorch: ``tag`` is its build ("cu128", "rocm6.4", "xpu", "cpu"), ``python`` the webui's."""

    version: str
    tag: str
    python: tuple[int, int]
    available: bool = False


@dataclass(frozen=True)
class Card:
    """A graphics card's driver: ``kind``, its version as numbers, and an NVIDIA card's compute capability."""

    kind: Literal["cuda", "rocm"]
    driver: tuple[int, ...] = ()
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class Choice:
    """What to install: nothing but a link to the webui's build ("reuse"), from PyTorch's or the user's index
    ("index"), or from where pip always looks ("default")."""

    how: How
    kind: Kind
    requirement: str = f"torch=={VERSION}"
    index: str = ""


@dataclass(frozen=True)
class Machine:
    """All that the choice depends on: ``system`` as ``platform`` says it, ``python`` the trainer's, and whether the
    webui's PyTorch may be used."""

    system: str
    python: tuple[int, int]
    host: HostTorch | None = None
    card: Card | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    reuse: bool = True


@dataclass(frozen=True)
class _CudaBuild:
    """A build for CUDA: the oldest drivers it runs on (Linux, Windows), the cards it holds code for, and versions."""

    tag: str
    driver: tuple[int, int]
    capabilities: tuple[tuple[int, int], tuple[int, int]]
    requirement: str = f"torch=={VERSION}"


# The newest that suits is taken. Drivers: NVIDIA's CUDA release notes, table of minor-version compatibility (any
# driver of a major version runs its minor ones). Cards and versions: PyTorch's support matrices of 2.7 to 2.14;
# 2.13 comes for 12.6 and 13.0 (and 13.2); cards of the RTX 50 family with a driver of before CUDA 13 need 12.8,
# which ended with 2.11.
_CUDA_BUILDS = (
    _CudaBuild("cu130", (580, 580), ((7, 5), (99, 0))),
    _CudaBuild("cu126", (525, 528), ((5, 0), (9, 0))),
    _CudaBuild("cu128", (570, 570), ((7, 5), (12, 99)), "torch>=2.7,<2.12"),
    _CudaBuild("cu118", (450, 452), ((5, 0), (9, 0)), "torch>=2.6,<2.8"),
)
_OLDEST_ROCM, _USUAL_ROCM = (6, 2), "rocm6.4"
_ANY_VERSION = f"torch>={OLDEST[0]}.{OLDEST[1]},<={VERSION}"


def choose(machine: Machine) -> Choice:
    """The build of PyTorch that suits ``machine``. Raises JobError if its graphics driver is too old for every one."""
    host, card = machine.host, machine.card
    kind = _kind(machine)
    if host is not None and machine.reuse and can_reuse(host, machine.python):
        return Choice("reuse", kind, f"torch=={host.version}")
    given = machine.env.get("TORCH_INDEX_URL", "").strip()
    if given:
        return Choice("index", kind, _ANY_VERSION, given)
    if kind == "cuda":
        build = _cuda_build(host, card, machine.system)
        return Choice("index", kind, build.requirement, INDEX + build.tag)
    if kind == "rocm":
        return Choice("index", kind, _ANY_VERSION, INDEX + _rocm_tag(host))
    if kind == "xpu":
        return Choice("index", kind, index=INDEX + "xpu")
    # Apple's builds are the usual ones; everywhere else the usual ones may hold 3 GB of CUDA that nothing here uses.
    return Choice("default", kind) if kind == "mps" else Choice("index", kind, index=INDEX + "cpu")


def can_reuse(host: HostTorch, python: tuple[int, int]) -> bool:
    """Whether a trainer on ``python`` can import the webui's PyTorch: compiled modules fit one minor version."""
    # XPU builds look for their libraries in the environment's own folder.
    return numbers(host.version)[:2] >= OLDEST and host.python == python and host.tag != "xpu"


def tag_of(version: str, cuda: str | None, hip: str | None) -> str:
    """The build tag of a PyTorch that calls itself ``version``; PyPI's say it only in ``torch.version``."""
    said = version.partition("+")[2]
    if said:
        return said
    if cuda:
        return "cu" + "".join(cuda.split(".")[:2])
    return "rocm" + ".".join(hip.split(".")[:2]) if hip else "cpu"


def kind_of_tag(tag: str) -> Kind:
    """What a build tag computes on. Tags of other makers (for example a git commit) are taken for CUDA's."""
    for kind in ("rocm", "xpu", "cpu"):
        if tag.startswith(kind):
            return kind  # type: ignore[return-value]
    return "cuda"


def _kind(machine: Machine) -> Kind:
    if machine.system == "Darwin":
        return "mps"
    # A webui that was set up for the processor has its reasons; what it says comes before the driver.
    if machine.host is not None:
        return kind_of_tag(machine.host.tag)
    if machine.card is not None and (machine.card.kind == "cuda" or machine.system == "Linux"):
        return machine.card.kind
    return "cpu"


def _cuda_build(host: HostTorch | None, card: Card | None, system: str) -> _CudaBuild:
    if card is None or card.kind != "cuda" or not card.driver:
        return _build_like(host.tag if host is not None else "")
    at = 1 if system == "Windows" else 0
    for build in _CUDA_BUILDS:
        low, high = build.capabilities
        fits = card.capability is None or low <= card.capability <= high
        if card.driver[0] >= build.driver[at] and fits:
            return build
    raise JobError(
        "PyTorch can't use this graphics card with the driver that is installed.",
        why="The driver is {driver}; PyTorch needs {needed} or newer for this card.",
        todo="Install NVIDIA's current driver, restart, and try again; or set TORCH_INDEX_URL yourself.",
        driver=".".join(map(str, card.driver)),
        needed=min(b.driver[at] for b in _CUDA_BUILDS if _holds(b, card.capability)),
    )


def _holds(build: _CudaBuild, capability: tuple[int, int] | None) -> bool:
    low, high = build.capabilities
    # Cards that are too old for all of them are told the oldest driver there is.
    return capability is None or low <= capability <= high or capability < (5, 0)


def _build_like(tag: str) -> _CudaBuild:
    """The build of the same CUDA as ``tag`` that still gets a PyTorch which is new enough."""
    found = re.fullmatch(r"cu(\d{2})(\d)", tag)
    cuda = (int(found[1]), int(found[2])) if found else (12, 6)
    name = "cu118" if cuda < (12, 0) else "cu126" if cuda < (12, 8) else "cu128" if cuda < (13, 0) else "cu130"
    return next(build for build in _CUDA_BUILDS if build.tag == name)


def _rocm_tag(host: HostTorch | None) -> str:
    found = re.match(r"rocm(\d+)\.(\d+)", host.tag) if host is not None else None
    if found and (int(found[1]), int(found[2])) >= _OLDEST_ROCM:
        return found[0]
    return _USUAL_ROCM


def numbers(version: str) -> tuple[int, ...]:
    """ "2.9.0+cu128" as (2, 9, 0); what is no number ends it."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def parse_nvidia_smi(said: str) -> Card | None:
    """The card that ``nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader`` tells of.

    Of several the least capable, so that all of them work. Drivers from before 2021 do not know ``compute_cap``.
    """
    cards = []
    for line in said.splitlines():
        found = re.match(r"\s*(\d+(?:\.\d+)+)\s*(?:,\s*(\d+)\.(\d+))?", line)
        if found:
            capability = (int(found[2]), int(found[3])) if found[2] else None
            cards.append(Card("cuda", numbers(found[1]), capability))
    return min(cards, key=lambda card: card.capability or (99, 0), default=None)
