"""Licences of pictures by their SPDX identifiers, whatever people write for them, and what they permit.

A table of our own: general libraries know neither "CC BY 4.0" nor the names that model sites use. What is said of
permits is a reading of the licences' own short texts, for sorting; it replaces nobody's judgement.
Sources: SPDX License List 3.25; https://creativecommons.org/licenses/; CreativeML Open RAIL-M (22 Aug 2022).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import Message, message

# What a licence may permit; of the last three "yes" is a duty.
PERMITS = (
    "train", "gen_train", "commercial_model", "commercial_output", "share_model", "share_dataset", "name_in_prompt",
    "attribution", "share_alike",
)  # fmt: skip
DUTIES = frozenset({"attribution", "share_alike"})
YES, NO, UNKNOWN = "yes", "no", "unknown"
Permits = Mapping[str, str]

_CC = re.compile(
    r"(?:^|[^a-z])(?:cc|creative ?commons)\b[\s:_-]*(by(?:[\s_-]*(?:nc|nd|sa))*|zero|0|publicdomain)?", re.I
)
_CC_URL = re.compile(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)/(\d\.\d)(?:/([a-z]{2}))?", re.I)
_VERSION = re.compile(r"(?<![\d.])([1-4]\.\d)(?![\d.])")
_PORT = re.compile(r"\b(jp|us|de|fr|uk|at|nl|au)\b", re.I)
# Names that people and sites write, in small letters and without punctuation -> identifier.
_NAMES = {
    "public domain": "LicenseRef-PublicDomain", "pd": "LicenseRef-PublicDomain",
    "publicdomain": "LicenseRef-PublicDomain", "パブリックドメイン": "LicenseRef-PublicDomain",
    "no copyright": "LicenseRef-PublicDomain", "unlicense": "Unlicense", "the unlicense": "Unlicense",
    "pdm": "CC-PDDC", "wtfpl": "WTFPL", "mit": "MIT", "mit license": "MIT", "expat": "MIT", "apache": "Apache-2.0",
    "apache 2": "Apache-2.0", "apache 2 0": "Apache-2.0", "apache license 2 0": "Apache-2.0",
    "gfdl": "GFDL-1.3-or-later",
    "ofl": "OFL-1.1", "odbl": "ODbL-1.0", "odc by": "ODC-By-1.0", "pddl": "PDDL-1.0", "free art": "LAL-1.3",
    "free art license": "LAL-1.3", "openrail": "LicenseRef-OpenRAIL", "openrail m": "LicenseRef-OpenRAIL-M",
    "creativeml openrail m": "LicenseRef-CreativeML-OpenRAIL-M", "openrail++": "LicenseRef-CreativeML-OpenRAIL++-M",
    "all rights reserved": "LicenseRef-AllRightsReserved", "copyright": "LicenseRef-AllRightsReserved",
    "無断転載禁止": "LicenseRef-AllRightsReserved", "pixabay": "LicenseRef-Pixabay",
    "pixabay license": "LicenseRef-Pixabay",
    "unsplash": "LicenseRef-Unsplash", "unsplash license": "LicenseRef-Unsplash", "pexels": "LicenseRef-Pexels",
    "pexels license": "LicenseRef-Pexels", "いらすとや": "LicenseRef-Irasutoya",
}  # fmt: skip
_EXACT = {
    "cc0": "CC0-1.0", "cc zero": "CC0-1.0",
    **{name.lower(): name for name in (
        "CC0-1.0", "CC-PDDC", "MIT", "Apache-2.0", "OFL-1.1", "ODbL-1.0", "ODC-By-1.0", "PDDL-1.0", "LAL-1.3",
        "Unlicense", "WTFPL", "GFDL-1.2-or-later", "GFDL-1.3-or-later",
    )},
}  # fmt: skip
_REF = re.compile(r"LicenseRef-[A-Za-z0-9.-]+", re.I)


def normalise(text: str) -> str:
    """The SPDX identifier (or ``LicenseRef-…``) of what somebody wrote; "" where it is none that we know."""
    said = " ".join(text.split())[:500]
    if _REF.fullmatch(said):
        return "LicenseRef-" + said[11:]
    if exact := _EXACT.get(said.lower()):
        return exact
    if match := _CC_URL.search(said):
        return _from_url(*(part or "" for part in match.groups()))
    spelled = said.replace("Attribution", "BY").replace("ShareAlike", "SA").replace("Share Alike", "SA")
    spelled = re.sub(r"Non-?\s?Commercial", "NC", spelled, flags=re.I)
    spelled = re.sub(r"No-?\s?Deriv(?:ative)?s?", "ND", spelled, flags=re.I)
    if match := _CC.search(spelled):
        return _from_words(spelled, match.group(1) or "")
    words = re.sub(r"[\s_.,/-]+", " ", said.lower()).strip()
    return _NAMES.get(words, "") or _NAMES.get(words.removesuffix(" license").removesuffix(" licence"), "")


def _from_url(group: str, kind: str, version: str, port: str) -> str:
    if group.lower() == "publicdomain":
        return "CC0-1.0" if kind.lower() == "zero" else "CC-PDDC"
    return _cc(kind, version, port)


def _from_words(text: str, kind: str) -> str:
    kind = re.sub(r"[\s_]+", "-", kind.lower())
    if kind in ("0", "zero"):
        return "CC0-1.0"
    if kind == "publicdomain":
        return "CC-PDDC"
    if not kind.startswith("by"):
        return ""
    version = _VERSION.search(text)
    port = _PORT.search(text)
    # Without a version it is not clear which text binds; the parts are.
    return _cc(kind, version.group(1) if version else "", port.group(1) if port else "")


def _cc(kind: str, version: str, port: str) -> str:
    parts = set(re.split(r"[\s_-]+", kind.lower()))
    order = [part.upper() for part in ("by", "nc", "nd", "sa") if part in parts]
    if not order or order[0] != "BY":
        return ""
    # SPDX lists ported versions as a suffix of the number; ours of 4.0 has none.
    ported = f"-{port.upper()}" if port and version and version != "4.0" else ""
    name = f"CC-{'-'.join(order)}"
    return f"{name}-{version}{ported}" if version else f"LicenseRef-{name}"


def is_known(identifier: str) -> bool:
    """Whether its permits are more than unknown."""
    return any(value != UNKNOWN for value in permits_of(identifier).values())


def permits_of(identifier: str) -> dict[str, str]:
    """What a licence permits: "yes", "no" or "unknown" for each of ``PERMITS``."""
    name = identifier.removeprefix("LicenseRef-")
    if name in ("CC0-1.0", "CC-PDDC", "PublicDomain", "Unlicense", "WTFPL", "PDDL-1.0"):
        return _permits(attribution=NO, share_alike=NO)
    if name in ("MIT", "Apache-2.0", "OFL-1.1", "ODC-By-1.0"):
        return _permits(attribution=YES, share_alike=NO)
    if name in ("LAL-1.3", "ODbL-1.0") or name.startswith("GFDL"):
        return _permits(attribution=YES, share_alike=YES)
    if name == "AllRightsReserved":
        return {**dict.fromkeys(PERMITS, UNKNOWN), "train": NO, "gen_train": NO, "share_dataset": NO}
    if not name.startswith("CC-BY"):
        return dict.fromkeys(PERMITS, UNKNOWN)
    parts = name.split("-")
    found = _permits(attribution=YES, share_alike=YES if "SA" in parts else NO)
    if "NC" in parts:
        found |= {"commercial_model": NO, "commercial_output": NO}
    if "ND" in parts:
        # Whether a model is an adaptation is disputed; sharing one may need permission.
        found |= {"share_model": UNKNOWN, "commercial_model": UNKNOWN if "NC" not in parts else NO}
        found |= {"commercial_output": NO, "gen_train": UNKNOWN}
    elif "NC" in parts:
        found |= {"share_model": UNKNOWN}
    return found


def _permits(*, attribution: str, share_alike: str) -> dict[str, str]:
    return {**dict.fromkeys(PERMITS, YES), "attribution": attribution, "share_alike": share_alike}


def reasons(identifier: str) -> tuple[Message, ...]:
    """Why a licence takes permits away, in sentences."""
    parts = identifier.split("-")
    found = []
    if "NC" in parts:
        found.append(
            message(
                "{licence} permits no commercial use: outputs and the model are marked as not commercial, and whether "
                "the model may be shared is not known.",
                licence=identifier,
            )
        )
    if "ND" in parts:
        found.append(
            message(
                "{licence} permits no adaptations: whether a model that learned from it is one is disputed, so sharing "
                "it is marked as not known and commercial outputs as not permitted.",
                licence=identifier,
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class _Order:
    """Which of two answers is the stricter one."""

    strict: tuple[str, str, str]

    def stricter(self, one: str, other: str) -> str:
        return min(one, other, key=self.strict.index)


_FREEDOM, _DUTY = _Order((NO, UNKNOWN, YES)), _Order((YES, UNKNOWN, NO))


def intersection(each: Iterable[Permits]) -> dict[str, str]:
    """What all of them permit together: the strictest answer to each question; all unknown where there are none."""
    found: dict[str, str] = {}
    for permits in each:
        for name in PERMITS:
            value = permits.get(name, UNKNOWN)
            order = _DUTY if name in DUTIES else _FREEDOM
            found[name] = order.stricter(found[name], value) if name in found else value
    return found or dict.fromkeys(PERMITS, UNKNOWN)
