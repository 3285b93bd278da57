"""The guard's third look: a TorchScript file that the person has, such as SSCD, which turns a picture into a vector.

Limits by Pizzi et al. 2022, A Self-Supervised Descriptor for Image Copy Detection (0.75: nearly always a copy), and
Somepalli et al. 2022, Diffusion Art or Digital Forgery? (0.5: counts as replication).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import RightsError
from .references import References

REVIEW, STRONG = 0.5, 0.75
_SIDE = 288
# What the models that such files hold were trained with: ImageNet's mean and spread.
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Embedder:
    """A TorchScript model: pictures (n, 3, 288, 288) -> vectors (n, d). Raises RightsError if the file is none.

    A TorchScript file is a program: only one that a person chose on this machine is ever opened.
    """

    def __init__(self, path: Path) -> None:
        import torch

        self.name = path.name
        try:
            self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            self._model: Any = torch.jit.load(str(path), map_location="cpu").eval()
            width = self._embed([Image.new("RGB", (64, 64))]).shape
        except Exception as error:  # torch raises what it likes, all of which mean this
            raise RightsError(
                "“{name}” can't be used to compare pictures.",
                why="It is no TorchScript file that turns pictures into vectors: {reason}.",
                todo="Choose another file, or none: pictures are compared without it.",
                name=path.name,
                reason=(str(error).splitlines() or [type(error).__name__])[0][:200],
            ) from error
        if len(width) != 2:
            raise RightsError(
                "“{name}” can't be used to compare pictures.",
                why="It gives {shape} for a picture instead of one vector.",
                todo="Choose another file, or none: pictures are compared without it.",
                name=path.name,
                shape=str(tuple(width)),
            )
        self._known: dict[str, NDArray[np.float32]] = {}

    def likeness(self, picture: Image.Image, known: References) -> NDArray[np.float32]:
        """The cosine of the output's vector and that of each training picture, (n,)."""
        if known.model_hash not in self._known:
            pictures = [known.picture(at) for at in range(len(known))]
            parts = [self._embed(pictures[at : at + 16]) for at in range(0, len(pictures), 16)]
            self._known[known.model_hash] = np.concatenate(parts)
        return np.asarray(self._known[known.model_hash] @ self._embed([picture])[0])

    def _embed(self, pictures: list[Image.Image]) -> NDArray[np.float32]:
        """Vectors of length 1, (n, d)."""
        import torch

        pixels = np.stack(
            [np.asarray(each.convert("RGB").resize((_SIDE, _SIDE)), np.float32) / 255 for each in pictures]
        )
        normal = (pixels - np.array(_MEAN, np.float32)) / np.array(_SPREAD, np.float32)
        with torch.no_grad():
            made = self._model(torch.from_numpy(normal).permute(0, 3, 1, 2).contiguous()).float().numpy()
        return np.asarray(made / np.maximum(np.linalg.norm(made, axis=-1, keepdims=True), 1e-12))
