"""Folders' ledgers as the page needs them: looked through, changed, kept; and their copies without personal data."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import DataError, RightsError
from ..jobs.helper_process import Helper
from ..rights import evidence, scanning, stripping
from ..rights.folder_ledger import FolderLedger
from ..rights.ledger import BASES
from ..rights.overview import Overview, overview
from ..rights.signals_verified import Verifier
from ..rights.store import Store
from .folders import PictureFolder
from .uploads import Uploads

# How long one answer may look through a folder; the page asks again for the rest.
LOOK_S = 2.0
_EVIDENCE_FIELDS = ("kind", "valid_from", "valid_until", "territory")


class Desk:
    """The ledgers of the folders that pages know of. What changes one waits until it was looked through to its end."""

    def __init__(self, uploads: Uploads, data_dir: Path) -> None:
        self.uploads = uploads
        self.data_dir = data_dir
        self.store = Store(self.data_dir)
        self.helper = Helper()
        # Two looks at once would each add events of their own to one history.
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        # What the store has of each: every change is an event more.
        self._kept: dict[str, tuple[str, int]] = {}
        # How each stood when it was last looked at.
        self._seen: dict[str, FolderLedger] = {}

    def folder(self, upload: str) -> PictureFolder:
        """The pictures of one upload. Raises DataError if there is none of this id."""
        return self.uploads.get(upload)

    def ledger(self, upload: str, seconds: float = LOOK_S) -> FolderLedger:
        """The ledger of a folder after a fresh look of so many seconds. Raises DataError, RightsError."""
        folder = self.folder(upload)
        return scanning.scan(
            folder.source,
            self._readable(folder),
            store=self.store,
            captions=lambda path: folder.caption(path.name),
            seconds=seconds,
            verifier=Verifier.of(self.helper.ask, self.data_dir),
        )

    def complete(self, upload: str) -> FolderLedger:
        """The ledger of a folder that was looked through to its end. Raises RightsError."""
        ledger = self.ledger(upload)
        if ledger.unread:
            raise RightsError(
                "The folder is still being looked through.",
                why="{count} pictures are left.",
                todo="Try again in a moment.",
                count=ledger.unread,
            )
        return ledger

    def change(self, upload: str, change: Callable[[FolderLedger], None]) -> None:
        """Change a ledger and keep it. Raises RightsError for what makes no sense; nothing is kept then."""
        with self._locks[upload]:
            ledger = self.complete(upload)
            change(ledger)
            scanning.keep(ledger, self.folder(upload).source, self.store)

    def overview(self, upload: str, whose: str) -> tuple[Overview, FolderLedger]:
        """What a training under ``whose`` would do with each picture."""
        with self._locks[upload]:
            ledger = self.ledger(upload)
            # Kept, so that a picture that loses its metadata later is still known; the record beside the pictures only
            # where somebody stated something.
            mark = (ledger.dataset_id, len(ledger.events))
            if not ledger.unread and self._kept.get(upload) != mark:
                self.store.put(ledger, self.folder(upload).source)
                self._kept[upload] = mark
            self._seen[upload] = ledger
        return overview(ledger, whose=whose if whose in BASES else "mine"), ledger

    def refused(self, upload: str, whose: str) -> frozenset[str]:
        """Names of pictures that won't be trained on under ``whose``: by their rights as they were last looked at, or
        because they can't be read. Raises DataError, RightsError."""
        folder = self.folder(upload)
        # Less than no time: what is known from before is found, and nothing is read.
        ledger = self._seen.get(upload) or self.ledger(upload, seconds=-1)
        rows = overview(ledger, whose=whose if whose in BASES else "mine").rows
        out = {row.name for row in rows if not row.decision.included}
        return frozenset(out | folder.unreadable())

    def _readable(self, folder: PictureFolder) -> list[str]:
        unreadable = folder.unreadable()
        return [name for name in folder.names() if name not in unreadable]

    def attach(self, upload: str, said: dict[str, str], data: bytes) -> None:
        """Seal a document and note it for the folder, or for the ``picture`` in ``said``. Raises RightsError."""
        sealed = evidence.seal(
            data,
            self.data_dir,
            name=said.get("name", "document"),
            **{"kind": "other", **{name: said[name] for name in _EVIDENCE_FIELDS if name in said}},  # type: ignore[arg-type]
        )
        by, picture = said_by(said), said.get("picture")

        def note(ledger: FolderLedger) -> None:
            if picture:
                ledger.except_(items(ledger, {"names": [picture]}), {"evidence": [sealed]}, by=by)
            else:
                ledger.state({"evidence": [sealed]}, by=by)

        self.change(upload, note)

    # ------------------------------------------------------------------------------------------- personal data

    def strip(self, upload: str) -> dict[str, Any]:
        """Copies without personal data as an upload of their own, with what was said, written and left out."""
        with self._locks[upload]:
            folder, ledger = self.folder(upload), self.complete(upload)
            self.store.put(ledger, folder.source)
            names = [name for name in folder.all_names() if folder.picture(name).width]
            copies = self.uploads.copies_of(upload)
            made = stripping.strip_folder(folder.source, copies.source, names)
            copied = _copied_names(copies.source, names)
            copies.take_marks(folder, copied)
            if ledger.statement or any(one.said or one.override for one in ledger.entries.values()):
                self._carry(ledger, copies, copied)
        return {
            "upload": self.uploads.copies_id(upload),
            "undo": upload,
            "pictures": made.pictures,
            "changed": made.changed,
        }

    def undo(self, upload: str) -> str:
        """Delete the copies that were made of ``upload``, and go back to it. Raises RightsError if there are none."""
        copies = self.uploads.copies_id(upload)
        stripping.undo(self.uploads.folder / copies / "pictures")
        self.uploads.forget(copies)
        return upload

    def _carry(self, ledger: FolderLedger, copies: PictureFolder, copied: dict[str, str]) -> None:
        """State for the copies what was stated for their originals; prohibitions and withdrawals follow the pixels."""
        fresh = scanning.scan(copies.source, copies.names(), store=self.store)
        by = ledger.events[-1]["by"] if ledger.events else scanning.NOBODY
        if ledger.statement:
            fresh.state(ledger.statement, by=by)
        for name, item in ledger.names.items():
            entry, copy = ledger.entries[item], fresh.names.get(copied.get(name, ""))
            if copy is None:
                continue
            if entry.said:
                fresh.except_([copy], entry.said, by=by)
            if entry.override is not None:
                with contextlib.suppress(RightsError):  # a studio's folder knows none
                    fresh.override([copy], by=entry.override["by"], reason=entry.override["reason"])
        scanning.keep(fresh, copies.source, self.store)


def _copied_names(copies: Path, names: list[str]) -> dict[str, str]:
    """Each picture's name -> its copy's: a format that metadata can't be taken out of became PNG."""
    found = {}
    for name in names:
        for copy in (Path(name), Path(name).with_suffix(".png")):
            if (copies / copy).is_file():
                found[name] = copy.name
                break
    return found


def items(ledger: FolderLedger, asked: dict[str, Any]) -> list[str]:
    """The item ids of the pictures that a page names. Raises RightsError if there is no such picture."""
    names = asked.get("names")
    if not isinstance(names, list) or not names or not all(name in ledger.names for name in names):
        raise RightsError("There is no such picture in this folder's record.", todo="Reload the page.")
    return [ledger.names[name] for name in names]


def stated(asked: dict[str, Any], name: str = "said") -> dict[str, Any]:
    """The object that a page states. Raises DataError if it is none."""
    value = asked.get(name)
    if not isinstance(value, dict):
        raise DataError("The page sent something that can't be read.", todo="Reload the page.")
    return value


def said_by(asked: dict[str, Any]) -> str:
    """Who states it."""
    return str(asked.get("by") or "").strip()[:200] or scanning.NOBODY
