"""English and Japanese: the English template is the key, ``ja.json`` holds its Japanese."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from ..errors import ExtensionError, Message, Problem

LANGUAGES = ("en", "ja")


@cache
def catalogue(lang: str) -> dict[str, str]:
    """The translations of one language by English template; empty for English and for what we don't speak."""
    if lang == "en" or lang not in LANGUAGES:
        return {}
    text = Path(__file__).with_name(f"{lang}.json").read_text(encoding="utf-8")
    entries: dict[str, str] = json.loads(text)
    return entries


def text(template: str, lang: str = "en", **values: object) -> str:
    """The sentence in ``lang``; English where the translation is missing, so that nobody is left without one."""
    return catalogue(lang).get(template, template).format(**values)


def sentence(said: ExtensionError | Message | Problem, lang: str = "en") -> str:
    """An error (what, why, what to do), a problem or a message in ``lang``."""
    if isinstance(said, ExtensionError):
        separator = "" if lang == "ja" else " "
        return separator.join(sentence(part, lang) for part in said.parts())
    if isinstance(said, Problem):
        return sentence(said.message, lang)
    return text(said.template, lang, **said.values) if said else ""


def choose(accept_language: str, wanted: str = "") -> str:
    """The language to speak: ``wanted`` if we have it, else the first of a browser's Accept-Language that we have."""
    tags = [wanted, *(tag.split(";")[0].strip() for tag in accept_language.split(","))]
    for tag in tags:
        lang = tag.split("-")[0].lower()
        if lang in LANGUAGES:
            return lang
    return "en"
