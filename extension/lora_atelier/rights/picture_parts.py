"""The parts of a picture file beside its pixels: PNG's chunks, JPEG's segments, WebP's chunks. Bounded on every input.

Sources: PNG specification 3rd edition 5; ITU-T T.81 annex B; WebP Container Specification (RIFF).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_MAX_PARTS = 100_000
# What one compressed text may come to; real ones have kilobytes.
MAX_TEXT_BYTES = 8_000_000
PNG_START = b"\x89PNG\r\n\x1a\n"
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_SOS, _EOI = 0xDA, 0xD9


@dataclass(frozen=True)
class Part:
    """One part: PNG's chunk type, "APP1", "COM" … of a JPEG, or WebP's four letters; ``start`` to ``end`` in the file.

    ``data`` is its content without header and checksum.
    """

    kind: str
    data: bytes
    start: int
    end: int


def kind_of(data: bytes) -> str:
    """ "png", "jpeg", "webp", "tiff", or "" for what is taken apart by nobody here."""
    if data.startswith(PNG_START):
        return "png"
    if data.startswith(b"\xff\xd8"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "tiff" if data[:4] in (b"II*\0", b"MM\0*") else ""


def parts(data: bytes) -> Iterator[Part]:
    """The parts in their order; ends without a word where the file is cut off or makes no sense."""
    walk = {"png": _png, "jpeg": _jpeg, "webp": _webp}.get(kind_of(data))
    if walk is None:
        return
    for number, part in enumerate(walk(data)):
        if number >= _MAX_PARTS:
            return
        yield part


def _png(data: bytes) -> Iterator[Part]:
    at = len(PNG_START)
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        end = at + 12 + size
        if end > len(data):
            return
        kind = data[at + 4 : at + 8].decode("latin-1")
        yield Part(kind, data[at + 8 : end - 4] if kind != "IDAT" else b"", at, end)
        if kind == "IEND":
            return
        at = end


def _jpeg(data: bytes) -> Iterator[Part]:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        if marker in (_SOS, _EOI):
            # Compressed data, and whatever else, to the end of the file.
            yield Part("SOS", b"", at, len(data))
            return
        (size,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + size
        if size < 2 or end > len(data):
            return
        name = f"APP{marker - 0xE0}" if 0xE0 <= marker <= 0xEF else "COM" if marker == 0xFE else f"{marker:02X}"
        yield Part(name, data[at + 4 : end], at, end)
        at = end


def _webp(data: bytes) -> Iterator[Part]:
    at = 12
    while at + 8 <= len(data):
        kind = data[at : at + 4].decode("latin-1")
        (size,) = struct.unpack_from("<I", data, at + 4)
        end = at + 8 + size
        if end > len(data):
            return
        yield Part(
            kind, data[at + 8 : end] if kind not in ("VP8 ", "VP8L", "ANMF", "ALPH") else b"", at, end + size % 2
        )
        at = end + size % 2


def png_text(part: Part) -> tuple[str, bytes] | None:
    """Keyword and text of a tEXt, zTXt or iTXt chunk, unpacked up to a limit; None for another or a broken one.

    A text that grows beyond the limit is given cut off.
    """
    keyword, found, rest = part.data.partition(b"\0")
    if not found or part.kind not in ("tEXt", "zTXt", "iTXt"):
        return None
    packed = part.kind == "zTXt"
    if part.kind == "zTXt":
        rest = rest[1:]
    elif part.kind == "iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:]
        pieces = rest.split(b"\0", 2)
        if len(pieces) != 3:
            return None
        rest = pieces[2]
    if packed:
        try:
            rest = zlib.decompressobj().decompress(rest, MAX_TEXT_BYTES + 1)
        except zlib.error:
            return None
    return keyword.decode("latin-1"), rest
