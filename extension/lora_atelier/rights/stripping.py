"""Copies of pictures without what is personal in their files; the originals stay as they are, and rights go along.

Pixels are not encoded again: chunks and segments are left out. What the file said of its rights comes back as a small
XMP packet, so that a copy forbids whatever its original forbids.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image

from .. import atomic
from ..errors import DataError, RightsError
from . import picture_parts, signals_embedded
from .picture_parts import Part
from .signals_base import Signals

# In the folder of the copies: what they were made of, so that it can be undone.
NOTE = ".atelier-stripped.json"
SCHEMA = 1
_ORIENTATION = 0x0112
_KEPT_PNG = frozenset(
    {"IHDR", "PLTE", "IDAT", "IEND", "tRNS", "gAMA", "cHRM", "sRGB", "iCCP", "sBIT", "bKGD", "pHYs", "cICP"}
)
_KEPT_JPEG = frozenset({"APP0", "APP2", "APP14", "SOS"})
_KEPT_WEBP = frozenset({"VP8 ", "VP8L", "VP8X", "ALPH", "ANIM", "ANMF", "ICCP"})
_XMP_START = b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True)
class Stripped:
    """The folder of the copies, and how many pictures lost something."""

    folder: Path
    pictures: int
    changed: int


def strip_folder(source: Path, target: Path, names: Iterable[str], *, captions: Sequence[str] = (".txt",)) -> Stripped:
    """Make ``target`` with a copy of each picture without personal data, and its caption; whole or not at all.

    Raises DataError for a picture that can't be read or a disk that is full, RightsError if ``target`` is there.
    """
    if target.exists():
        raise RightsError(
            "The folder {folder} exists already.",
            todo="Undo the last removal first, or delete that folder.",
            folder=str(target),
        )
    listed = list(names)
    changed = 0

    def fill(folder: Path) -> None:
        nonlocal changed
        for name in listed:
            data = (source / name).read_bytes()
            copy, suffix = strip(data)
            changed += copy != data
            copied = Path(name).with_suffix(suffix) if suffix else Path(name)
            (folder / copied).write_bytes(copy)
            for extension in captions:
                caption = (source / name).with_suffix(extension)
                if caption.is_file():
                    shutil.copyfile(caption, folder / caption.name)
        note = {"schema": SCHEMA, "source": str(source), "pictures": len(listed), "changed": changed}
        (folder / NOTE).write_text(json.dumps(note, ensure_ascii=False), encoding="utf-8")

    try:
        atomic.write_folder(target, fill)
    except OSError as error:
        raise DataError(
            "The copies without personal data could not be made.",
            why="{reason}.",
            todo="Make room on the disk or check that the pictures are there, then try again.",
            reason=error.strerror or str(error),
        ) from error
    return Stripped(target, len(listed), changed)


def undo(folder: Path) -> Path:
    """Delete the copies in ``folder`` and return the folder of the originals. Raises RightsError if we did not make it.

    Only what we put there is deleted with it; a folder that somebody added files to is left alone.
    """
    try:
        said: dict[str, Any] = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        source = Path(said["source"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RightsError(
            "{folder} holds no copies that were made here.",
            todo="Choose the folder of the copies.",
            folder=str(folder),
        ) from error
    if not source.is_dir():
        raise RightsError(
            "The removal can't be undone: the originals are gone.",
            why="There is no folder {folder}.",
            todo="Put it back first; the copies stay as they are.",
            folder=str(source),
        )
    shutil.rmtree(folder)
    return source


def strip(data: bytes) -> tuple[bytes, str]:
    """A picture's bytes without metadata but colour profile, rotation and rights, and its new suffix, "" if the same.

    A format that is not taken apart here becomes PNG, pixel by pixel the same. Raises DataError for what is no picture.
    """
    opened = signals_embedded.open_metadata(data)
    said = signals_embedded.read(data, opened)
    packet = rights_packet(said)
    orientation = opened.exif.get(_ORIENTATION, 1)
    orientation = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    write: dict[str, Callable[[bytes, bytes, int], bytes]] = {"png": _png, "jpeg": _jpeg, "webp": _webp}
    kind = picture_parts.kind_of(data)
    if kind in write:
        return write[kind](data, packet, orientation), ""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            kept = (
                picture.copy()
                if picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
                else picture.convert("RGB")
            )
            file = io.BytesIO()
            kept.info = {key: kept.info[key] for key in ("icc_profile", "transparency") if key in kept.info}
            kept.save(file, "PNG", icc_profile=kept.info.get("icc_profile"))
    except Exception as error:  # decoders fail in many ways, all of which mean this
        raise DataError(
            "A picture can't be read.", why="{reason}.", todo="Save it again as PNG or JPEG.", reason=str(error)
        ) from error
    return _png(file.getvalue(), packet, orientation), ".png"


def rights_packet(said: Signals) -> bytes:
    """A small XMP packet of what a picture says of its rights; empty if it says nothing.

    A prohibition of any kind becomes PLUS' plainest one of training, beside the words that it had.
    """
    rights = said.rights
    term = ""
    if said.prohibited:
        term = next((name for name in said.terms if name.startswith("DMI-PROHIBITED")), "DMI-PROHIBITED-AIMLTRAINING")
    elif said.data_mining == "allowed" and "DMI-ALLOWED" in said.terms:
        term = "DMI-ALLOWED"
    inside = _listed("dc:creator", rights.creators, "Seq")
    inside += _listed("dc:rights", (rights.notice,) if rights.notice else (), "Alt")
    inside += _listed("xmpRights:UsageTerms", (rights.terms,) if rights.terms else (), "Alt")
    for name, value in (("xmpRights:WebStatement", rights.web_statement), ("cc:license", rights.licence),
                        ("photoshop:Credit", rights.credit)):  # fmt: skip
        inside += f"<{name}>{escape(value)}</{name}>" if value else ""
    if term:
        inside += f"<plus:DataMining>http://ns.useplus.org/ldf/vocab/{term}</plus:DataMining>"
    if not inside:
        return b""
    spaces = (
        ("rdf", "http://www.w3.org/1999/02/22-rdf-syntax-ns#"), ("plus", "http://ns.useplus.org/ldf/xmp/1.0/"),
        ("dc", "http://purl.org/dc/elements/1.1/"), ("xmpRights", "http://ns.adobe.com/xap/1.0/rights/"),
        ("cc", "http://creativecommons.org/ns#"), ("photoshop", "http://ns.adobe.com/photoshop/1.0/"),
    )  # fmt: skip
    names = " ".join(f'xmlns:{prefix}="{address}"' for prefix, address in spaces)
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF {names}><rdf:Description rdf:about="">{inside}</rdf:Description></rdf:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>'
    ).encode("utf-8", "replace")


def _listed(name: str, values: Iterable[str], kind: str) -> str:
    language = ' xml:lang="x-default"' if kind == "Alt" else ""
    items = "".join(f"<rdf:li{language}>{escape(value)}</rdf:li>" for value in values)
    return f"<{name}><rdf:{kind}>{items}</rdf:{kind}></{name}>" if items else ""


def _exif(orientation: int) -> bytes:
    """A TIFF block with nothing but the orientation."""
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, _ORIENTATION, 3, 1, orientation, 0, 0)


def _png(data: bytes, packet: bytes, orientation: int) -> bytes:
    kept = [part for part in picture_parts.parts(data) if part.kind in _KEPT_PNG]
    made = [picture_parts.PNG_START]
    for part in kept:
        made.append(data[part.start : part.end])
        if part.kind == "IHDR":
            if packet:
                made.append(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))
            if orientation != 1:
                made.append(_chunk(b"eXIf", _exif(orientation)))
    return b"".join(made)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _jpeg(data: bytes, packet: bytes, orientation: int) -> bytes:
    made, rest = [data[:2]], []
    for part in picture_parts.parts(data):
        if not part.kind.startswith("APP") and part.kind != "COM":
            rest.append(_until_end(data, part))
        elif part.kind in _KEPT_JPEG and (part.kind != "APP2" or part.data.startswith(b"ICC_PROFILE\0")):
            rest.append(data[part.start : part.end])
    if orientation != 1:
        made.append(_segment(b"Exif\0\0" + _exif(orientation)))
    if packet and len(packet) + len(_XMP_START) < 65_000:
        made.append(_segment(_XMP_START + packet))
    # JFIF's segment comes first where there is one.
    first = rest[:1] if rest and rest[0][1:2] == b"\xe0" else []
    return b"".join([data[:2], *first, *made[1:], *rest[len(first) :]])


def _until_end(data: bytes, part: Part) -> bytes:
    """A JPEG's compressed data to its end mark: what somebody appended is not part of the picture."""
    piece = data[part.start : part.end]
    if part.kind == "SOS":
        end = piece.rfind(b"\xff\xd9")
        return piece[: end + 2] if end >= 0 else piece
    return piece


def _segment(content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, 0xE1, len(content) + 2) + content


def _webp(data: bytes, packet: bytes, orientation: int) -> bytes:
    chunks = [(part, data[part.start : part.end]) for part in picture_parts.parts(data) if part.kind in _KEPT_WEBP]
    tail = b""
    for kind, content in ((b"EXIF", _exif(orientation) if orientation != 1 else b""), (b"XMP ", packet)):
        if content:
            tail += kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    body = b""
    for part, whole in chunks:
        if part.kind == "VP8X":
            # Bit 3 says that there is EXIF, bit 2 XMP (WebP Container Specification, "Extended File Format").
            flags = (part.data[0] & ~0x0C) | (0x08 if orientation != 1 else 0) | (0x04 if packet else 0)
            whole = whole[:8] + bytes([flags]) + whole[9:]
        body += whole
    if tail and not any(part.kind == "VP8X" for part, _ in chunks):
        body = _extended(data, orientation, packet) + body
    return b"RIFF" + struct.pack("<I", len(body) + len(tail) + 4) + b"WEBP" + body + tail


def _extended(data: bytes, orientation: int, packet: bytes) -> bytes:
    """The VP8X chunk that a simple WebP needs to have metadata."""
    with Image.open(io.BytesIO(data)) as picture:
        width, height, alpha = picture.width, picture.height, picture.mode == "RGBA"
    flags = (0x10 if alpha else 0) | (0x08 if orientation != 1 else 0) | (0x04 if packet else 0)
    content = struct.pack("<I", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X" + struct.pack("<I", len(content)) + content
