"""Give a node a disk in memory that can fail, crash, and be written to by others at any call.

It promises what daemon.disk.Disk promises and passes the same contract suite. It adds instants:
before and after every call, and between the system calls that one call is made of, where a test
may let a user act, fail the call, or end the node.
"""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from blake3 import blake3

from daemon.disk import (
    Buffer,
    Disk,
    DiskError,
    FileKind,
    Looked,
    LookFailure,
    NameMissing,
    NameTaken,
    NewFile,
    NotEmpty,
    RootLost,
    Stage,
    Stat,
    arriving_name,
)
from daemon.headroom import Space
from daemon.hints import HintKind
from peers.chunks import Cutter
from store.ids import BlobHash
from tests.sim.files import OURS, Files, Inode, is_ours
from tests.sim.loop import Crashed
from tests.sim.outside import Handle, Outside
from tests.sim.watch import MemoryWatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from peers.wire import ChunkLine
    from tests.sim.loop import Trace

__all__ = ["Crashed", "Handle", "MemoryDisk", "MemoryStage", "MemoryWatcher", "Outside"]

TMP = OURS + b"/tmp"
HISTORY = OURS + b"/history"
MARKER = OURS + b"/folder"
EARLIEST_NS = -(2**31) * 10**9  # what ext4 can hold; beyond LATEST_NS a Stat cannot
LATEST_NS = 2**63 - 1
LARGE_FROM_BYTES = 1024 * 1024

P = ParamSpec("P")
T = TypeVar("T")
WRITING = frozenset(
    {
        "stage_many", "open_stage", "write", "finish", "sync", "sync_directories", "sync_files",
        "place_new", "place_over", "take_away", "move", "swap", "make_directory",
        "remove_directory", "make_symlink", "set_attributes", "restore_stage", "keep_stage",
        "remove_stage", "remove_history",
        "take_tree", "keep_taken", "set_aside", "return_taken", "remove_taken",
    }
)  # fmt: skip


def _call(
    method: Callable[Concatenate[MemoryDisk, P], T],
) -> Callable[Concatenate[MemoryDisk, P], T]:
    """Put the instants around a call, and speak of failures in DiskErrors."""
    name = method.__name__

    @wraps(method)
    def call(self: MemoryDisk, /, *args: P.args, **kwargs: P.kwargs) -> T:
        path = args[0] if args and isinstance(args[0], bytes) else b""
        self.enter(name, path)
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            raise _told(name, error) from error
        finally:
            self.leave(name, path)

    return call


class MemoryDisk:
    """The files of one folder, as one life of a node's process sees them.

    `hook(name, path, when)` is called at every instant; `when` is "before", "within" or "after".
    """

    def __init__(
        self,
        files: Files,
        *,
        trace: Trace | None = None,
        umask: int = 0o022,
        has_exchange: bool = True,
        prepares: bool = True,
    ) -> None:
        """Serve the folder at the root of `files`.

        With `prepares` the marker and our directories are made, as on sharing or joining.
        """
        self.files = files
        self.umask = umask
        self.has_exchange = has_exchange
        self.hook: Callable[[str, bytes, str], None] | None = None
        self.on_crash: Callable[[], None] | None = None
        self.on_look: Callable[[bytes, bytes], None] | None = None  # path, hash of what was read
        self.is_dead = False
        self.calls = 0
        self.instants = 0
        self._trace = trace
        self._actions: dict[int, list[Callable[[], None]]] = {}
        self._faults: dict[int, int] = {}  # number of the call: errno
        self._failing: tuple[int, frozenset[str]] | None = None
        self._stages: list[MemoryStage] = []
        self._chunk_lists: list[tuple[BlobHash, list[ChunkLine]]] = []
        if prepares:
            for path in (OURS, TMP, HISTORY):
                if files.find(path) is None:
                    self._link_new(FileKind.DIRECTORY, 0o700, path)
            if files.find(MARKER) is None:
                self._link_new(FileKind.FILE, 0o600, MARKER)
        self._root = files.root

    def reopen(self) -> None:
        """Take the root that is there now for the folder, if it has the marker."""
        if self.files.find(MARKER) is not None:
            self._root = self.files.root

    # -- what tests arrange -----------------------------------------------------------------------

    def at_instant(self, after: int, action: Callable[[], None]) -> None:
        """Do something at the `after`-th instant from now (1: the next)."""
        self._actions.setdefault(self.instants + after, []).append(action)

    def crash_at(self, after: int) -> None:
        """End the process at the `after`-th instant from now."""
        self.at_instant(after, self.die)

    def fail_call(self, after: int, number: int, times: int = 1) -> None:
        """Let the `after`-th call from now (1: the next), and those behind it, fail."""
        for call in range(self.calls + after, self.calls + after + times):
            self._faults[call] = number

    def fail_always(self, number: int | None, names: frozenset[str] = WRITING) -> None:
        """Let all these calls fail until told None: a full, failing or read-only disk."""
        self._failing = None if number is None else (number, names)

    def heal(self) -> None:
        """Forget all that was arranged: no more faults, crashes and meddling."""
        self._actions.clear()
        self._faults.clear()
        self._failing = None

    def die(self) -> None:
        """End the process here: what is anonymous is gone, nothing is called any more."""
        self.close()
        if self.on_crash is not None:
            self.on_crash()
        raise Crashed

    def close(self) -> None:
        """Let the life end: stages are let go, later calls raise Crashed."""
        self.is_dead = True
        for stage in self._stages:
            stage.drop()
        self._stages.clear()

    def crash(self, random: Random | None) -> MemoryDisk:
        """Give the disk of the next life: after a power cut, or (None) after a mere kill."""
        self.close()
        if random is not None:
            self.files.cut_power(random)
        return MemoryDisk(
            self.files, trace=self._trace, umask=self.umask, has_exchange=self.has_exchange
        )

    def enter(self, name: str, path: bytes) -> None:
        """Begin a system call: the instant before it, then perhaps a fault."""
        self.calls += 1
        self.instant(name, path, "before")
        if self.files.is_away:
            raise RootLost(f"{name} {_shown(path)}", "the disk is not there", errno=errno.EIO)
        if self._faults and (number := self._faults.pop(self.calls, 0)):
            raise _failed(name, path, number)
        if self._failing is not None and name in self._failing[1]:
            raise _failed(name, path, self._failing[0])
        if self._trace is not None:
            self._trace.fold(name.encode() + b" " + path)

    def leave(self, name: str, path: bytes) -> None:
        """End a call: the instant after it."""
        if not self.is_dead:
            self.instant(name, path, "after")

    def instant(self, name: str, path: bytes, when: str) -> None:
        """Let others act."""
        if self.is_dead:
            raise Crashed
        self.instants += 1
        if self._actions:
            for action in self._actions.pop(self.instants, ()):
                action()
        if self.hook is not None:
            self.hook(name, path, when)

    # -- the root ---------------------------------------------------------------------------

    @_call
    def check_root(self) -> None:
        """Raise RootLost unless the root is the very directory that was shared."""
        if self.files.root is not self._root:
            raise RootLost("open the folder", "another directory stands there")
        if self.files.find(MARKER) is None:
            raise RootLost("open the folder", "its marker .dizzyd/folder is missing")
        if not self._root.mode & 0o400:
            raise RootLost("open the folder", "it cannot be listed", errno=errno.EACCES)

    # -- looking ----------------------------------------------------------------------------

    @_call
    def list_directory(self, path: bytes) -> list[tuple[bytes, Stat]]:
        """List a directory with lstat of each name."""
        directory = self._get(path)
        if directory.kind is not FileKind.DIRECTORY:
            raise NameMissing(f"list {_shown(path)}", "no directory", errno=errno.ENOTDIR)
        if directory.mode & 0o500 != 0o500:
            raise DiskError(f"list {_shown(path)}", "permission denied", errno=errno.EACCES)
        names = list(directory.children)
        if self.hook is not None or self._actions:
            self.instant("list_directory", path, "within")
        found = []
        for name in names:
            child = directory.children.get(name)
            if child is not None and (path or name != OURS):
                found.append((name, child.stat()))
        return found

    def folds_names(self) -> bool:
        """Whether several names are one."""
        return self.files.fold is not None

    @_call
    def stat(self, path: bytes) -> Stat | None:
        """Lstat one path."""
        inode = self._find(path)
        return None if inode is None else inode.stat()

    @_call
    def standing(self, placed: Mapping[bytes, Stat]) -> set[bytes]:
        """Name the paths that have inode, size and both times of these stats now."""
        return {
            path
            for path, stat in placed.items()
            if (inode := self._find(path)) is not None and _has_stat(inode.stat(), stat)
        }

    def look(self, paths: Sequence[bytes]) -> list[Looked | LookFailure]:
        """Read and hash many files."""
        return [self._look(path) for path in paths]

    def take_chunk_lists(self) -> list[tuple[BlobHash, list[ChunkLine]]]:
        """Take out the chunk lists of large files that were read since the last call."""
        taken, self._chunk_lists = self._chunk_lists, []
        return taken

    @_call
    def is_being_written(self, path: bytes) -> bool:
        """Whether some process has the file open for writing."""
        inode = self._find(path)
        return inode is not None and inode.writers > 0

    @_call
    def read(self, path: bytes, offset: int, length: int, expected: Stat | None) -> bytes:
        """Read a piece of a file."""
        inode = self._get(path)
        if inode.kind is not FileKind.FILE:
            raise NameMissing(f"read {_shown(path)}", "no file")
        if not inode.mode & 0o400:
            raise DiskError(f"read {_shown(path)}", "permission denied", errno=errno.EACCES)
        if expected is not None and not _is_same(inode.stat(), expected):
            raise NameMissing(f"read {_shown(path)}", "it is another file now")
        return inode.content[offset : offset + length]

    def read_once(self, path: bytes, offset: int, length: int, expected: Stat | None) -> Buffer:
        """Read a piece of a file: memory is memory."""
        return self.read(path, offset, length, expected)

    # -- stages -------------------------------------------------------------------------------

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    @_call
    def stage_many(self, files: Sequence[NewFile]) -> list[Stage]:
        """Write many small files at once, attributes set, not yet durable."""
        stages: list[Stage] = []
        for new in files:
            stage = self._stage(self.files.make(FileKind.FILE, 0o600), None)
            self.files.set_content(stage.inode, bytes(new.content))
            self._finish(stage.inode, new.is_executable, new.mtime_ns, None)
            stages.append(stage)
        return stages

    @_call
    def open_stage(self, name: bytes, size: int = 0) -> Stage:
        """Open or make a named stage in tmp; what it held is kept."""
        del size  # memory is memory
        path = _in_tmp(name)
        inode = self.files.find(path)
        if inode is None:
            inode = self._link_new(FileKind.FILE, 0o600, path)
        return self._stage(inode, name)

    @_call
    def sync(self) -> None:
        """Make all that was written so far durable."""
        self.files.sync()

    @_call
    def sync_directories(self, paths: Sequence[bytes]) -> None:
        """Make the names in these directories durable."""
        directories = [self._find(path) for path in paths]
        self.files.sync_some((), (each for each in directories if each is not None))

    @_call
    def sync_files(self, paths: Sequence[bytes]) -> None:
        """Make these files and the names in their parents durable."""
        inodes = [self._find(path) for path in paths]
        parents = [self._find(path.rpartition(b"/")[0]) for path in paths]
        self.files.sync_some(
            (each for each in inodes if each is not None),
            (each for each in parents if each is not None),
        )

    # -- putting in place ---------------------------------------------------------------------

    @_call
    def place_new(self, stage: Stage, path: bytes) -> Stat:
        """Give a stage its name in the tree."""
        mine = self._mine(stage)
        self._guard(path)
        if mine.name is None:
            self.files.link(mine.inode, path)
        else:
            self.files.rename(TMP + b"/" + mine.name, path, replace=False)
        mine.place()
        return mine.inode.stat()

    def place_each(self, pairs: Sequence[tuple[Stage, bytes]]) -> list[Stat | DiskError]:
        """Do place_new for many, in order, and close the stages that got their name."""
        placed: list[Stat | DiskError] = []
        for stage, path in pairs:
            try:
                placed.append(self.place_new(stage, path))
                stage.close()
            except DiskError as cause:
                placed.append(cause)
        return placed

    @_call
    def place_over(self, stage: Stage, path: bytes, keep_as: bytes) -> tuple[Stat, Stat]:
        """Put a stage where a file stands; that file moves to tmp as `keep_as`, atomically."""
        mine = self._mine(stage)
        self._check_displaceable(path)
        keep = _in_tmp(keep_as)
        if self.files.find(keep) is not None and mine.name != keep_as:
            raise NameTaken(f"keep what stands at {_shown(path)}", "a name in tmp is taken")
        self._wear(mine, path)
        if not self.has_exchange:
            return self._place_after_taking_away(mine, path, keep)
        former = mine.name
        if former is None:
            self.files.link(mine.inode, keep)
        elif former != keep_as:
            self.files.rename(TMP + b"/" + former, keep, replace=False)
        mine.name = keep_as
        try:
            self.instant("place_over", path, "within")
            self._check_displaceable(path)
            self.files.exchange(keep, path)
        except (OSError, DiskError):
            if former is None:
                self.files.unlink(keep)
            elif former != keep_as:
                self.files.rename(keep, TMP + b"/" + former, replace=False)
            mine.name = former
            raise
        mine.place()
        return mine.inode.stat(), self.files.get(keep).stat()

    @_call
    def take_away(self, path: bytes, keep_as: bytes) -> Stat:
        """Move a file or symlink out of the tree to tmp as `keep_as`."""
        self._check_displaceable(path)
        keep = _in_tmp(keep_as)
        self.files.rename(path, keep, replace=False)
        return self.files.get(keep).stat()

    @_call
    def move(self, source: bytes, target: bytes) -> Stat:
        """Rename within the tree, replacing nothing."""
        self._guard(source)
        self._guard(target)
        self.files.rename(source, target, replace=False)
        return self.files.get(target).stat()

    @_call
    def swap(self, one: bytes, other: bytes) -> None:
        """Exchange two names atomically."""
        self._guard(one)
        self._guard(other)
        self.files.exchange(one, other)

    @_call
    def make_directory(self, path: bytes) -> Stat:
        """Make a directory."""
        self._guard(path)
        return self._link_new(FileKind.DIRECTORY, 0o777 & ~self.umask, path).stat()

    @_call
    def remove_directory(self, path: bytes) -> None:
        """Remove an empty directory."""
        self._guard(path)
        self.files.rmdir(path)

    @_call
    def make_symlink(self, target: bytes, path: bytes, mtime_ns: int) -> Stat:
        """Make a symlink."""
        self._guard(path)
        inode = self.files.make(FileKind.SYMLINK, 0o777, target)
        self.files.link(inode, path)
        self.files.set_attributes(inode, mtime_ns=_clamped(mtime_ns))
        return inode.stat()

    @_call
    def set_attributes(self, path: bytes, *, is_executable: bool, mtime_ns: int | None) -> Stat:
        """Set the executable bit (where readable) and the time."""
        inode = self._get(path)
        mode = None
        if inode.kind is FileKind.FILE and bool(inode.mode & 0o100) is not is_executable:
            mode = _with_executable(inode.mode & 0o777, is_executable=is_executable)
        at_ns = None if mtime_ns is None else _clamped(mtime_ns)
        if mode is not None or at_ns is not None:
            self.files.set_attributes(inode, mode=mode, mtime_ns=at_ns)
            self.files.tell(HintKind.CHANGED, inode, path)
        return inode.stat()

    # -- what was displaced ---------------------------------------------------------------------

    @_call
    def list_stages(self) -> list[tuple[bytes, Stat]]:
        """List the names in tmp."""
        children = self.files.get(TMP).children
        return [(name, inode.stat()) for name, inode in children.items()]

    def look_stage(self, name: bytes) -> Looked | LookFailure:
        """Hash a file in tmp."""
        return self._look_at("look_stage", _in_tmp(name))

    @_call
    def is_stage_being_written(self, name: bytes) -> bool:
        """As is_being_written, for a name in tmp."""
        inode = self.files.find(_in_tmp(name))
        return inode is not None and inode.writers > 0

    @_call
    def restore_stage(self, name: bytes, path: bytes) -> Stat:
        """Move a displaced file back into the tree, replacing nothing."""
        self._guard(path)
        self.files.rename(_in_tmp(name), path, replace=False)
        return self.files.get(path).stat()

    @_call
    def keep_stage(self, name: bytes, history_name: bytes) -> Stat:
        """Move a displaced file into history, replacing nothing."""
        path = _in_history(history_name)
        self.files.rename(_in_tmp(name), path, replace=False)
        return self.files.get(path).stat()

    @_call
    def remove_stage(self, name: bytes) -> None:
        """Remove an unfinished download from tmp; no error if it is gone."""
        if self.files.find(_in_tmp(name)) is not None:
            self.files.unlink(_in_tmp(name))

    # -- directories that were taken away whole ---------------------------------------------------

    @_call
    def take_tree(self, path: bytes, keep_as: bytes) -> Stat:
        """Move a directory with all that is in it out of the tree to tmp as `keep_as`."""
        keep = _in_tmp(keep_as)
        if self._get(path).kind is not FileKind.DIRECTORY:
            raise NameTaken(f"take away {_shown(path)}", "it is no directory")
        self.files.rename(path, keep, replace=False)
        return self.files.get(keep).stat()

    @_call
    def list_taken(self, inner: bytes) -> list[tuple[bytes, Stat]]:
        """List a directory of it."""
        found = self.files.get(_taken(inner))
        if found.kind is not FileKind.DIRECTORY:
            raise NameMissing(f"list {_shown(inner)}", "it is no directory")
        return [(name, inode.stat()) for name, inode in found.children.items()]

    @_call
    def keep_taken(self, inner: bytes, names: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        """Move names of a directory of it into history."""
        moved = []
        for name, history_name in names:
            kept = _in_history(history_name)
            try:
                self.files.rename(_taken(inner) + b"/" + name, kept, replace=False)
            except OSError:
                moved.append(False)
            else:
                moved.append(True)
            self.instant("keep_taken", inner, "within")
        return moved

    @_call
    def set_aside(self, inner: bytes, keep_as: bytes) -> Stat:
        """Move a name of it to tmp itself."""
        keep = _in_tmp(keep_as)
        self.files.rename(_taken(inner), keep, replace=False)
        return self.files.get(keep).stat()

    @_call
    def return_taken(self, inner: bytes, path: bytes) -> Stat:
        """Move a name of it back into the tree."""
        self._guard(path)
        self.files.rename(_taken(inner), path, replace=False)
        return self.files.get(path).stat()

    @_call
    def remove_taken(self, inner: bytes) -> None:
        """Remove an empty directory of it."""
        self.files.rmdir(_taken(inner))

    # -- history ----------------------------------------------------------------------------------

    @_call
    def is_history_being_written(self, name: bytes) -> bool:
        """As is_being_written, for a kept version."""
        inode = self.files.find(_in_history(name))
        return inode is not None and inode.writers > 0

    @_call
    def read_history(self, name: bytes, offset: int, length: int) -> bytes:
        """Read a piece of a kept version."""
        return self.files.get(_in_history(name)).content[offset : offset + length]

    def look_history(self, name: bytes) -> Looked | LookFailure:
        """Hash a kept version."""
        return self._look_at("look_history", _in_history(name))

    @_call
    def remove_history(self, name: bytes) -> None:
        """Remove a kept version for good."""
        with suppress(FileNotFoundError):
            self.files.unlink(_in_history(name))

    def space(self) -> Space:
        """Say that there is room enough: how full it is stands in the faults."""
        return Space(1 << 40, 1 << 39)

    @_call
    def list_history(self) -> list[tuple[bytes, Stat]]:
        """List the kept versions."""
        children = self.files.get(HISTORY).children
        return [(name, inode.stat()) for name, inode in children.items()]

    # -- inside -----------------------------------------------------------------------------------

    def _find(self, path: bytes) -> Inode | None:
        return None if is_ours(path) else self.files.find(path)

    def _get(self, path: bytes) -> Inode:
        self._guard(path)
        return self.files.get(path)

    def _guard(self, path: bytes) -> None:
        if is_ours(path):
            raise NameMissing(f"reach {_shown(path)}", "it is dizzyd's own", errno=errno.ENOENT)

    def _look(self, path: bytes) -> Looked | LookFailure:
        if is_ours(path):
            return LookFailure.GONE
        looked = self._look_at("look", path)
        if self.on_look is not None and isinstance(looked, Looked):
            self.on_look(path, looked.value)
        inode = self.files.find(path)
        if isinstance(looked, Looked) and looked.stat.size > LARGE_FROM_BYTES and inode is not None:
            cutter = Cutter()
            lines = cutter.feed(inode.content) + cutter.finish()
            self._chunk_lists.append((BlobHash(looked.value), lines))
        return looked

    def _look_at(self, name: str, path: bytes) -> Looked | LookFailure:
        try:
            self.enter(name, path)
        except DiskError:
            return LookFailure.UNREADABLE
        inode = self.files.find(path)
        if inode is None:
            return LookFailure.GONE
        at_ns = self.files.now_ns()
        if inode.kind is not FileKind.FILE:
            return Looked(stat=inode.stat(), value=inode.target, looked_at_ns=at_ns)
        if not inode.mode & 0o400:
            return LookFailure.UNREADABLE
        return self._read_whole(name, path, inode, at_ns)

    def _read_whole(self, name: str, path: bytes, inode: Inode, at_ns: int) -> Looked | LookFailure:
        before = inode.stat()
        content = inode.content
        self.instant(name, path, "within")
        if inode.content is not content:  # half of the one, half of the other was read
            return LookFailure.CHANGING
        self.instant(name, path, "after")
        if self.files.find(path) is not inode or inode.stat() != before:
            return LookFailure.CHANGING
        return Looked(stat=before, value=_digest(inode), looked_at_ns=at_ns)

    def _link_new(self, kind: FileKind, mode: int, path: bytes) -> Inode:
        directory, name = self.files.place(path)
        if name in directory.children:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(path))
        inode = self.files.make(kind, mode)
        self.files.link(inode, path)
        return inode

    def _stage(self, inode: Inode, name: bytes | None) -> MemoryStage:
        stage = MemoryStage(self, inode, name)
        self._stages.append(stage)
        return stage

    def forget(self, stage: MemoryStage) -> None:
        """Take a closed stage from the list of those that a crash closes."""
        if stage in self._stages:
            self._stages.remove(stage)

    def _mine(self, stage: Stage) -> MemoryStage:
        assert isinstance(stage, MemoryStage)
        if stage.is_closed or stage.is_placed:
            raise DiskError("place a file", "its stage is not open", errno=errno.EBADF)
        return stage

    def _check_displaceable(self, path: bytes) -> None:
        if self._get(path).kind in (FileKind.DIRECTORY, FileKind.MOUNT):
            raise NameTaken(f"replace {_shown(path)}", "a directory", errno=errno.EISDIR)

    def _place_after_taking_away(
        self, mine: MemoryStage, path: bytes, keep: bytes
    ) -> tuple[Stat, Stat]:
        former = None if mine.name is None else TMP + b"/" + mine.name
        if former == keep:
            raise NameTaken(f"keep what stands at {_shown(path)}", "a name in tmp is taken")
        arriving = former or _in_tmp(arriving_name(keep.rpartition(b"/")[2]))
        if former is None:
            self.files.link(mine.inode, arriving)
        try:
            self.instant("place_over", path, "within")
            self.files.rename(path, keep, replace=False)
        except OSError:
            if former is None:
                self.files.unlink(arriving)
            raise
        self.instant("place_over", path, "within")
        try:
            self.files.rename(arriving, path, replace=False)
        except OSError as error:
            # Someone was quicker, or removed the directory; both files are in tmp.
            mine.name = arriving.rpartition(b"/")[2]
            if not isinstance(error, FileExistsError):
                raise
            raise NameTaken(f"replace {_shown(path)}", "another file came", errno=17) from error
        mine.place()
        return mine.inode.stat(), self.files.get(keep).stat()

    def _wear(self, mine: MemoryStage, path: bytes) -> None:
        """Give a stage the mode of the file that it replaces."""
        replaced = self.files.get(path)
        if replaced.kind is FileKind.FILE:
            is_executable = bool(mine.inode.mode & 0o100)
            mode = _with_executable(replaced.mode & 0o777, is_executable=is_executable)
            if mode != mine.inode.mode:
                self.files.set_attributes(mine.inode, mode=mode)

    def _finish(
        self,
        inode: Inode,
        is_executable: bool,
        mtime_ns: int,
        like: bytes | None,
    ) -> None:
        mode = (0o777 if is_executable else 0o666) & ~self.umask
        replaced = None if like is None else self._find(like)
        if replaced is not None and replaced.kind is FileKind.FILE:
            mode = _with_executable(replaced.mode & 0o777, is_executable=is_executable)
        self.files.set_attributes(inode, mode=mode, mtime_ns=_clamped(mtime_ns))


class MemoryStage:
    """A file being made in tmp."""

    def __init__(self, disk: MemoryDisk, inode: Inode, name: bytes | None) -> None:
        """Hold the inode open."""
        self.name = name
        self.inode = inode
        self.is_placed = False
        self.is_closed = False
        self._disk = disk
        inode.pins += 1

    def write(self, offset: int, *pieces: Buffer) -> None:
        """Write all of the pieces, one behind the other, from `offset` on."""
        self._enter("write")
        self._disk.files.write(self.inode, offset, b"".join(pieces))
        self._disk.leave("write", self.name or b"")

    def read(self, offset: int, length: int) -> bytes:
        """Read back up to `length` bytes."""
        self._enter("read_stage")
        return self.inode.content[offset : offset + length]

    def size(self) -> int:
        """Give the number of bytes up to the highest written one."""
        return len(self.inode.content)

    def finish(self, *, is_executable: bool, mtime_ns: int, like: bytes | None) -> None:
        """Set its attributes."""
        self._enter("finish")
        self._disk._finish(self.inode, is_executable, mtime_ns, like)
        self._disk.leave("finish", self.name or b"")

    def hash(self) -> BlobHash:
        """BLAKE3 of its content as it stands."""
        self._enter("hash")
        return BlobHash(_digest(self.inode))

    def close(self) -> None:
        """Let go of it; an anonymous one is gone then, a named one stays in tmp."""
        if not self.is_closed:
            self._disk.forget(self)
            self.drop()

    def place(self) -> None:
        """Note that it stands in the tree now."""
        self.is_placed = True
        self.name = None

    def drop(self) -> None:
        """Let go, without telling the disk."""
        if not self.is_closed:
            self.is_closed = True
            self.inode.pins -= 1
            self._disk.files.release(self.inode)

    def _enter(self, what: str) -> None:
        if self.is_closed and not self._disk.is_dead:
            raise DiskError(f"{what} a stage", "it is closed", errno=errno.EBADF)
        self._disk.enter(what, self.name or b"")


def _digest(inode: Inode) -> bytes:
    if inode.digest is None:
        inode.digest = blake3(inode.content).digest()
    return inode.digest


def _is_same(found: Stat, expected: Stat) -> bool:
    return (found.inode, found.size, found.mtime_ns) == (
        expected.inode,
        expected.size,
        expected.mtime_ns,
    )


def _with_executable(mode: int, *, is_executable: bool) -> int:
    """Give everybody who may read it the right to execute it, or nobody, if that is a change."""
    if bool(mode & 0o100) is is_executable:
        return mode
    return mode | (mode & 0o444) >> 2 | 0o100 if is_executable else mode & ~0o111


def _in_tmp(name: bytes) -> bytes:
    return TMP + b"/" + _own_name(name)


def _in_history(name: bytes) -> bytes:
    return HISTORY + b"/" + _own_name(name)


def _taken(inner: bytes) -> bytes:
    first, slash, below = inner.partition(b"/")
    return _in_tmp(first) + slash + below


def _own_name(name: bytes) -> bytes:
    if not name or name.startswith(b".") or b"/" in name or b"\0" in name:
        raise DiskError(f"reach {_shown(name)}", "is no name of a stage", errno=errno.EINVAL)
    return name


def _clamped(mtime_ns: int) -> int:
    return min(max(mtime_ns, EARLIEST_NS), LATEST_NS)


def _shown(path: bytes) -> str:
    return repr(os.fsdecode(path))


def _failed(name: str, path: bytes, number: int) -> DiskError:
    return DiskError(f"{name} {_shown(path)}", os.strerror(number), errno=number)


def _told(name: str, error: OSError) -> DiskError:
    number = error.errno or 0
    kind = DiskError
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        kind = NameMissing
    elif number == errno.EEXIST:
        kind = NameTaken
    elif number == errno.ENOTEMPTY:
        kind = NotEmpty
    return kind(f"{name} {error.filename!r}", error.strerror or "", errno=number)


def _is_a_disk(disk: MemoryDisk) -> Disk:
    """Let the type checker hold this class to the interface."""
    return disk


def _has_stat(found: Stat, stat: Stat) -> bool:
    return (found.inode, found.size, found.mtime_ns, found.ctime_ns) == (
        stat.inode,
        stat.size,
        stat.mtime_ns,
        stat.ctime_ns,
    )
