"""CLIP's tokenizer: text -> token numbers. Its word list comes from the model's folder or from open_clip_torch."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ..errors import ModelError
from . import inversions
from .inversions import Inversions

# The pattern and the byte-level BPE of openai/CLIP's simple_tokenizer.py.
_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_START, _END = "<|startoftext|>", "<|endoftext|>"
# CLIP-L pads with the end token, OpenCLIP with "!", number 0.
_CLIP_TOKENS = 49408


class ClipTokenizer:
    """Byte-pair encoding with CLIP's rules; ``length`` is the text encoder's window, both end marks included."""

    def __init__(self, bpe: Tokenizer, *, start: int, end: int, pad: int, length: int = 77) -> None:
        self._bpe = bpe
        self.start, self.end, self.pad, self.length = start, end, pad, length

    def tokens(self, text: str) -> list[int]:
        """The text's token numbers, without end marks and of any number."""
        return list(self._bpe.encode(text, add_special_tokens=False).ids)

    def windows(self, text: str, count: int | None = 1, inversions: Inversions = inversions.NONE) -> list[list[int]]:
        """Return ``count`` windows of ``length`` token numbers each, or as many as the text needs if None.

        Each begins with the start mark, then up to ``length - 2`` tokens, then the end mark, then padding. What does
        not fit into ``count`` windows is left out.
        """
        return self.windows_of(inversions.tokens(text, self.tokens), count)

    def windows_of(self, tokens: Sequence[int], count: int | None = 1) -> list[list[int]]:
        """Return the windows of a text whose token numbers are known; see ``windows``."""
        room = self.length - 2
        needed = max(1, -(-len(tokens) // room))
        windows = []
        for at in range(count if count is not None else needed):
            part = tokens[at * room : (at + 1) * room]
            windows.append([self.start, *part, self.end, *[self.pad] * (room - len(part))])
        return windows


def from_folder(folder: Path, length: int = 77) -> ClipTokenizer | None:
    """Return the tokenizer of a diffusers folder (``tokenizer/``), or None if it has no word list of its own."""
    fast, vocab, merges = folder / "tokenizer.json", folder / "vocab.json", folder / "merges.txt"
    try:
        if vocab.is_file() and merges.is_file():
            words = json.loads(vocab.read_text(encoding="utf-8"))
            pairs = _pairs(merges.read_text(encoding="utf-8").split("\n"))
        elif fast.is_file():
            model = json.loads(fast.read_text(encoding="utf-8"))["model"]
            words = model["vocab"]
            pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
        else:
            return None
        if not isinstance(words, dict) or any(word not in words for pair in pairs for word in (*pair, "".join(pair))):
            raise ValueError("the word list and the merges do not belong together")
        pad = _pad_token(folder)
        return _build(words, pairs, pad=words[pad] if pad in words else words[_END], length=length)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "The tokenizer in {path} can't be read.",
            why="{error}.",
            todo="Copy or download the model again.",
            path=str(folder),
            error=str(error),
        ) from error


def clip(*, pad_with_end: bool) -> ClipTokenizer:
    """Return CLIP's own tokenizer (49 408 tokens). Raises ModelError if the package with its word list is missing."""
    numbers, pairs = clip_words()
    return _build(numbers, pairs, pad=numbers[_END] if pad_with_end else 0)


def clip_words() -> tuple[dict[str, int], list[tuple[str, ...]]]:
    """Return CLIP's word list, each word's number, and its merges in order. Raises ModelError as ``clip`` does."""
    spec = importlib.util.find_spec("open_clip")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = next((Path(f) / "bpe_simple_vocab_16e6.txt.gz" for f in folders), None)
    if path is None or not path.is_file():
        raise ModelError(
            "CLIP's word list is missing.",
            why="The package open_clip_torch, which holds it, is not installed.",
            todo="Run install.py again, or use a diffusers folder that has its own tokenizer.",
        )
    # openai/CLIP: the first line is a comment; 49 152 tokens, less the 256 byte forms, each alone and at a word's end,
    # less the 2 marks, are merges.
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    pairs = _pairs(lines)
    alphabet = byte_forms()
    words = [*alphabet, *(form + "</w>" for form in alphabet), *("".join(pair) for pair in pairs), _START, _END]
    numbers = {word: number for number, word in enumerate(words)}
    assert len(numbers) == _CLIP_TOKENS
    return numbers, pairs


def _build(words: Mapping[str, int], pairs: Sequence[tuple[str, ...]], *, pad: int, length: int = 77) -> ClipTokenizer:
    bpe = Tokenizer(
        models.BPE(
            vocab=dict(words),
            merges=[(pair[0], pair[1]) for pair in pairs],
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=_END,
        )
    )
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    # Written out in a prompt they are the marks, as in CLIP's own code.
    bpe.add_special_tokens([_START, _END])
    return ClipTokenizer(bpe, start=words[_START], end=words[_END], pad=pad, length=length)


def _pairs(lines: Sequence[str]) -> list[tuple[str, ...]]:
    split = (tuple(line.split(" ")) for line in lines if line and not line.startswith("#version"))
    return [pair for pair in split if len(pair) == 2]


def _pad_token(folder: Path) -> str:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.is_file():
            pad = json.loads(path.read_text(encoding="utf-8")).get("pad_token")
            pad = pad.get("content") if isinstance(pad, dict) else pad
            if pad:
                return str(pad)
    return _END


def byte_forms() -> list[str]:
    """Return the 256 characters that stand for bytes in CLIP's word list: the visible ones, then the rest moved up."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = range(256, 256 + 256 - len(visible))
    return [chr(code) for code in (*visible, *moved)]
