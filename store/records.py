"""Define the rows that travel between state, view, planner and scanner.

These are values: they know no database. `object_no` is the small local number of an object on
this node; it never leaves it. Byte strings named `value` hold what an object contains: the
BLAKE3 of a file's bytes (32), a symlink's target, or nothing for a directory.
"""

from __future__ import annotations

from msgspec import Struct

from store.ids import AgentId, BatchId, BlobHash, Epoch, Kind

PRIMARY = b""  # the `copy` of an entry that is the object itself, not a conflict copy


class Entry(Struct, frozen=True, kw_only=True, gc=False):
    """One line of the view: what should stand at one unique path.

    `copy` is PRIMARY, or the event id of the head that a conflict copy shows. `parent_no` is
    the representative of the directory that holds it (object number), `name` the name there
    after collisions. `events` are the ids of the heads shown, 32 bytes each, sorted and
    joined; `placement` is the greatest move known for the object, or empty. An entry that is
    `collapsed` shares its path with another object that represents both.
    """

    object_no: int
    copy: bytes
    parent_no: int
    name: bytes
    kind: Kind
    value: bytes
    size: int
    mtime_ns: int
    mode: int
    events: bytes
    placement: bytes
    collapsed: bool = False


class SyncedRow(Struct, frozen=True, kw_only=True, gc=False):
    """What this disk and the shared state last agreed on, for one object (or conflict copy).

    `parent_no` and `name` say where it stands on this disk: the path is found by following the
    synced rows of the parents up to the folder's root, never from the view. `inode`, `size`,
    `mtime_ns` and `ctime_ns` are the disk's, as last seen; `shared_mtime_ns` is the time that
    state held then, so that a joiner's own times count as agreed. `mode` is the executable bit.
    `looked_at_ns` is the wall clock when the content was read, for the racy rule. `events` and
    `placement` are as in Entry: what the next local event names as its `prev`.
    A `leftover` is a directory that left the view but still holds ignored names here.
    """

    object_no: int
    copy: bytes
    parent_no: int
    name: bytes
    kind: Kind
    value: bytes
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    looked_at_ns: int
    shared_mtime_ns: int
    events: bytes
    placement: bytes
    leftover: bool = False


class BlobRef(Struct, frozen=True, kw_only=True, gc=False):
    """The name and length of the bytes of one version of a file."""

    hash: BlobHash
    size: int


class Stub(Struct, frozen=True, gc=False):
    """The place of a batch of which a snapshot has left nothing else.

    `members` are the membership batches in its past: what its author could know of roles.
    """

    id: BatchId
    agent: AgentId
    epoch: Epoch
    seq: int
    lamport: int
    members: tuple[BatchId, ...]
