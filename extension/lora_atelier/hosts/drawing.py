"""Pictures by a webui's own sampler that nobody typed into its page: comparisons, and previews of a training.

All five have the same two names for it (``modules.processing``: a class for what is asked, a function that does it),
and the same lock, which whoever draws holds. No script of another extension takes part: the same words and seed shall
give the same picture, whatever is switched on in the page.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..errors import ExtensionError, HostError, ModelError
from .base import Drawing, Note

if TYPE_CHECKING:
    from .webui import WebuiHost

# What all five webuis have, and the scale that they begin with.
_SAMPLER, _CFG_SCALE, _SIDE = "Euler", 7.0, 512


class Drawer:
    """Draws with one webui."""

    def __init__(self, host: WebuiHost) -> None:
        self._host = host
        self._heard: list[Note] | None = None

    def hear(self, notes: Iterable[Note]) -> None:
        """A prompt's LoRAs were applied, and this is to be said of it."""
        if self._heard is not None:
            self._heard += notes

    def draw(self, asked: Drawing) -> Image.Image:
        """Return the picture; waits for whoever draws now. Raises what stands against its LoRAs, and HostError."""
        host = self._host
        processing, shared = host.module("modules.processing"), host.module("modules.shared")
        side = _side(host)
        with host.module("modules.call_queue").queue_lock:
            host.return_gpu()
            p = processing.StableDiffusionProcessingTxt2Img(
                # Asked for like this, the webui loads it.
                sd_model=shared.sd_model,
                prompt=asked.prompt,
                negative_prompt=asked.negative_prompt,
                seed=asked.seed,
                steps=asked.steps,
                cfg_scale=asked.cfg_scale or _CFG_SCALE,
                sampler_name=asked.sampler or _SAMPLER,
                width=asked.width or side,
                height=asked.height or side,
                batch_size=1,
                n_iter=1,
                do_not_save_samples=True,
                do_not_save_grid=True,
            )
            with contextlib.closing(p), _job(shared.state), self._hearing() as heard:
                processed = processing.process_images(p)
                interrupted = bool(shared.state.interrupted)
        lost = next((note for note in heard if isinstance(note, ExtensionError)), None)
        if lost is not None:
            raise lost
        if interrupted:
            raise HostError("The picture was interrupted in the webui.", todo="Begin it again.")
        images = getattr(processed, "images", None)
        if not images:
            raise HostError("The webui drew nothing.", todo="Its console says why; generate a picture there to see.")
        picture: Image.Image = images[0]
        return picture.convert("RGB")

    @contextlib.contextmanager
    def _hearing(self) -> Iterator[list[Note]]:
        self._heard = heard = list[Note]()
        try:
            yield heard
        finally:
            self._heard = None


def _side(host: WebuiHost) -> int:
    try:
        return host.current().resolution
    except ModelError:  # the webui draws with more models than can be trained
        return _SIDE


@contextlib.contextmanager
def _job(state: Any) -> Iterator[None]:
    """Let the webui show that it draws, as it does for its own pictures."""
    job = state.begin("lora-atelier")
    try:
        yield
    finally:
        # SD.Next knows its jobs by what ``begin`` gave; the others' ``end`` has no argument.
        if job is None:
            state.end()
        else:
            state.end(job)
