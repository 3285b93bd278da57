"""What happens to a picture after it was made with LoRAs: compared with their training pictures, credited, logged."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from .. import safetensors_header
from ..errors import AdapterError, RightsError, message
from ..loader.catalogue import Catalogue
from ..rights import credits, guard_log
from ..rights.credits import Credit
from ..rights.embedder import Embedder
from ..rights.guard import Finding, Guard, Used
from ..rights.guard_log import GuardLog, LoraAt
from ..safetensors_header import BrokenFileError
from .base import Note

if TYPE_CHECKING:
    from ..loader.session import Applied

FOLDER = "rights"
# A TorchScript file that a person put here takes part in comparing.
EMBEDDER = "embedder.pt"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Looked:
    """What became of one picture: the finding, None where no LoRA was on or it failed, and what to tell the person."""

    finding: Finding | None
    notes: tuple[Note, ...] = ()


class Guarding:
    """The guard of one host; its log and pairs lie in ``data_dir/rights``."""

    def __init__(self, data_dir: Path, catalogue: Catalogue) -> None:
        self.folder = data_dir / FOLDER
        self.log = GuardLog(self.folder)
        self._catalogue = catalogue
        self._guard: Guard | None = None
        self._embedder_problem: RightsError | None = None

    def credits(self, applied: Iterable[Applied]) -> list[Credit]:
        """What the LoRAs that have a weight say of credits, by their own headers."""
        found = []
        for each in having_weight(applied):
            try:
                metadata = safetensors_header.read_metadata(self._catalogue.find(each.name).path)
            except (AdapterError, BrokenFileError, OSError):
                metadata = {}
            found.append(credits.of_header(each.name, metadata))
        return found

    def look(self, picture: Image.Image, name: str, applied: Sequence[Applied]) -> Looked:
        """Compare a picture, called ``name`` in the log, with the training pictures of its LoRAs, and log it.

        Whatever fails is a sentence: the picture is there already.
        """
        return self.note(self.examine(picture, applied), picture, name, applied)

    def examine(self, picture: Image.Image, applied: Sequence[Applied]) -> Looked:
        """Compare a picture; ``note`` logs what came of it, once its file has a name."""
        on = having_weight(applied)
        if not on:
            return Looked(None)
        try:
            finding, errors = self._made_guard().examine(picture, self._used(on))
        except Exception as error:  # the edge: no failure here may cost a picture
            return Looked(None, (_failed(error),))
        return Looked(finding, (*errors, *([self._embedder_problem] if self._embedder_problem else [])))

    def note(self, looked: Looked, picture: Image.Image, name: str, applied: Sequence[Applied]) -> Looked:
        """Log what came of a picture, called ``name``; returns it with what failed."""
        on = having_weight(applied)
        if not on or looked.finding is None:
            return looked
        try:
            self._log(looked.finding, picture, name, on)
        except Exception as error:  # the edge, as above
            return Looked(looked.finding, (*looked.notes, _failed(error)))
        return looked

    def _log(self, finding: Finding, picture: Image.Image, name: str, on: Sequence[Applied]) -> None:
        pair = ""
        if finding.near is not None and finding.verdict != "nothing found":
            owner = next(each for each in self._used(on) if each.name == finding.near.lora)
            known = self._made_guard().known(owner)
            if known is not None:
                pair = self.log.keep_pair(Path(name).stem, guard_log.pair_of(picture, finding, known))
        loras = [LoraAt(each.name, each.content_hash, each.te, each.unet) for each in on]
        self.log.add(name, finding, loras, pair=pair)

    def _used(self, on: Sequence[Applied]) -> list[Used]:
        return [Used(each.name, self._catalogue.find(each.name).path, each.content_hash) for each in on]

    def _made_guard(self) -> Guard:
        if self._guard is None:
            embedder = None
            if (self.folder / EMBEDDER).is_file():
                try:
                    embedder = Embedder(self.folder / EMBEDDER)
                except RightsError as error:
                    self._embedder_problem = error
            self._guard = Guard(embedder=embedder)
        return self._guard


def having_weight(applied: Iterable[Applied]) -> list[Applied]:
    """The adapters that change anything."""
    return [each for each in applied if each.te or each.unet]


def _failed(error: Exception) -> Note:
    _log.exception("The guard failed")
    reason = str(error).rstrip(".") or type(error).__name__
    return message("The picture could not be compared or logged: {reason}.", reason=reason)
