"""What a step needs of pictures and captions, computed once: latents' posteriors and the captions' conditioning."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..datasets.buckets import Framing
from ..models.load import Model
from ..models.text import TextConditioning
from ..safetensors_header import BrokenFileError
from ..safetensors_tensors import read_all
from . import noise

Progress = Callable[[int, int], None]


def vae_key(model: Model) -> str:
    """16 hex digits that stand for the VAE's weights, so that another VAE's latents are never taken for its own."""
    digest = hashlib.blake2b(digest_size=8)
    for parameter in model.vae.parameters():
        flat = parameter.detach().to("cpu").contiguous().view(torch.uint8)
        digest.update(flat.numpy().tobytes())
    return digest.hexdigest()


def to_pixels(picture: Image.Image) -> Tensor:
    """The picture's pixels (1, 3, h, w), -1 to 1."""
    values = np.asarray(picture.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(values).permute(2, 0, 1)[None] / 127.5 - 1


class LatentCache:
    """Posteriors (mean, std), float32, of pictures encoded alone; kept on disk by what they were made from.

    Each picture is encoded alone: in a batch its values would depend, in the last digits, on its neighbours.
    """

    def __init__(self, folder: Path, model: Model | None, vae: str) -> None:
        self._folder, self._model, self._vae = folder, model, vae

    def posterior(
        self, sha256: str, mirrored: bool, framing: Framing, open_picture: Callable[[], Image.Image]
    ) -> Tensor:
        """Mean and standard deviation, (2, 4, h, w), scaled; from the cache, or encoded and put there.

        A cache that can't be written (disk full) costs time at the next run and nothing else.
        """
        (width, height), whole = framing.bucket, framing.resized
        cut = f"{width}x{height}-of-{whole[0]}x{whole[1]}{'-m' if mirrored else ''}"
        name = f"{sha256[:32]}-{self._vae}-{cut}.safetensors"
        path = self._folder / name[:2] / name
        kept = _read(path)
        if kept is not None and kept.shape[-2:] == (height // 8, width // 8):
            return kept
        picture = open_picture()
        if mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert self._model is not None
        with torch.no_grad():
            mean, std = self._model.encode_images(to_pixels(picture))
        made = torch.cat([mean, std]).to("cpu", torch.float32)
        _write(path, made)
        return made


def _read(path: Path) -> Tensor | None:
    try:
        tensors, _ = read_all(path)
        return tensors.get("posterior")
    except (OSError, BrokenFileError):
        return None


def _write(path: Path, posterior: Tensor) -> None:
    from safetensors.torch import save

    from .. import atomic

    try:
        atomic.write_bytes(path, save({"posterior": posterior}))
    except OSError as error:
        print(f"The latent cache can't be written: {error}")


def draw_latents(posterior: Tensor, *key: noise.Key) -> Tensor:
    """One sample (4, h, w) of a posterior (2, 4, h, w)."""
    mean, std = posterior
    return mean + std * noise.gaussian(mean.shape, *key)


@torch.no_grad()
def encode_captions(model: Model, captions: Iterable[str], progress: Progress) -> dict[str, TextConditioning]:
    """The conditioning of every distinct caption, each encoded alone, on the model's device."""
    distinct = sorted(set(captions))
    encoded = {}
    for done, caption in enumerate(distinct):
        encoded[caption] = model.encode([caption])
        progress(done + 1, len(distinct))
    return encoded


def stack(conditions: Sequence[TextConditioning]) -> TextConditioning:
    """One conditioning for a batch."""
    pooled = [c.pooled for c in conditions if c.pooled is not None]
    return TextConditioning(torch.cat([c.context for c in conditions]), torch.cat(pooled) if pooled else None)


def captions_for(model: Model, captions: Sequence[str], cached: Mapping[str, TextConditioning]) -> TextConditioning:
    """The batch's conditioning: from the cache where the text encoders are frozen, else encoded with gradients."""
    if cached:
        return stack([cached[caption] for caption in captions])
    return model.encode(captions)
