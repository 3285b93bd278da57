"""XMP packets: found in a picture's bytes, read without building a tree, whatever state they are in.

Sources: ISO 16684-1 (XMP); PLUS License Data Format 1.0 and its vocabulary https://ns.useplus.org/ldf/vocab/ (property
DataMining: IPTC Photo Metadata Standard 2023.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from .signals_base import Rights, Signal, Signals, signal

# A packet beyond this is not taken apart, only searched for a prohibition; real ones have a few kilobytes.
MAX_PACKET_BYTES = 8_000_000
_MAX_PACKETS = 16
_MAX_DEPTH = 200
_MAX_TEXT = 20_000
# What stands before a packet and could define entities.
_LOOK_BACK = 4096
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_PLUS = "http://ns.useplus.org/ldf/xmp/1.0/"
_DC = "http://purl.org/dc/elements/1.1/"
_RIGHTS = "http://ns.adobe.com/xap/1.0/rights/"
_PHOTOSHOP = "http://ns.adobe.com/photoshop/1.0/"
_IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_CC = "http://creativecommons.org/ns#"
_TDM = "http://www.w3.org/ns/tdmrep#"
_PROVENANCE = "http://purl.org/dc/terms/ provenance"
_TERM = re.compile(r"DMI-[A-Z-]+")
_PROHIBITED = re.compile(r"DMI-PROHIBITED[A-Z-]*")
_CONSTRAINED = ("SEECONSTRAINT", "SEEEMBEDDEDRIGHTSEXPR", "SEELINKEDRIGHTSEXPR")


@dataclass(frozen=True)
class Packet:
    """The bytes of a packet; a ``tainted`` one is cut off, too large or has entities: only its prohibitions count."""

    data: bytes
    tainted: bool = False


def packets(data: bytes) -> list[Packet]:
    """The packets that lie openly in ``data``, in UTF-8 or UTF-16."""
    found = list(_between(data, b"xmpmeta"))
    if not found:
        found = list(_between(data, b"rdf:RDF"))
    for encoding in ("utf-16-le", "utf-16-be"):
        # A picture's bytes hold this by accident about never.
        needle = "xmpmeta".encode(encoding)
        at = data.find(needle)
        if at >= 0:
            end = data.find(needle, at + len(needle))
            stop = end + len(needle) + 2 if end >= 0 else at + MAX_PACKET_BYTES
            start = data.rfind("<".encode(encoding), max(0, at - 64), at)
            text = data[start if start >= 0 else at : stop].decode(encoding, errors="replace")
            before = data[max(0, at - _LOOK_BACK) : at]
            tainted = end < 0 or any(word.encode(encoding) in before for word in ("<!DOCTYPE", "<!ENTITY"))
            found.append(Packet(text.encode("utf-8", "replace"), tainted=tainted))
    return found


def _between(data: bytes, name: bytes) -> Iterator[Packet]:
    """What lies between ``<…name`` and ``</…name>``. Searched with ``find``: time grows with the bytes alone."""
    at = 0
    for _ in range(_MAX_PACKETS):
        at = data.find(name, at)
        if at < 0:
            return
        start = data.rfind(b"<", max(0, at - 64), at)
        if start < 0 or data[start + 1 : start + 2] == b"/" or re.search(rb"[\s>]", data[start:at]):
            at += len(name)
            continue
        # An entity needs a document type, which XMP never has.
        before = data[max(0, start - _LOOK_BACK) : start]
        tainted = b"<!DOCTYPE" in before or b"<!ENTITY" in before
        end = at + len(name)
        while (end := data.find(name + b">", end)) >= 0:
            if data.rfind(b"</", max(at, end - 64), end) >= 0:
                break
            end += len(name)
        if end < 0:
            yield Packet(data[start : start + MAX_PACKET_BYTES], tainted=True)
            return
        end += len(name) + 1
        yield Packet(data[start:end], tainted=tainted)
        at = end
    yield Packet(data[at : at + MAX_PACKET_BYTES], tainted=True)


def read(packet: Packet, where: str) -> Signals:
    """What one packet says; ``where`` it was found. Never raises for what is in it."""
    said = None if packet.tainted or len(packet.data) > MAX_PACKET_BYTES else _parse(packet.data)
    if said is None:
        # Not readable: a prohibition that could not be read properly is one all the same, permission is not.
        text = packet.data.decode("utf-8", errors="replace")
        terms = dict.fromkeys(match.group() for match in _PROHIBITED.finditer(text))
        unread = signal("xmp", where, "XMP that can't be read", "unread")
        return Signals((*(_plus(term, where) for term in list(terms)[:20]), unread))
    return Signals(tuple(_signals(said, where)), _rights(said))


def _plus(term: str, where: str) -> Signal:
    if term.startswith("DMI-PROHIBITED"):
        return signal("plus", where, term, "constrained" if term.endswith(_CONSTRAINED) else "not_allowed")
    return signal("plus", where, term, "allowed" if term == "DMI-ALLOWED" else "unspecified")


def _signals(said: dict[str, list[str]], where: str) -> Iterator[Signal]:
    for value in said.get(f"{_PLUS} DataMining", ()):
        for term in _TERM.findall(value):
            yield _plus(term, where)
    for value in said.get(f"{_TDM} reservation", ()):
        yield signal(
            "tdmrep", where, f"tdm:reservation {value}", "not_allowed" if value.strip() == "1" else "unspecified"
        )
    for value in said.get(_PROVENANCE, ()):
        # The address of a manifest that lies elsewhere; nothing is fetched.
        yield signal("c2pa", where, value, "unread")


def _rights(said: dict[str, list[str]]) -> Rights:
    def all_of(*names: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value for name in names for value in said.get(name, ()) if value))

    def first(*names: str) -> str:
        return next(iter(all_of(*names)), "")

    return Rights(
        creators=all_of(f"{_DC} creator"),
        notice=first(f"{_DC} rights"),
        owner=first(f"{_PLUS} CopyrightOwnerName"),
        terms=first(f"{_RIGHTS} UsageTerms"),
        web_statement=first(f"{_RIGHTS} WebStatement"),
        licence=first(f"{_CC} license", f"{_DC} license"),
        credit=first(f"{_PHOTOSHOP} Credit"),
        marked=first(f"{_RIGHTS} Marked"),
        model_release=first(f"{_PLUS} ModelReleaseStatus").rpartition("/")[2],
        property_release=first(f"{_PLUS} PropertyReleaseStatus").rpartition("/")[2],
        minor_age=first(f"{_PLUS} MinorModelAgeDisclosure").rpartition("/")[2],
        digital_source_type=first(f"{_IPTC_EXT} DigitalSourceType"),
        persons=all_of(f"{_IPTC_EXT} PersonInImage"),
    )


def properties(data: bytes) -> dict[str, list[str]]:
    """The packet's properties as "namespace name" -> values; empty where it can't be read."""
    return _parse(data) or {}


@dataclass
class _Collector:
    """Takes every text as a value of the nearest element outside RDF's own, and every attribute as a property."""

    values: dict[str, list[str]] = field(default_factory=dict)
    stack: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.flush()
        if len(self.stack) >= _MAX_DEPTH:
            raise ValueError("nested too deeply")
        self.stack.append(name)
        for key, value in attributes.items():
            if key == f"{_RDF} resource":
                self.add(self.owner(), value)
            elif " " in key and not key.startswith((_RDF, "http://www.w3.org/XML/")):
                self.add(key, value)

    def end(self, name: str) -> None:
        self.flush()
        self.stack.pop()

    def characters(self, text: str) -> None:
        self.text.append(text)

    def flush(self) -> None:
        text = "".join(self.text).strip()
        self.text = []
        if text:
            self.add(self.owner(), text)

    def owner(self) -> str:
        return next((name for name in reversed(self.stack) if not name.startswith(_RDF)), "")

    def add(self, name: str, value: str) -> None:
        listed = self.values.setdefault(name, [])
        if len(listed) < 200:
            listed.append(value[:_MAX_TEXT])


def _parse(data: bytes) -> dict[str, list[str]] | None:
    """The properties of a well-formed packet without document type, or None."""

    def refuse(*_: object) -> None:
        raise ValueError("a document type")

    collector = _Collector()
    try:
        # Whatever encoding it claims in front, a packet that lay openly in the file is UTF-8.
        parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        parser.StartElementHandler = collector.start
        parser.EndElementHandler = collector.end
        parser.CharacterDataHandler = collector.characters
        parser.StartDoctypeDeclHandler = refuse
        parser.EntityDeclHandler = refuse
        parser.Parse(data.strip(b"\x00 \r\n\t"), True)
    except (expat.ExpatError, ValueError, LookupError):
        return None
    return collector.values
