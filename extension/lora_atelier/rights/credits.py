"""Credits in pictures: who is to be named for the LoRAs that made one, read from the LoRAs' own headers, offline.

XMP says it in the words of IPTC's photo metadata standard 2025.1, with the digital source type that machines look for
(EU AI Act, article 50(2)). The prompt is private and never in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

# IPTC NewsCodes, digital source type: made by a model trained on sampled content.
TRAINED_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMPOSITE_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
# The key under which PNGs carry XMP (XMP specification part 3, 1.1.5).
PNG_KEY = "XML:com.adobe.xmp"
_LONGEST, _MOST_NAMES = 200, 20


@dataclass(frozen=True)
class Credit:
    """What a LoRA says of whom to name: ``names`` and ``licence`` may be empty; ``says_rights`` is whether the file has
    anything to say of rights at all."""

    lora: str
    names: tuple[str, ...] = ()
    licence: str = ""
    says_rights: bool = False

    def __str__(self) -> str:
        by = f" by {', '.join(self.names)}" if self.names else ""
        licence = f" ({self.licence})" if self.licence else ""
        return f"{self.lora}{by}{licence}"

    def to_json(self) -> dict[str, Any]:
        """The credit as plain JSON."""
        return {
            "lora": self.lora,
            "names": list(self.names),
            "licence": self.licence,
            "says_rights": self.says_rights,
        }


def of_header(lora: str, metadata: Mapping[str, str]) -> Credit:
    """What the metadata of a LoRA say of credits; what is damaged in it counts as not said."""
    ours = _json(metadata.get("atelier_rights", ""))
    names = [*_names(_json(metadata.get("rights.credits", ""))), *_names(_get(ours, "credits"))]
    if not names:
        names = _names(metadata.get("modelspec.author", ""))
    licence = metadata.get("modelspec.license", "") or _only(_json(metadata.get("rights.licences", "")))
    says = any(key.startswith("rights.") for key in metadata) or isinstance(ours, dict)
    return Credit(
        lora=_line(lora),
        names=tuple(dict.fromkeys(names))[:_MOST_NAMES],
        licence=_line(licence or _only(_get(ours, "licences"))),
        says_rights=says or bool(names) or bool(licence),
    )


def text(credits: Iterable[Credit]) -> str:
    """The credits in one line, as the infotext has them; empty where no LoRA names anyone or a licence."""
    return "; ".join(str(each) for each in credits if each.names or each.licence)


def xmp(credits: Sequence[Credit], *, model: str, version: str, source_type: str = TRAINED_MEDIA) -> str:
    """The XMP packet of a picture made with these LoRAs on this base model by our version."""
    named = text(credits)
    names = list(dict.fromkeys(name for each in credits for name in each.names))
    used = "; ".join([model, *(each.lora for each in credits)])
    lines = [
        f"<Iptc4xmpExt:DigitalSourceType>{escape(source_type)}</Iptc4xmpExt:DigitalSourceType>",
        f"<Iptc4xmpExt:AISystemUsed>{escape(_clean(f'LoRA Atelier ({used})'))}</Iptc4xmpExt:AISystemUsed>",
        f"<Iptc4xmpExt:AISystemVersionUsed>{escape(_clean(version))}</Iptc4xmpExt:AISystemVersionUsed>",
        f"<xmp:CreatorTool>{escape(_clean(f'LoRA Atelier {version}'))}</xmp:CreatorTool>",
    ]
    if named:
        lines.append(f"<photoshop:Credit>{escape(_clean(named))}</photoshop:Credit>")
    if names:
        listed = "".join(f"<rdf:li>{escape(_clean(name))}</rdf:li>" for name in names)
        lines.append(f"<dc:contributor><rdf:Bag>{listed}</rdf:Bag></dc:contributor>")
    body = "\n   ".join(lines)
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
   {body}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def _json(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _get(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None


def _names(said: Any) -> list[str]:
    """The names in a text, a list of texts, or a list of objects that have one as ``credit_as`` or ``name``."""
    if isinstance(said, str):
        return [name] if (name := _line(said)) else []
    found = []
    for each in said if isinstance(said, list) else []:
        name = each if isinstance(each, str) else _get(each, "credit_as") or _get(each, "name")
        if isinstance(name, str) and _line(name):
            found.append(_line(name))
    return found


def _only(licences: Any) -> str:
    """The licence of all pictures, where they have one and the same."""
    names = list(licences) if isinstance(licences, dict | list) else []
    return str(names[0]) if len(names) == 1 else ""


def _line(text: str) -> str:
    return " ".join(_clean(text).split())[:_LONGEST]


def _clean(text: str) -> str:
    """The text without what XML can't hold: a header may say anything."""
    return "".join(
        sign
        for sign in text
        if sign in "\t\n\r" or " " <= sign <= "\ud7ff" or "\ue000" <= sign <= "\ufffd" or sign >= "\U00010000"
    )
