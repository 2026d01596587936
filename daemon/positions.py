"""Keep how far a reading of files and history came, so that the next one goes on there.

A position is only ever in front of the first finding: what was found damaged is read and told
again. Called on the database thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct

from store.db import Database

LIMIT_MS = 24 * 3600 * 1000  # what was read longer ago is read again


class Position(Struct, frozen=True, array_like=True):
    """How far one folder was read: the last file, the last version in history, and how much."""

    since_ms: int  # when the reading began
    directory: bytes = b""
    name: bytes = b""  # in it
    history: bytes = b""
    read_bytes: int = 0


_decoder = msgspec.msgpack.Decoder(Position)
_encode = msgspec.msgpack.Encoder().encode


class Positions:
    """The positions of one kind of reading, by folder, in the database's meta table."""

    def __init__(self, db: Database, kind: str) -> None:
        """Use a database; `kind` names who reads."""
        self._db = db
        self._kind = kind

    def read(self, now_ms: int, limit_ms: int = LIMIT_MS) -> dict[int, Position]:
        """Give the positions of readings that began within the limit, and not in the future."""
        rows = self._db.execute(
            "SELECT key, value FROM meta WHERE key LIKE ?", (f"{self._kind}/%",)
        )
        found: dict[int, Position] = {}
        for key, value in rows.fetchall():
            with suppress(msgspec.MsgspecError, ValueError):
                position = _decoder.decode(value)
                if 0 <= now_ms - position.since_ms < limit_ms:
                    found[int(key.partition("/")[2])] = position
        return found

    def note(self, positions: Mapping[int, Position]) -> None:
        """Keep positions in one transaction; a disk that takes nothing only costs time later."""
        with suppress(sqlite3.OperationalError), self._db.transaction():
            for folder_no, position in positions.items():
                self._db.set_meta(f"{self._kind}/{folder_no}", _encode(position))

    def forget(self, folder_nos: Sequence[int]) -> None:
        """Begin at the beginning the next time."""
        with suppress(sqlite3.OperationalError), self._db.transaction():
            self._db.executemany(
                "DELETE FROM meta WHERE key = ?", [(f"{self._kind}/{no}",) for no in folder_nos]
            )
