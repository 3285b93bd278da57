"""The catalogue's memory: what was read from which version of a file, in a small SQLite database.

It is a cache and nothing else: whatever is wrong with the database (locked, read-only, broken, on a drive that does not
lock, written by a newer version), the catalogue goes on without it. No connection stays open between two uses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .facts import Card, Facts

if TYPE_CHECKING:
    import sqlite3

# Older databases are made anew, newer ones are left alone. Counts up whenever what Facts or Card hold means another
# thing.
SCHEMA = 1
# Another process writes for milliseconds; whoever finds it locked for longer does without and tries the next time.
_LOCKED_TIMEOUT_S = 0.25
_SQL_TYPES = {str: "TEXT", int: "INTEGER", float: "REAL"}

T = TypeVar("T", bound=tuple[Any, ...])


class Table(Generic[T]):
    """Rows of one kind by the path of their file; a row is good for one size and one time of change only."""

    def __init__(self, name: str, make: Callable[[Iterable[Any]], T], defaults: dict[str, Any]) -> None:
        self.name = name
        self._make = make
        self._types = [type(value) for value in defaults.values()]
        self._columns = {column: _SQL_TYPES[type(value)] for column, value in defaults.items()}
        self._rows: dict[str, tuple[int, int, T]] = {}
        self._changed: set[str] = set()
        self._gone: set[str] = set()

    def get(self, path: str, size_bytes: int, modified_ns: int) -> T | None:
        """Return what is known of this version of a file."""
        row = self._rows.get(path)
        return row[2] if row is not None and row[0] == size_bytes and row[1] == modified_ns else None

    def put(self, path: str, size_bytes: int, modified_ns: int, value: T) -> None:
        """Keep what was read from this version of a file."""
        self._rows[path] = (size_bytes, modified_ns, value)
        self._changed.add(path)
        self._gone.discard(path)

    def drop_others(self, paths: Collection[str], below: Iterable[str]) -> None:
        """Forget the files below some folders that are not among ``paths``: they are no longer there."""
        folders = tuple(os.path.join(folder, "") for folder in below)  # noqa: PTH118 - strings, for speed
        for path in self._rows.keys() - paths:
            if path.startswith(folders):
                del self._rows[path]
                self._changed.discard(path)
                self._gone.add(path)

    @property
    def is_saved(self) -> bool:
        """Whether the database has all that is here."""
        return not self._changed and not self._gone

    def create(self, db: sqlite3.Connection) -> None:
        """Make the table in an empty database."""
        columns = "".join(f", {name} {kind} NOT NULL" for name, kind in self._columns.items())
        db.execute(
            f"CREATE TABLE {self.name} (path TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL,"
            f" modified_ns INTEGER NOT NULL{columns})"
        )

    def load(self, db: sqlite3.Connection, path: str | None = None) -> None:
        """Take the database's rows (or one of them) for the files of which nothing newer is known here."""
        where, values = ("", ()) if path is None else (" WHERE path = ?", (path,))
        names = ", ".join(["path", "size_bytes", "modified_ns", *self._columns])
        make, rows, skip = self._make, self._rows, self._changed | self._gone
        for key, size_bytes, modified_ns, *rest in db.execute(f"SELECT {names} FROM {self.name}{where}", values):
            # SQLite takes any type in any column; a row that we did not write is as good as none.
            if key not in skip and [type(value) for value in rest] == self._types:
                rows[key] = (size_bytes, modified_ns, make(rest))

    def store(self, db: sqlite3.Connection) -> None:
        """Write what changed. ``written`` must follow once the transaction is through."""
        marks = ", ".join("?" * (3 + len(self._columns)))
        rows = self._rows
        db.executemany(f"DELETE FROM {self.name} WHERE path = ?", [(path,) for path in self._gone if _storable(path)])
        db.executemany(
            f"INSERT OR REPLACE INTO {self.name} VALUES ({marks})",
            [(path, *rows[path][:2], *rows[path][2]) for path in self._changed if _storable(path)],
        )

    def written(self) -> None:
        """Note that the database has everything."""
        self._changed.clear()
        self._gone.clear()


class Index:
    """What is known of adapter files and of the cards beside them. Not thread-safe: the catalogue's lock guards it."""

    def __init__(self, path: Path | None) -> None:
        """``path`` is the database's file; None keeps everything in memory."""
        self.path = path
        self.adapters: Table[Facts] = Table("adapters", Facts._make, Facts._field_defaults)
        self.cards: Table[Card] = Table("cards", Card._make, Card._field_defaults)
        self._loaded = path is None

    def load(self) -> None:
        """Read the database, the first time that it is there and can be read."""
        if self._loaded or self.path is None or not self.path.is_file():
            return

        def read(db: sqlite3.Connection) -> None:
            for table in (self.adapters, self.cards):
                table.load(db)

        self._loaded = self._use(read)

    def look_again(self, path: str) -> None:
        """Take what another process may have found out about a file since."""

        def read(db: sqlite3.Connection) -> None:
            self.adapters.load(db, path)

        if self.path is not None and self.path.is_file():
            self._use(read)

    def save(self) -> None:
        """Write what changed; what can't be written now is kept for the next time."""
        tables = (self.adapters, self.cards)
        if self.path is None or all(table.is_saved for table in tables):
            return

        def write(db: sqlite3.Connection) -> None:
            for table in tables:
                table.store(db)

        if self._use(write):
            self._loaded = True
            for table in tables:
                table.written()

    def _use(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        """Do something with the database in one transaction; return whether it could be done."""
        try:
            import sqlite3
        except ImportError:  # a Python built without it
            self.path = None
            return False
        for attempt in range(2):
            if self.path is None:
                return False
            try:
                with self._open() as db:
                    if db is None:
                        self.path = None  # a newer version's: not ours to touch
                        return False
                    work(db)
                return True
            except sqlite3.OperationalError:
                return False  # locked, read-only, no room, no such folder
            except sqlite3.DatabaseError:
                # No database, or a damaged one: put aside, and made anew at the second attempt.
                if attempt or not self._put_aside():
                    self.path = None
            except (OSError, ValueError):
                return False
        return False

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        """A connection within a transaction that is kept if nothing is raised; None if the database is newer."""
        import sqlite3

        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=_LOCKED_TIMEOUT_S, isolation_level=None)
        try:
            # The rollback journal stays: write-ahead logs need shared memory, which network drives lack. Nothing
            # waits for the disk: after a power cut a cache may be lost.
            db.execute("PRAGMA synchronous = OFF")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA:
                yield None
                return
            if version < SCHEMA:
                self._make(db)
            db.execute("BEGIN")
            yield db
            db.execute("COMMIT")
        finally:
            db.close()

    def _make(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        # Another process may have made it while this one waited.
        if db.execute("PRAGMA user_version").fetchone() != (SCHEMA,):
            for table in (self.adapters, self.cards):
                db.execute(f"DROP TABLE IF EXISTS {table.name}")
                table.create(db)
            db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.execute("COMMIT")

    def _put_aside(self) -> bool:
        assert self.path is not None
        try:
            self.path.replace(self.path.with_name(self.path.name + ".broken"))
        except OSError:  # on Windows, while another process has it open
            return False
        return True


def _storable(path: str) -> bool:
    """Whether a path can stand in the database: names that are no UTF-8 can't, and are read again each time."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
