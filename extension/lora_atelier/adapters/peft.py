"""The scale of PEFT's LoRAs, which stands in a configuration beside the tensors and not in an alpha per layer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import AdapterFormatError

# Where diffusers keeps it in a file's metadata, each entry with its part before it ("unet.r").
_METADATA = "lora_adapter_metadata"
# Beginnings of layer names, the longer ones first -> what diffusers calls the part.
_PART_NAMES = {"lora_te2_": "text_encoder_2", "lora_te": "text_encoder", "lora_unet": "unet"}
# Patterns are regular expressions of the file's author: only those are used that can't run for ever.
_HARMLESS = re.compile(r"\^?(?:[\w-]|\\?\.|\.\*|\\d\+?|\[\d-\d\]\+?)*\$?")
_MOST_WILDCARDS = 3


@dataclass(frozen=True)
class LoraConfig:
    """What one part's configuration says: alpha, in general and by pattern, and whether rslora was on.

    The ranks, which may have a pattern, too, are those of the tensors.
    """

    alpha: float
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False

    def alpha_of(self, path: str, rank: int) -> float:
        """Return the alpha that gives the layer at ``path``, of this rank, its scale as alpha / rank.

        LoRA scales by alpha / rank, rslora by alpha / √rank (Kalajdzievski 2023, arXiv 2312.03732, eq. 4).
        """
        alpha = next((value for key, value in self.alpha_pattern.items() if _matches(key, path)), self.alpha)
        return alpha * math.sqrt(rank) if self.rslora else alpha


def configs(path: Path, metadata: Mapping[str, str]) -> Mapping[str, LoraConfig]:
    """Return the configurations that go with a file, by part ("unet", "text_encoder", "text_encoder_2", "" for all).

    They stand in the metadata (diffusers) or in ``adapter_config.json`` beside the file (PEFT). Empty if there are
    none. Raises AdapterFormatError if there is one that can't be understood: guessing would draw other pictures.
    """
    said = metadata.get(_METADATA)
    beside = path.with_name("adapter_config.json")
    try:
        if said:
            return _by_part(json.loads(said))
        if path.name.startswith("adapter_model") and beside.is_file():
            return {"": _config(json.loads(beside.read_text(encoding="utf-8")))}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise AdapterFormatError(
            "{name} was not applied.",
            why="Its configuration, which says how strong it is, can't be understood: {reason}.",
            todo="Save it in kohya's format, or again with diffusers.",
            name=path.name,
            reason=str(error),
        ) from error
    return {}


def alpha_of(layer: str, path: str, stored: Mapping[str, Tensor], scales: Mapping[str, LoraConfig]) -> float | None:
    """Return a layer's alpha as a file gives it, beside its matrices or in its configuration; None if nowhere.

    ``layer`` is the name that ``keys.group`` made, ``path`` the module's path where the file has it, ``stored`` its
    tensors by suffix, ``scales`` what ``configs`` found.
    """
    if "alpha" in stored:
        return float(stored["alpha"])
    down = stored.get("lora_down.weight")
    if not scales or down is None or not down.ndim:
        return None
    part = next(part for start, part in _PART_NAMES.items() if layer.startswith(start))
    config = scales.get(part) or scales.get("")
    return None if config is None else config.alpha_of(path, down.shape[0])


def _by_part(said: Mapping[str, Any]) -> Mapping[str, LoraConfig]:
    parts: dict[str, dict[str, Any]] = {}
    for key, value in said.items():
        part, _, name = key.rpartition(".")
        parts.setdefault(part, {})[name] = value
    return {part: _config(values) for part, values in parts.items() if "r" in values}


def _config(said: Mapping[str, Any]) -> LoraConfig:
    alpha_pattern = {str(key): float(value) for key, value in (said.get("alpha_pattern") or {}).items()}
    for pattern in alpha_pattern:
        wildcards = pattern.count("*") + pattern.count("+")
        if not _HARMLESS.fullmatch(pattern) or wildcards > _MOST_WILDCARDS:
            raise ValueError(f"the pattern {pattern!r}")
    alpha = float(said.get("lora_alpha", said["r"]))
    if not all(map(math.isfinite, (alpha, *alpha_pattern.values()))):
        raise ValueError("an alpha that is not a number")
    return LoraConfig(
        alpha=alpha,
        alpha_pattern=alpha_pattern,
        rslora=bool(said.get("use_rslora", False)),
    )


def _matches(pattern: str, path: str) -> bool:
    """PEFT's rule: the pattern stands at the end of the path, after its beginning or a dot."""
    if pattern.startswith("^"):
        return re.fullmatch(pattern[1:], path) is not None
    return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", path) is not None
