"""Content credentials (C2PA) in a picture: what their training-mining assertions say, without checking any signature.

A prohibition counts whoever made it; nobody gains by forging one. A manifest that can't be read, or that lies
elsewhere, is noted and keeps everything else from being read as permission. ``signals_verified`` checks signatures.
Sources: C2PA specification 2.1, 11 (JUMBF) and annex A (embedding in JPEG, PNG, TIFF, RIFF, BMFF); CAWG Training and
Data Mining 1.1.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from . import cbor, picture_parts
from .signals_base import Signal, Use, signal

MAX_BYTES = 64_000_000
_MAX_DEPTH = 8
_MAX_BOXES = 5000
_ASSERTIONS = ("cawg.training-mining", "c2pa.training-mining")
# What these say concerns training; ai_inference does not.
_TRAINING = ("ai_generative_training", "ai_training", "data_mining")
_USES: dict[str, Use] = {"allowed": "allowed", "notAllowed": "not_allowed", "constrained": "constrained"}
_TIFF_TAG = 52545
_BMFF_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


def read(data: bytes, tiff_manifest: bytes = b"") -> Iterator[Signal]:
    """The signals of the manifests in a picture's bytes. Never raises for what is in them."""
    store = tiff_manifest or _store(data)
    if not store:
        if b"jumb" in data and b"c2pa" in data:
            yield signal("c2pa", "c2pa", "a C2PA manifest that can't be read", "unread", seal="unchecked")
        return
    try:
        found = list(_assertions(store))
    except (ValueError, struct.error, RecursionError):
        # What could be read before the damage may forbid; permission it gives no more.
        yield from (one for one in _salvaged(store) if one.use in ("not_allowed", "constrained"))
        yield signal("c2pa", "c2pa", "a C2PA manifest that can't be read", "unread", seal="unchecked")
        return
    if not found:
        yield signal("c2pa", "c2pa", "a C2PA manifest without a statement on training", "unspecified", seal="unchecked")
    yield from found


def _store(data: bytes) -> bytes:
    """The manifest store's JUMBF box of a PNG, JPEG or WebP; empty where there is none."""
    kind = picture_parts.kind_of(data)
    if kind == "jpeg":
        return _from_segments(part.data for part in picture_parts.parts(data) if part.kind == "APP11")
    if data[4:8] == b"ftyp":
        return _from_bmff(data)
    name = {"png": "caBX", "webp": "C2PA"}.get(kind)
    return next((part.data for part in picture_parts.parts(data) if part.kind == name), b"") if name else b""


def _from_segments(segments: Iterator[bytes]) -> bytes:
    """The JUMBF box that is spread over APP11 segments: "JP", box number (2), sequence (4), then the box, whose header
    every segment repeats."""
    boxes: dict[int, bytearray] = {}
    for segment in segments:
        if segment[:2] != b"JP" or len(segment) < 16:
            continue
        number = int.from_bytes(segment[2:4], "big")
        header = 16 if segment[8:12] == b"\0\0\0\1" else 8
        if number not in boxes:
            boxes[number] = bytearray(segment[8:])
        else:
            boxes[number] += segment[8 + header :]
    # One that is too short to say whose it is may have been ours.
    return next((bytes(box) for box in boxes.values() if b"c2pa" in box[:64] or len(box) < 64), b"")


def _from_bmff(data: bytes) -> bytes:
    """The manifest store of an AVIF or HEIC file, from the first "uuid" box of C2PA's: its UUID (16), version and flags
    (4), "manifest" up to a zero byte, an offset (8), then the store."""
    at, left = 0, _MAX_BOXES
    while at + 8 <= len(data) and left:
        left -= 1
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1 and at + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, at + 8)
            start += 8
        end = at + size if size else len(data)
        if end < start:
            return b""
        if kind == b"uuid" and data[start : start + 16] == _BMFF_UUID:
            purpose, found, rest = data[start + 20 : end].partition(b"\0")
            return rest[8:] if found and purpose == b"manifest" else b""
        at = end
    return b""


def _assertions(store: bytes) -> Iterator[Signal]:
    for label, kind, content in _content(store, "", 0, [0]):
        name = label.partition("__")[0]
        if name in _ASSERTIONS:
            said = json.loads(content) if kind == b"json" else cbor.decode(content) if kind == b"cbor" else None
            yield from _entries(name, said)


def _salvaged(store: bytes) -> Iterator[Signal]:
    try:
        yield from _assertions(store)
    except (ValueError, struct.error, RecursionError):
        return


def _entries(name: str, said: Any) -> Iterator[Signal]:
    """The signals of one assertion. Raises ValueError if it has another form than any we know."""
    entries = said.get("entries") if isinstance(said, dict) else None
    if not isinstance(entries, dict):
        raise ValueError("no entries")
    for key, entry in entries.items():
        use = str(entry.get("use", "")) if isinstance(entry, dict) else str(entry)
        yield signal(name, "c2pa", f"{key}: {use}", use_of(str(key), use), seal="unchecked")


def use_of(purpose: str, word: str) -> Use:
    """What an assertion's ``word`` for a purpose ("cawg.ai_training") says of training."""
    if purpose.rpartition(".")[2] not in _TRAINING:
        return "unspecified"
    # A word that we don't know forbids nothing, and permits nothing.
    return _USES.get(word, "unread")


def _content(data: bytes, label: str, depth: int, count: list[int]) -> Iterator[tuple[str, bytes, bytes]]:
    """The content boxes in ``data`` as (label of the superbox, type, content). Raises ValueError for what is broken."""
    at = 0
    while at < len(data):
        count[0] += 1
        if depth > _MAX_DEPTH or count[0] > _MAX_BOXES:
            raise ValueError("too many boxes")
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            start += 8
        end = at + size if size else len(data)
        if end > len(data) or end < start:
            raise ValueError("cut off")
        if kind == b"jumb":
            yield from _content(data[start:end], "", depth + 1, count)
        elif kind == b"jumd":
            # UUID (16), toggles (1), then the label up to a zero byte where bit 1 is set.
            described = data[start:end]
            if len(described) >= 17 and described[16] & 2:
                label = described[17:].partition(b"\0")[0].decode("utf-8", errors="replace")
        else:
            yield label, kind, data[start:end]
        at = end


def tiff_manifest(tags: dict[int, Any]) -> bytes:
    """The manifest store among a TIFF's tags; empty where there is none."""
    value = tags.get(_TIFF_TAG)
    if isinstance(value, tuple):
        value = bytes(item & 255 for item in value if isinstance(item, int))
    return value if isinstance(value, bytes) and len(value) <= MAX_BYTES else b""
