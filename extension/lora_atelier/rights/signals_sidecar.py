"""Files that lie beside pictures and speak of them: XMP sidecars, captured headers and pages, downloaders' JSON.

For ``a.png``: ``a.xmp`` or ``a.png.xmp``; ``a.png.json``, ``a.json``, ``a.info.json`` (gallery-dl, yt-dlp, or a source
snapshot of ours); ``a.png.headers``, ``a.headers``; ``a.png.html``, ``a.html``. For the whole folder: ``source.json``,
``robots.txt``, ``ai.txt``, ``tdmrep.json``, ``rsl.xml``, ``*.har``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from . import signals_page, signals_xmp
from .signals_base import Rights, Signal, Signals, signal

_MAX_BYTES = 8_000_000
_MAX_HAR_BYTES = 64_000_000
_MAX_HARS = 4
_FOLDER_FILES = {
    "robots.txt": "robots_txt",
    "ai.txt": "ai_txt",
    "tdmrep.json": "tdmrep",
    "rsl.xml": "rsl",
}


@dataclass
class Beside:
    """The files beside the pictures of one folder; listed and read once."""

    folder: Path

    @cached_property
    def _names(self) -> dict[str, str]:
        """The folder's files by their names in small letters."""
        try:
            return {path.name.lower(): path.name for path in self.folder.iterdir() if path.is_file()}
        except OSError:
            return {}

    @cached_property
    def _site(self) -> _Site:
        return _Site(self.folder, self._names)

    def signals(self, name: str) -> Signals:
        """What the files beside the picture ``name`` say of it. Never raises for what is in them."""
        said = Signals()
        stem = PurePosixPath(name).stem
        for file in self._existing(f"{name}.xmp", f"{stem}.xmp"):
            said = said.merged(_xmp(self.folder / file))
        for file in self._existing(f"{name}.headers", f"{stem}.headers", f"{name}.headers.txt"):
            text = _text(self.folder / file)
            said = said.merged(_unreadable(file) if text is None else Signals(tuple(_raw_headers(text, file))))
        for file in self._existing(f"{name}.html", f"{stem}.html", f"{name}.htm", f"{stem}.htm"):
            text = _text(self.folder / file)
            said = said.merged(_unreadable(file) if text is None else Signals(tuple(signals_page.page(text, file))))
        url = ""
        for file in self._existing(f"{name}.json", f"{stem}.json", f"{stem}.info.json", f"{name}.source.json"):
            found = _json(self.folder / file)
            said = said.merged(_unreadable(file) if found is None else _snapshot(found, file))
            url = url or (signals_page.source_url(found) if found else "")
        return said.merged(self._site.signals(name, url, skip=f"{stem}.txt".lower()))

    def _existing(self, *names: str) -> list[str]:
        return list(dict.fromkeys(self._names[low] for name in names if (low := name.lower()) in self._names))


@dataclass
class _Site:
    """What was captured of the site that a folder's pictures came from."""

    folder: Path
    names: Mapping[str, str]
    _kept: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def _files(self) -> dict[str, str | None]:
        """The folder's site files, name -> text; None for one that can't be read."""
        found = {low: _text(self.folder / self.names[low]) for low in _FOLDER_FILES if low in self.names}
        well_known = self.folder / ".well-known" / "tdmrep.json"
        if well_known.is_file():
            found.setdefault("tdmrep.json", _text(well_known))
        return found

    @cached_property
    def _source(self) -> dict[str, Any] | None:
        return _json(self.folder / self.names["source.json"]) if "source.json" in self.names else {}

    @cached_property
    def _har(self) -> list[tuple[str, Mapping[str, str], str]] | None:
        """(address, headers, text) of every answer in the folder's HAR files; None if one can't be read."""
        found: list[tuple[str, Mapping[str, str], str]] = []
        for low in sorted(name for name in self.names if name.endswith(".har"))[:_MAX_HARS]:
            said = _json(self.folder / self.names[low], _MAX_HAR_BYTES)
            if said is None:
                return None
            found += _answers(said)
        return found

    def signals(self, name: str, url: str, *, skip: str) -> Signals:
        path = signals_page.path_of(url)
        found: list[Signal] = []
        for low, text in self._files.items():
            if low == skip:  # robots.txt is then the caption of robots.png
                continue
            if text is None:
                found += _unreadable(low).found
            elif low == "rsl.xml":
                found += signals_page.rsl(text, low)
            else:
                read = {"robots.txt": signals_page.robots, "ai.txt": signals_page.ai_txt}.get(low, signals_page.tdmrep)
                found += read(text, path, low)
        if self._source is None:
            found += _unreadable("source.json").found
        said = Signals(tuple(found)).merged(_snapshot(self._source, "source.json") if self._source else Signals())
        return said.merged(self._captured(name, path))

    def _captured(self, name: str, path: str) -> Signals:
        if self._har is None:
            return _unreadable("HAR")
        found: list[Signal] = []
        url = ""
        for address, headers, text in self._har:
            file = unquote(urlsplit(address).path).rpartition("/")[2]
            where = f"HAR: {urlsplit(address).netloc}"
            if file == name:
                url = url or address
                found += signals_page.headers(headers, where)
            elif file.lower() == "tdmrep.json":
                found += signals_page.tdmrep(text, path, where)
            elif file.lower() == "robots.txt":
                found += signals_page.robots(text, path, where)
            elif file.lower() == "ai.txt":
                found += signals_page.ai_txt(text, path, where)
            elif text.lstrip()[:1] == "<":
                # The pages of the capture, whichever of them shows the picture.
                found += (*signals_page.headers(headers, where), *signals_page.page(text, where))
        return Signals(tuple(dict.fromkeys(found)), Rights(source_url=url))


def _answers(said: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, str], str]]:
    entries = said.get("log", {}).get("entries", []) if isinstance(said.get("log"), dict) else []
    for entry in entries if isinstance(entries, list) else ():
        try:
            address, response = str(entry["request"]["url"]), entry["response"]
            urlsplit(address)
            headers = {str(header["name"]).lower(): str(header["value"]) for header in response["headers"]}
            text = response.get("content", {}).get("text", "")
        except (KeyError, TypeError, AttributeError, ValueError):
            continue
        yield address, headers, text if isinstance(text, str) else ""


def _snapshot(said: Mapping[str, Any], where: str) -> Signals:
    def word(*names: str) -> str:
        return next((str(said[name]) for name in names if isinstance(said.get(name), str) and said[name]), "")

    author = word("creator", "author", "artist", "artist_name", "uploader")
    licence = word("licence", "license", "licence_url", "license_url")
    rights = Rights(creators=(author,) if author else (), licence=licence, source_url=signals_page.source_url(said))
    return Signals(tuple(signals_page.snapshot(said, where)), rights)


def _raw_headers(text: str, where: str) -> Iterator[Signal]:
    """Signals of headers as curl and wget print them."""
    lines = (line.partition(":") for line in text.splitlines())
    pairs = [(name.strip(), value.strip()) for name, found, value in lines if found and " " not in name.strip()]
    policy = {name.lower(): value for name, value in pairs}.get("tdm-policy", "")
    for name, value in pairs:
        # One by one: a header may come several times.
        yield from signals_page.headers({name: value, "tdm-policy": policy}, where)


def _xmp(path: Path) -> Signals:
    try:
        data = _bytes(path)
    except OSError:
        return _unreadable(path.name)
    found = signals_xmp.packets(data) or [signals_xmp.Packet(data, tainted=True)]
    said = Signals()
    for packet in found:
        said = said.merged(signals_xmp.read(packet, path.name))
    return said


def _unreadable(name: str) -> Signals:
    return Signals((signal("sidecar", name, "a file that can't be read", "unread"),))


def _bytes(path: Path, most: int = _MAX_BYTES) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError("too large")
    return data


def _text(path: Path) -> str | None:
    try:
        data = _bytes(path)
    except OSError:
        return None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="replace")


def _json(path: Path, most: int = _MAX_BYTES) -> dict[str, Any] | None:
    """The JSON object in a file; empty for JSON of another kind, None for what can't be read."""
    try:
        said = json.loads(_bytes(path, most).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else {}
