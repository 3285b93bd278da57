"""What a picture file itself says about being used: the IPTC/PLUS data-mining property in its XMP. Needs no torch.

Source: PLUS License Data Format, property DataMining, vocabulary https://ns.useplus.org/ldf/vocab/DMI (IPTC Photo
Metadata Standard 2023.1). Silence is ``none_found``, never "allowed": most pictures have lost their metadata.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from PIL import Image

from ..errors import Message, message

DataMining = Literal["prohibited", "allowed", "none_found"]

_PLUS = "http://ns.useplus.org/ldf/xmp/1.0/"
_RDF_RESOURCE = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}resource"
_TERM = re.compile(r"DMI-[A-Z-]+")
_PACKET = re.compile(rb"<(?:\w+:)?xmpmeta\b.*?</(?:\w+:)?xmpmeta>", re.DOTALL)
_BARE_PACKET = re.compile(rb"<rdf:RDF\b.*?</rdf:RDF>", re.DOTALL)


@dataclass(frozen=True)
class Signals:
    """The verdict, and the vocabulary terms that it was read from."""

    data_mining: DataMining = "none_found"
    terms: tuple[str, ...] = ()

    @property
    def prohibited(self) -> bool:
        return self.data_mining == "prohibited"


def read(path: Path) -> Signals:
    """Return what the file at ``path`` says. Raises OSError if it can't be read."""
    return read_bytes(path.read_bytes())


def read_bytes(data: bytes) -> Signals:
    """Return what a picture's bytes say; the strictest of several statements counts."""
    terms: list[str] = []
    for packet in _packets(data):
        terms += [term for term in _terms(packet) if term not in terms]
    if any(term.startswith("DMI-PROHIBITED") for term in terms):
        return Signals("prohibited", tuple(terms))
    if "DMI-ALLOWED" in terms:
        return Signals("allowed", tuple(terms))
    return Signals("none_found", tuple(terms))


def refusal(path: Path) -> Message | None:
    """Why the picture at ``path`` may not be trained on, or None. Raises OSError."""
    return refusal_of(path.name, read(path))


def refusal_of(name: str, signals: Signals) -> Message | None:
    """The sentence that refuses a picture with these signals, or None."""
    if not signals.prohibited:
        return None
    return message(
        "“{name}” is left out: its rights holder forbids training in the file itself ({term}).",
        name=name,
        term=next(term for term in signals.terms if term.startswith("DMI-PROHIBITED")),
    )


def _packets(data: bytes) -> Iterator[bytes]:
    """The XMP packets of a picture: those that lie openly in its bytes, and what the decoder unpacks (PNG's zTXt)."""
    found = _PACKET.findall(data) or _BARE_PACKET.findall(data)
    yield from found
    if found:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as picture:
                info = picture.info
    except Exception:  # broken in any of the ways decoders know: whoever decodes it for use reports that
        return
    for key in ("xmp", "XML:com.adobe.xmp", "Raw profile type xmp"):
        value = info.get(key)
        if isinstance(value, str):
            value = value.encode("utf-8")
        if isinstance(value, bytes):
            yield value


def _terms(packet: bytes) -> list[str]:
    """The vocabulary terms of the packet's DataMining properties."""
    # A document type could define entities that grow without end; XMP never has one.
    if b"<!DOCTYPE" not in packet and b"<!ENTITY" not in packet:
        try:
            return list(_parsed_terms(ElementTree.fromstring(packet.strip(b"\x00 \r\n\t"))))
        except ElementTree.ParseError:
            pass
    # Not well-formed: a prohibition that we could not read properly is one all the same.
    return re.findall(r"DMI-PROHIBITED[A-Z-]*", packet.decode("utf-8", errors="replace"))


def _parsed_terms(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        said = element.get(f"{{{_PLUS}}}DataMining", "")
        if element.tag == f"{{{_PLUS}}}DataMining":
            said += " ".join([*element.itertext(), element.get(_RDF_RESOURCE, "")])
        yield from _TERM.findall(said)
