"""Textual inversions that come inside of LoRA files, where a webui looks words up: for the prompts with that LoRA only.

A1111's family keeps databases (one, or in Forge one for each text encoder) in which the first token of a word leads to
its vectors. SD.Next adds words to its pipeline's tokenizers, and rows to the tables of its text encoders. What a person
has in the folder of embeddings under the same name goes before what a LoRA brings, as with the webuis' own loaders.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..errors import message
from ..models import inversions
from .base import Note

if TYPE_CHECKING:
    from ..loader.session import Embeddings

# The widths of text encoders by family, and their names in files that bundle for two.
_WIDTHS = {"sd1": (768,), "sd2": (1024,), "sdxl": (768, 1280)}
_NAMES = ("clip_l", "clip_g")


class Shelf(Protocol):
    """Where one webui's model looks words up."""

    def widths(self) -> Sequence[int]:
        """The widths of the text encoders' vectors."""
        ...

    def has(self, name: str) -> bool:
        """Whether the webui knows a word of this name already."""
        ...

    def put(self, name: str, vectors: Sequence[Tensor]) -> None:
        """Let prompts use ``name``: vectors (n, width) for each text encoder."""
        ...

    def clear(self) -> None:
        """Take back everything that was put; never raises for what is gone already."""
        ...


class Bundled:
    """Keeps exactly the inversions of the last prompt's LoRAs where the webui finds them."""

    def __init__(self) -> None:
        self._shelf: Shelf | None = None

    def use(self, wanted: Embeddings, shelf: Shelf) -> list[Note]:
        """Let prompts use ``wanted`` and nothing else of ours; return a sentence for each that was left out."""
        self.clear()
        self._shelf = shelf
        notes: list[Note] = []
        for name, stored in wanted.items():
            vectors = inversions.of_parts(stored, shelf.widths())
            if vectors is None:
                notes.append(
                    message("The embedding “{name}” was left out: it is for another model's text encoder.", name=name)
                )
            elif shelf.has(name):
                notes.append(
                    message(
                        "The embedding “{name}” inside of a LoRA file was left out: the webui has one of this name.",
                        name=name,
                    )
                )
            else:
                shelf.put(name, vectors)
        return notes

    def clear(self) -> None:
        """Leave nothing of ours behind."""
        if self._shelf is not None:
            self._shelf.clear()
            self._shelf = None


def family_widths(family: str, expected: int) -> Sequence[int]:
    """The widths for a family; ``expected`` is what a database says of its only text encoder, or -1."""
    known = _WIDTHS.get(family, (expected,))
    return (expected,) if len(known) == 1 and expected > 0 else known


# ------------------------------------------------------------------------------------------- A1111's family


@dataclass
class Databases:
    """The databases of words: ``register(database, embedding)`` puts one in, as the webui does with a file's."""

    databases: Sequence[Any]
    embedding_class: Any
    family: str
    model: Any

    def __post_init__(self) -> None:
        self._put: list[Any] = []

    def widths(self) -> Sequence[int]:
        """As the first database says it, where that is of one text encoder."""
        return family_widths(self.family, int(getattr(self.databases[0], "expected_shape", -1) or -1))

    def has(self, name: str) -> bool:
        """Whether a file in the folder of embeddings has this name."""
        return any(name in database.word_embeddings for database in self.databases)

    def put(self, name: str, vectors: Sequence[Tensor]) -> None:
        """One object for all databases."""
        vec = vectors[0] if len(vectors) == 1 else dict(zip(_NAMES, vectors))  # noqa: B905 - two at most
        embedding = self.embedding_class(vec, name)
        embedding.vectors, embedding.shape = vectors[0].shape[0], sum(each.shape[-1] for each in vectors)
        self._put.append(embedding)
        for database in self.databases:
            self._register(database, embedding)

    def _register(self, database: Any, embedding: Any) -> None:
        if hasattr(database, "tokenizer"):  # Forge's, of one text encoder
            database.register_embedding_by_name(embedding, embedding.name)
        else:
            database.register_embedding_by_name(embedding, self.model, embedding.name)

    def clear(self) -> None:
        """By identity: the webui reads its folder again now and then, and has dropped ours then."""
        for database in self.databases:
            for embedding in self._put:
                if database.word_embeddings.get(embedding.name) is embedding:
                    del database.word_embeddings[embedding.name]
            for first, found in list(database.ids_lookup.items()):
                kept = [each for each in found if not any(each[1] is ours for ours in self._put)]
                if not kept:
                    del database.ids_lookup[first]
                elif len(kept) != len(found):
                    database.ids_lookup[first] = kept
        self._put.clear()


# ------------------------------------------------------------------------------------------- SD.Next


@dataclass
class _Before:
    """A text encoder and its tokenizer as they were: how many rows the table had, and what the tokenizer was."""

    encoder: Any
    tokenizer: Any
    rows: int
    fast: str
    slow: tuple[Mapping[int, Any], Mapping[str, int]]


class Tokenizers:
    """SD.Next's: diffusers adds the words, and afterwards everything is cut back to what it was."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._before: list[_Before] = []

    def _pairs(self) -> list[tuple[Any, Any]]:
        names = (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"))
        found = [(getattr(self._pipe, one, None), getattr(self._pipe, other, None)) for one, other in names]
        return [(encoder, tokenizer) for encoder, tokenizer in found if encoder is not None and tokenizer is not None]

    def widths(self) -> Sequence[int]:
        """The widths of the encoders' tables."""
        return [encoder.get_input_embeddings().weight.shape[1] for encoder, _ in self._pairs()]

    def has(self, name: str) -> bool:
        """Whether a tokenizer has a word of this name."""
        return any(name in tokenizer.get_vocab() for _, tokenizer in self._pairs())

    def put(self, name: str, vectors: Sequence[Tensor]) -> None:
        """Add the word to each tokenizer and its vectors to each table."""
        if not self._before:
            self._before = [_as_it_is(encoder, tokenizer) for encoder, tokenizer in self._pairs()]
        for (encoder, tokenizer), tensor in zip(self._pairs(), vectors):  # noqa: B905 - as many as widths
            self._pipe.load_textual_inversion(tensor, token=name, text_encoder=encoder, tokenizer=tokenizer)

    def clear(self) -> None:
        """Rows are only ever added behind the model's own, so that cutting them off gives its very bits back."""
        for each in self._before:
            _restore(each)
        self._before = []


def _as_it_is(encoder: Any, tokenizer: Any) -> _Before:
    inner = getattr(tokenizer, "_tokenizer", None)
    slow = dict(getattr(tokenizer, "_added_tokens_decoder", {})), dict(getattr(tokenizer, "_added_tokens_encoder", {}))
    fast = inner.to_str() if inner is not None else ""
    return _Before(encoder, tokenizer, encoder.get_input_embeddings().weight.shape[0], fast, slow)


@torch.no_grad()
def _restore(before: _Before) -> None:
    tokenizer = before.tokenizer
    if before.fast:
        tokenizer._tokenizer = type(tokenizer._tokenizer).from_str(before.fast)
    else:
        tokenizer._added_tokens_decoder, tokenizer._added_tokens_encoder = dict(before.slow[0]), dict(before.slow[1])
        for name in ("_update_trie", "_update_total_vocab_size"):
            with contextlib.suppress(AttributeError):
                getattr(tokenizer, name)()
    table = before.encoder.get_input_embeddings()
    if table.weight.shape[0] > before.rows:
        table.weight = torch.nn.Parameter(table.weight[: before.rows].clone(), requires_grad=table.weight.requires_grad)
        table.num_embeddings = before.rows
        config: Any = getattr(before.encoder, "config", None)
        if hasattr(config, "vocab_size"):
            config.vocab_size = before.rows
