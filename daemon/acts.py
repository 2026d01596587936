"""Define what people did to files, as found by comparing disk with synced.

Acts are what `daemon.matching` concludes and what `daemon.record` turns into events. They are
values; `rows` are the synced rows that the conclusion was drawn from (several where objects are
collapsed into one path), so that the recorder can tell when they have changed meanwhile.
"""

from __future__ import annotations

from msgspec import Struct

from daemon.disk import Looked
from store.records import SyncedRow


class Created(Struct, frozen=True, gc=False):
    """Something stands at a path where synced knows nothing."""

    path: bytes
    looked: Looked


class Edited(Struct, frozen=True, gc=False):
    """The content at a known path is another one; the object stays."""

    path: bytes
    rows: tuple[SyncedRow, ...]
    looked: Looked


class Moved(Struct, frozen=True, gc=False):
    """A known object now stands elsewhere, perhaps with another content.

    For a directory everything below went along: no act is given for what is only carried.
    `looked` is what stands at `target` now.
    """

    source: bytes
    target: bytes
    rows: tuple[SyncedRow, ...]
    looked: Looked


class Deleted(Struct, frozen=True, gc=False):
    """A known object is nowhere in the folder any more. A tree gives one act for each object."""

    path: bytes
    rows: tuple[SyncedRow, ...]


class Touched(Struct, frozen=True, gc=False):
    """Same content, other metadata: executable bit, times, or only inode and ctime."""

    path: bytes
    rows: tuple[SyncedRow, ...]
    looked: Looked


Act = Created | Edited | Moved | Deleted | Touched
