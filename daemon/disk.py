"""Say what dizzyd asks of a file system: the interface behind which files live.

`daemon.fs.LinuxDisk` implements it with system calls, the simulator in memory; both pass the
same contract suite (tests/daemon/test_disk_contract.py). One Disk serves one folder.

Paths are bytes relative to the folder's root, joined by `/`; the root is empty. No call ever
follows a symlink or leaves the root, whatever the names are and however they change meanwhile.
Calls block; they are made from worker threads, several at a time. Names under `.dizzyd` at the
root are never listed and cannot be reached by a path, only by the calls for stages and history.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from store.errors import DizzyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from daemon.headroom import Space
    from peers.wire import ChunkLine
    from store.ids import BlobHash

Buffer = bytes | bytearray | memoryview


class FileKind(IntEnum):
    """What a name on disk is. The first three are store.ids.Kind."""

    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2
    DEVICE = 3  # device, socket or FIFO: skipped, never opened
    MOUNT = 4  # another file system is mounted here: not entered


class Stat(Struct, frozen=True, gc=False):
    """What lstat says of one name. Times in nanoseconds; `mode` is st_mode."""

    kind: FileKind
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    links: int

    @property
    def is_executable(self) -> bool:
        """Whether the owner may execute it: the one mode bit that is shared."""
        return bool(self.mode & 0o100)


class Looked(Struct, frozen=True, gc=False):
    """A file's content as it was at one instant (stat before = fstat = stat after)."""

    stat: Stat
    value: bytes  # BLAKE3 of a file, target of a symlink, empty for a directory
    looked_at_ns: int  # wall clock when reading began


class LookFailure(IntEnum):
    """Why a look gave no content. None of them means that the file is gone or changed."""

    CHANGING = 0  # it changed while it was read, or is open for writing and still moving
    UNREADABLE = 1  # permission or I/O error
    GONE = 2  # the name is not there now; only a listing of its directory can prove a deletion


class DiskError(DizzyError):
    """A system call failed; `errno` says how. Nothing was half done."""

    def __init__(self, what: str, why: str = "", *, errno: int = 0, hint: str = "") -> None:
        """Keep the errno beside the sentence."""
        super().__init__(what, why, hint=hint)
        self.errno = errno


class RootLost(DiskError):
    """The folder's root vanished, was replaced, lost its marker or cannot be listed."""


class RootHeld(DiskError):
    """Another dizzyd (or another folder of this one) holds the path."""


class NameTaken(DiskError):
    """Something stands already where a new name was to be put; nothing was touched."""


class NameMissing(DiskError):
    """The name to act on is not there (any more); nothing was touched."""


class NotEmpty(DiskError):
    """A directory to be removed still holds names (ignored ones perhaps)."""


class NewFile(Struct, frozen=True, gc=False):
    """A small file to be made: its whole content is here."""

    content: Buffer
    is_executable: bool
    mtime_ns: int


ASIDE_PREFIX: Final = b"swap-tmp-"  # what waits in tmp between the renames of a swap


def arriving_name(keep_as: bytes) -> bytes:
    """Name in tmp what is to replace a file, while the old one stands there as `keep_as`.

    Only where EXCHANGE is missing. A name of ours that is there says that the new file was not
    put in place: whatever became of the old name since, it was not the new file that left it.
    """
    return b"arriving-" + keep_as


class Stage(Protocol):
    """A file being made in `.dizzyd/tmp`, not yet visible in the tree."""

    @property
    def name(self) -> bytes | None:
        """Its name in tmp; None while it is anonymous (O_TMPFILE)."""

    def write(self, offset: int, *pieces: Buffer) -> None:
        """Write all of the pieces, one behind the other, from `offset` on. Raises DiskError."""

    def read(self, offset: int, length: int) -> bytes:
        """Read back up to `length` bytes."""

    def size(self) -> int:
        """Give the number of bytes up to the highest written one."""

    def finish(self, *, is_executable: bool, mtime_ns: int, like: bytes | None) -> None:
        """Set its attributes: folder umask, or owner, mode, ACL of the path `like` it replaces."""

    def hash(self) -> BlobHash:
        """BLAKE3 of its content as it stands."""

    def close(self) -> None:
        """Let go of it; an anonymous one is gone then, a named one stays in tmp."""


class Disk(Protocol):
    """The files of one folder."""

    # -- the root ---------------------------------------------------------------------------

    def check_root(self) -> None:
        """Raise RootLost unless the root is the very directory that was shared."""

    # -- looking ----------------------------------------------------------------------------

    def list_directory(self, path: bytes) -> list[tuple[bytes, Stat]]:
        """List a directory with lstat of each name, unsorted, without `.dizzyd` at the root.

        A name that goes while listing is left out. Raises NameMissing, DiskError (EACCES, EIO;
        EXDEV for a mount): one name that cannot be examined fails the whole listing.
        """

    def folds_names(self) -> bool:
        """Whether names that differ in case are one name here, so that stat finds by either."""

    def stat(self, path: bytes) -> Stat | None:
        """Lstat one path; None if it or a directory above it is not there.

        Raises DiskError where that cannot be known (EACCES, EIO, EXDEV below a mount).
        """

    def standing(self, placed: Mapping[bytes, Stat]) -> set[bytes]:
        """Name the paths that have inode, size and both times of these stats now.

        A path that cannot be examined is left out. Quick, for many of few directories.
        """

    def look(self, paths: Sequence[bytes]) -> list[Looked | LookFailure]:
        """Read and hash many files (links: read their target), in order of `paths`.

        Directories, devices and mounts give their stat and an empty value, and are not opened.
        Quickest where paths of one directory stand together. Never raises for a single file.
        """

    def take_chunk_lists(self) -> list[tuple[BlobHash, list[ChunkLine]]]:
        """Take out the chunk lists of large files that were read whole since the last call.

        They are made as look() reads (bounded, the oldest go), and are advice: none is promised.
        """

    def is_being_written(self, path: bytes) -> bool:
        """Whether some process has the file open for writing (False where unknowable)."""

    def read(self, path: bytes, offset: int, length: int, expected: Stat | None) -> bytes:
        """Read a piece of a file. Raises NameMissing if it is not the `expected` file any more.

        Compared are inode, size and mtime. Less than `length` bytes come only at its end.
        """

    def read_once(self, path: bytes, offset: int, length: int, expected: Stat | None) -> Buffer:
        """Read as read() does, what nobody will read again soon: others' caches are spared."""

    def together(self) -> AbstractContextManager[None]:
        """Say that the calls of this thread in the block are one round of steps.

        A directory may then be reached once for many names of it. Nothing is promised more, or
        less: calls mean what they mean without it.
        """

    # -- stages: making content before it is visible ------------------------------------------

    def stage_many(self, files: Sequence[NewFile]) -> list[Stage]:
        """Write many small files at once, attributes set, not yet durable."""

    def open_stage(self, name: bytes, size: int = 0) -> Stage:
        """Open or make a named stage in tmp; what it held is kept, so that transfers resume.

        `size` is what it is to have, as far as is known: advice on how to write it.
        Raises DiskError if the name is no plain file of a single link (a displaced one, say).
        Names in tmp and history have no `/` and do not begin with `.`.
        """

    def sync(self) -> None:
        """Make all that was written to this file system so far durable (one syncfs).

        Raises DiskError if anything that was written since the last call was lost.
        """

    def sync_directories(self, paths: Sequence[bytes]) -> None:
        """Make the names in these directories durable (many: one sync).

        A directory that is gone is passed over.
        """

    def sync_files(self, paths: Sequence[bytes]) -> None:
        """Make these files and the names in their parents durable (many: one syncfs).

        What is gone is passed over: its absence is made durable with its parent.
        """

    # -- putting in place ---------------------------------------------------------------------

    def place_new(self, stage: Stage, path: bytes) -> Stat:
        """Give a stage its name in the tree. Raises NameTaken, NameMissing (no parent).

        The stage is used up: only close() may follow. After a failure it is as it was.
        """

    def place_each(self, pairs: Sequence[tuple[Stage, bytes]]) -> list[Stat | DiskError]:
        """Do place_new for many, in order, and close the stages that got their name."""

    def place_over(self, stage: Stage, path: bytes, keep_as: bytes) -> tuple[Stat, Stat]:
        """Put a stage where a file stands; that file moves to tmp as `keep_as`, atomically.

        Gives the stat of the placed and of the displaced file. Raises NameMissing if nothing
        stands there, NameTaken if it is neither file nor symlink or `keep_as` is in use. What
        was replaced hands on mode (but the executable bit), owner, group, ACL and extended
        attributes. Where EXCHANGE is missing the old one is taken away first; the new one has
        a name in tmp by then, its own or `arriving_name(keep_as)`, until it is in place. Both
        stay in tmp, with NameTaken, where somebody puts another file there in between.
        """

    def take_away(self, path: bytes, keep_as: bytes) -> Stat:
        """Move a file or symlink out of the tree to tmp as `keep_as`.

        Raises NameMissing, NameTaken (`keep_as` is in use, or a directory stands at `path`).
        """

    def move(self, source: bytes, target: bytes) -> Stat:
        """Rename within the tree, replacing nothing. Raises NameTaken, NameMissing."""

    def swap(self, one: bytes, other: bytes) -> None:
        """Exchange two names. Raises NameMissing.

        Where EXCHANGE is missing it is done by three renames: what stood at `one` is in tmp
        meanwhile, as ASIDE_PREFIX and more, and stays there if a crash or fault comes between.
        """

    def make_directory(self, path: bytes) -> Stat:
        """Make a directory. Raises NameTaken, NameMissing."""

    def remove_directory(self, path: bytes) -> None:
        """Remove an empty directory. Raises NotEmpty, NameMissing."""

    def make_symlink(self, target: bytes, path: bytes, mtime_ns: int) -> Stat:
        """Make a symlink. Raises NameTaken, NameMissing."""

    def set_attributes(self, path: bytes, *, is_executable: bool, mtime_ns: int | None) -> Stat:
        """Set the executable bit (where readable) and the time; masks setuid and the like."""

    # -- what was displaced ---------------------------------------------------------------------

    def list_stages(self) -> list[tuple[bytes, Stat]]:
        """List the names in tmp."""

    def look_stage(self, name: bytes) -> Looked | LookFailure:
        """Hash a file in tmp (a displaced one, or an unfinished download)."""

    def is_stage_being_written(self, name: bytes) -> bool:
        """As is_being_written, for a name in tmp."""

    def restore_stage(self, name: bytes, path: bytes) -> Stat:
        """Move a displaced file back into the tree, replacing nothing. Raises NameTaken."""

    def keep_stage(self, name: bytes, history_name: bytes) -> Stat:
        """Move a displaced file into history, replacing nothing. Raises NameTaken."""

    def remove_stage(self, name: bytes) -> None:
        """Remove an unfinished download from tmp; no error if it is gone."""

    # -- directories that were taken away whole ---------------------------------------------------
    # `inner` is the name in tmp, or a path below it. No symlink is followed there either.

    def take_tree(self, path: bytes, keep_as: bytes) -> Stat:
        """Move a directory with all that is in it out of the tree to tmp as `keep_as`.

        Raises NameMissing, NameTaken (`keep_as` is in use, or no directory stands at `path`).
        """

    def list_taken(self, inner: bytes) -> list[tuple[bytes, Stat]]:
        """List a directory of it with lstat of each name. Raises NameMissing."""

    def keep_taken(self, inner: bytes, names: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        """Move names of a directory of it into history: (name, name there), replacing nothing.

        Gives which were moved: one that is gone, or whose name there is in use, is passed over.
        """

    def set_aside(self, inner: bytes, keep_as: bytes) -> Stat:
        """Move a name of it to tmp itself, replacing nothing. Raises NameTaken, NameMissing."""

    def return_taken(self, inner: bytes, path: bytes) -> Stat:
        """Move a name of it back into the tree, replacing nothing. Raises as set_aside."""

    def remove_taken(self, inner: bytes) -> None:
        """Remove an empty directory of it. Raises NotEmpty, NameMissing."""

    # -- history --------------------------------------------------------------------------------

    def is_history_being_written(self, name: bytes) -> bool:
        """As is_being_written, for a kept version."""

    def read_history(self, name: bytes, offset: int, length: int) -> bytes:
        """Read a piece of a kept version. Raises NameMissing."""

    def look_history(self, name: bytes) -> Looked | LookFailure:
        """Hash a kept version."""

    def remove_history(self, name: bytes) -> None:
        """Remove a kept version for good: only what daemon.pruning lets go. Idempotent."""

    def space(self) -> Space:
        """Say how large the file system of the tree is, and how much of it is free."""

    def list_history(self) -> list[tuple[bytes, Stat]]:
        """List the kept versions."""
