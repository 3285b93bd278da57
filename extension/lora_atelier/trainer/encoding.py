"""Pictures and their latents' posteriors: from the cache, or encoded by the VAE before a step first needs them.

On a processor a picture takes about half as long as a step on it, so that a person who has fifty would wait for some
twenty-five steps before the first one. There only what is needed at once is encoded before the U-Net is read; the rest
waits, decoded, and the VAE's encoder stays until the last one is done. On a card they are encoded in a moment, and
memory is short: there all of them are encoded first, and the VAE is freed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from ..datasets.items import Item
from ..models.load import Model
from .conditions import Latents
from .pictures import Pictures

# Decoded pictures that wait for the VAE; beyond this they are decoded a second time.
_HELD_BYTES = 256_000_000


@dataclass
class Encoded:
    """The posteriors (2, 4, h, w) of one picture, plain and mirrored; each is encoded when it is first asked for.

    ``picture`` is it, decoded, while it waits for that.
    """

    item: Item
    found: list[Tensor | None]
    encode: Callable[[Encoded, int], Tensor]
    picture: Image.Image | None = None

    @property
    def missing(self) -> int:
        """How many of them are not encoded yet."""
        return sum(posterior is None for posterior in self.found)

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[side] for side in range(len(self)))

    def __getitem__(self, side: int) -> Tensor:
        """That of a side, 0 or 1. Raises ModelError, and RightsError if the file is read again and is another now."""
        found = self.found[side]
        return self.encode(self, side) if found is None else found


@dataclass
class Encoder:
    """Encodes the pictures of a run with the VAE of ``read_vae``, which is read when the first one needs it."""

    pictures: Pictures
    latents: Latents
    read_vae: Callable[[], Model]
    _all: list[Encoded] = field(default_factory=list)
    _model: Model | None = None
    _is_leaving: bool = False
    _held_bytes: int = 0
    # What each posterior took.
    _seconds: list[float] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """Posteriors that are not encoded yet."""
        return sum(encoded.missing for encoded in self._all)

    def find(self, item: Item) -> Encoded:
        """A picture with what the cache has of it."""
        sha256, framing = self.pictures.admitted.sha256(item), self.pictures.framing(item)
        sides = (False, True) if item.flip_aug else (False,)
        found = [self.latents.read(sha256, side, framing, item.resize_interpolation) for side in sides]
        return Encoded(item, found, self._encode)

    def take(self, encoded: Encoded, picture: Image.Image | None = None) -> None:
        """Take up a picture that is trained or measured on; ``picture`` is it, decoded, where that was needed."""
        self._all.append(encoded)
        if picture is None or not encoded.missing:
            return
        size_bytes = picture.width * picture.height * 3
        if self._held_bytes + size_bytes <= _HELD_BYTES:
            self._held_bytes += size_bytes
            encoded.picture = picture

    def model(self) -> Model:
        """A model with the VAE alone, which is read now if it was not."""
        if self._model is None:
            self._model = self.read_vae()
            self._drop_decoder()
        return self._model

    def leave(self) -> bool:
        """Free the VAE as soon as no picture waits for it, and its decoder now. Returns whether there was one."""
        was_there, self._is_leaving = self._model is not None, True
        self._drop_decoder()
        self._let_go()
        return was_there

    def left_s(self, most: int) -> float:
        """Seconds to come for what waits, of which at most ``most`` are seen; 0 as long as none was encoded."""
        return min(self.waiting, most) * statistics.median(self._seconds) if self._seconds else 0.0

    def _encode(self, encoded: Encoded, side: int) -> Tensor:
        item, model, began = encoded.item, self.model(), time.monotonic()
        sha256, framing = self.pictures.admitted.sha256(item), self.pictures.framing(item)
        picture = encoded.picture or self.pictures.show(item).picture
        made = self.latents.make(model, picture, sha256, bool(side), framing, item.resize_interpolation)
        encoded.found[side] = made
        if not encoded.missing:
            encoded.picture = None
        self._seconds.append(time.monotonic() - began)
        self._let_go()
        return made

    def _drop_decoder(self) -> None:
        if self._is_leaving and self._model is not None:
            self._model.vae.decoder = self._model.vae.post_quant_conv = None

    def _let_go(self) -> None:
        if self._is_leaving and not self.waiting:
            self._model = None
