"""Define what became of steps, and what is durable about steps that are under way.

Values only. `Outcome`s go to the journal, which stores and removes synced rows, closes intents
and hands user's changes to the recorder, all in one transaction.
"""

from __future__ import annotations

import errno
from enum import IntEnum

from msgspec import Struct

from daemon.disk import DiskError, Looked
from daemon.steps import Key, NewNames, Step
from store.records import SyncedRow


class SetAside(Struct, frozen=True, tag=12, gc=False):
    """What a restore does to a file or link at `path`, of which synced says `row`: it makes way.

    `value` are the bytes (their hash) of the file that is put there instead; empty for a link or
    a directory, which are made where they are to stand. No plan has such a step.
    """

    path: bytes
    row: SyncedRow
    value: bytes


class Intent(Struct, frozen=True, gc=False):
    """What is about to be done on the disk, durable before it begins: a step, or new names.

    `number` is its name: unique in the folder, across restarts too. What it displaces stands in
    tmp as `keep_as`, then in history as `history_name`. `stage` is the named stage that holds
    the new content, if it has a name.
    """

    number: bytes
    step: Step | SetAside | NewNames
    keep_as: bytes = b""
    history_name: bytes = b""
    stage: bytes = b""


class Watch(Struct, frozen=True, gc=False):
    """A displaced file that somebody may still be writing to; a row until it is quiet.

    `row` is what synced said of it at `path`. `due_ns` is the wall clock of the next look.
    """

    name: bytes
    is_in_history: bool
    path: bytes
    row: SyncedRow
    inode: int
    size: int
    mtime_ns: int
    due_ns: int


class Bundle(Struct, frozen=True, array_like=True, gc=False):
    """Watches of many files that went into history together: one row, and one look."""

    name: bytes
    due_ns: int
    watches: tuple[Watch, ...]


class Begun(Struct, frozen=True, gc=False):
    """An intent of what comes next, made durable along with what is done."""

    intent: Intent


class Agreed(Struct, frozen=True, gc=False):
    """Disk and view agree: store `rows`, remove `gone` before that, close the intent."""

    rows: tuple[SyncedRow, ...] = ()
    gone: tuple[Key, ...] = ()
    intent: bytes = b""


class Settled(Struct, frozen=True, gc=False):
    """An intent came to nothing: close it, synced is as before."""

    intent: bytes


class Reopened(Struct, frozen=True, gc=False):
    """An error left a step half done: recovery goes out from the rows in this intent.

    They are what synced says once the steps before it are committed.
    """

    intent: Intent


class Kept(Struct, frozen=True, gc=False):
    """A version moved into history."""

    history_name: bytes
    row: SyncedRow


class Displaced(Struct, frozen=True, gc=False):
    """A user's bytes were displaced: a change with prev = `row`, served from history."""

    path: bytes
    row: SyncedRow
    looked: Looked
    kept: bytes


class Watched(Struct, frozen=True, gc=False):
    """Store a row of what is to be looked at again (it replaces one of the same name)."""

    watch: Watch | Bundle


class Unwatched(Struct, frozen=True, gc=False):
    """Remove the row of a watch."""

    name: bytes


class Why(IntEnum):
    """Why a step must wait; none of these is a fault."""

    TAKEN = 0  # something stands where a new name was to be put: look there
    CHANGED_HERE = 1  # it is not what synced says: look there
    MISSING_HERE = 2  # it, or the directory above it, is not there: look there
    BEING_WRITTEN = 3  # somebody has it open for writing
    CONTENT_AWAY = 4  # no peer at hand has the bytes
    BLOCKED = 5  # another object has to be planned with it
    NOT_EMPTY = 6  # a directory to be removed holds something that synced does not know


class Postponed(Struct, frozen=True, gc=False):
    """Look at `path`, then plan the objects again; with CONTENT_AWAY once `content` is there."""

    path: bytes
    object_nos: tuple[int, ...]
    why: Why
    content: bytes = b""


class Reason(IntEnum):
    """What kind of fault kept a step from being done."""

    DISK_FULL = 0
    READ_ONLY = 1
    FORBIDDEN = 2
    DISK_ERROR = 3
    CANNOT_EXIST = 4
    OTHER = 5


class Failed(Struct, frozen=True, gc=False):
    """A fault: `what` happened and what a person can do about it. Nothing was committed."""

    path: bytes
    object_nos: tuple[int, ...]
    reason: Reason
    what: str
    remedy: str


Outcome = (
    Begun
    | Agreed
    | Settled
    | Reopened
    | Kept
    | Displaced
    | Watched
    | Unwatched
    | Postponed
    | Failed
)

_REASONS: dict[int, tuple[Reason, str]] = {
    errno.ENOSPC: (Reason.DISK_FULL, "free space; it goes on by itself"),
    errno.EDQUOT: (Reason.DISK_FULL, "free space or raise the quota; it goes on by itself"),
    errno.EROFS: (Reason.READ_ONLY, "mount the file system writable"),
    errno.EACCES: (Reason.FORBIDDEN, "give dizzyd's user write permission there"),
    errno.EPERM: (Reason.FORBIDDEN, "give dizzyd's user write permission there"),
    errno.EIO: (Reason.DISK_ERROR, "check the disk; nothing was deleted"),
    errno.ENAMETOOLONG: (Reason.CANNOT_EXIST, "this disk cannot hold the name; others can"),
    errno.EINVAL: (Reason.CANNOT_EXIST, "this disk cannot hold the name; others can"),
    errno.EILSEQ: (Reason.CANNOT_EXIST, "this disk cannot hold the name; others can"),
    errno.EFBIG: (Reason.CANNOT_EXIST, "this disk cannot hold so large a file; others can"),
}


def failure(path: bytes, object_nos: tuple[int, ...], cause: DiskError) -> Failed:
    """Say what a failed system call means for a person."""
    reason, remedy = _REASONS.get(cause.errno, (Reason.OTHER, cause.hint))
    return Failed(path, object_nos, reason, str(cause), cause.hint or remedy)
