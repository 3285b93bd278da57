"""An XMP packet put into a finished JPEG or WebP file, every other byte of which stays as it is.

Sources: XMP specification part 3, 1.1.3 (JPEG: an APP1 segment behind the Exif one); WebP Container Specification.
"""

from __future__ import annotations

import struct

from . import picture_parts

_XMP_START = b"http://ns.adobe.com/xap/1.0/\0"
_LARGEST_SEGMENT = 65_533
# Of a WebP's VP8X chunk: its first byte's bit 2 says that there is XMP.
_HAS_XMP = 0x04


def add(data: bytes, packet: bytes) -> bytes:
    """Return the file with the packet in it; the same bytes where it has XMP already, says nothing in Exif (whoever
    wrote it wants no metadata) or is of another format."""
    kind = picture_parts.kind_of(data)
    if kind == "jpeg":
        return _jpeg(data, packet)
    return _webp(data, packet) if kind == "webp" else data


def _jpeg(data: bytes, packet: bytes) -> bytes:
    found = list(picture_parts.parts(data))
    exif = [part for part in found if part.kind == "APP1" and part.data.startswith(b"Exif\0\0")]
    content = _XMP_START + packet
    too_long = len(content) + 2 > _LARGEST_SEGMENT
    if not exif or too_long or any(part.kind == "APP1" and part.data.startswith(_XMP_START) for part in found):
        return data
    at = exif[-1].end
    return data[:at] + struct.pack(">BBH", 0xFF, 0xE1, len(content) + 2) + content + data[at:]


def _webp(data: bytes, packet: bytes) -> bytes:
    found = {part.kind: part for part in picture_parts.parts(data)}
    head = found.get("VP8X")
    if head is None or "EXIF" not in found or "XMP " in found:
        return data
    end = max(part.end for part in found.values())
    flags = head.start + 8
    body = data[12:flags] + bytes([data[flags] | _HAS_XMP]) + data[flags + 1 : end]
    body += b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
