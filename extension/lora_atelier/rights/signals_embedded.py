"""What a picture's own bytes say: XMP wherever it lies, EXIF, IPTC's older IIM, content credentials. Needs no torch."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, IptcImagePlugin

from . import picture_parts, signals_c2pa, signals_xmp
from .signals_base import Rights, Signal, Signals, signal

# Words by which people forbid training in a copyright line; what they mean needs a person.
_FORBIDDING = re.compile(
    r"無断(?:学習|転載・学習|AI学習)|(?:AI|ＡＩ|機械)\s*学習(?:を|は|に)?[^。\n]{0,12}(?:禁止|禁ず|不可|お断り)|学習禁止"
    r"|\bno[ -]?(?:gen(?:erative)?[ -]?)?AI\b(?![ -]?generated)|\bnoai\b"
    r"|\b(?:do not|don[’']t|not to be used (?:to|for)|may not be used (?:to|for)|no)\s+(?:AI\s+|ML\s+)?train(?:ing)?\b"
    r"|\bno (?:AI|ML|machine learning) (?:training|use)\b|\bAI training (?:is )?(?:prohibited|forbidden|not allowed)\b",
    re.IGNORECASE,
)
_ARTIST, _COPYRIGHT, _DESCRIPTION, _USER_COMMENT, _EXIF_IFD = 315, 33432, 270, 37510, 0x8769


@dataclass(frozen=True)
class Opened:
    """What Pillow tells of a picture without decoding it; all empty where it can't be opened."""

    exif: dict[int, Any] = field(default_factory=dict)
    exif_sub: dict[int, Any] = field(default_factory=dict)
    gps: dict[int, Any] = field(default_factory=dict)
    iim: dict[tuple[int, int], Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    tags: dict[int, Any] = field(default_factory=dict)


def open_metadata(data: bytes) -> Opened:
    """Read EXIF, IIM and what else the decoder gives. Broken parts are left out; never raises for what is in them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = Image.open(io.BytesIO(data))
        except Exception:  # broken in any of the ways decoders know: whoever decodes it for use reports that
            return Opened()
        with picture:
            exif = _tried(picture.getexif)
            return Opened(
                exif=dict(exif) if exif is not None else {},
                exif_sub=_ifd(exif, _EXIF_IFD),
                gps=_ifd(exif, 0x8825),
                iim=_tried(lambda: IptcImagePlugin.getiptcinfo(picture)) or {},
                info={key: value for key, value in picture.info.items() if isinstance(key, str)},
                tags=_tried(lambda: dict(getattr(picture, "tag_v2", {}))) or {},
            )


def _tried(read: Any) -> Any:
    try:
        return read()
    except Exception:  # Pillow's readers of metadata raise whatever they stumble over
        return None


def _ifd(exif: Any, number: int) -> dict[int, Any]:
    return dict(_tried(lambda: exif.get_ifd(number)) or {}) if exif is not None else {}


def read(data: bytes, opened: Opened | None = None) -> Signals:
    """All that a picture's bytes say. Never raises for what is in them."""
    opened = open_metadata(data) if opened is None else opened
    said = Signals()
    for packet in _packets(data, opened):
        said = said.merged(signals_xmp.read(packet, "xmp"))
    for where, rights in (("exif", _exif(opened)), ("iim", _iim(opened))):
        said = said.merged(Signals((), rights))
        said = said.merged(Signals(tuple(forbidding(where, rights.notice, rights.terms))))
    said = said.merged(Signals(tuple(forbidding("xmp", said.rights.notice, said.rights.terms, said.rights.credit))))
    said = said.merged(Signals(tuple(forbidding("exif", *_comments(opened)))))
    return said.merged(Signals(tuple(signals_c2pa.read(data, signals_c2pa.tiff_manifest(opened.tags)))))


def forbidding(where: str, *texts: str) -> Iterator[Signal]:
    """Signals of texts in which people forbid training in words of their own."""
    for text in texts:
        if found := _FORBIDDING.search(text[:20_000]):
            around = text[max(0, found.start() - 40) : found.end() + 40]
            yield signal("text", where, around, "not_allowed")


def _packets(data: bytes, opened: Opened) -> Iterator[signals_xmp.Packet]:
    """The packets that lie openly in the bytes, and those that have to be unpacked."""
    open_ones = signals_xmp.packets(data)
    yield from open_ones
    hidden: list[bytes] = []
    if picture_parts.kind_of(data) == "png":
        for part in picture_parts.parts(data):
            text = picture_parts.png_text(part) if part.kind in ("zTXt", "iTXt") else None
            if text is not None and "xmp" in text[0].lower():
                hidden.append(text[1])
    for key in ("xmp", "XML:com.adobe.xmp", "Raw profile type xmp"):
        value = opened.info.get(key)
        hidden.append(value.encode("utf-8", "replace") if isinstance(value, str) else value or b"")
    known = {packet.data.strip(b"\0 \r\n\t") for packet in open_ones}
    for value in hidden:
        if not isinstance(value, bytes) or not value:
            continue
        if len(value) > picture_parts.MAX_TEXT_BYTES:
            yield signals_xmp.Packet(value, tainted=True)
            continue
        inside = signals_xmp.packets(value)
        for packet in inside or [signals_xmp.Packet(value)]:
            if packet.data.strip(b"\0 \r\n\t") not in known:
                yield packet


def _exif(opened: Opened) -> Rights:
    return Rights(
        creators=_people(opened.exif.get(_ARTIST)),
        notice=_text(opened.exif.get(_COPYRIGHT)).replace("\0", "; "),
    )


def _iim(opened: Opened) -> Rights:
    """2:80 by-line, 2:110 credit, 2:116 copyright notice (IPTC-NAA IIM 4.2)."""
    bylines = opened.iim.get((2, 80))
    listed = bylines if isinstance(bylines, list) else [bylines]
    return Rights(
        creators=tuple(name for value in listed if (name := _text(value))),
        notice=_text(opened.iim.get((2, 116))),
        credit=_text(opened.iim.get((2, 110))),
    )


def _comments(opened: Opened) -> Iterator[str]:
    yield _text(opened.exif.get(_DESCRIPTION))
    yield _text(opened.exif_sub.get(_USER_COMMENT))
    for key in ("comment", "Description", "Comment", "Copyright", "License", "Title"):
        yield _text(opened.info.get(key))


def _people(value: Any) -> tuple[str, ...]:
    return tuple(name.strip() for name in _text(value).split(";") if name.strip())


def _text(value: Any) -> str:
    """A tag's text in whichever of the encodings that cameras and programs wrote it."""
    if isinstance(value, list | tuple):
        value = value[0] if value else ""
    if isinstance(value, bytes):
        raw = value[8:] if value[:8] in (b"ASCII\0\0\0", b"UNICODE\0", b"\0" * 8) else value
        for encoding in ("utf-8", "cp932"):
            try:
                return raw.decode(encoding).strip("\0 \r\n\t")
            except UnicodeDecodeError:
                continue
        return raw.decode("latin-1").strip("\0 \r\n\t")
    if not isinstance(value, str):
        return ""
    with contextlib.suppress(UnicodeEncodeError, UnicodeDecodeError):
        # Pillow reads EXIF's text as Latin-1; most programs write UTF-8 there.
        value = value.encode("latin-1").decode("utf-8")
    return value.strip("\0 \r\n\t")
