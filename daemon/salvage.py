"""Read out of a damaged database what proves itself, into a new one.

Batches carry their signatures and ids; addresses are signed too. What nothing proves (state,
synced) is not taken over: state is folded from the batches, files are bound by path and bytes as
for a joiner. The damaged file is only read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from daemon.snapshot_parts import kept_of
from store.codec import decode_header
from store.db import Database, open_damaged
from store.errors import BadSignature, Malformed
from store.ids import BatchId, FolderId
from store.joined import begin_with
from store.signing import SignedBatch, WireBatch, verify

if TYPE_CHECKING:
    from pathlib import Path

    from store.folder import StoredFolder

_GAPS: Final = 4096  # rows in a row that cannot be read: then there are no more
_AT_ONCE: Final = 64


class FoundFolder(Struct, frozen=True):
    """A folder that the damaged database names."""

    id: FolderId
    name: str
    path: bytes
    is_active: bool


class Wreck:
    """A damaged database, opened in every way that still reads something."""

    def __init__(self, path: Path | None) -> None:
        """Open it; None where nothing at all is left. close() when done."""
        self._ways: list[sqlite3.Connection] = []
        if path is None:
            return
        for with_wal in (True, False):
            with suppress(sqlite3.Error):
                connection = open_damaged(path, with_wal=with_wal)
                self._ways.append(connection)
                connection.execute("SELECT 1 FROM sqlite_master").fetchone()

    def close(self) -> None:
        """Let go of it."""
        for connection in self._ways:
            connection.close()

    def _rows(self, query: str, *values: object) -> Iterator[tuple[object, ...]]:
        """Give rows as far as they can be read, by each way."""
        for connection in self._ways:
            with (
                suppress(sqlite3.Error, UnicodeDecodeError),
                closing(connection.execute(query, values)) as rows,
            ):
                yield from rows

    def folders(self) -> dict[FolderId, FoundFolder]:
        """List the folders that it names."""
        found: dict[FolderId, FoundFolder] = {}
        for identity, name, path, is_active in self._rows(
            "SELECT id, name, path, is_active FROM folder"
        ):
            if isinstance(identity, bytes) and isinstance(name, str) and isinstance(path, bytes):
                folder = FolderId(identity)
                found.setdefault(folder, FoundFolder(folder, name, path, bool(is_active)))
        return found

    def batches(self, folder: FolderId) -> list[tuple[int, BatchId, WireBatch]]:
        """Give the batches of a folder, those that their authors signed: (lamport, id, bytes)."""
        found: dict[BatchId, tuple[int, BatchId, WireBatch]] = {}
        for connection in self._ways:
            for wire in _batch_rows(connection):
                with suppress(Malformed):
                    header = decode_header(wire.header)
                    if header.folder != folder:
                        continue
                    with suppress(BadSignature):
                        signed = verify(wire)
                        found[signed.id] = (header.lamport, signed.id, wire)
        return sorted(found.values(), key=lambda one: one[:2])

    def copy_snapshot(self, stored: StoredFolder) -> SignedBatch | None:
        """Take over the pieces of the snapshot by which a folder was joined; gives what names it.

        Nothing is proven here but who signed that.
        """
        for noted, piece_no, hash_, piece in self._rows(
            "SELECT m.value, p.no, p.hash, p.piece FROM folder f"
            " JOIN meta m ON m.key = coalesce((SELECT key FROM meta WHERE key = 'base/' || f.no),"
            " 'checkpoint/' || f.no)"
            " JOIN meta r ON r.key = 'restored/' || f.no"
            " JOIN snapshot_piece p ON p.folder_no = f.no WHERE f.id = ?",
            stored.id,
        ):
            if not (isinstance(noted, bytes) and isinstance(hash_, bytes)):
                continue
            if isinstance(piece, bytes) and isinstance(piece_no, int):
                kept_of(stored).keep(hash_, piece_no, piece)
                stored.db.set_meta(f"checkpoint/{stored.no}", noted)
        return kept_of(stored).checkpoint()

    def copy_notes(self, db: Database) -> None:
        """Take over what is of use though nothing proves it: peers, invites."""
        for row in self._rows("SELECT agent, name, addresses, last_seen_ms FROM peer"):
            db.execute("INSERT OR IGNORE INTO peer VALUES (?, ?, ?, ?)", row)
        for folder, *rest in self._rows(
            "SELECT f.id, i.id, i.secret, i.role, i.expires_ms, i.used_by"
            " FROM invite i JOIN folder f ON f.no = i.folder_no"
        ):
            row = db.execute("SELECT no FROM folder WHERE id = ?", (folder,)).fetchone()
            if row is not None:
                db.execute(
                    "INSERT OR IGNORE INTO invite"
                    " (id, folder_no, secret, role, expires_ms, used_by) VALUES (?,?,?,?,?,?)",
                    (rest[0], row[0], *rest[1:]),
                )

    def copy_kept(self, stored: StoredFolder) -> None:
        """Take over what was kept in history; `verify` tells where it is something else."""
        kept = [
            (name, identity, value, size)
            for name, identity, value, size in self._rows(
                "SELECT k.name, o.id, k.value, k.size FROM kept k"
                " JOIN folder f ON f.no = k.folder_no LEFT JOIN object o ON o.no = k.object_no"
                " WHERE f.id = ?",
                stored.id,
            )
            if isinstance(name, bytes) and isinstance(value, bytes) and isinstance(size, int)
        ]
        nos = stored.numbers([i for _, i, _, _ in kept if isinstance(i, bytes)])
        for name, identity, value, size in kept:
            no = nos.get(identity, 0) if isinstance(identity, bytes) else 0
            stored.db.execute(
                "INSERT OR IGNORE INTO kept (folder_no, name, object_no, value, size)"
                " VALUES (?, ?, ?, ?, ?)",
                (stored.no, name, no, value, size),
            )


def take_in(wreck: Wreck, stored: StoredFolder) -> None:
    """Fold what the wreck has of a folder into a new one; what lacks a parent is left out."""
    _begin(wreck, stored)
    part: list[SignedBatch] = []
    for _, _, wire in wreck.batches(stored.id):
        part.append(verify(wire))
        if len(part) == _AT_ONCE:
            _admit(stored, part)
            part = []
    _admit(stored, part)
    stored.log.forget_waiting(b"")
    with stored.change():
        wreck.copy_kept(stored)


def _begin(wreck: Wreck, stored: StoredFolder) -> None:
    """Begin with the snapshot by which the folder was joined, if it is whole: else without."""
    with stored.db.transaction():
        signed = wreck.copy_snapshot(stored)
    if signed is None:
        return
    with suppress(Malformed, BadSignature):
        begin_with(stored, kept_of(stored), signed)
        return
    with stored.db.transaction():
        kept_of(stored).forget()


def _admit(stored: StoredFolder, batches: Sequence[SignedBatch]) -> None:
    if batches:
        stored.admit(batches, b"")


def _batch_rows(connection: sqlite3.Connection) -> Iterator[WireBatch]:
    """Read one row after the other by its number: a damaged page hides only what is on it.

    Numbers may begin anywhere, and have gaps where another folder was left.
    """
    no, missed = 0, 0
    while missed < _GAPS:
        no = _next_no(connection, no) if missed else no + 1
        try:
            row = connection.execute(
                "SELECT header, signature, body FROM batch WHERE no = ?", (no,)
            ).fetchone()
        except (sqlite3.Error, UnicodeDecodeError):
            row = None
        if row is None or not all(isinstance(part, bytes) for part in row):
            missed += 1
            continue
        missed = 0
        yield WireBatch(header=row[0], signature=row[1], body=row[2])


def _next_no(connection: sqlite3.Connection, no: int) -> int:
    """Give the number of the next row, if the table can tell; else the next number."""
    with suppress(sqlite3.Error):
        row = connection.execute(
            "SELECT no FROM batch WHERE no > ? ORDER BY no LIMIT 1", (no,)
        ).fetchone()
        if row is not None and isinstance(row[0], int):
            return max(no + 1, row[0])
    return no + 1
