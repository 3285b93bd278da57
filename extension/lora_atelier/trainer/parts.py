"""The parts of the base model as a run wants them: with another VAE, and with LoRAs merged in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import ModelConfig
from ..datasets.cache import CacheFolder
from ..models import load as models
from ..models.detect import ModelInfo
from ..models.load import Model
from ..models.vae_file import load_vae, vae_key
from .base_weights import BaseWeights
from .caches import part_key


@dataclass(frozen=True)
class Parts:
    """Reads parts of the model ``info`` onto ``device``; ``vae`` is another one's path, empty for the model's own."""

    info: ModelInfo
    device: torch.device
    vae: str
    base: BaseWeights

    @classmethod
    def of(cls, config: ModelConfig, info: ModelInfo, device: torch.device) -> Parts:
        """What ``config`` asks for. Reads the LoRAs, and nothing of the model. Raises AdapterError, ModelError."""
        return cls(info, device, config.vae, BaseWeights.read(config, info))

    def load(self, part: str, dtype: torch.dtype) -> Model:
        """One part: "unet", "vae" or "te". Raises ModelError."""
        if part == "vae" and self.vae:
            model = models.load(self.info, (), dtype, self.device)
            model.vae = load_vae(Path(self.vae), self.info, dtype, self.device)
            return model
        model = models.load(self.info, (part,), dtype, self.device)
        self.base.merge(model)
        return model

    def key(self, folder: CacheFolder, part: str, dtype: torch.dtype) -> str:
        """What stands for an encoder in the names of what it made: its weights, and the precision it has.

        Raises ModelError.
        """
        own = vae_key(Path(self.vae)) if part == "vae" and self.vae else part_key(folder, self.info, part)
        if part == "te" and self.base.text_key:
            own = hashlib.sha256(f"{own} {self.base.text_key}".encode()).hexdigest()[:16]
        return f"{own}-{str(dtype).removeprefix('torch.')}"
