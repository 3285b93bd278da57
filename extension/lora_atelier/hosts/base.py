"""What the rest of the extension may know of an image-generation program: the Host protocol, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import ExtensionError, Message
from ..loader.catalogue import Catalogue
from ..models.detect import ModelInfo
from .lease import Lease

if TYPE_CHECKING:
    from PIL import Image

    from ..loader.originals import StoredWeights
    from ..loader.session import Embeddings
    from ..models.layers import Layer

# What a person is told beside a picture; ``locales.sentence`` says either in a language.
Note = Message | ExtensionError


@dataclass(frozen=True)
class Checkpoint:
    """A base model that the host offers. ``problem`` says why it can't be used, None if it can."""

    path: Path
    title: str
    info: ModelInfo | None = None
    problem: ExtensionError | None = None


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A picture that nobody typed into the host's page; ``prompt`` calls LoRAs as prompts do.

    A side of 0 is the model's own, a scale of 0 and a sampler of no name are the host's choice.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int = 1
    width: int = 0
    height: int = 0
    steps: int = 20
    cfg_scale: float = 0.0
    sampler: str = ""


class Host(Protocol):
    """An image-generation program, as the loader, the tab and the jobs see it."""

    id: str
    data_dir: Path
    catalogue: Catalogue
    lease: Lease

    def layers(self) -> Mapping[str, Layer]:
        """Where the live model's weights are, by kohya layer name; the same object as long as the model is the same."""
        ...

    def aliases(self) -> Mapping[str, str]:
        """Other layer names in use -> names in ``layers``."""
        ...

    def family(self) -> str:
        """The model's family: "toy", "sd1", "sd2" or "sdxl"."""
        ...

    def stored_weights(self) -> StoredWeights | None:
        """The files that the live model was read from, or None if its weights can't be read again."""
        ...

    def use_embeddings(self, embeddings: Embeddings) -> list[Note]:
        """Make exactly these textual inversions usable in prompts; return what could not be, as sentences."""
        ...

    def current(self) -> ModelInfo:
        """The chosen base model; asking never loads it."""
        ...

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The base models that can be chosen; asking never loads one."""
        ...

    def lora_dirs(self) -> Sequence[Path]:
        """The folders with adapter files; new ones are written into the first."""
        ...

    def refresh_adapters(self) -> None:
        """Make the host notice adapter files that have just been written."""
        ...

    def picture(self, asked: Drawing) -> Image.Image:
        """Draw with the host's own sampler and model, loading it if need be, when whoever draws now is ready.

        Nothing is saved. Raises what stands against a LoRA of the prompt, and HostError.
        """
        ...

    def warn(self, note: Note) -> None:
        """Tell the person who pressed Generate."""
        ...
