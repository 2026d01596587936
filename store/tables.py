"""Define every table of a node's database.

One class for each table, with its indices; nothing here reads or writes. All of that uses the
DB-API on these tables (docs/decisions/0005-db-api-for-all-tables.md). Importing this module costs
a third of a second and 20 MB, so what makes a new database uses store.schema, written from here.

Columns named `*_no` are small local numbers that never leave this node. `key` columns hold the
order key of an event, 44 bytes: lamport u64, batch id 32, index u32, all big-endian, so that
comparing bytes compares order.
"""

from __future__ import annotations

from sqlalchemy import Index, LargeBinary, UniqueConstraint, text
from sqlmodel import Field, SQLModel


def _primary() -> int | None:
    field: int | None = Field(default=None, primary_key=True)
    return field


def _blob(*, primary_key: bool = False) -> bytes:
    column: bytes = Field(sa_type=LargeBinary, primary_key=primary_key)
    return column


def _blob_or_none() -> bytes | None:
    column: bytes | None = Field(default=None, sa_type=LargeBinary, nullable=True)
    return column


class Meta(SQLModel, table=True):
    """What the database says of itself: schema version, own agent, instance."""

    key: str = Field(primary_key=True)
    value: bytes = _blob()


class Folder(SQLModel, table=True):
    """A folder that this node holds, or held (is_active 0)."""

    no: int | None = _primary()
    id: bytes = Field(sa_type=LargeBinary, unique=True)
    name: str
    path: bytes = _blob()
    is_active: int = 1
    root_no: int = 0
    epoch: bytes | None = _blob_or_none()
    had_members: int = 0


class Log(SQLModel, table=True):
    """One log that this node has heard of."""

    no: int | None = _primary()
    folder_no: int
    id: bytes = Field(sa_type=LargeBinary, unique=True)
    agent: bytes = _blob()
    epoch: bytes = _blob()


class Batch(SQLModel, table=True):
    """A verified batch, as received; of one that came with a snapshot (store.joined) less.

    Its body may be thinned, and of a stub there is nothing: header, signature and body are empty.
    """

    __table_args__ = (
        Index("batch_place", "log_no", "seq"),
        Index("batch_unapplied", "folder_no", sqlite_where=text("is_applied = 0")),
    )
    no: int | None = _primary()
    folder_no: int
    id: bytes = Field(sa_type=LargeBinary, unique=True)
    log_no: int
    seq: int
    lamport: int
    access_no: int
    is_applied: int
    is_void: int  # 1: its author had not the role; 2: it had, the end of the folder cut it off
    header: bytes = _blob()
    signature: bytes = _blob()
    body: bytes = _blob()


class Frontier(SQLModel, table=True):
    """The applied batches of a folder that no other applied batch names as prev or dep."""

    __table_args__ = {"sqlite_with_rowid": False}
    folder_no: int = Field(primary_key=True)
    batch_id: bytes = _blob(primary_key=True)


class AccessSet(SQLModel, table=True):
    """A set of membership batches, interned: what a batch's author could know of roles."""

    __tablename__ = "access_set"
    __table_args__ = (UniqueConstraint("folder_no", "batches"),)
    no: int | None = _primary()
    folder_no: int
    batches: bytes = _blob()


class Event(SQLModel, table=True):
    """Where the events of an object stand; the bytes are in the batch's body."""

    __table_args__ = {"sqlite_with_rowid": False}
    object_no: int = Field(primary_key=True)
    batch_no: int = Field(primary_key=True)
    position: int = Field(primary_key=True)


class Buried(SQLModel, table=True):
    """A version that a snapshot left out (store.burial): the marks of its event and its bytes."""

    __table_args__ = {"sqlite_with_rowid": False}
    object_no: int = Field(primary_key=True)
    event: bytes = _blob(primary_key=True)
    value: bytes = _blob()


class WaitingEvent(SQLModel, table=True):
    """An event that takes effect once the object that it names is known."""

    __table_args__ = {"sqlite_with_rowid": False}
    folder_no: int = Field(primary_key=True)
    object_id: bytes = _blob(primary_key=True)
    batch_no: int = Field(primary_key=True)
    position: int = Field(primary_key=True)


class Object(SQLModel, table=True):
    """The state of one object, folded from its events.

    Where it has several heads, or is kept by void deletions (flag MANY), the versions stand in
    `head`; the row then holds the shown one of the greatest key. `base_*` are set once a
    directory has moved: where it was created. A file's placement is here alone.
    """

    __table_args__ = (
        UniqueConstraint("folder_no", "id"),
        Index("object_place", "parent_no", "name"),
    )
    no: int | None = _primary()
    folder_no: int
    id: bytes = _blob()
    kind: int
    parent_no: int
    name: bytes = _blob()
    place_event: bytes | None = _blob_or_none()
    place_key: bytes | None = _blob_or_none()
    last_move: bytes | None = _blob_or_none()
    base_parent_no: int | None = None
    base_name: bytes | None = _blob_or_none()
    latest_lamport: int
    head_event: bytes = _blob()
    head_key: bytes = _blob()
    value: bytes = _blob()
    size: int
    mtime_ns: int
    mode: int
    flags: int


class Head(SQLModel, table=True):
    """One head of an object that has several, or that only void deletions keep."""

    __table_args__ = {"sqlite_with_rowid": False}
    object_no: int = Field(primary_key=True)
    event_id: bytes = _blob(primary_key=True)
    key: bytes = _blob()
    is_deletion: int
    is_head: int
    is_shown: int
    value: bytes = _blob()
    size: int
    mtime_ns: int


class ObjectTag(SQLModel, table=True):
    """A tag that an object carries."""

    __tablename__ = "object_tag"
    __table_args__ = {"sqlite_with_rowid": False}
    object_no: int = Field(primary_key=True)
    tag: bytes = _blob(primary_key=True)


class VoidDeletion(SQLModel, table=True):
    """A deletion that a concurrent move has made void."""

    __tablename__ = "void_deletion"
    __table_args__ = {"sqlite_with_rowid": False}
    event_id: bytes = _blob(primary_key=True)
    object_no: int


class AlongDeletion(SQLModel, table=True):
    """Which objects were deleted along with which directory's deletion."""

    __tablename__ = "along_deletion"
    __table_args__ = {"sqlite_with_rowid": False}
    directory_event: bytes = _blob(primary_key=True)
    object_no: int = Field(primary_key=True)


class DirectoryMove(SQLModel, table=True):
    """An explicit move of a directory, in effect or skipped, for ordered undo and redo."""

    __tablename__ = "directory_move"
    __table_args__ = {"sqlite_with_rowid": False}
    folder_no: int = Field(primary_key=True)
    key: bytes = _blob(primary_key=True)
    object_no: int
    parent_no: int
    name: bytes = _blob()
    event_id: bytes = _blob()


class Bucket(SQLModel, table=True):
    """The hash of one bucket of the state; a missing row is dirty."""

    __table_args__ = {"sqlite_with_rowid": False}
    folder_no: int = Field(primary_key=True)
    no: int = Field(primary_key=True)
    hash: bytes = _blob()


class Synced(SQLModel, table=True):
    """What this disk and the state last agreed on (store.records.SyncedRow)."""

    __table_args__ = (
        Index("synced_place", "parent_no", "name"),
        Index("synced_value", "value"),
        {"sqlite_with_rowid": False},
    )
    object_no: int = Field(primary_key=True)
    copy_event: bytes = _blob(primary_key=True)
    folder_no: int
    parent_no: int
    name: bytes = _blob()
    kind: int
    value: bytes = _blob()
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    looked_at_ns: int
    shared_mtime_ns: int
    events: bytes = _blob()
    placement: bytes = _blob()
    leftover: int


class Intent(SQLModel, table=True):
    """A change of the tree that has begun; finished at the next start if need be."""

    id: bytes = _blob(primary_key=True)
    folder_no: int
    record: bytes = _blob()


class Displaced(SQLModel, table=True):
    """A file that was displaced and is to be looked at again."""

    name: bytes = _blob(primary_key=True)
    folder_no: int
    record: bytes = _blob()


class Kept(SQLModel, table=True):
    """A version kept in `.dizzyd/history`."""

    __table_args__ = (Index("kept_value", "value"), {"sqlite_with_rowid": False})
    folder_no: int = Field(primary_key=True)
    name: bytes = _blob(primary_key=True)
    object_no: int
    value: bytes = _blob()
    size: int


class HeldDeletion(SQLModel, table=True):
    """A deletion that waits for the user's word."""

    __tablename__ = "held_deletion"
    __table_args__ = {"sqlite_with_rowid": False}
    folder_no: int = Field(primary_key=True)
    path: bytes = _blob(primary_key=True)


class Peer(SQLModel, table=True):
    """Another agent that shares a folder with us, and where it said it can be found."""

    agent: bytes = _blob(primary_key=True)
    name: str
    addresses: bytes = _blob()
    last_seen_ms: int = 0


class Invite(SQLModel, table=True):
    """An invite that we made; `used_by` is written once."""

    id: bytes = _blob(primary_key=True)
    folder_no: int
    secret: bytes = _blob()
    role: int
    expires_ms: int
    used_by: bytes | None = _blob_or_none()


class ChunkList(SQLModel, table=True):
    """The cached chunk list of a version (peers.chunks.pack_list); smaller numbers are older."""

    __tablename__ = "chunk_list"
    __table_args__ = (UniqueConstraint("value", "folder_no"),)
    no: int | None = _primary()
    folder_no: int
    value: bytes = _blob()
    chunks: bytes = _blob()


class SnapshotPiece(SQLModel, table=True):
    """A piece of a snapshot, kept for those who join; 1 MiB, the last one less.

    One that is still being written or fetched stands beside the one in use.
    """

    __tablename__ = "snapshot_piece"
    hash: bytes = _blob(primary_key=True)
    no: int = Field(primary_key=True)
    folder_no: int
    piece: bytes = _blob()


class Activity(SQLModel, table=True):
    """A run of a policy that has begun and not ended."""

    id: bytes = _blob(primary_key=True)
    record: bytes = _blob()
