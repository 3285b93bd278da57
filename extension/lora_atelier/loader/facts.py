"""What an adapter file or a card beside it says of itself, in the few words that a list shows. Needs no torch.

Of a header only the metadata is parsed; families, rank and base model are read off the text of some entries, because
parsing all of them takes ten times as long. Whether a file fits is decided when it is loaded, not here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .. import safetensors_header
from ..adapters import hashes, keys
from ..errors import Message, message
from ..safetensors_header import BrokenFileError


class Facts(NamedTuple):
    """What is kept of one version of an adapter file; "" and 0 where the file does not say it.

    ``alias`` is the name inside the file, ``base`` the family of models it was trained for ("toy", "sd1", "sd2",
    "sdxl", or the name of one that can't be used), ``family`` the kinds of its layers, joined by "+", ``rank`` that of
    its first low-rank layer. ``content_hash`` is kohya's SHA-256 of the weights, ``file_hash`` that of the whole file,
    which webuis and Civitai shorten to 10 digits (AutoV2). ``problem`` is a Message as JSON.
    """

    alias: str = ""
    trigger_words: str = ""
    base: str = ""
    family: str = ""
    rank: int = 0
    content_hash: str = ""
    file_hash: str = ""
    problem: str = ""


class Card(NamedTuple):
    """What is kept of a card: A1111's ``name.json`` or the ``name.civitai.info`` of Civitai's helpers."""

    trigger_words: str = ""
    preferred_weight: float = 0.0
    description: str = ""


def read_facts(path: Path) -> Facts:
    """Return the facts of a .safetensors file; what is wrong with its bytes is one of them. Raises OSError."""
    try:
        skimmed = safetensors_header.skim(path)
    except BrokenFileError as error:
        return Facts(problem=broken(error))
    metadata, text = skimmed.metadata, skimmed.entries
    family = _family(text)
    attention = _cross_attention(text)
    return Facts(
        alias=_clean(metadata.get("ss_output_name", "").strip()),
        trigger_words=_clean(metadata.get("modelspec.trigger_phrase", "")),
        base=_base(text, attention, metadata),
        family=family,
        rank=_rank(text, attention, metadata),
        content_hash=hashes.said(metadata),
    )


def broken(error: BrokenFileError) -> str:
    """The problem of a file whose bytes are no complete .safetensors file."""
    return problem_text(message("The file is broken or incomplete: {reason}.", reason=_clean(str(error))))


def problem_text(said: Message) -> str:
    """A problem as it stands in ``Facts``."""
    return json.dumps(said.to_json())


def read_card(path: Path) -> Card:
    """Return a card's content; a broken card is an empty one, because the adapter works without it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return Card()
    if not isinstance(data, dict):
        return Card()
    words = data.get("trainedWords")
    return Card(
        trigger_words=_clean(
            str(data.get("activation text") or "")
            or (", ".join(str(word) for word in words) if isinstance(words, list) else "")
        ),
        preferred_weight=_number(data.get("preferred weight")),
        description=_clean(str(data.get("description") or "")),
    )


# --- families

# Ends of keys ("weight" and PEFT's "default" aside) and the family that each tells; files in adapters/ have the names.
_TELLS = {
    "lora": ("lora_down", "lora_up", "lora_A", "lora_B", "down", "up"),
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "lokr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
    "full": ("diff", "diff_b"),
    "norm": ("w_norm", "b_norm"),
    "ia3": ("on_input",),
    "oft": ("oft_blocks", "oft_diag"),
    "glora": ("a1", "a2", "b1", "b2"),
    "dora": ("dora_scale", "lora_magnitude_vector"),
}
_FAMILY_OF = {end: family for family, ends in _TELLS.items() for end in ends}
_END = re.compile(r'\.([A-Za-z]\w*)(?:\.default)?(?:\.weight)?"\s*:')
_OFT_BLOCKS = re.compile(r'oft_blocks"\s*:\s*(\{[^}]*\})')
# A long header is looked at in this many places, each a few layers' entries long.
_PLACES, _PLACE_CHARACTERS = 16, 480


def _family(text: str) -> str:
    found = {_FAMILY_OF[end] for end in _END.findall(_sample(text)) if end in _FAMILY_OF}
    if not found:
        found = {family for family, ends in _TELLS.items() if any(f".{end}" in text for end in ends)}
    if "oft" in found:
        # LyCORIS' BOFT has one dimension more under the same name.
        blocks = _OFT_BLOCKS.search(text)
        if blocks is not None and len(_shape(blocks.group(1))) == 4:
            found = {"boft" if each == "oft" else each for each in found}
    order = [*_TELLS, "boft"]
    return "+".join(sorted(found, key=order.index))


def _sample(text: str) -> str:
    if len(text) <= 2 * _PLACES * _PLACE_CHARACTERS:
        return text
    step = (len(text) - _PLACE_CHARACTERS) // (_PLACES - 1)
    return "\n".join(text[at * step : at * step + _PLACE_CHARACTERS] for at in range(_PLACES))


# --- base model and rank

_KEY = re.compile(r'"([^"]*)"\s*:\s*(\{[^}]*\})')
# The matrix of a cross-attention whose columns are the text's width and whose rows are the rank (LoKr: the rank alone).
_CROSS = re.compile(
    r'attn2[._](?:processor\.)?to_k(?:_lora)?\.(?:lora_down|lora\.down|down|lora_A|hada_w1_b|lokr_w[12]_b)[^"]*"'
    r"\s*:\s*(\{[^}]*\})"
)
# Names that only SDXL's files have, as keys.trained_for knows them.
_ONLY_SDXL = ("lora_te2_", "text_encoder_2.", "transformer_blocks_9_", "transformer_blocks.9.")
# The first matrix of each low-rank family, whose first size is the rank.
_FIRST_MATRIX = ("lora_down", "lora.down", "lora_A", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", ".down.weight")


def _cross_attention(text: str) -> dict[str, tuple[int, ...]]:
    """Key and shape of the first cross-attention's matrix that tells text width and rank; empty if there is none."""
    found = _CROSS.search(text)
    if found is None:
        return {}
    key, _, _ = text[text.rfind('"', 0, found.start()) + 1 : found.end()].partition('"')
    return {key: _shape(found.group(1))}


def _base(text: str, attention: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> str:
    base = keys.trained_for(attention, {})
    if base:
        return base
    # Nothing in attention tells (LoKr, (IA)³, a text encoder alone): look for SDXL's own names.
    telling = dict(entry for part in _ONLY_SDXL if (entry := _entry_with(part, text)))
    some = {found.group(1): () for found in _KEY.finditer(_sample(text))}
    return keys.trained_for(telling, {}) or keys.foreign_base(some) or keys.said_base(metadata)


def _rank(text: str, attention: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> int:
    for part in _FIRST_MATRIX:
        shape = next((shape for key, shape in attention.items() if part in key), None)
        if shape is None and not attention and (entry := _entry_with(part, text)) is not None:
            shape = entry[1]
        if shape:
            return shape[0]
    said = metadata.get("ss_network_dim", "")
    return int(said) if said.isascii() and said.isdecimal() and len(said) < 6 else 0


def _entry_with(part: str, text: str) -> tuple[str, tuple[int, ...]] | None:
    """The first entry whose key holds ``part``: key and shape."""
    at = text.find(part)
    found = _KEY.match(text, text.rfind('"', 0, at)) if at > 0 else None
    return (found.group(1), _shape(found.group(2))) if found is not None else None


def _shape(entry: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in json.loads(entry)["shape"])
    except (ValueError, TypeError, KeyError):
        return ()


def _clean(text: str) -> str:
    # Half a surrogate pair, which JSON can hold, can't be stored or sent to a page.
    return text.encode("utf-8", "replace").decode("utf-8")


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if abs(number) < 1000 else 0.0
