"""Which adapter files exist, under which names, and what their cards say. Reads no weights and needs no torch.

What was read once is kept by ``index.py``, so that a list of ten thousand files is a look at their sizes and times.
"""

from __future__ import annotations

import difflib
import json
import os
import string
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import safetensors_header
from ..errors import AdapterNotFoundError, Message, message
from ..safetensors_header import BrokenFileError
from .facts import Card, Facts, broken, problem_text, read_card, read_facts
from .hashing import Hasher, Hashes
from .hashing import Identity as Identity
from .hashing import identify as identify
from .index import Index

_PICKLES = (".pt", ".ckpt", ".pth")
_ADAPTERS = (".safetensors", *_PICKLES)
_PREVIEWS = (".preview.png", ".png", ".preview.jpg", ".jpg", ".preview.jpeg", ".jpeg", ".preview.webp", ".webp")
# What <lora:…:0.8> can't hold within a name.
_TAG_SIGNS = str.maketrans(dict.fromkeys(":=<>\n\r", "_"))
# A1111's first hashes had 8 digits, AutoV2 has 10, the "Lora hashes" of a picture 12.
_FEWEST_HASH_DIGITS = 8


@dataclass(frozen=True)
class Entry:
    """One adapter file: ``name`` is what stands in ``<lora:name:0.8>``, ``alias`` the name inside the file, or "".

    ``base`` is the family of models that it was trained for ("sd1", "sdxl", …), ``family`` the kind of its layers
    ("lora", "loha+norm", …), ``rank`` the size of its low-rank layers; "" and 0 where nothing tells. ``content_hash``
    (kohya's SHA-256 of the weights) and ``file_hash`` (SHA-256 of the file; its first 10 digits are AutoV2) are "" as
    long as they are not known. ``problem`` says why the file can't be used; it is listed all the same.
    """

    name: str
    path: Path
    identity: Identity
    alias: str = ""
    trigger_words: str = ""
    preferred_weight: float = 0.0
    description: str = ""
    preview: Path | None = None
    problem: Message | None = None
    base: str = ""
    family: str = ""
    rank: int = 0
    content_hash: str = ""
    file_hash: str = ""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's metadata, read now; empty if the file is no longer the one that was listed."""
        try:
            return safetensors_header.read_metadata(self.path) if _is_still(self.identity) else {}
        except (OSError, BrokenFileError):
            return {}


@dataclass(frozen=True)
class _Found:
    """A file as the folders show it: its path below the folder, and the names beside it."""

    path: str
    relative: str
    size_bytes: int
    modified_ns: int
    beside: Mapping[str, os.DirEntry[str]]

    @property
    def is_pickle(self) -> bool:
        return self.path.lower().endswith(_PICKLES)


class Catalogue:
    """The adapter files of some folders and what is below them. Headers are read once per version of a file.

    Thread-safe.
    """

    def __init__(self, dirs: Iterable[Path], database: Path | None = None) -> None:
        """``database`` is the file that keeps what was read for the next start; None keeps it in memory."""
        self.dirs = tuple(Path(folder) for folder in dirs)
        self.database = database
        self._lock = threading.Lock()
        self._index = Index(database)
        self._hasher = Hasher(self._has_hashes, self._keep_hashes)
        self._hashes = False
        # The last list: entries and the files they were made of, by name; names by path; all that they are called.
        self._last: dict[str, Entry] = {}
        self._files: dict[str, _Found] = {}
        self._names: dict[str, str] = {}
        self._called: _Calls | None = None

    def list(self) -> Sequence[Entry]:
        """Return all entries as the folders are now, sorted by name. Folders that do not exist are empty."""
        with self._lock:
            entries = self._scan()
            if self._hashes:
                self._hasher.offer(_unhashed(entries))
            return entries

    def find(self, name: str) -> Entry:
        """Return the entry that a prompt's name means: a file's name, else the name inside a file.

        A file that was replaced since it was listed is read again. Unicode's two ways to write the same letters count
        as one; upper and lower case only where nothing fits exactly. Raises AdapterNotFoundError, which offers the
        nearest name, or the names of all files that could be meant.
        """
        known = self._last.get(name)
        if known is not None:
            known = known if _is_still(known.identity) else self._replaced(known)
        if known is not None:
            return _usable(known, name)
        entries = self.list()
        with self._lock:
            if self._called is None:
                self._called = _Calls(entries, self._files)
            called = self._called
        found = called.by(name)
        if len(found) == 1:
            return _usable(found[0], name)
        if found:
            raise AdapterNotFoundError(
                "LoRA “{name}” was left out.",
                why="Several files are called that: {files}.",
                todo="Write the name of the one that you mean, for example <lora:{first}:1>.",
                name=name,
                files=", ".join(entry.name for entry in found),
                first=found[0].name,
            )
        raise self._not_found(name, entries)

    def find_hash(self, digits: str) -> Entry | None:
        """Return the entry whose content's or file's hash begins with these (at least 8) digits, as far as known.

        Of copies of one file the first by name; None where files of different content begin so.
        """
        wanted = digits.strip().lower().removeprefix("0x")
        if len(wanted) < _FEWEST_HASH_DIGITS or not set(wanted) <= set(string.hexdigits):
            return None
        entries = tuple(self._last.values()) or self.list()
        found = [entry for entry in entries if entry.content_hash.startswith(wanted)]
        found = found or [entry for entry in entries if entry.file_hash.startswith(wanted)]
        if len({entry.content_hash for entry in found}) != 1:
            return None
        return min(found, key=_in_order)

    # --- hashes

    def start_hashing(self) -> None:
        """From the next list on, hash files that do not say their hash, one by one in the background."""
        self._hashes = True

    def stop_hashing(self) -> None:
        """End the background hashing; what was found is kept."""
        self._hashes = False
        self._hasher.stop()

    def wait_for_hashes(self, timeout_s: float) -> bool:
        """Wait until all files of the last list are hashed; return whether they are."""
        return self._hasher.wait(timeout_s)

    def _has_hashes(self, file: Identity) -> bool:
        with self._lock:
            version = (file.path, file.size_bytes, file.modified_ns)
            self._index.look_again(file.path)
            facts = self._index.adapters.get(*version)
            if facts is None or not facts.file_hash:
                return False
            self._show(file)
            return True

    def _keep_hashes(self, file: Identity, hashes: Hashes) -> None:
        with self._lock:
            version = (file.path, file.size_bytes, file.modified_ns)
            facts = self._index.adapters.get(*version)
            if facts is None:
                return  # replaced or removed meanwhile
            if hashes.problem is not None:
                facts = facts._replace(problem=broken(hashes.problem))
            else:
                facts = facts._replace(content_hash=hashes.content_hash, file_hash=hashes.file_hash)
            self._index.adapters.put(*version, facts)
            self._index.save()
            self._show(file)

    def _show(self, file: Identity) -> None:
        """Make ``find`` return what is now known of a file."""
        name = self._names.get(file.path)
        if name is not None and self._last[name].identity == file:
            self._last[name] = self._entry(name, self._files[name])
            self._called = None

    # --- looking

    def _scan(self) -> Sequence[Entry]:
        self._index.load()
        roots = [str(folder.absolute()) for folder in self.dirs]
        walk = _Walk()
        found = [(root, file) for root in roots for file in walk.files(root)]
        # A pickle can't be used, so it takes no name from a file that can.
        found.sort(key=lambda pair: pair[1].is_pickle)
        files: dict[str, _Found] = {}
        entries: dict[str, Entry] = {}
        taken: set[str] = set()
        for root, file in found:
            name = next(name for name in _names(root, file.relative) if _plain(name) not in taken)
            try:
                entry = self._entry(name, file)
            except FileNotFoundError:
                continue  # removed between listing and reading
            taken.add(_plain(name))
            entries[name], files[name] = entry, file
        if walk.complete:
            there = [root for root in roots if Path(root).is_dir()]
            self._index.adapters.drop_others({file.path for _, file in found}, there)
            self._index.cards.drop_others(walk.cards, there)
        self._index.save()
        self._last, self._files, self._called = entries, files, None
        self._names = {file.path: name for name, file in files.items()}
        return sorted(entries.values(), key=_in_order)

    def _replaced(self, known: Entry) -> Entry | None:
        """The entry of a file that has changed since it was listed; None if it is no longer there."""
        with self._lock:
            file = self._files.get(known.name)
            try:
                if file is None or file.path != known.identity.path:
                    return None
                now = identify(known.path)
                file = replace(file, size_bytes=now.size_bytes, modified_ns=now.modified_ns)
                entry = self._entry(known.name, file)
            except OSError:
                return None
            self._last[known.name], self._files[known.name] = entry, file
            self._called = None
            return entry

    def _entry(self, name: str, file: _Found) -> Entry:
        """The entry of a file, from memory where this version of it is known. Raises FileNotFoundError."""
        last = self._last.get(name)
        facts = self._facts(file)
        stem = _stem(file.relative)
        card = civitai = _NO_CARD
        preview = None
        if len(file.beside) > 1 and not file.is_pickle:
            card, civitai = self._card(file, stem + ".json"), self._card(file, stem + ".civitai.info")
            preview = next((file.beside[stem + end].path for end in _PREVIEWS if stem + end in file.beside), None)
        entry = Entry(
            name,
            Path(file.path),
            Identity(file.path, file.size_bytes, file.modified_ns),
            facts.alias if facts.alias not in ("", "None", stem) else "",
            card.trigger_words or civitai.trigger_words or facts.trigger_words,
            card.preferred_weight,
            card.description,
            None if preview is None else Path(preview),
            _problem(facts),
            facts.base,
            facts.family,
            facts.rank,
            facts.content_hash,
            facts.file_hash,
        )
        return last if last == entry else entry

    def _facts(self, file: _Found) -> Facts:
        if file.is_pickle:
            return Facts(
                problem=problem_text(
                    message(
                        "{file} is a Python pickle, which can run any program when it is opened.",
                        file=_shown(Path(file.path).name),
                    )
                )
            )
        version = (file.path, file.size_bytes, file.modified_ns)
        facts = self._index.adapters.get(*version)
        if facts is None:
            try:
                facts = read_facts(Path(file.path))
            except FileNotFoundError:
                raise
            except OSError as error:
                # Not kept: permissions and drives come back without a trace on the file.
                return Facts(
                    problem=problem_text(message("The file can't be read: {error}.", error=_shown(str(error))))
                )
            self._index.adapters.put(*version, facts)
        return facts

    def _card(self, file: _Found, name: str) -> Card:
        found = file.beside.get(name)
        if found is None:
            return _NO_CARD
        try:
            stat = found.stat()
        except OSError:
            return _NO_CARD
        version = (found.path, stat.st_size, stat.st_mtime_ns)
        card = self._index.cards.get(*version)
        if card is None:
            card = read_card(Path(found.path))
            self._index.cards.put(*version, card)
        return card

    def _not_found(self, name: str, entries: Sequence[Entry]) -> AdapterNotFoundError:
        usable = [entry for entry in entries if entry.problem is None]
        near = nearest(name, [entry.name for entry in usable] + [entry.alias for entry in usable if entry.alias])
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


_NO_CARD = Card()


class _Calls:
    """The entries by what they can be called, the surest way first."""

    def __init__(self, entries: Iterable[Entry], files: Mapping[str, _Found]) -> None:
        self._ways: tuple[dict[str, list[Entry]], ...] = ({}, {}, {}, {})
        names, others, any_case, others_any_case = self._ways
        for entry in entries:
            name, relative = _plain(entry.name), _stem(files[entry.name].relative, whole=True)
            names.setdefault(name, []).append(entry)
            any_case.setdefault(name.casefold(), []).append(entry)
            # The name inside; and the file's own, with and without its folder, where another has taken it.
            for other in {_plain(each) for each in (entry.alias, relative, relative.rpartition("/")[2]) if each}:
                others.setdefault(other, []).append(entry)
                others_any_case.setdefault(other.casefold(), []).append(entry)

    def by(self, name: str) -> Sequence[Entry]:
        """The entries that a name can mean; several if nothing tells them apart."""
        plain = _plain(name)
        for at, way in enumerate(self._ways):
            wanted = plain if at < 2 else plain.casefold()
            found = way.get(wanted) or way.get(wanted.replace("\\", "/"))
            if found:
                return found
        return ()


def _usable(entry: Entry, name: str) -> Entry:
    if entry.path.suffix.lower() in _PICKLES:
        raise AdapterNotFoundError(
            "LoRA “{name}” was left out.",
            why="{file} is a Python pickle, which can run any program when it is opened.",
            todo="Use its .safetensors version.",
            name=name,
            file=_shown(entry.path.name),
        )
    return entry


def _unhashed(entries: Iterable[Entry]) -> Iterator[Identity]:
    return (entry.identity for entry in entries if not entry.content_hash and entry.problem is None)


def _problem(facts: Facts) -> Message | None:
    if not facts.problem:
        return None
    try:
        return Message.from_json(json.loads(facts.problem))
    except (ValueError, KeyError, TypeError):  # nothing of ours; loading the file says what is wrong
        return None


def _in_order(entry: Entry) -> tuple[str, str]:
    return entry.name.casefold(), entry.name


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


def _shown(text: str) -> str:
    # Bytes that are no UTF-8, which Linux allows in a name, can't be sent to a page.
    return text.encode("utf-8", "replace").decode("utf-8")


def _stem(relative: str, *, whole: bool = False) -> str:
    """A file's name without its ending, and with its folders if they are wanted."""
    stem = relative.rpartition(".")[0]
    return stem if whole else stem.rpartition("/")[2]


def _names(root: str, relative: str) -> Iterator[str]:
    """What a file may be called, the shortest first; one of them is always free."""
    path = _shown(_stem(relative, whole=True)).translate(_TAG_SIGNS).strip()
    yield path.rpartition("/")[2].strip() or "_"
    yield path
    if relative.lower().endswith(_PICKLES):
        yield _shown(relative).translate(_TAG_SIGNS)
    path = f"{_shown(Path(root).name).translate(_TAG_SIGNS)}/{path}"
    yield path
    number = 2
    while True:
        yield f"{path} ({number})"
        number += 1


class _Walk:
    """Looks through folders, each once, however many links lead to it. ``complete``: all could be read."""

    def __init__(self) -> None:
        self.complete = True
        self.cards: set[str] = set()
        self._seen: set[str] = set()

    def files(self, root: str) -> Iterator[_Found]:
        """The adapter files below a folder, in a fixed order; those of a folder before those of its folders."""
        return self._below(root, "")

    def _below(self, where: str, inside: str) -> Iterator[_Found]:
        # A link to a folder above would lead round for ever.
        real = os.path.realpath(where)
        if real in self._seen:
            return
        self._seen.add(real)
        try:
            with os.scandir(where) as listing:
                beside = {item.name: item for item in listing}
        except FileNotFoundError:
            return
        except OSError:
            self.complete = False
            return
        folders = []
        for name in sorted(beside):
            lower = name.lower()
            try:
                if lower.endswith(_ADAPTERS) and name[0] != "." and not beside[name].is_dir():
                    stat = beside[name].stat()
                    yield _Found(beside[name].path, inside + name, stat.st_size, stat.st_mtime_ns, beside)
                elif lower.endswith((".json", ".info")):
                    self.cards.add(beside[name].path)
                elif beside[name].is_dir():
                    folders.append(name)
            except OSError:
                continue  # removed since, or a link that leads nowhere
        for name in folders:
            yield from self._below(beside[name].path, f"{inside}{name}/")
