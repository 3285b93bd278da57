"""Content credentials with their signatures checked, by the package c2pa-python. Offline: nothing is fetched.

Sources: C2PA specification 2.1, 15 (validation); CAWG Training and Data Mining 1.1; CAWG Identity 1.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGE = "c2pa-python"
_TRAINING = ("cawg.training-mining", "c2pa.training-mining")
_IDENTITY = "cawg.identity"
# The first bytes of a file from their place on -> its format.
_STARTS = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (8, b"WEBP", "image/webp"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (0, b"GIF8", "image/gif"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypheic", "image/heic"),
    (4, b"ftypmif1", "image/heif"),
    (4, b"JXL \r\n\x87\n", "image/jxl"),
)


def read(path: Path, anchors: str = "") -> dict[str, Any]:
    """What the manifests of a picture say, and whether their signatures hold.

    ``state`` is "none" (no manifest), "invalid" (changed since, or no valid manifest), "valid" (unchanged, by a signer
    whom nobody vouches for) or "trusted" (by one for whom ``anchors`` vouch, certificates in PEM). ``statements`` are
    those on training, ``active`` those of the picture itself rather than of a part of it; ``identities`` who says to
    have made it. Raises ImportError without the package, OSError, ValueError, and what the package raises.
    """
    import c2pa

    try:
        return _read(path, anchors)
    except c2pa.C2paError:
        # Certificates that can't be read make everything else unreadable too.
        if not anchors:
            raise
        return _read(path, "")


def _read(path: Path, anchors: str) -> dict[str, Any]:
    import c2pa

    with path.open("rb") as file:
        kind = _format(file.read(16))
        file.seek(0)
        with c2pa.Context.from_dict(_settings(anchors)) as context:
            try:
                reader = c2pa.Reader(kind, file, context=context)
            except c2pa.C2paError.ManifestNotFound:
                return {"state": "none", "signer": "", "statements": [], "identities": []}
            with reader:
                store, state = json.loads(reader.json()), str(reader.get_validation_state())
    return described(store, state)


def _format(start: bytes) -> str:
    for at, letters, kind in _STARTS:
        if start[at : at + len(letters)] == letters:
            return kind
    raise ValueError("a format that is not known here")


def _settings(anchors: str) -> dict[str, Any]:
    found: dict[str, Any] = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
    if anchors:
        found |= {"trust": {"user_anchors": anchors}, "cawg_trust": {"user_anchors": anchors}}
    return found


def described(store: Mapping[str, Any], state: str) -> dict[str, Any]:
    """The answer from the package's JSON of a manifest store and its validation state."""
    active = store.get("active_manifest", "")
    manifests = store.get("manifests", {})
    own = manifests.get(active, {})
    return {
        "state": state.lower() if state.lower() in ("valid", "trusted") else "invalid",
        "signer": _name(own.get("signature_info", {})),
        "statements": [
            {"label": assertion["label"], "active": label == active, "entries": _entries(assertion)}
            for label, manifest in manifests.items()
            for assertion in manifest.get("assertions", [])
            if str(assertion.get("label", "")).partition("__")[0] in _TRAINING
        ],
        "identities": list(_identities(own, store.get("validation_results", {}).get("activeManifest", {}))),
    }


def _entries(assertion: Mapping[str, Any]) -> dict[str, str]:
    entries = assertion.get("data", {}).get("entries", {})
    return {
        str(name): str(entry.get("use", "") if isinstance(entry, Mapping) else entry) for name, entry in entries.items()
    }


def _name(signature: Mapping[str, Any]) -> str:
    return ", ".join(str(signature[key]) for key in ("common_name", "issuer") if signature.get(key))


def _identities(manifest: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Who signed CAWG's identity assertions: by certificate, or by accounts that an identity provider has verified."""
    codes = {kind: _codes(results, kind) for kind in ("success", "failure")}
    for assertion in manifest.get("assertions", []):
        label = str(assertion.get("label", ""))
        if label.partition("__")[0] != _IDENTITY:
            continue
        data = assertion.get("data", {})
        accounts = data.get("verifiedIdentities") or data.get("verified_identities") or []
        names = [_name(data.get("signature_info", {})), *(_account(each) for each in accounts)]
        untrusted = {code for code in codes["failure"].get(label, set()) if code.endswith("untrusted")}
        failed = codes["failure"].get(label, set()) - untrusted
        checked = bool(codes["success"].get(label))
        seal = "invalid" if failed else "unchecked" if not checked else "valid" if untrusted else "trusted"
        yield {"name": "; ".join(filter(None, names)), "seal": seal}


def _account(said: Mapping[str, Any]) -> str:
    provider = said.get("provider", {})
    where = provider.get("name", "") if isinstance(provider, Mapping) else ""
    name = said.get("name") or said.get("username") or said.get("uri") or ""
    return f"{name} ({where})" if name and where else str(name)


def _codes(results: Mapping[str, Any], kind: str) -> dict[str, set[str]]:
    """The codes of CAWG by the label of the assertion that they are about."""
    found: dict[str, set[str]] = {}
    for each in results.get(kind, []):
        if str(each.get("code", "")).startswith("cawg."):
            found.setdefault(str(each.get("url", "")).rpartition("/")[2], set()).add(str(each["code"]))
    return found
