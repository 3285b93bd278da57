"""All folders' ledgers on this machine in one SQLite file: what a folder that lost its own gets back, and whether a
picture came with a prohibition before, whatever file it is in now.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RightsError
from . import canonical, history, near_duplicates
from .folder_ledger import Entry, FolderLedger
from .signals_base import Signal, Signals, signal

SCHEMA = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS datasets (id TEXT PRIMARY KEY, folder TEXT, row TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS items (dataset TEXT, item_id TEXT, pixel_id TEXT, verdict TEXT, row TEXT NOT NULL,
                                  PRIMARY KEY (dataset, item_id));
CREATE TABLE IF NOT EXISTS events (dataset TEXT, seq INTEGER, row TEXT NOT NULL, PRIMARY KEY (dataset, seq));
CREATE TABLE IF NOT EXISTS seen (path TEXT PRIMARY KEY, mark TEXT, item_id TEXT, pixel_id TEXT, found TEXT);
CREATE INDEX IF NOT EXISTS items_by_pixels ON items (pixel_id);
CREATE INDEX IF NOT EXISTS items_by_id ON items (item_id);
"""


def path_in(data_dir: Path) -> Path:
    """Where the store of a data folder lies."""
    return data_dir / "rights" / "ledger.db"


def data_dir_of(run_dir: Path) -> Path:
    """The data folder of a run; a run that stands alone is its own."""
    return run_dir.parents[1] if run_dir.parent.name == "runs" else run_dir


class Store:
    """The store of one data folder; a connection for each call, so that threads and processes may share the file."""

    def __init__(self, data_dir: Path) -> None:
        self.path = path_in(data_dir)

    @classmethod
    def of_run(cls, run_dir: Path) -> Store | None:
        """The store beside a run's directory; None where there is none yet."""
        store = cls(data_dir_of(run_dir))
        return store if store.path.is_file() else None

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=10, isolation_level=None)
            try:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version > SCHEMA:
                    raise sqlite3.DatabaseError(f"schema {version} of a newer version")
                if version < SCHEMA:
                    connection.executescript(_TABLES)
                    connection.execute(f"PRAGMA user_version = {SCHEMA}")
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            raise RightsError(
                "The ledger of rights can't be used.",
                why="{file}: {reason}.",
                todo="Make room on the disk, or put the file aside: the folders' own records hold the same.",
                file=str(self.path),
                reason=str(error).rstrip("."),
            ) from error

    # ------------------------------------------------------------------------------------------------ ledgers

    def put(self, ledger: FolderLedger, folder: Path) -> None:
        """Keep a folder's ledger. Raises RightsError if the one that is kept says something else from some event on:
        a history only grows."""
        rows = list(ledger.rows())
        with self._open() as db:
            kept = _events(db, ledger.dataset_id)
            if not history.extends(ledger.events, kept):
                raise RightsError(
                    "The record of rights in {folder} was not kept.",
                    why="Somebody else stated something about this folder meanwhile.",
                    todo="Reload the page and state it again.",
                    folder=str(folder),
                )
            db.execute("REPLACE INTO datasets VALUES (?, ?, ?)", (ledger.dataset_id, str(folder), _row(rows[0])))
            db.execute("DELETE FROM items WHERE dataset = ?", (ledger.dataset_id,))
            db.executemany(
                "INSERT INTO items VALUES (?, ?, ?, ?, ?)",
                ((ledger.dataset_id, one.item_id, one.pixel_id, _verdict(one), _row(one.to_json()))
                 for one in ledger.entries.values()),
            )  # fmt: skip
            db.executemany(
                "INSERT INTO events VALUES (?, ?, ?)",
                ((ledger.dataset_id, event["seq"], _row(event)) for event in ledger.events[len(kept) :]),
            )

    def get(self, dataset_id: str) -> FolderLedger | None:
        """The ledger that was kept under this id. Raises RightsError if it is damaged."""
        with self._open() as db:
            head = db.execute("SELECT row, folder FROM datasets WHERE id = ?", (dataset_id,)).fetchone()
            if head is None:
                return None
            items = db.execute("SELECT row FROM items WHERE dataset = ?", (dataset_id,)).fetchall()
            rows = [head[0], *(row for (row,) in items), *map(_row, _events(db, dataset_id))]
        return FolderLedger.parse("\n".join(rows), Path(head[1]))

    def of_folder(self, folder: Path) -> FolderLedger | None:
        """The ledger that was kept for a folder at this place, the one with the longest history."""
        with self._open() as db:
            found = db.execute(
                "SELECT id FROM datasets WHERE folder = ? ORDER BY"
                " (SELECT count(*) FROM events WHERE dataset = datasets.id) DESC LIMIT 1",
                (str(folder),),
            ).fetchone()
        return self.get(found[0]) if found else None

    def dataset_ids(self) -> list[str]:
        with self._open() as db:
            return [row for (row,) in db.execute("SELECT id FROM datasets ORDER BY id")]

    # ------------------------------------------------------------------------------------------------ pictures

    def prohibitions(self) -> Prohibitions:
        """What is known of pictures that came with a prohibition or were withdrawn, in all folders."""
        with self._open() as db:
            rows = db.execute("SELECT dataset, row FROM items WHERE verdict != ''").fetchall()
        entries = []
        for dataset, row in rows:
            values = {name: value for name, value in json.loads(row).items() if name != "kind"}
            entries.append((str(dataset), Entry(**values)))
        return Prohibitions(tuple(entries))

    def pixels_of(self, item_id: str) -> set[str]:
        """The pixel ids that are known of a file."""
        with self._open() as db:
            return {row for (row,) in db.execute("SELECT pixel_id FROM items WHERE item_id = ?", (item_id,)) if row}

    # ------------------------------------------------------------------------------------------------ what was read

    def seen(self, paths: Iterable[tuple[str, str]]) -> dict[str, tuple[str, str, dict[str, Any]]]:
        """What was read of files that are as they were: path -> (item id, pixel id, found), for (path, mark) pairs."""
        found = {}
        with self._open() as db:
            for path, mark in paths:
                row = db.execute(
                    "SELECT item_id, pixel_id, found FROM seen WHERE path = ? AND mark = ?", (path, mark)
                ).fetchone()
                if row is not None:
                    found[path] = (row[0], row[1], json.loads(row[2]))
        return found

    def remember(self, rows: Iterable[tuple[str, str, str, str, dict[str, Any]]]) -> None:
        """Keep what was read of files: (path, mark, item id, pixel id, found)."""
        with self._open() as db:
            db.executemany(
                "REPLACE INTO seen VALUES (?, ?, ?, ?, ?)",
                ((path, mark, item, pixels, _row(found)) for path, mark, item, pixels, found in rows),
            )


@dataclass(frozen=True)
class Prohibitions:
    """Pictures that were forbidden or withdrawn before, with their datasets; empty on most machines."""

    entries: tuple[tuple[str, Entry], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.entries)

    def of(self, item_id: str, pixel_id: str, pdq: str = "", *, besides: str = "") -> tuple[Signals, bool]:
        """What other files of the same picture forbade, or of nearly the same one by its hash ``pdq``, and whether one
        was withdrawn. Its own line in the dataset ``besides`` is none of them."""
        found: list[Signal] = []
        withdrawn = False
        for dataset, entry in self.entries:
            if (dataset, entry.item_id) == (besides, item_id):
                continue
            same = entry.item_id == item_id or (pixel_id and entry.pixel_id == pixel_id)
            if same or near_duplicates.is_near(pdq, entry.found.get("pdq", "")):
                withdrawn = withdrawn or entry.withdrawn is not None
                found += [signal(one.kind, "inherited", one.raw, one.use) for one in entry.signals().prohibitions()]
        return Signals(tuple(dict.fromkeys(found))), withdrawn


def _verdict(entry: Entry) -> str:
    if entry.withdrawn is not None:
        return "withdrawn"
    own = Signals(tuple(one for one in entry.signals().found if one.where != "inherited"))
    return "prohibited" if own.prohibited and entry.override is None else ""


def _events(db: sqlite3.Connection, dataset_id: str) -> list[history.Event]:
    rows = db.execute("SELECT row FROM events WHERE dataset = ? ORDER BY seq", (dataset_id,))
    return [json.loads(row) for (row,) in rows]


def _row(value: Any) -> str:
    return canonical.encode(value).decode("utf-8", "surrogatepass")
