"""Textual inversions: words of a prompt that stand for trained vectors instead of tokens.

Source: Gal et al. 2022, An Image is Worth One Word (arXiv 2208.01618), section 4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Inversions:
    """Words and their vectors (n, width) for one text encoder; upper and lower case do not matter."""

    vectors: Mapping[str, Tensor]

    def tokens(self, text: str, plain: Callable[[str], list[int]]) -> list[int]:
        """Return the token numbers of ``text``, as ``plain`` makes them, with one number below 0 for each vector.

        The vectors of all words are counted through in their order: -1 is the first vector of the first word.
        """
        if not self.vectors:
            return plain(text)
        starts, total = {}, 0
        for word, vectors in self.vectors.items():
            starts[word.casefold()] = total, len(vectors)
            total += len(vectors)
        # The longest first, so that "cat" does not take the beginning of "cat-figure".
        words = sorted(self.vectors, key=len, reverse=True)
        found = re.split(rf"(?<!\w)({'|'.join(map(re.escape, words))})(?!\w)", text, flags=re.IGNORECASE)
        numbers: list[int] = []
        for at, piece in enumerate(found):
            if at % 2 and piece.casefold() in starts:
                start, count = starts[piece.casefold()]
                numbers += [-1 - start - n for n in range(count)]
            elif piece.strip():
                numbers += plain(piece)
        return numbers

    @contextmanager
    def read_by(self, text_encoder: Any, ids: Tensor) -> Iterator[Tensor]:
        """While this lasts, ``text_encoder`` sees the vectors where ``ids`` (b, n) are below 0.

        Gives the ids to call it with, in which those places hold a token that it knows.
        """
        places = ids < 0
        if not bool(places.any()):
            yield ids
            return
        table = torch.cat(list(self.vectors.values()))
        numbers = (-1 - ids[places]).to(table.device)

        def put(_module: Any, _args: Any, output: Tensor) -> Tensor:
            changed = output.clone()
            changed[places] = table[numbers].to(output.device, output.dtype)
            return changed

        handle = text_encoder.get_input_embeddings().register_forward_hook(put)
        try:
            yield torch.where(places, torch.zeros_like(ids), ids)
        finally:
            handle.remove()


NONE = Inversions({})


def of_parts(stored: Mapping[str, Tensor], widths: Sequence[int]) -> tuple[Tensor, ...] | None:
    """Return a bundled inversion's vectors, one tensor (n, width) a text encoder, or None if they do not fit.

    ``stored`` by the rest of their keys: ``string_to_param.*`` (or ``emb_params``) where there is one text encoder,
    ``clip_l`` and ``clip_g`` where there are two, as AUTOMATIC1111 reads them. ``widths`` are the encoders'.
    """
    names = (("string_to_param.*", "emb_params", "clip_l"),) if len(widths) == 1 else (("clip_l",), ("clip_g",))
    found = [next((stored[key] for key in keys if key in stored), None) for keys in names]
    vectors = tuple(tensor for tensor in found if tensor is not None)
    fits = len(vectors) == len(widths) and all(
        tensor.ndim in (1, 2) and tensor.shape[-1] == width and tensor.numel()
        for tensor, width in zip(vectors, widths, strict=True)
    )
    return tuple(tensor.reshape(-1, tensor.shape[-1]).float() for tensor in vectors) if fits else None
