"""Which adapter files exist, under which names, and what their cards say. Reads no weights and needs no torch."""

from __future__ import annotations

import difflib
import json
import os
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import safetensors_header
from ..errors import AdapterNotFoundError, Message, message
from ..safetensors_header import BrokenFileError

_PICKLES = (".pt", ".ckpt", ".pth")
_PREVIEWS = (".preview.png", ".png", ".preview.jpg", ".jpg", ".preview.jpeg", ".jpeg", ".preview.webp", ".webp")


@dataclass(frozen=True)
class Identity:
    """What tells one version of a file from the next: a file replaced under the same name has another identity."""

    path: str
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Entry:
    """One adapter file: ``name`` is what stands in ``<lora:name:0.8>``, ``alias`` the name inside the file, or "".

    ``problem`` says why the file can't be used; it is listed all the same.
    """

    name: str
    path: Path
    identity: Identity
    alias: str = ""
    trigger_words: str = ""
    preferred_weight: float = 0.0
    description: str = ""
    preview: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)
    problem: Message | None = None


def identify(path: Path) -> Identity:
    """Return the identity of the file as it is now. Raises OSError."""
    stat = path.stat()
    return Identity(str(path), stat.st_size, stat.st_mtime_ns)


class Catalogue:
    """The adapter files of some folders and what is below them. Headers are read once per version of a file.

    Thread-safe.
    """

    def __init__(self, dirs: Iterable[Path]) -> None:
        self.dirs = tuple(Path(folder) for folder in dirs)
        self._lock = threading.Lock()
        # What was read last, by the version of the file that it was read from: header and cards.
        self._headers: dict[Identity, tuple[Mapping[str, str], Message | None]] = {}
        self._cards: dict[Identity, Mapping[str, Any]] = {}
        self._last: Mapping[str, Entry] = {}

    def list(self) -> Sequence[Entry]:
        """Return all entries as the folders are now, sorted by name. Folders that do not exist are empty."""
        with self._lock:
            entries = self._scan()
            self._last = {entry.name: entry for entry in entries}
            return entries

    def find(self, name: str) -> Entry:
        """Return the entry that a prompt's name means: a file's name, else the name inside a file.

        Unicode's two ways to write the same letters count as one; upper and lower case only where nothing fits
        exactly. Raises AdapterNotFoundError, which offers the nearest name.
        """
        known = self._last.get(name)
        if known is not None and _is_still(known.identity):
            return known
        entries = self.list()
        wanted = _plain(name)
        for same in (str, str.casefold):
            for of in (lambda entry: entry.name, lambda entry: entry.alias):
                found = [entry for entry in entries if of(entry) and same(_plain(of(entry))) == same(wanted)]
                if found:
                    return found[0]
        raise self._not_found(name, entries)

    def _not_found(self, name: str, entries: Sequence[Entry]) -> AdapterNotFoundError:
        for folder in self.dirs:
            for suffix in _PICKLES:
                if Path(name).name == name and (folder / f"{name}{suffix}").is_file():
                    return AdapterNotFoundError(
                        "LoRA “{name}” was left out.",
                        why="{file} is a Python pickle, which can run any program when it is opened.",
                        todo="Use its .safetensors version.",
                        name=name,
                        file=f"{name}{suffix}",
                    )
        near = nearest(name, [entry.name for entry in entries] + [entry.alias for entry in entries if entry.alias])
        if near:
            return AdapterNotFoundError(
                "There is no LoRA called “{name}”; it was left out.",
                todo="Did you mean <lora:{near}:1>?",
                name=name,
                near=near,
            )
        return AdapterNotFoundError(
            "There is no LoRA called “{name}”; it was left out.",
            todo="Put its .safetensors file into {folder}.",
            name=name,
            folder=str(self.dirs[0]) if self.dirs else "",
        )

    def _scan(self) -> Sequence[Entry]:
        entries: list[Entry] = []
        headers: dict[Identity, tuple[Mapping[str, str], Message | None]] = {}
        cards: dict[Identity, Mapping[str, Any]] = {}
        taken: set[str] = set()
        for folder in self.dirs:
            for path, siblings in _files(folder):
                try:
                    identity = identify(path)
                except OSError:
                    continue  # removed between listing and looking
                header = self._headers.get(identity) or _read(path)
                headers[identity] = header
                name = path.stem
                if _plain(name) in taken:
                    # The first folder has the name; the others are called with their folder.
                    name = path.relative_to(folder).with_suffix("").as_posix()
                    if _plain(name) in taken:
                        continue
                taken.add(_plain(name))
                card = self._card(path.with_suffix(".json"), siblings, cards)
                civitai = self._card(path.with_suffix(".civitai.info"), siblings, cards)
                entries.append(_entry(name, path, identity, header, siblings, card, civitai))
        self._headers, self._cards = headers, cards
        return sorted(_without_double_aliases(entries), key=lambda entry: (entry.name.casefold(), entry.name))

    def _card(self, path: Path, siblings: set[str], cards: dict[Identity, Mapping[str, Any]]) -> Mapping[str, Any]:
        """The content of a card, read again only if it changed; ``cards`` takes it for the next time."""
        if path.name not in siblings:
            return {}
        try:
            identity = identify(path)
        except OSError:
            return {}
        cards[identity] = self._cards[identity] if identity in self._cards else _json(path)
        return cards[identity]


def _is_still(identity: Identity) -> bool:
    try:
        return identify(Path(identity.path)) == identity
    except OSError:
        return False


def nearest(name: str, names: Sequence[str]) -> str:
    """Return the name most like ``name``, or "" if none is near."""
    by_plain = {_plain(each).casefold(): each for each in names}
    wanted = _plain(name).casefold()
    found = difflib.get_close_matches(wanted, by_plain, n=1, cutoff=0.5)
    # "miku" for "hatsune_miku_v3": too short to be close, but a part of it.
    found = found or sorted(
        (each for each in by_plain if wanted and wanted in each), key=lambda each: (len(each), each)
    )
    return by_plain[found[0]] if found else ""


def _plain(name: str) -> str:
    # macOS stores "が" as two code points where a keyboard types one.
    return unicodedata.normalize("NFC", name).strip()


def _files(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    """Every adapter file below a folder, in a fixed order, with the names of the files beside it."""
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        # A link to a folder above would lead round for ever.
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        siblings = set(names)
        for name in sorted(names):
            if name.lower().endswith(".safetensors") and not name.startswith("."):
                yield Path(where, name), siblings


def _read(path: Path) -> tuple[Mapping[str, str], Message | None]:
    try:
        return safetensors_header.read_metadata(path), None
    except BrokenFileError as error:
        return {}, message("The file is broken or incomplete: {reason}.", reason=str(error))
    except OSError as error:
        return {}, message("The file can't be read: {error}.", error=str(error))


def _entry(
    name: str,
    path: Path,
    identity: Identity,
    header: tuple[Mapping[str, str], Message | None],
    siblings: set[str],
    card: Mapping[str, Any],
    civitai: Mapping[str, Any],
) -> Entry:
    metadata, problem = header
    alias = metadata.get("ss_output_name", "")
    words = civitai.get("trainedWords")
    return Entry(
        name=name,
        path=path,
        identity=identity,
        alias=alias if alias not in ("", "None", path.stem) else "",
        trigger_words=str(
            card.get("activation text")
            or (", ".join(str(word) for word in words) if isinstance(words, list) else "")
            or metadata.get("modelspec.trigger_phrase", "")
        ),
        preferred_weight=_number(card.get("preferred weight")),
        description=str(card.get("description") or ""),
        preview=next((path.with_name(path.stem + end) for end in _PREVIEWS if path.stem + end in siblings), None),
        metadata=metadata,
        problem=problem,
    )


def _without_double_aliases(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The entries; an alias that several files claim, or that is a file's name, means none of them."""
    names = {_plain(entry.name) for entry in entries}
    claims = Counter(_plain(entry.alias) for entry in entries)
    for entry in entries:
        alias = _plain(entry.alias)
        yield replace(entry, alias="") if alias in names or claims[alias] > 1 else entry


def _json(path: Path) -> Mapping[str, Any]:
    """A card's content; a broken card is an empty one, because the adapter works without it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
