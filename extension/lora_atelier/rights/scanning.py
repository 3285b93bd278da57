"""Looking through a folder: every picture's signals, rights and personal data into its ledger, which is then kept."""

from __future__ import annotations

import hashlib
import io
import math
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ..errors import RightsError
from . import near_duplicates, personal, signals_embedded
from .folder_ledger import Entry, FolderLedger, item_id
from .signals_base import Signals
from .signals_sidecar import Beside
from .signals_verified import Verifier, is_unchecked
from .store import Store

# Until somebody gives a name.
NOBODY = "this computer"
_MAX_PIXELS = 400_000_000
# How the fingerprints in a record were made; where another way or none is noted, they are made again.
LOOK = 2


def pixel_id(data: bytes) -> str:
    """The sha256 of the decoded picture: its size and its RGB pixels, upright; "" where it can't be decoded.

    The same for every file that shows the very same pixels, whatever metadata it has or lost.
    """
    upright = _upright(data)
    return "" if upright is None else _pixel_id(upright)


def pixels_and_fingerprint(data: bytes) -> tuple[str, str]:
    """The pixel id and the fingerprint of a picture, decoded once; "" for what there is not."""
    upright = _upright(data)
    return ("", "") if upright is None else (_pixel_id(upright), near_duplicates.fingerprint_of(upright))


def _upright(data: bytes) -> Image.Image | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as picture:
                if picture.width * picture.height > _MAX_PIXELS:
                    return None
                picture.load()
                ImageOps.exif_transpose(picture, in_place=True)
                return picture.convert("RGB")
    except Exception:  # decoders fail in many ways; whoever uses the picture says so
        return None


def _pixel_id(upright: Image.Image) -> str:
    digest = hashlib.sha256(f"{upright.width}x{upright.height}\n".encode())
    digest.update(upright.tobytes())
    return f"pixels:{digest.hexdigest()}"


def open_ledger(folder: Path, store: Store | None) -> FolderLedger | None:
    """The ledger of a folder: beside its pictures, or else the one that was kept of it. Raises RightsError, OSError."""
    ledger = FolderLedger.read(folder)
    if ledger is None:
        return store.of_folder(folder) if store is not None else None
    kept = store.get(ledger.dataset_id) if store is not None else None
    # A folder on a disk that can't be written to: what was stated since is in the store alone.
    return kept if kept is not None and len(kept.events) > len(ledger.events) else ledger


def keep(ledger: FolderLedger, folder: Path, store: Store | None) -> bool:
    """Keep a ledger in the store and beside the pictures; returns False where that can't be written.

    Raises RightsError if it can be kept in neither.
    """
    if store is not None:
        store.put(ledger, folder)
    try:
        ledger.write(folder)
    except OSError as error:
        if store is None:
            raise RightsError(
                "The record of rights in {folder} can't be written.",
                why="{reason}.",
                todo="Allow writing there.",
                folder=str(folder),
                reason=error.strerror or str(error),
            ) from error
        return False
    return True


def scan(
    folder: Path,
    names: Iterable[str],
    *,
    store: Store | None = None,
    captions: Callable[[Path], str] = lambda path: "",
    seconds: float = math.inf,
    verifier: Verifier | None = None,
) -> FolderLedger:
    """Look through the pictures ``names`` of a folder and return its ledger, not kept yet; nothing is written to them.

    A picture that is gone meanwhile is passed over. Files that were read before and are as they were are not read
    again. After ``seconds`` of reading, the rest is left for the next look, and the ledger says how many. ``verifier``
    checks the signatures of content credentials. Raises RightsError.
    """
    listed = list(names)
    ledger = open_ledger(folder, store) or FolderLedger()
    beside = Beside(folder)
    marks = {name: mark for name in listed if (mark := _mark(folder / name))}
    known = store.seen((str(folder / name), mark) for name, mark in marks.items()) if store is not None else {}
    entries: dict[str, Entry] = {}
    ledger.names = {}
    fresh = []
    earlier = store.prohibitions() if store is not None else None
    until = time.monotonic() + seconds
    ledger.unread = 0
    for name, mark in marks.items():
        path = folder / name
        if str(path) not in known and time.monotonic() > until:
            ledger.unread += 1
            continue
        try:
            item, pixels, found = known[str(path)] if str(path) in known else _read(path)
        except OSError:
            continue
        checked = _verified(path, found, verifier)
        if str(path) not in known or checked != found:
            fresh.append((str(path), mark, item, pixels, checked))
        found = checked
        entry = Entry(item, name, pixels, found)
        said = entry.signals().merged(beside.signals(name))
        if earlier:
            inherited, withdrawn = earlier.of(item, pixels, found.get("pdq", ""), besides=ledger.dataset_id)
            said = said.merged(inherited)
            if withdrawn:
                entry.found = {**entry.found, "withdrawn_before": True}
        entry.found = {**entry.found, **_found(said)}
        private = [*found.get("personal", ()), *(one.to_json() for one in personal.in_caption(captions(path)))]
        if private:
            entry.found = {**entry.found, "personal": private}
        # Two files of the very same bytes are one picture; the first name stands for both.
        entries.setdefault(item, entry)
        ledger.names[name] = item
    if store is not None and fresh:
        store.remember(fresh)
    if ledger.unread:
        ledger.entries = {**ledger.entries, **entries}
    else:
        ledger.scanned(entries.values(), by=NOBODY)
    return ledger


def _read(path: Path) -> tuple[str, str, dict[str, Any]]:
    data = path.read_bytes()
    opened = signals_embedded.open_metadata(data)
    found = _found(signals_embedded.read(data, opened))
    private = [one.to_json() for one in personal.find(data, opened=opened)]
    if private:
        found["personal"] = private
    pixels, pdq = pixels_and_fingerprint(data)
    if pixels:
        found["look"] = LOOK
    if pdq:
        found["pdq"] = pdq
    return item_id(hashlib.sha256(data).hexdigest()), pixels, found


def _verified(path: Path, found: dict[str, Any], verifier: Verifier | None) -> dict[str, Any]:
    """What was found, with the seals checked; as it was where there is nothing to check, or nobody to do it."""
    said = Entry("", "", found=found).signals()
    if verifier is None or not is_unchecked(said):
        return found
    return {**found, **_found(verifier.verified(path, said))}


def _found(said: Signals) -> dict[str, Any]:
    return {"signals": [one.to_json() for one in said.found], "rights": said.rights.to_json()}


def _mark(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"
