"""Tell whether this home is the one that was here last: neither restored, copied nor exchanged.

A small file outside the database and a row inside it carry the same token, drawn anew at every
start and stop and now and then between. A database put back carries an older token. A copied
home has another file: its inode and ctime, which no tool can set, stand in the database. What is
the same to the last block, a virtual machine set back, no file can tell: there peers do
(daemon.own_tail).

It concludes; it opens no epoch and moves nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from daemon.replacing import replace_file
from store.errors import DizzyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.home import Home
    from store.db import Database

_TOKEN_BYTES: Final = 16
_VERSION: Final = "dizzyd instance 1"
_KEY: Final = "instance"  # token and place of the file, as last agreed
_NEXT_KEY: Final = "instance-next"  # the token that is being written
_MACHINE_ID: Final = Path("/etc/machine-id")


@dataclass(frozen=True, slots=True)
class _Mark:
    """What the file says: a token, the database's inode, the machine, and how the home ended."""

    token: str
    database_inode: int
    machine: str
    is_closed: bool

    def text(self) -> bytes:
        ended = "closed" if self.is_closed else "open"
        lines = (_VERSION, self.token, str(self.database_inode), self.machine, ended)
        return ("\n".join(lines) + "\n").encode()

    @classmethod
    def parse(cls, text: str) -> _Mark | None:
        """Read a mark; None where it is damaged, which says no more than a missing one."""
        try:
            version, token, inode, machine, ended, rest = text.split("\n")
            if version != _VERSION or rest or ended not in {"open", "closed"}:
                return None
            return cls(token, int(inode), machine, ended == "closed")
        except ValueError:
            return None


class Instance:
    """The mark of one home, for as long as its lock is held."""

    def __init__(
        self,
        home: Home,
        random_bytes: Callable[[int], bytes],
        *,
        machine_id: Path = _MACHINE_ID,
    ) -> None:
        """Look at the home; nothing is read yet."""
        self._path = home.state / "instance"
        self._database = home.database
        self._wal = home.database.with_name(home.database.name + "-wal")
        self._random_bytes = random_bytes
        self._machine = _machine(machine_id)

    @property
    def exists(self) -> bool:
        """Whether a database was here once."""
        return self._path.exists()

    def lost_wal(self) -> bool:
        """Whether the WAL is missing of a database that was not closed; ask before opening it."""
        mark = self._read()
        return mark is not None and not mark.is_closed and not self._wal.exists()

    def suspicion(self, db: Database) -> str:
        """Say why this is not the home that was here last; empty where it is."""
        known = db.meta(_KEY)
        mark = self._read()
        if known is None:
            # Never marked: new, or made by a dizzyd that knew no marks.
            return "" if mark is None else "the database is not the one that was here"
        token, inode, ctime_ns = known.decode().split()
        if mark is None:
            return "the file `instance` of this home is missing"
        written = db.meta(_NEXT_KEY)
        if mark.token not in {token, written.decode() if written else token}:
            return "the database is older than this home"
        if mark.database_inode != self._database.stat().st_ino:
            return "the database was put back or copied"
        if mark.machine != self._machine:
            return "this home was on another machine"
        found = self._path.stat()
        if mark.token == token and (str(found.st_ino), str(found.st_ctime_ns)) != (inode, ctime_ns):
            return "this home was put back or copied"
        return ""

    def renew(self, db: Database, *, is_closing: bool = False) -> None:
        """Draw another token, so that whatever was copied until now is known as older.

        A crash in between leaves a pair that is taken for whole: the database knows both
        tokens. Raises DizzyError where the file cannot be written; the old pair stays then.
        """
        token = self._random_bytes(_TOKEN_BYTES).hex()
        with db.transaction():
            db.set_meta(_NEXT_KEY, token.encode())
        inode = self._database.stat().st_ino
        mark = _Mark(token, inode, self._machine, is_closing)
        replace_file(self._path, mark.text())
        found = self._path.stat()
        with db.transaction():
            db.set_meta(_KEY, f"{token} {found.st_ino} {found.st_ctime_ns}".encode())

    def _read(self) -> _Mark | None:
        try:
            return _Mark.parse(self._path.read_text("ascii"))
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        except OSError as cause:
            raise DizzyError(f"read {self._path}", cause.strerror or str(cause)) from cause


def _machine(path: Path) -> str:
    """Give a hash of the machine's id; the id itself is nobody's business."""
    try:
        found = os.fsencode(path.read_text("ascii").strip())
    except (OSError, UnicodeDecodeError):
        return "unknown"
    return blake3(b"dizzyd/machine/1" + found).hexdigest(16)
