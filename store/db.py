"""Open a node's database and run transactions on its one writing connection.

Refuses a database of a newer dizzyd and one that SQLite finds malformed. The connection belongs
to one thread; it also does the checkpoints (SQLite before 3.51.3 can corrupt a WAL database
when two connections write or checkpoint at once, sqlite.org/wal.html#walresetbug).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from store.errors import DatabaseDamaged, DatabaseNewer, DizzyError
from store.schema import SCHEMA

SCHEMA_VERSION = 4
IN_LIMIT = 500  # ids in one IN(): well below SQLite's limit of variables
_ROWS_AT_ONCE = (64, 8)  # of one INSERT: 64 rows of 20 columns are 1280 of 32766 variables


# Version 1 had another table of chunk lists, which nothing was ever written to.
_FROM_1 = """BEGIN;
DROP TABLE chunk_list;
CREATE TABLE chunk_list (
    no INTEGER NOT NULL, folder_no INTEGER NOT NULL, value BLOB NOT NULL, chunks BLOB NOT NULL,
    PRIMARY KEY (no), UNIQUE (value, folder_no)
);
PRAGMA user_version = 2;
COMMIT;"""
# Version 2 looked for the few batches that wait for a newer dizzyd among all of them.
_FROM_2 = """BEGIN;
CREATE INDEX IF NOT EXISTS batch_unapplied ON batch (folder_no) WHERE is_applied = 0;
PRAGMA user_version = 3;
COMMIT;"""
# Version 3 knew no snapshots.
_FROM_3 = """BEGIN;
CREATE TABLE IF NOT EXISTS buried (
    object_no INTEGER NOT NULL, event BLOB NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (object_no, event)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS snapshot_piece (
    hash BLOB NOT NULL, no INTEGER NOT NULL, folder_no INTEGER NOT NULL, piece BLOB NOT NULL,
    PRIMARY KEY (hash, no)
);
PRAGMA user_version = 4;
COMMIT;"""


class Database:
    """The one connection to a node's database, with nestable transactions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take over an open connection; use open_database or memory_database."""
        self.connection = connection
        self.execute = connection.execute
        self.executemany = connection.executemany
        self._depth = 0
        self._next_object_no: int | None = None
        self._owes_sync = True  # a process that was killed may have left what no disk has
        self._is_lazy = False

    def new_object_no(self) -> int:
        """Give a number that no object of any folder has; never one given before."""
        if self._next_object_no is None:
            row = self.execute("SELECT coalesce(max(no), 0) + 1 FROM object").fetchone()
            self._next_object_no = int(row[0])
        self._next_object_no += 1
        return self._next_object_no - 1

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside one atomic, durable change; inner ones join the outer.

        When the outermost ends, its rows are on disk (WAL, synchronous=FULL). An exception
        undoes all of it.
        """
        if self._depth:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        self.execute("BEGIN IMMEDIATE")
        self._depth = 1
        changes_before = self.connection.total_changes
        try:
            yield
            # A COMMIT of nothing syncs nothing, nor does one of rows that are as they were.
            settles = not self._is_lazy and self.connection.total_changes > changes_before
            if settles and self._owes_sync:
                self.set_meta("settled", b"")
            self.execute("COMMIT")
            self._owes_sync = self._owes_sync and not settles
        except BaseException:
            # A disk that fails a COMMIT leaves it open or has undone it already.
            if self.connection.in_transaction:
                self.execute("ROLLBACK")
            raise
        finally:
            self._depth = 0

    @contextmanager
    def lazily(self, *, is_owed: bool) -> Iterator[None]:
        """Let transactions inside be durable with the next one outside.

        For what a peer would send again, or a look find again. A power cut takes the last of
        them back together, never one before another: the WAL is read up to where it was synced.
        `is_owed`: others may be told of it, or something be done for it, after settle() only.
        """
        self.execute("PRAGMA synchronous = NORMAL")
        self._is_lazy = True
        self._owes_sync = self._owes_sync or is_owed
        try:
            yield
        finally:
            self._is_lazy = False
            self.execute("PRAGMA synchronous = FULL")

    def settle(self) -> None:
        """Make durable what was committed lazily and is owed; does nothing where nothing is."""
        if self._owes_sync:
            self.sync()

    def sync(self) -> None:
        """Make durable all that was committed; it stays owed where that fails.

        A full disk takes no row more, but what the log of SQLite has by now. After any other
        error the disk is not asked again for the same bytes: it may call lost ones written.
        """
        self._owes_sync = True
        try:
            with self.transaction():
                self.set_meta("settled", b"")
        except sqlite3.OperationalError as cause:
            if self._depth or cause.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
                raise
            try:
                self._sync_log()
            except OSError:
                raise cause from None
            self._owes_sync = False

    def _sync_log(self) -> None:
        """Have the disk write what SQLite's log has. Raises OSError."""
        (_, _, path) = self.execute("PRAGMA database_list").fetchone()
        log = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)  # none of SQLite's locks is on it
        try:
            os.fsync(log)
        finally:
            os.close(log)

    def insert(self, into: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Write rows: `into` is "INSERT ... INTO table (...)"; all rows are equally long.

        Many rows go into one statement: a third less CPU than executemany, and the interpreter's
        lock is let go once for 64 rows. Where other threads want it, that is most of the time.
        Leave out columns that are NULL in all rows: for None, as for bytes, sqlite3 looks for an
        adapter, each time (_bindable).
        """
        done = 0
        for size in _ROWS_AT_ONCE:
            if len(rows) - done >= size:
                one = f"({','.join('?' * len(rows[0]))})"
                statement = f"{into} VALUES {','.join([one] * size)}"
                while len(rows) - done >= size:
                    part = rows[done : done + size]
                    self.execute(statement, _bindable(chain.from_iterable(part)))
                    done += size
        if done < len(rows):
            one = f"({','.join('?' * len(rows[0]))})"
            self.executemany(f"{into} VALUES {one}", rows[done:])

    def update(
        self, table: str, columns: Sequence[str], key: str, rows: Sequence[tuple[object, ...]]
    ) -> None:
        """Set these columns of rows found by `key`: each of `rows` has their values, then its key.

        Many rows go into one statement, as with insert(): a quarter of the CPU of executemany.
        Name no column that stays as it is: each index that holds one is written anew.
        """
        done = 0
        for size in _ROWS_AT_ONCE:
            if len(rows) - done >= size:
                one = f"({','.join('?' * (len(columns) + 1))})"
                named = ", ".join(f"{name} = v.column{at}" for at, name in enumerate(columns, 1))
                statement = (
                    f"UPDATE {table} SET {named} FROM (VALUES {','.join([one] * size)}) v"
                    f" WHERE {table}.{key} = v.column{len(columns) + 1}"
                )
                while len(rows) - done >= size:
                    part = rows[done : done + size]
                    self.execute(statement, _bindable(chain.from_iterable(part)))
                    done += size
        if done < len(rows):
            named = ", ".join(f"{name} = ?" for name in columns)
            self.executemany(f"UPDATE {table} SET {named} WHERE {key} = ?", rows[done:])

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._depth > 0

    def meta(self, key: str) -> bytes | None:
        """Read one fact that the database holds about itself."""
        row = self.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def set_meta(self, key: str, value: bytes) -> None:
        """Write one fact that the database holds about itself."""
        self.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def close(self) -> None:
        """Fold the WAL into the file and close."""
        with suppress(sqlite3.Error):  # a full or read-only disk: the WAL is read next time
            self.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()


def chunked(values: Sequence[bytes] | Sequence[int]) -> Iterator[tuple[str, Sequence[object]]]:
    """Cut values for IN(): gives ("?,?,?", values) at most IN_LIMIT at a time."""
    for start in range(0, len(values), IN_LIMIT):
        part = values[start : start + IN_LIMIT]
        yield ",".join("?" * len(part)), _bindable(part)


def _bindable(values: Iterable[object]) -> list[object]:
    """Give values as sqlite3 binds them soonest.

    It binds integers, strings and bytearrays as they are, and searches its adapters for anything
    else, bytes among it: 0.3 us for each value, a third of the time that a row of ours takes.
    """
    return [bytearray(value) if type(value) is bytes else value for value in values]


def open_database(path: Path, *, read_only: bool = False) -> Database:
    """Open or make the database at `path`, for its owner alone (0600) whatever the umask.

    Raises DatabaseDamaged if it is malformed, DatabaseNewer if it was written by a newer dizzyd,
    DizzyError where the disk or somebody's lock is in the way: then nothing is wrong with it.
    """
    was_there = path.exists() and path.stat().st_size > 0
    try:
        if read_only:
            connection = sqlite3.connect(
                f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )
        else:
            path.touch(mode=0o600)  # SQLite gives its -wal and -shm the same mode
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{2048 if read_only else 8192}")
        if not read_only:  # what is mapped counts as ours, twice if two do it
            connection.execute("PRAGMA mmap_size = 268435456")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            if was_there and _has_tables(connection):
                raise sqlite3.DatabaseError("the number of its schema is gone")
            _make(connection)
        elif not read_only:
            _renew(connection, version)
    except sqlite3.Error as cause:
        if isinstance(cause, sqlite3.OperationalError) and not is_damage(cause):
            raise DizzyError(
                f"cannot open the database {path}",
                str(cause),
                hint="free space, or let go of its lock; nothing is wrong with it",
            ) from cause
        raise DatabaseDamaged(
            f"cannot open the database {path}",
            str(cause),
            hint="`dizzyd run` replaces it by what can be proven; this one is kept",
        ) from cause
    if version > SCHEMA_VERSION:
        connection.close()
        raise DatabaseNewer(
            f"cannot open the database {path}",
            f"it has schema {version}, this dizzyd knows {SCHEMA_VERSION}",
            hint="install a newer dizzyd; nothing was changed",
        )
    return Database(connection)


def _renew(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables of an earlier schema to the present one, a transaction for each step."""
    for earlier, change in ((1, _FROM_1), (2, _FROM_2), (3, _FROM_3)):
        if version <= earlier:
            connection.executescript(change)


def _has_tables(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def is_damage(error: BaseException) -> bool:
    """Whether an error of SQLite says that the database is not what was written.

    A full disk, a lock and an input error say nothing of it.
    """
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by the module itself: bytes that are no text, say
        return not isinstance(error, sqlite3.ProgrammingError)
    if code & 0xFF == sqlite3.SQLITE_ERROR:
        return str(error).startswith(("no such table", "no such column", "malformed"))
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)


def check_structure(
    db: Database, limit: int, *, is_quick: bool, is_over: Callable[[], bool] = lambda: False
) -> list[str]:
    """Let SQLite check its pages; give what is wrong. An end by `is_over` finds nothing.

    The quick check leaves out whether indices agree with their tables.
    """
    pragma = "quick_check" if is_quick else "integrity_check"
    db.connection.set_progress_handler(is_over, 10_000)
    try:
        told = [str(row[0]) for row in db.execute(f"PRAGMA {pragma}({limit})")]
    except sqlite3.OperationalError as stopped:
        if stopped.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return []
        return [str(stopped)]
    except sqlite3.DatabaseError as damaged:
        return [str(damaged)]
    finally:
        db.connection.set_progress_handler(None, 0)
    return [] if told == ["ok"] else told


def open_damaged(path: Path, *, with_wal: bool) -> sqlite3.Connection:
    """Open what is left of a damaged database to read from it; nothing is ever written there.

    Raises sqlite3.Error where nothing can be read.
    """
    how = "mode=ro" if with_wal else "mode=ro&immutable=1"
    return sqlite3.connect(f"file:{path}?{how}", uri=True, isolation_level=None)


def memory_database() -> Database:
    """Make a database that lives in memory: for simulations and tests."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA cache_size = -512")
    _make(connection)
    return Database(connection)


def scratch_database() -> Database:
    """Make a database for one piece of work; SQLite keeps it in a file that has no name."""
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -16384")
    _make(connection)
    return Database(connection)


def _make(connection: sqlite3.Connection) -> None:
    connection.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};\nCOMMIT;")
