"""Define what a scan found: how the disk differs from synced.

These are facts with their evidence; `daemon.matching` concludes from them what people did.
Nothing here says that something was deleted: only that a name is not there.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from store.ids import Kind

if TYPE_CHECKING:
    from daemon.disk import Looked, Stat
    from daemon.look_set import Again
    from store.records import SyncedRow

RACY_MARGIN_NS = 20_000_000
COARSE_MARGIN_NS = 2_000_000_000
_SECOND_NS = 1_000_000_000


class ProblemKind(IntEnum):
    """Why a name could not be judged, or is not shared."""

    UNREADABLE = 0  # permission or I/O error: neither deleted nor changed
    SKIPPED = 1  # a device, socket or FIFO
    MOUNT = 2  # another file system begins here; it is not entered
    HARD_LINKED = 3  # content is shared by names; writing to one parts them


class Problem(Struct, frozen=True, gc=False):
    """A name that needs a person's attention, or just a line in `status`."""

    kind: ProblemKind
    path: bytes
    why: str = ""


class Missing(Struct, frozen=True, gc=False):
    """A known name that is not on disk: its directory was listed while the root was healthy.

    `path` is where synced has it.
    """

    path: bytes
    rows: tuple[SyncedRow, ...]


class Found(Struct, frozen=True, gc=False):
    """What stands at a path now, where that is not just what synced says.

    `rows` are those of the same kind at that name, in the directory as it stands now (under its
    new name where that was renamed); none where synced knows nothing there.
    """

    path: bytes
    rows: tuple[SyncedRow, ...]
    looked: Looked


class Carried(Struct, frozen=True, gc=False):
    """A known directory that stands elsewhere now, with what is below it."""

    source: bytes
    target: bytes
    rows: tuple[SyncedRow, ...]
    looked: Looked


class Differences(Struct, frozen=True, kw_only=True):
    """One bunch of what a scan found; the last one of a scan holds all that went.

    `moves` gives for a path where a rename hint took it from. Bunches before the last only hold
    names that cannot be the other half of a move, and edits in place.
    """

    missing: tuple[Missing, ...] = ()
    found: tuple[Found, ...] = ()
    carried: tuple[Carried, ...] = ()
    moves: dict[bytes, bytes] = {}
    problems: tuple[Problem, ...] = ()
    agains: tuple[Again, ...] = ()
    is_last: bool = False


def racy_margin_ns(mtime_ns: int) -> int:
    """How much older than the look a time must be: 2 s where times come in whole seconds."""
    return COARSE_MARGIN_NS if mtime_ns % _SECOND_NS == 0 else RACY_MARGIN_NS


def is_racy(mtime_ns: int, ctime_ns: int, looked_at_ns: int) -> bool:
    """Whether a write after the look could have left all times as they are (git's rule).

    Both times would have to stay, and nobody can set the second one: a file whose mtime lies in
    the future is racy only while its ctime is fresh, else it would be read again for ever.
    """
    margin_ns = racy_margin_ns(mtime_ns)
    return (
        looked_at_ns - mtime_ns < margin_ns
        and -COARSE_MARGIN_NS < looked_at_ns - ctime_ns < margin_ns
    )


def is_row_racy(row: SyncedRow) -> bool:
    """Whether what was last read for a row must be read again."""
    return row.kind is not Kind.DIRECTORY and is_racy(row.mtime_ns, row.ctime_ns, row.looked_at_ns)


def has_stat(row: SyncedRow, stat: Stat) -> bool:
    """Whether inode, size and both times are those that were last seen for the row."""
    return row.inode == stat.inode and row.ctime_ns == stat.ctime_ns and has_same_times(row, stat)


def has_same_times(row: SyncedRow, stat: Stat) -> bool:
    """Whether size and mtime are those of the row."""
    return row.size == stat.size and row.mtime_ns == stat.mtime_ns
