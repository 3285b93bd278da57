"""How captions become what the U-Net is told: read beforehand while the text encoders are frozen, else at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from ..config import TrainConfig
from ..models import load as models
from ..models.attention import weighted_parts
from ..models.detect import ModelInfo
from ..models.load import Model
from ..models.text import Reading, TextConditioning
from ..models.tokenizer import ClipTokenizer
from .conditions import Texts, moved, stack
from .run import Run, StopRequestedError
from .trainee import Example

# A text encoder's window without its two marks.
WINDOW_TOKENS = 75

Reader = Callable[[Model, Sequence[str]], TextConditioning]


class Conditioner(NamedTuple):
    """Reads captions for a model that may have lost its encoders: how many it knows, whether it needs these still."""

    read: Reader
    captions: int
    needs_encoders: bool


def reading_of(config: TrainConfig) -> Reading:
    """How the settings want captions to be read."""
    return Reading(
        clip_skip=config.model.clip_skip,
        windows=config.model.max_token_length // WINDOW_TOKENS,
        joined=True,
        weighted=config.loss.weighted_captions,
    )


def counter(info: ModelInfo, config: TrainConfig) -> Callable[[str], int]:
    """How many tokens the text encoders see of a caption; the tokenizers are read at the first call."""
    tokenizers: list[ClipTokenizer] = []

    def count(caption: str) -> int:
        if not tokenizers:
            tokenizers.extend(models.read_tokenizers(info))
        parts = [text for text, _ in weighted_parts(caption)] if config.loss.weighted_captions else [caption]
        return max(sum(len(each.tokens(part)) for part in parts) for each in tokenizers)

    return count


def at_each_step(reading: Reading) -> Conditioner:
    """For text encoders that are trained: gradients flow through them."""
    return Conditioner(lambda whole, captions: whole.read(captions, reading), 0, True)


def beforehand(
    this: Run,
    model: Model,
    examples: Sequence[Example],
    *,
    texts: Texts,
    device: torch.device,
    read_encoders: Callable[[], None],
    keep: bool,
) -> Conditioner:
    """Captions in the cache ``texts``, or read now; ``read_encoders`` puts the text encoders into ``model``.

    They are needed longer where captions are another each time, or if ``keep`` says so. Raises StopRequestedError.
    """
    captions = sorted({"", *(example.caption for example in examples)})
    keep = keep or any(example.varied is not None for example in examples)
    found = {caption: texts.read(caption) for caption in captions}
    if keep or not all(found.values()):
        read_encoders()
    known: dict[str, TextConditioning] = {}
    for done, caption in enumerate(captions):
        if this.stop_requested():
            raise StopRequestedError
        known[caption] = moved(found[caption] or texts.make(model, caption), device)
        this.preparing("captions", done + 1, len(captions))

    def read(whole: Model, captions: Sequence[str]) -> TextConditioning:
        with torch.no_grad():
            return stack([known.get(caption) or whole.read([caption], texts.reading) for caption in captions])

    return Conditioner(read, len(captions), keep)
