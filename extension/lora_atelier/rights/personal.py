"""Personal data in a picture's file and caption, for a person to look at: places, serial numbers, names, addresses.

For faces see ``datasets.faces``. Finding nothing never means that there is nothing.
Sources: EXIF 3.0 4.6 (GPS, serial numbers, owner); IPTC Photo Metadata Standard 2023.2 (PersonInImage, Location).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from . import signals_xmp
from .signals_embedded import Opened, open_metadata

_OWNER, _BODY, _LENS_SERIAL, _MAKER_NOTE, _UNIQUE = 0xA430, 0xA431, 0xA435, 0x927C, 0xA420
_HOST_COMPUTER, _ARTIST, _XP_AUTHOR, _CAMERA_SERIAL = 316, 315, 40093, 0xC62F
_XMP_KINDS = {
    "GPSLatitude": "gps",
    "GPSLongitude": "gps",
    "SerialNumber": "serial",
    "LensSerialNumber": "serial",
    "BodySerialNumber": "serial",
    "OwnerName": "owner",
    "CameraOwnerName": "owner",
    "PersonInImage": "person",
    "PersonDisplayName": "person",
    "City": "place",
    "Sublocation": "place",
    "Location": "place",
    "CiAdrExtadr": "address",
    "CiEmailWork": "email",
    "CiTelWork": "phone",
}
_EMAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}\b")
_PHONE = re.compile(r"(?<![\w.])(?:\+\d{1,3}[ -]?)?(?:\(\d{2,5}\)[ -]?)?\d{2,4}[ -]\d{2,4}[ -]\d{3,4}(?![\w.])")
_POSTCODE = re.compile(r"〒\s?\d{3}-?\d{4}")
# "Mr Brown", "photo of Ada Lovelace", "田中さん": what a person should look at, not what is a name.
_TITLED = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof)\.?\s+[A-Z][\w’'-]+(?:\s+[A-Z][\w’'-]+)?")
_OF_SOMEONE = re.compile(r"\b(?:of|by|with|and)\s+([A-Z][a-zà-ÿ’'-]+\s+[A-Z][a-zà-ÿ’'-]+)\b")
_HONORIFIC = re.compile(r"[\u4e00-\u9fff々ァ-ヶー]{1,8}(?:さん|さま|様|氏|先生|くん|君|ちゃん)(?![\u4e00-\u9fff])")
_NO_NAMES = ("皆", "客", "神", "王", "姫", "殿")


@dataclass(frozen=True)
class Personal:
    """One find: ``kind`` (gps, serial, owner, person, place, address, email, phone, name), ``where``, and its words.

    What it says stays on this machine.
    """

    kind: str
    where: str
    text: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def find(data: bytes, caption: str = "", opened: Opened | None = None) -> tuple[Personal, ...]:
    """What is personal in a picture's metadata and caption. Never raises for what is in them."""
    opened = open_metadata(data) if opened is None else opened
    found = [*_exif(opened), *_xmp(data, opened), *in_caption(caption)]
    return tuple(dict.fromkeys(found))


def in_caption(caption: str) -> Iterator[Personal]:
    """What in a caption looks like an address, a number or a person's name."""
    text = caption[:20_000]
    for kind, pattern in (("email", _EMAIL), ("phone", _PHONE), ("address", _POSTCODE), ("name", _TITLED)):
        for match in pattern.finditer(text):
            yield Personal(kind, "caption", match.group())
    for match in _OF_SOMEONE.finditer(text):
        yield Personal("name", "caption", match.group(1))
    for match in _HONORIFIC.finditer(text):
        if not match.group().startswith(_NO_NAMES):
            yield Personal("name", "caption", match.group())


def _exif(opened: Opened) -> Iterator[Personal]:
    place = _coordinates(opened.gps)
    if place or any(number not in (0, 30) for number in opened.gps):
        yield Personal("gps", "exif", place or "a place")
    for number, kind in ((_BODY, "serial"), (_LENS_SERIAL, "serial"), (_UNIQUE, "serial"), (_OWNER, "owner")):
        if text := _text(opened.exif_sub.get(number)):
            yield Personal(kind, "exif", text)
    if text := _text(opened.exif.get(_CAMERA_SERIAL)):
        yield Personal("serial", "exif", text)
    if opened.exif_sub.get(_MAKER_NOTE):
        yield Personal("serial", "exif", "the maker's own notes, which may hold serial numbers")
    for number in (_HOST_COMPUTER, _XP_AUTHOR):
        if text := _text(opened.exif.get(number)):
            yield Personal("owner", "exif", text)


def _xmp(data: bytes, opened: Opened) -> Iterator[Personal]:
    packets = [packet.data for packet in signals_xmp.packets(data)]
    for key in ("xmp", "XML:com.adobe.xmp"):
        value = opened.info.get(key)
        if isinstance(value, str | bytes) and not packets:
            packets.append(value.encode("utf-8", "replace") if isinstance(value, str) else value)
    for packet in packets:
        if len(packet) > signals_xmp.MAX_PACKET_BYTES:
            continue
        for name, values in signals_xmp.properties(packet).items():
            kind = _XMP_KINDS.get(name.rpartition(" ")[2])
            for value in values if kind else ():
                yield Personal(kind or "", "xmp", value[:200])


def _coordinates(gps: dict[int, Any]) -> str:
    """Latitude and longitude in degrees with two decimals (about a kilometre), or ""."""
    try:
        latitude, longitude = (_degrees(gps[number], gps.get(number - 1, "")) for number in (2, 4))
    except (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError, OverflowError):
        return ""
    return f"{latitude:.2f}, {longitude:.2f}"


def _degrees(value: Any, half: Any) -> float:
    degrees, minutes, seconds = (float(part) for part in value)
    return (degrees + minutes / 60 + seconds / 3600) * (-1 if str(half)[:1] in ("S", "W") else 1)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-16-le" if b"\0" in value[:2] else "utf-8", errors="replace")
    return " ".join(str(value).replace("\0", " ").split())[:200] if isinstance(value, str) else ""
