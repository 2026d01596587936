"""Hash the shared state of a folder: equal on every node that has applied the same batches.

The root is BLAKE3 over 4096 bucket hashes; a bucket holds the rows whose object ids have the same
first 12 bits, sorted by id (docs/design.md, 4). Batches mark buckets dirty; they are hashed when
a root is asked for. Nothing here changes the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from blake3 import blake3

from store.db import Database
from store.objects import ALIVE, MANY, TAGGED, heads_of
from store.placement import Directories

BUCKETS = 4096
UNSAVED_LIMIT = 64  # a start hashes so many again: less than a millisecond
_DIGEST = 32
_COLUMNS = (  # what is shared of a row, and what says where the rest of it is
    "no, id, parent_no, name, place_event, head_event, value, size, mtime_ns, mode, flags"
)

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
        hashed = dict.fromkeys(dirty, blake3(b"").digest())
        select = f"SELECT {_COLUMNS} FROM object WHERE folder_no = ?"
        if len(dirty) > BUCKETS // 4:
            rows = self._db.execute(f"{select} ORDER BY id", (self._folder_no,))
            self._hash_rows(rows, hashed)
            return hashed
        for no in dirty:
            low = (no << 4).to_bytes(2, "big")
            high = ((no + 1) << 4).to_bytes(3, "big")[-2:] if no + 1 < BUCKETS else b"\xff" * 33
            rows = self._db.execute(
                f"{select} AND id >= ? AND id < ? ORDER BY id", (self._folder_no, low, high)
            )
            self._hash_rows(rows, hashed)
        return hashed

    def _hash_rows(self, rows: Iterable[tuple[Any, ...]], hashed: dict[int, bytes]) -> None:
        """Encode what every node knows alike of each object, and hash it by buckets.

        A folder has many: nothing is made of a row here but what is hashed.
        """
        directories, root_no = self._directories, self._directories.root_no
        encoded: list[bytes] = []
        current = -1
        for no, identity, parent_no, name, place, head, value, size, mtime_ns, mode, flags in rows:
            bucket = identity[0] << 4 | identity[1] >> 4
            if bucket != current:
                if current in hashed:
                    hashed[current] = blake3(b"".join(encoded)).digest()
                encoded, current = [], bucket
            if bucket not in hashed or no == root_no:
                continue
            heads: Sequence[tuple[bytes, bool, bytes, int]]
            heads = self._heads(no) if flags & MANY else ((head, not flags & ALIVE, value, size),)
            tags = self._tags(no) if flags & TAGGED else ()
            parent = directories[parent_no].id
            encoded.append(_encode((identity, parent, name, place, heads, mode, mtime_ns, tags)))
        if current in hashed:
            hashed[current] = blake3(b"".join(encoded)).digest()

    def _heads(self, object_no: int) -> list[tuple[bytes, bool, bytes, int]]:
        return sorted(
            (head.event_id, bool(head.is_deletion), head.value, head.size)
            for head in heads_of(self._db, object_no)
            if head.is_head
        )

    def _tags(self, object_no: int) -> list[bytes]:
        rows = self._db.execute(
            "SELECT tag FROM object_tag WHERE object_no = ? ORDER BY tag", (object_no,)
        )
        return [tag for (tag,) in rows]
