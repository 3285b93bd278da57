"""What a person can state about pictures: for a folder as a whole, and for single pictures where it differs.

One schema for both (``SAID``), checked by a validator of our own for the part of JSON Schema that it uses: hosts have
no package for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import licences

PROFILES = ("own-work", "open-licence", "studio", "experiment")
BASES = ("owner", "licence", "written_permission", "public_domain", "jp_30_4", "eu_tdm_art4", "eu_tdm_art3",
         "us_fair_use_claim", "none")  # fmt: skip
SOURCE_TYPES = ("own_work", "commissioned", "licensed", "permission", "public_domain", "open_licence",
                "purchased_dataset", "client_supplied", "web_collected", "ai_generated", "unknown")  # fmt: skip
CONSENTS = ("none", "verbal", "written")
_YES_NO = {"enum": ["yes", "no", "unknown"]}
_TEXT = {"type": "string", "maxLength": 2000}
_DAY = {"type": "string", "pattern": r"(\d{4}-\d{2}-\d{2})?"}
_SHA256 = {"type": "string", "pattern": r"[0-9a-f]{64}"}

EVIDENCE: dict[str, Any] = {
    "type": "object",
    "required": ["kind", "sha256", "captured_at"],
    "properties": {
        "kind": {"enum": ["contract", "mail", "licence_page", "release", "invoice", "other"]},
        "sha256": _SHA256,
        "captured_at": _TEXT,
        "valid_from": _DAY,
        "valid_until": _DAY,
        "territory": _TEXT,
        "revocable": {"type": "boolean"},
    },
}
_CREATOR = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": _TEXT,
        "role": _TEXT,
        "id_url": _TEXT,
        "credit_as": _TEXT,
        "credit_optin": {"type": "boolean"},
    },
}
_PERSON = {
    "type": "object",
    "required": ["alias", "relation", "consent"],
    "properties": {
        "alias": _TEXT,
        "relation": {"enum": ["self", "model", "minor", "public_figure", "unknown", "fictional"]},
        "consent": {"enum": list(CONSENTS)},
        "scope": {"type": "array", "items": _TEXT},
        "evidence": _SHA256,
        "valid_until": _DAY,
    },
}
SAID: dict[str, Any] = {
    "type": "object",
    "properties": {
        "source_type": {"enum": list(SOURCE_TYPES)},
        "source_url": _TEXT,
        "retrieved_at": _TEXT,
        "digital_source_type": _TEXT,
        "basis": {"enum": list(BASES)},
        "licence": _TEXT,
        "licence_url": _TEXT,
        "licence_text_sha256": _SHA256,
        "creators": {"type": "array", "items": _CREATOR},
        "copyright_notice": _TEXT,
        "copyright_owner": _TEXT,
        "copyright_status": {"enum": ["protected", "public_domain", "cc0", "orphan", "unknown"]},
        "permits": {"type": "object", "properties": dict.fromkeys(licences.PERMITS, _YES_NO)},
        "people": {
            "type": "object",
            "properties": {"present": _YES_NO, "persons": {"type": "array", "items": _PERSON}, "reviewed_by": _TEXT},
        },
        "jp_enjoyment": {"enum": ["not_assessed", "non_enjoyment", "coexists"]},
        "jp_rationale": _TEXT,
        "evidence": {"type": "array", "items": EVIDENCE},
        "note": _TEXT,
    },
}
FOLDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        **SAID["properties"],
        "title": _TEXT,
        "maintainer": _TEXT,
        "contact": _TEXT,
        "purpose_statement": _TEXT,
        "targets_specific_creator": _YES_NO,
        "relation_to_creator": {"enum": ["self", "licensed", "none", "unknown"]},
        "profile": {"enum": ["", *PROFILES]},
        # Nearly identical pictures share one budget of repeats.
        "share_repeats": {"type": "boolean"},
        # Fingerprints of the pictures go into the published file.
        "publish_fingerprints": {"type": "boolean"},
    },
}


def problems(schema: Mapping[str, Any], value: Any, where: str = "") -> Iterator[str]:
    """Every place where ``value`` is not as ``schema`` says; an unknown name is one."""
    if "enum" in schema:
        if value not in schema["enum"]:
            yield f"{where or 'it'} is none of {', '.join(map(str, schema['enum']))}"
        return
    kind = schema["type"]
    if kind == "string":
        if not isinstance(value, str):
            yield f"{where} is no text"
        elif len(value) > schema.get("maxLength", 1 << 30):
            yield f"{where} is longer than {schema['maxLength']} characters"
        elif "pattern" in schema and not re.fullmatch(schema["pattern"], value):
            yield f"{where} has another form"
    elif kind == "boolean":
        if not isinstance(value, bool):
            yield f"{where} is neither true nor false"
    elif kind == "integer":
        if not isinstance(value, int) or isinstance(value, bool):
            yield f"{where} is no whole number"
    elif kind == "array":
        if not isinstance(value, Sequence) or isinstance(value, str):
            yield f"{where} is no list"
        else:
            for number, item in enumerate(value):
                yield from problems(schema["items"], item, f"{where}[{number}]")
    else:
        yield from _object_problems(schema, value, where)


def _object_problems(schema: Mapping[str, Any], value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{where or 'it'} is no object"
        return
    yield from (f"{where}.{name} is missing".lstrip(".") for name in schema.get("required", ()) if name not in value)
    for name, item in value.items():
        if name in schema["properties"]:
            yield from problems(schema["properties"][name], item, f"{where}.{name}".lstrip("."))
        elif schema.get("additionalProperties", False) is False:
            yield f"{where}.{name} is not known".lstrip(".")


def combined(*statements: Mapping[str, Any]) -> dict[str, Any]:
    """The statements, the later ones first asked; permits answer by answer, evidence of all together."""
    found: dict[str, Any] = {}
    for said in statements:
        for name, value in said.items():
            if name == "permits":
                found[name] = {**found.get(name, {}), **value}
            elif name == "evidence":
                found[name] = [*found.get(name, []), *(one for one in value if one not in found.get(name, []))]
            else:
                found[name] = value
    return found
