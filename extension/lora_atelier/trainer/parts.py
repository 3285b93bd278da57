"""The parts of the base model as a run wants them: with another VAE, and with LoRAs merged in."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import ModelConfig
from ..datasets.cache import CacheFolder
from ..errors import ModelError
from ..models import load as models
from ..models.detect import ModelInfo
from ..models.load import Model
from ..models.vae_file import files_of, load_vae, vae_key
from ..safetensors_header import BrokenFileError
from ..safetensors_tensors import TensorFile
from .base_weights import BaseWeights
from .caches import kept_key, part_key

# What the names of files' contents begin with among the settings of a run.
CONTENT = "content of "


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
        own = other_vae_key(folder, Path(self.vae)) if part == "vae" and self.vae else part_key(folder, self.info, part)
        if part == "te" and self.base.text_key:
            own = hashlib.sha256(f"{own} {self.base.text_key}".encode()).hexdigest()[:16]
        return f"{own}-{str(dtype).removeprefix('torch.')}"


def other_vae_key(folder: CacheFolder, path: Path) -> str:
    """As ``vae_key``, of a file that is read once as long as it does not change. Raises ModelError."""
    return kept_key(folder, f"{path.resolve()} vae", files_of(path), lambda: vae_key(path))


def contents(config: ModelConfig, folder: CacheFolder) -> dict[str, str]:
    """What stands for the files that the base model is changed by, by what a person knows them as.

    One that can't be read is left out: whoever needs it says so.
    """
    found: dict[str, str] = {}
    for number, name in enumerate(config.base_weights, 1):
        with contextlib.suppress(OSError, BrokenFileError), TensorFile(Path(name)) as file:
            found[f"{CONTENT}base_weights {number}, {Path(name).name}"] = file.content_hash()[:16]
    if config.vae:
        with contextlib.suppress(ModelError):
            found[f"{CONTENT}vae, {Path(config.vae).name}"] = other_vae_key(folder, Path(config.vae))
    return found
