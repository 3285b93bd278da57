"""LoRAs that are merged into the base model before the training (sd-scripts' base_weights)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..adapters.base import Adapter
from ..config import ModelConfig
from ..loader import fitting
from ..models import layers
from ..models import load as models
from ..models.detect import ModelInfo
from ..models.layers import Layer
from ..models.load import Model


@dataclass(frozen=True, eq=False)
class _Shapes:
    """What fitting must know of a model, from its configurations alone."""

    model: Model

    def layers(self) -> Mapping[str, Layer]:
        return layers.layers(self.model)

    def aliases(self) -> Mapping[str, str]:
        return layers.aliases(self.model)

    def family(self) -> str:
        return self.model.info.family


@dataclass(frozen=True, eq=False)
class BaseWeights:
    """Changes of the base model by layer and parameter, each with its weight; ``key`` stands for all of them."""

    changes: Mapping[tuple[str, str], list[tuple[float, Adapter]]] = field(default_factory=dict)
    key: str = ""

    @classmethod
    def read(cls, config: ModelConfig, info: ModelInfo) -> BaseWeights:
        """Read and fit all files, before the model itself is read. Raises AdapterError, ModelError."""
        if not config.base_weights:
            return cls()
        shapes = _Shapes(models.empty(info))
        changes: dict[tuple[str, str], list[tuple[float, Adapter]]] = {}
        digest = hashlib.sha256()
        for at, name in enumerate(config.base_weights):
            given = config.base_weights_multiplier
            multiplier = given[at] if at < len(given) else 1.0
            path = Path(name)
            fitted = fitting.fit(path.stem, path, shapes)
            digest.update(f"{fitted.content_hash} {fitted.checksum} {multiplier}\n".encode())
            for place, adapter in fitted.adapters.items():
                changes.setdefault(place, []).append((multiplier, adapter))
        return cls(changes, digest.hexdigest()[:16])

    @property
    def text_key(self) -> str:
        """As ``key``, for what the text encoders make; empty where nothing is changed in them."""
        return self.key if any(layer.startswith("lora_te") for layer, _ in self.changes) else ""

    @torch.no_grad()
    def merge(self, model: Model) -> None:
        """Change those weights that are loaded: all sums in float32 on the unchanged weight, rounded once."""
        if not self.changes:
            return
        found = layers.layers(model)
        for (name, parameter), changes in self.changes.items():
            layer = found.get(name)
            if layer is None:
                continue  # of a part that is not loaded now: all were fitted to the whole model
            if layer.parameter(parameter) is None:
                layer.create_bias()
            view = layer.view(parameter)
            assert view is not None
            before = view.clone()
            view.copy_(before.float() + sum(multiplier * adapter.delta(before) for multiplier, adapter in changes))
