"""What a step needs of pictures and captions, computed once and kept: latents' posteriors and texts' conditioning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..datasets.buckets import Framing
from ..errors import ModelError
from ..models.load import Model
from ..models.text import Reading, TextConditioning
from . import noise
from .caches import TensorCache

# Raised when pictures or texts come to be prepared otherwise, so that what was kept before is not taken for it.
_PIXELS, _READING = 1, 1


def to_pixels(picture: Image.Image) -> Tensor:
    """The picture's pixels (1, 3, h, w), -1 to 1."""
    values = np.asarray(picture.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(values).permute(2, 0, 1)[None] / 127.5 - 1


@torch.no_grad()
def encoded(model: Model, picture: Image.Image, *, mirrored: bool) -> Tensor:
    """The posterior (2, 4, h, w) of a picture that is cut to its bucket, float32, on the CPU.

    Raises ModelError if the VAE gives no numbers.
    """
    if mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mean, std = model.encode_images(to_pixels(picture))
    made = torch.cat([mean, std]).to("cpu", torch.float32)
    if not made.isfinite().all():
        raise ModelError(
            "The VAE of the base model makes no numbers of a picture.",
            why="They overflow in this precision.",
            todo="Set no_half_vae, or choose another precision.",
        )
    return made


def cut_name(framing: Framing, interpolation: str = "") -> str:
    """What stands in the name of a kept file for the size and the cut of its picture."""
    (width, height), whole = framing.bucket, framing.resized
    return f"{width}x{height}-of-{whole[0]}x{whole[1]}{'-' if interpolation else ''}{interpolation}"


@dataclass(frozen=True)
class Latents:
    """Posteriors (mean, std), (2, 4, h, w), scaled, float32, of pictures encoded alone; ``vae`` stands for the encoder.

    Each picture is encoded alone: in a batch its values would depend, in the last digits, on its neighbours.
    """

    kept: TensorCache
    vae: str

    def read(self, sha256: str, mirrored: bool, framing: Framing, interpolation: str = "") -> Tensor | None:
        """The posterior of a picture from the cache, None if it is not there."""
        tensors = self.kept.read(self._name(sha256, mirrored, framing, interpolation))
        found = tensors.get("posterior") if tensors else None
        width, height = framing.bucket
        return found if found is not None and found.shape[-2:] == (height // 8, width // 8) else None

    def make(
        self,
        model: Model,
        picture: Image.Image,
        sha256: str,
        mirrored: bool,
        framing: Framing,
        interpolation: str = "",
    ) -> Tensor:
        """Encode a picture that is cut to its bucket, and keep it. Raises ModelError if the VAE gives no numbers."""
        made = encoded(model, picture, mirrored=mirrored)
        self.kept.write(self._name(sha256, mirrored, framing, interpolation), {"posterior": made})
        return made

    def _name(self, sha256: str, mirrored: bool, framing: Framing, interpolation: str) -> str:
        return f"{sha256[:32]}-{self.vae}-{_PIXELS}-{cut_name(framing, interpolation)}{'-m' if mirrored else ''}"


@dataclass(frozen=True)
class Texts:
    """The conditioning of captions, each encoded alone; ``te`` stands for the text encoders."""

    kept: TensorCache
    te: str
    reading: Reading

    def read(self, caption: str) -> TextConditioning | None:
        """The conditioning of a caption from the cache, on the CPU; None if it is not there."""
        tensors = self.kept.read(self._name(caption))
        if not tensors or "context" not in tensors:
            return None
        return TextConditioning(tensors["context"], tensors.get("pooled"))

    @torch.no_grad()
    def make(self, model: Model, caption: str) -> TextConditioning:
        """Encode a caption, and keep it; on the model's device."""
        made = model.read([caption], self.reading)
        tensors = {"context": made.context, "pooled": made.pooled}
        kept = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
        self.kept.write(self._name(caption), kept)
        return made

    def _name(self, caption: str) -> str:
        said = json.dumps([_READING, caption, asdict(self.reading)])
        return f"{hashlib.sha256(said.encode()).hexdigest()[:32]}-{self.te}"


def draw_latents(posterior: Tensor, *key: noise.Key) -> Tensor:
    """One sample (4, h, w) of a posterior (2, 4, h, w)."""
    mean, std = posterior
    return mean + std * noise.gaussian(mean.shape, *key)


def moved(text: TextConditioning, device: torch.device) -> TextConditioning:
    """The conditioning on another device."""
    return TextConditioning(text.context.to(device), None if text.pooled is None else text.pooled.to(device))


def stack(conditions: Sequence[TextConditioning]) -> TextConditioning:
    """One conditioning for a batch."""
    pooled = [c.pooled for c in conditions if c.pooled is not None]
    return TextConditioning(torch.cat([c.context for c in conditions]), torch.cat(pooled) if pooled else None)
