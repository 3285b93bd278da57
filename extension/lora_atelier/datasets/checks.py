"""Advice about pictures and their trigger word that needs nothing but the words and a count."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..errors import Message, message

FEWEST_PICTURES = 4
# As CLIP's tokenizer parts a text before it looks for pairs: endings, runs of letters, digits, runs of other signs.
_PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)
# Words of which every model has a firm idea, so that training one of them changes all its pictures.
_COMMON = frozenset(
    """
    animal anime apple art artist baby background bag ball bear beach bed bicycle bike bird black blonde blue boat body
    book bottle boy bread brown building bus cake camera car cartoon cat chair character child city clock clothes
    cloud coat coffee computer cow cup cute dancer desk dog doll door dragon dress drink duck eye eyes face family
    fantasy figure fire fish flower food forest friend fruit game garden girl glass gold grass green grey guitar hair
    hand hat head hero horse house human image kid king knight lady lake lamp landscape leaf light lion lady logo man
    map men mermaid moon mountain mouse mug music nature night object ocean orange paint painting paper park people
    person phone photo picture pink pirate plane plant plate portrait prince princess purple queen rabbit red river
    road robot room rose school sea ship shirt shoe shoes sky snow soldier star statue sticker street style sun table
    teapot tiger tower town toy train tree truck umbrella vase warrior watch water white wizard wolf woman women wood
    world yellow
    """.split()
)


def few_pictures(count: int) -> Iterator[Message]:
    """What to say of a training on ``count`` pictures."""
    if count < FEWEST_PICTURES:
        yield message(
            "There are only {count} pictures to learn from; the LoRA will rather copy them. 10 to 30 are usual.",
            count=count,
        )


def common_trigger(trigger: str) -> Iterator[Message]:
    """What to say of a trigger that is one everyday English word, of which the base model has an idea."""
    word = trigger.strip()
    if word.casefold() in _COMMON:
        yield message(
            "The trigger “{trigger}” is a word that the base model knows: its meaning everywhere will change. Take one "
            "that means nothing, for example “{example}”.",
            trigger=word,
            example=f"{word[:3].lower()}ko",
        )


def long_captions(captions: Mapping[str, str], *, limit: int, count: Callable[[str], int]) -> Iterator[Message]:
    """What to say of captions (each with its picture's name) of which only the first ``limit`` tokens are read.

    ``count`` counts the tokens of a text; it is asked only of captions that may be too long.
    """
    # A token is a byte at least.
    counted = {caption: count(caption) for caption in captions if len(caption.encode()) > limit}
    long = {caption: tokens for caption, tokens in counted.items() if tokens > limit}
    if long:
        longest = max(long, key=lambda caption: long[caption])
        yield message(
            "{count} captions are longer than the {limit} tokens that are read; the longest has {tokens}, that of "
            "“{name}”. What comes after them is not learned: shorten them, or raise max_token_length (up to 225).",
            count=len(long),
            limit=limit,
            tokens=long[longest],
            name=captions[longest],
        )


def surely_long_captions(captions: Mapping[str, str], *, limit: int) -> Iterator[Message]:
    """What to say of captions (each with its picture's name) that are too long whatever the tokenizer makes of them."""
    # CLIP's tokenizer parts a text into at least these pieces.
    counted = {caption: len(_PIECES.findall(caption)) for caption in captions}
    long = [caption for caption, pieces in counted.items() if pieces > limit]
    if long:
        longest = max(long, key=lambda caption: counted[caption])
        yield message(
            "{count} captions are longer than the {limit} tokens that are read; the longest, with {tokens} or more, is "
            "that of “{name}”. What comes after them is not learned: shorten them, or raise max_token_length (up to "
            "225).",
            count=len(long),
            limit=limit,
            tokens=counted[longest],
            name=captions[longest],
        )


def black_masks(names: Sequence[str]) -> Iterator[Message]:
    """What to say of pictures whose mask is black everywhere."""
    if names:
        yield message(
            "The masks of {count} pictures are black everywhere, the first is that of “{name}”; nothing of them is "
            "learned.",
            count=len(names),
            name=names[0],
        )
