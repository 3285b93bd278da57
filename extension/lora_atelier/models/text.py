"""Texts -> what the U-Net is told of them: windows of tokens, encoded apart, weighted and laid end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import inversions
from .attention import weighted_parts
from .inversions import Inversions
from .tokenizer import ClipTokenizer


@dataclass(frozen=True)
class TextConditioning:
    """What the U-Net is told of b texts: ``context`` (b, n, c), n tokens; ``pooled`` (b, p) for SDXL, else None."""

    context: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How texts are read.

    A text is cut after ``windows`` times 75 tokens; with None all get as many windows as the longest needs, encoded
    apart and laid end to end (b, 77·n, c). ``joined`` keeps of these only the first start mark and the last end mark
    (b, 75·n + 2, c), as sd-scripts trains with long captions. ``clip_skip`` n takes the n-th layer from the end (SD 1
    and 2; 0 and 1 are the last); SDXL always takes the last but one of both encoders, and the first window's pooled
    vector. With ``weighted`` brackets weigh the words, as in ``attention``; the vectors are multiplied and nothing is
    scaled back, as in sd-scripts.
    """

    clip_skip: int = 0
    windows: int | None = 1
    joined: bool = False
    weighted: bool = False


PLAIN = Reading()


def encode(
    texts: Sequence[str],
    tokenizers: Sequence[ClipTokenizer],
    encoders: Sequence[Any],
    words: Sequence[Inversions],
    *,
    sdxl: bool,
    reading: Reading = PLAIN,
) -> TextConditioning:
    """Return the conditioning of b texts by all encoders; gradients flow where the caller allows them."""
    said = tuple(words) or (inversions.NONE,) * len(encoders)
    read = [
        [_tokens(text, clip, known, weighted=reading.weighted) for text in texts]
        for clip, known in zip(tokenizers, said, strict=True)
    ]
    windows = reading.windows
    if windows is None:
        windows = max(
            len(clip.windows_of(tokens, None))
            for clip, by_text in zip(tokenizers, read, strict=True)
            for tokens, _ in by_text
        )
    contexts, pooled = [], None
    for clip, encoder, known, by_text in zip(tokenizers, encoders, said, read, strict=True):
        ids = torch.tensor([clip.windows_of(tokens, windows) for tokens, _ in by_text], device=encoder.device)
        hidden, vector = _hidden(encoder, ids, known, sdxl=sdxl, clip_skip=reading.clip_skip)
        if reading.weighted:
            weights = torch.tensor([_weights(clip, weights, windows) for _, weights in by_text])
            hidden = hidden * weights.to(hidden.device, hidden.dtype)[..., None]
        contexts.append(_laid_out(hidden, joined=reading.joined))
        pooled = vector if vector is not None else pooled
    return TextConditioning(torch.cat(contexts, dim=-1), pooled)


def _tokens(text: str, clip: ClipTokenizer, known: Inversions, *, weighted: bool) -> tuple[list[int], list[float]]:
    """A text's token numbers and the weight of each; empty weights where brackets are only brackets."""
    if not weighted:
        return known.tokens(text, clip.tokens), []
    tokens: list[int] = []
    weights: list[float] = []
    for part, weight in weighted_parts(text):
        found = known.tokens(part, clip.tokens)
        tokens += found
        weights += [weight] * len(found)
    return tokens, weights


def _weights(clip: ClipTokenizer, weights: Sequence[float], windows: int) -> list[list[float]]:
    """The weights in the places of the windows' tokens; marks and padding have 1."""
    room = clip.length - 2
    parts = [list(weights[at * room : (at + 1) * room]) for at in range(windows)]
    return [[1.0, *part, *[1.0] * (clip.length - 1 - len(part))] for part in parts]


def _hidden(
    encoder: Any, ids: Tensor, known: Inversions, *, sdxl: bool, clip_skip: int
) -> tuple[Tensor, Tensor | None]:
    """The chosen layer of every window, (b, windows, length, c), and the pooled vector (b, p) of an encoder that has
    a projection; ``ids`` are (b, windows, length)."""
    texts, windows, length = ids.shape
    wants_layer = sdxl or clip_skip > 1
    with known.read_by(encoder, ids.reshape(texts * windows, length)) as known_ids:
        out = encoder(input_ids=known_ids, output_hidden_states=wants_layer)
    pooled = None
    if sdxl:
        hidden = out.hidden_states[-2]
        if getattr(out, "text_embeds", None) is not None:
            pooled = out.text_embeds.reshape(texts, windows, -1)[:, 0]
    elif wants_layer:
        inner = getattr(encoder, "text_model", encoder)
        hidden = inner.final_layer_norm(out.hidden_states[-min(clip_skip, len(out.hidden_states) - 1)])
    else:
        hidden = out.last_hidden_state
    return hidden.reshape(texts, windows, length, -1), pooled


def _laid_out(hidden: Tensor, *, joined: bool) -> Tensor:
    """(b, windows, length, c) -> (b, n, c)."""
    if not joined or hidden.shape[1] == 1:
        return hidden.flatten(1, 2)
    return torch.cat([hidden[:, 0, :1], hidden[:, :, 1:-1].flatten(1, 2), hidden[:, -1, -1:]], dim=1)
