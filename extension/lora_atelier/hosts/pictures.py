"""What becomes of a picture that a webui made with our LoRAs: credited, compared with their pictures, logged.

Webuis tell of a picture twice: when it is made (a script's ``postprocess_image``) and when it is saved (callbacks).
Only the second knows its file, only the first comes for pictures that are not saved and can still say something beside
them. SD.Next's control page asks no script of an extension: there everything happens when the picture is saved.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from .. import __version__, atomic, locales
from .base import Note

if TYPE_CHECKING:
    from ..loader.session import Applied
    from ..rights.guard import Finding
    from .guarding import Guarding, Looked
    from .webui import WebuiHost

CREDITS = "Credits"
# What webuis write behind the names of pictures that are not the finished one.
_ON_THE_WAY = re.compile(r"-(before-[a-z-]+|mask|mask-composite|init-image)$")
# What is kept on a generation: its LoRAs, a picture that is not logged yet, whether scripts are shown its pictures.
_ON, _PENDING, _SEEN = "_lora_atelier_on", "_lora_atelier_pending", "_lora_atelier_seen"
_log = logging.getLogger(__name__)


class Pictures:
    """Follows one webui's pictures into their files; nothing that fails here costs a picture."""

    def __init__(self, host: WebuiHost) -> None:
        self._host = host
        self._guarding: Guarding | None = None

    @property
    def guarding(self) -> Guarding:
        """The guard with its log, made for the first picture that has a LoRA: a webui's start has no use for it."""
        if self._guarding is None:
            from .guarding import Guarding

            self._guarding = Guarding(self._host.data_dir, self._host.catalogue)
        return self._guarding

    def begin(self, p: Any, applied: Sequence[Applied]) -> None:
        """A batch is about to be drawn with these LoRAs: name in the picture's text whom they want to be named."""
        on = [each for each in applied if each.te or each.unet]
        if p is None or not (on or _on(p)):
            return
        setattr(p, _ON, on)
        params = getattr(p, "extra_generation_params", None)
        if isinstance(params, dict):
            from ..rights import credits

            params.pop(CREDITS, None)
            if named := credits.text(self.guarding.credits(on)):
                params[CREDITS] = named

    def made(self, p: Any, image: Any) -> list[Note]:
        """A picture was made: compare it. Returns what the person should read beside it."""
        self.finished(p)
        on = _on(p)
        if not on or not isinstance(image, Image.Image):
            return []
        setattr(p, _SEEN, True)
        looked = self.guarding.examine(image, on)
        setattr(p, _PENDING, (looked, image, on))
        image.info[_png_key()] = self._packet(on)
        return [*_said([looked.finding], on), *looked.notes]

    def before_saved(self, params: Any) -> None:
        """A picture is about to be saved: give it the machine-readable credits, beside the webui's own text."""
        on = _on(params.p)
        if on and isinstance(params.pnginfo, dict):
            params.pnginfo[_png_key()] = self._packet(on)

    def saved(self, params: Any) -> None:
        """A picture was saved: log it under its file's name."""
        on, path = _on(params.p), Path(str(params.filename))
        if not on:
            return
        _complete(path, self._packet(on))
        pending = getattr(params.p, _PENDING, None)
        if _ON_THE_WAY.search(path.stem):
            return
        if pending is None and not getattr(params.p, _SEEN, False) and not self._is_grid(params):
            pending = self.guarding.examine(params.image, on), params.image, on
        if pending is not None:
            self._log(params.p, pending, self._name(path))

    def finished(self, p: Any) -> None:
        """Log the last picture if it was not saved."""
        pending = getattr(p, _PENDING, None)
        if pending is not None:
            self._log(p, pending, f"unsaved-{getattr(p, 'seed', '')}")

    def _log(self, p: Any, pending: tuple[Looked, Image.Image, Sequence[Applied]], name: str) -> None:
        setattr(p, _PENDING, None)
        looked, image, on = pending
        for note in self.guarding.note(looked, image, name, on).notes:
            _log.warning("%s", locales.sentence(note, "en"))

    def _packet(self, on: Sequence[Applied]) -> str:
        from ..rights import credits

        return credits.xmp(self.guarding.credits(on), model=self._host.model_title(), version=__version__)

    def _is_grid(self, params: Any) -> bool:
        samples, grids = (str(getattr(params.p, name, "")) for name in ("outpath_samples", "outpath_grids"))
        if not grids or grids == samples:
            return False
        return self._host.absolute(grids) in self._host.absolute(params.filename).parents

    def _name(self, path: Path) -> str:
        """The file as it is called below the webui's data, or its plain name where it is elsewhere."""
        root, path = self._host.data_dir.parent, self._host.absolute(path)
        return path.relative_to(root).as_posix() if root in path.parents else path.name


def _on(p: Any) -> Sequence[Applied]:
    """The LoRAs that a generation is drawn with; none for a picture that is only saved, such as an upscaled one."""
    found: Sequence[Applied] = getattr(p, _ON, ())
    return found


def _png_key() -> str:
    from ..rights import credits

    return credits.PNG_KEY


def _said(findings: Sequence[Finding | None], on: Sequence[Applied]) -> list[Note]:
    """The guard's sentence where it found something; a webui's person is not told again and again that it did not."""
    from ..rights import guard_words

    found = [each for each in findings if each is not None]
    if all(each.verdict == "nothing found" for each in found):
        return []
    sentence = guard_words.sentence(found, [each.name for each in on])
    return [] if sentence is None else [sentence]


def _complete(path: Path, packet: str) -> None:
    """Write the credits into a JPEG or WebP file that has the webui's own text: webuis give us no place in these."""
    from ..rights import packets

    if path.suffix.lower() not in (".jpg", ".jpeg", ".webp"):
        return
    try:
        data = path.read_bytes()
        credited = packets.add(data, packet.encode("utf-8", "replace"))
        if credited != data:
            atomic.write_bytes(path, credited)
    except OSError as error:
        _log.warning("The credits could not be written into %s: %s", path.name, error)
