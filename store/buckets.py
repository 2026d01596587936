"""Hash the shared state of a folder: equal on every node that has applied the same batches.

The root is BLAKE3 over 4096 bucket hashes; a bucket holds the rows whose object ids have the same
first 12 bits, sorted by id (docs/design.md, 4). Batches mark buckets dirty; they are hashed when
a root is asked for. Nothing here changes the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from blake3 import blake3

from store.db import Database
from store.objects import ALIVE, MANY, OBJECT_COLUMNS, TAGGED, ObjectRow, heads_of
from store.placement import Directories

BUCKETS = 4096
UNSAVED_LIMIT = 64  # a start hashes so many again: less than a millisecond
_DIGEST = 32

_encode = msgspec.msgpack.Encoder().encode


class Buckets:
    """The bucket hashes of one folder. Owned by the database thread."""

    def __init__(self, database: Database, folder_no: int, directories: Directories) -> None:
        """Read the hashes that were kept; a bucket without one is dirty."""
        self._db = database
        self._folder_no = folder_no
        self._directories = directories
        self._dirty: set[int] = set()
        self._hashes = bytearray(BUCKETS * _DIGEST)
        self._unsaved: dict[int, bytes] = {}  # hashes that wait for the next transaction
        self._root: bytes | None = None  # of these hashes, while none is dirty
        self._load()

    def root(self) -> bytes:
        """Hash what is dirty, and all buckets to one root."""
        dirty = sorted(self._dirty)
        if not dirty and self._root is not None:
            return self._root
        if dirty:
            hashed = self._hash(dirty)
            self._unsaved |= hashed
            if len(self._unsaved) > UNSAVED_LIMIT:
                self.save()
            self._take(hashed.items())
        self._root = blake3(b"dizzyd/state/1" + self._hashes).digest()
        return self._root

    def save(self) -> None:
        """Keep hashes for the next start; what is not kept is hashed once more then.

        A few wait for a transaction that is made anyway: a commit of their own would be a sync
        of the disk between a change and its way on.
        """
        if self._unsaved:
            with self._db.transaction():
                self._db.executemany(
                    "INSERT OR REPLACE INTO bucket VALUES (?, ?, ?)",
                    [(self._folder_no, no, digest) for no, digest in self._unsaved.items()],
                )
            self._unsaved.clear()

    def _load(self) -> None:
        hashes = self._db.execute(
            "SELECT no, hash FROM bucket WHERE folder_no = ? ORDER BY no", (self._folder_no,)
        ).fetchall()
        self._root = None
        if len(hashes) == BUCKETS:
            self._dirty = set()
            self._hashes = bytearray(b"".join([digest for _, digest in hashes]))
            return
        self._dirty = set(range(BUCKETS))
        self._take(hashes)

    def _take(self, hashes: Iterable[tuple[int, bytes]]) -> None:
        for no, digest in hashes:
            self._hashes[no * _DIGEST : (no + 1) * _DIGEST] = digest
            self._dirty.discard(no)

    @property
    def dirty(self) -> int:
        """How many of the 4096 buckets root() would have to hash."""
        return len(self._dirty)

    def mark(self, identity: bytes) -> int | None:
        """Note that a bucket changed; gives its number if it was clean."""
        no = identity[0] << 4 | identity[1] >> 4
        if no in self._dirty:
            return None
        self._dirty.add(no)
        self._unsaved.pop(no, None)
        return no

    def _hash(self, dirty: Sequence[int]) -> dict[int, bytes]:
        """Hash the rows of buckets, in order of object ids."""
        empty = blake3(b"").digest()
        hashed = dict.fromkeys(dirty, empty)
        if len(dirty) > BUCKETS // 4:
            rows = self._db.execute(
                f"SELECT {OBJECT_COLUMNS} FROM object WHERE folder_no = ? ORDER BY id",
                (self._folder_no,),
            )
            self._hash_rows((ObjectRow(*row) for row in rows), hashed)
            return hashed
        for no in dirty:
            low = (no << 4).to_bytes(2, "big")
            high = ((no + 1) << 4).to_bytes(3, "big")[-2:] if no + 1 < BUCKETS else b"\xff" * 33
            rows = self._db.execute(
                f"SELECT {OBJECT_COLUMNS} FROM object WHERE folder_no = ? AND id >= ? AND id < ?"
                " ORDER BY id",
                (self._folder_no, low, high),
            )
            self._hash_rows((ObjectRow(*row) for row in rows), hashed)
        return hashed

    def _hash_rows(self, rows: Iterable[ObjectRow], hashed: dict[int, bytes]) -> None:
        hasher, current = blake3(), -1
        for row in rows:
            no = row.id[0] << 4 | row.id[1] >> 4
            if no != current:
                if current in hashed:
                    hashed[current] = hasher.digest()
                hasher, current = blake3(), no
            if no in hashed and row.no != self._directories.root_no:
                hasher.update(self._shared_row(row))
        if current in hashed:
            hashed[current] = hasher.digest()

    def _shared_row(self, row: ObjectRow) -> bytes:
        """Encode what every node knows alike of an object."""
        is_deletion = not row.flags & ALIVE
        if row.flags & MANY:
            heads = [
                (head.event_id, bool(head.is_deletion), head.value, head.size)
                for head in heads_of(self._db, row.no)
                if head.is_head
            ]
            heads.sort()
        else:
            heads = [(row.head_event, is_deletion, row.value, row.size)]
        tags: list[bytes] = []
        if row.flags & TAGGED:
            tags = [
                tag
                for (tag,) in self._db.execute(
                    "SELECT tag FROM object_tag WHERE object_no = ? ORDER BY tag", (row.no,)
                )
            ]
        return _encode(
            (
                row.id,
                self._directories[row.parent_no].id,
                row.name,
                row.place_event,
                heads,
                row.mode,
                row.mtime_ns,
                tags,
            )
        )
