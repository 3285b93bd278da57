"""Names that every webui, prompt and file system takes: letters and digits of any script, ``_`` and ``-``."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection

MAX_CHARACTERS = 64
# A checkpoint's ending and a temporary name are added to it; file systems stop at 255 bytes.
_MAX_BYTES = 200
# Syllables of these make words that can be said in most languages.
_CONSONANTS, _VOWELS = "bdfgjkmnprtvz", "aeiou"
# Windows keeps these for devices, with any ending and in any case.
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])")


def safe_name(text: str) -> str:
    """``text`` as a LoRA's name of 1 to 64 characters, or "" if nothing usable is left.

    Spaces become ``_``, everything that a prompt, a webui or a file system gives a meaning to becomes ``-``.
    The result is what is shown before it is used, and it is its own safe name.
    """
    name = "".join(_allowed(char) for char in unicodedata.normalize("NFC", text.strip()))
    name = re.sub(r"-{2,}", "-", name).strip("-")
    # SD.Next reads these as "only for the first (second) of two transformers".
    name = re.sub(r"(?i)_(high|low)", r"-\1", name)
    if _RESERVED.fullmatch(name):
        name += "-lora"
    return _cut(name, MAX_CHARACTERS)


def fresh_name(name: str, taken: Collection[str]) -> str:
    """``name`` itself, or ``name-2``, ``name-3`` …: the first that is not among ``taken`` on any file system."""
    used = {other.casefold() for other in taken}
    candidate, number = name, 1
    while candidate.casefold() in used:
        number += 1
        ending = f"-{number}"
        candidate = _cut(name, MAX_CHARACTERS - len(ending)) + ending
    return candidate


def rare_word(seed: str) -> str:
    """A word of three syllables that can be said and means nothing; the same for the same ``seed``."""
    number = int.from_bytes(hashlib.sha256(seed.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    word = ""
    for _ in range(3):
        number, consonant = divmod(number, len(_CONSONANTS))
        number, vowel = divmod(number, len(_VOWELS))
        word += _CONSONANTS[consonant] + _VOWELS[vowel]
    return word


def _allowed(char: str) -> str:
    if char.isspace() or char == "_":
        return "_"
    # Letters, digits, and the marks that many scripts write their vowels with.
    return char if unicodedata.category(char)[0] in "LM" or char.isdecimal() else "-"


def _cut(name: str, characters: int) -> str:
    name = name[:characters]
    while len(name.encode("utf-8")) > _MAX_BYTES:
        name = name[:-1]
    return name.rstrip("-")
