"""Keep a file system in memory: inodes, names, what is durable, and what an observer is told.

It judges nobody: whoever calls may do anything a process with write permission may do. Calls
raise OSError as system calls do. The Disk of a node (tests.sim.disk) and its users
(tests.sim.outside) act on the same Files.

What was not synced is kept as a journal of changes. A power cut keeps any subset of it that is
legal: for each inode a prefix of its content changes, for each directory a prefix of its changes
of names, a rename whole or not at all, nothing inside a directory that is itself not there.
"""

from __future__ import annotations

import errno
import heapq
import os
from typing import TYPE_CHECKING, NamedTuple

from daemon.disk import FileKind, Stat
from daemon.hints import Hint, HintKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from random import Random

OURS = b".dizzyd"
TICK_NS = 4_000_000  # the kernel's coarse clock, which stamps files

_TYPE_BITS = {
    FileKind.FILE: 0o100000,
    FileKind.DIRECTORY: 0o040000,
    FileKind.SYMLINK: 0o120000,
    FileKind.DEVICE: 0o010000,
    FileKind.MOUNT: 0o040000,
}


class Inode:
    """What names point to. `uid` is never used twice; `number` is, as on real disks."""

    __slots__ = (
        "children", "content", "ctime_ns", "digest", "is_freed", "kind", "links", "mode",
        "mtime_ns", "number", "pins", "target", "uid", "writers",
    )  # fmt: skip

    def __init__(self, kind: FileKind, uid: int, number: int, mode: int, at_ns: int) -> None:
        """Begin empty, without a name."""
        self.kind = kind
        self.uid = uid
        self.number = number
        self.mode = mode
        self.content = b""
        self.digest: bytes | None = None  # BLAKE3 of `content`, when somebody asked
        self.target = b""
        self.mtime_ns = at_ns
        self.ctime_ns = at_ns
        self.links = 0
        self.is_freed = False  # its number may belong to another one now
        self.pins = 0  # open handles and stages
        self.writers = 0
        self.children: dict[bytes, Inode] = {}

    def stat(self) -> Stat:
        """Say what lstat says."""
        is_directory = self.kind in (FileKind.DIRECTORY, FileKind.MOUNT)
        size = len(self.target) if self.kind is FileKind.SYMLINK else len(self.content)
        return Stat(
            kind=self.kind,
            inode=self.number,
            size=4096 if is_directory else size,
            mtime_ns=self.mtime_ns,
            ctime_ns=self.ctime_ns,
            mode=_TYPE_BITS[self.kind] | self.mode,
            links=2 if is_directory else self.links,
        )


class _State(NamedTuple):
    """All of an inode that is not a name."""

    content: bytes
    mode: int
    mtime_ns: int
    ctime_ns: int


class _Change(NamedTuple):
    """One entry of the journal. Changes that share a key keep their order.

    A directory's names have its uid as key, an inode's content has minus its uid.
    """

    keys: tuple[int, ...]
    names: tuple[tuple[int, bytes, Inode | None], ...]  # directory, name, who stands there now
    inode: Inode | None  # whose state changed
    state: _State | None
    at_ns: int


class _Image:
    """What a power cut leaves: the names and states that are durable."""

    def __init__(self) -> None:
        self.names: dict[int, dict[bytes, Inode]] = {}
        self.states: dict[int, _State] = {}

    def apply(self, change: _Change) -> None:
        for directory, name, inode in change.names:
            names = self.names.setdefault(directory, {})
            if inode is None:
                names.pop(name, None)
            else:
                names[name] = inode
                state = self.states.get(inode.uid)
                if state is None:  # the name came before the content: an empty file
                    state = _State(b"", inode.mode, change.at_ns, change.at_ns)
                self.states[inode.uid] = state._replace(ctime_ns=change.at_ns)
        if change.inode is not None and change.state is not None:
            self.states[change.inode.uid] = change.state


class Files:
    """A file system. `fold` makes names that fold alike the same; `refuses` forbids names."""

    def __init__(
        self,
        now_ns: Callable[[], int],
        *,
        tick_ns: int = TICK_NS,
        resolution_ns: int = 1,
        fold: Callable[[bytes], bytes] | None = None,
        refuses: Callable[[bytes], bool] | None = None,
    ) -> None:
        """Begin with an empty root, stamped by `now_ns` cut to ticks."""
        self.now_ns = now_ns
        self.tick_ns = tick_ns
        self.resolution_ns = resolution_ns
        self.fold = fold
        self.refuses = refuses
        self.power_cuts = 0
        self.is_away = False  # the disk was taken out: whoever asks is told so
        self.observers: list[Callable[[Hint], None]] = []
        self._uids = 0
        self._numbers = 1
        self._free: list[int] = []
        self._journal: list[_Change] = []
        self._durable = _Image()
        self.root = self._new(FileKind.DIRECTORY, 0o755)
        self.root.links = 1
        self._note_state(self.root)
        self.sync()

    # -- finding ------------------------------------------------------------------------------

    def find(self, path: bytes) -> Inode | None:
        """Give what stands at a path; no symlink and no mount is ever followed."""
        inode = self.root
        if not path:
            return inode
        fold = self.fold
        for name in path.split(b"/"):
            if inode.kind is not FileKind.DIRECTORY:
                return None
            child = inode.children.get(name if fold is None else self._real(inode, name))
            if child is None:
                return None
            inode = child
        return inode

    def get(self, path: bytes) -> Inode:
        """As find, but raise FileNotFoundError."""
        inode = self.find(path)
        if inode is None:
            raise _error(errno.ENOENT, path)
        return inode

    def walk(self, start: Inode | None = None, path: bytes = b"") -> Iterator[tuple[bytes, Inode]]:
        """Give every path below the root (or `start`), sorted, without what is ours."""
        directory = self.root if start is None else start
        for name in sorted(directory.children):
            if not path and name == OURS and directory is self.root:
                continue
            inode = directory.children[name]
            below = path + b"/" + name if path else name
            yield below, inode
            if inode.kind is FileKind.DIRECTORY:
                yield from self.walk(inode, below)

    def path_of(self, inode: Inode) -> bytes | None:
        """Find a path of an inode; None when it has none in the tree."""
        return next((path for path, each in self.walk() if each is inode), None)

    def holds(self, directory: Inode, name: bytes) -> bool:
        """Whether the name is taken."""
        return self._real(directory, name) in directory.children

    def place(self, path: bytes) -> tuple[Inode, bytes]:
        """Split a path into its directory, which must be there, and the name in it."""
        head, _, name = path.rpartition(b"/")
        directory = self.find(head)
        if directory is None:
            raise _error(errno.ENOENT, path)
        if directory.kind is not FileKind.DIRECTORY:
            raise _error(errno.ENOTDIR, path)
        if not name or name in (b".", b"..") or b"\0" in name:
            raise _error(errno.EINVAL, path)
        if len(name) > 255:
            raise _error(errno.ENAMETOOLONG, path)
        if self.refuses is not None and self.refuses(name):
            raise _error(errno.EINVAL, path)
        return directory, name if self.fold is None else self._real(directory, name)

    def exact(self, path: bytes) -> bytes:
        """Give the names by which a path is listed, as those who watch directories hear them."""
        if self.fold is None or not path:
            return path
        inode, names = self.root, []
        for name in path.split(b"/"):
            names.append(self._real(inode, name))
            inode = inode.children.get(names[-1], inode)
        return b"/".join(names)

    def _real(self, directory: Inode, name: bytes) -> bytes:
        if self.fold is None or name in directory.children:
            return name
        folded = self.fold(name)
        return next((each for each in directory.children if self.fold(each) == folded), name)

    # -- names --------------------------------------------------------------------------------

    def make(self, kind: FileKind, mode: int, target: bytes = b"") -> Inode:
        """Make an inode that has no name yet."""
        inode = self._new(kind, mode)
        inode.target = target
        self._note_state(inode)
        return inode

    def link(self, inode: Inode, path: bytes) -> None:
        """Give an inode a name, replacing nothing."""
        directory, name = self.place(path)
        if name in directory.children:
            raise _error(errno.EEXIST, path)
        at_ns = self._now()
        directory.children[name] = inode
        directory.mtime_ns = directory.ctime_ns = inode.ctime_ns = at_ns
        inode.links += 1
        self._note_names(((directory, name, inode),), (inode,), at_ns)
        self._tell(HintKind.APPEARED, path, inode)

    def unlink(self, path: bytes) -> Inode:
        """Take a file or symlink's name away."""
        directory, name = self.place(path)
        inode = directory.children.get(name)
        if inode is None:
            raise _error(errno.ENOENT, path)
        if inode.kind in (FileKind.DIRECTORY, FileKind.MOUNT):
            raise _error(errno.EISDIR, path)
        exact = self.exact(path)
        self._drop(directory, name, inode)
        self._tell(HintKind.GONE, exact, inode)
        return inode

    def rmdir(self, path: bytes) -> Inode:
        """Remove an empty directory."""
        directory, name = self.place(path)
        inode = directory.children.get(name)
        if inode is None:
            raise _error(errno.ENOENT, path)
        if inode.kind is FileKind.MOUNT:
            raise _error(errno.EBUSY, path)
        if inode.kind is not FileKind.DIRECTORY:
            raise _error(errno.ENOTDIR, path)
        if inode.children:
            raise _error(errno.ENOTEMPTY, path)
        exact = self.exact(path)
        self._drop(directory, name, inode)
        self._tell(HintKind.GONE, exact, inode)
        return inode

    def rename(self, source: bytes, target: bytes, *, replace: bool) -> Inode | None:
        """Move a name, atomically; give what was replaced."""
        from_directory, from_name = self.place(source)
        inode = from_directory.children.get(from_name)
        if inode is None:
            raise _error(errno.ENOENT, source)
        if inode.kind is FileKind.MOUNT:
            raise _error(errno.EBUSY, source)
        wanted = target.rpartition(b"/")[2]
        to_directory, to_name = self.place(target)
        old = to_directory.children.get(to_name)
        if old is inode:
            if to_name != from_name or wanted == from_name or from_directory is not to_directory:
                if not replace:
                    raise _error(errno.EEXIST, target)
                return None  # two names of one inode, or the same name: rename(2) does nothing
            old, to_name = None, wanted  # only the case of the name changes
        if old is not None:
            self._check_replaceable(inode, old, target, replace=replace)
        if inode.kind is FileKind.DIRECTORY and self._is_below(to_directory, inode):
            raise _error(errno.EINVAL, target)
        source = self.exact(source)
        at_ns = self._now()
        del from_directory.children[from_name]
        to_directory.children[to_name] = inode
        for each in (from_directory, to_directory, inode):
            each.ctime_ns = at_ns
        from_directory.mtime_ns = to_directory.mtime_ns = at_ns
        moved = (inode,) if old is None else (inode, old)
        names = ((from_directory, from_name, None), (to_directory, to_name, inode))
        self._note_names(names, moved, at_ns)
        if old is not None:
            old.links -= 1
            old.ctime_ns = at_ns
            self.release(old)
        self._tell_move(source, target, inode)
        return old

    def exchange(self, one: bytes, other: bytes) -> None:
        """Swap two names, atomically."""
        directory_1, name_1 = self.place(one)
        directory_2, name_2 = self.place(other)
        inode_1, inode_2 = directory_1.children.get(name_1), directory_2.children.get(name_2)
        if inode_1 is None or inode_2 is None:
            raise _error(errno.ENOENT, one if inode_1 is None else other)
        if inode_1 is inode_2:
            return
        if self._is_below(directory_1, inode_2) or self._is_below(directory_2, inode_1):
            raise _error(errno.EINVAL, one)
        at_ns = self._now()
        directory_1.children[name_1], directory_2.children[name_2] = inode_2, inode_1
        for each in (directory_1, directory_2, inode_1, inode_2):
            each.ctime_ns = at_ns
        directory_1.mtime_ns = directory_2.mtime_ns = at_ns
        names = ((directory_1, name_1, inode_2), (directory_2, name_2, inode_1))
        self._note_names(names, (inode_1, inode_2), at_ns)
        self._tell_move(one, other, inode_1)
        self._tell_move(other, one, inode_2)

    def release(self, inode: Inode) -> None:
        """Free an inode's number for the next file when nothing holds it any more."""
        if inode.links == 0 and inode.pins == 0 and not inode.is_freed:
            heapq.heappush(self._free, inode.number)
            inode.is_freed = True

    # -- contents and attributes ----------------------------------------------------------------

    def write(self, inode: Inode, offset: int, chunk: bytes) -> None:
        """Write into a file."""
        before = inode.content
        if len(before) < offset:
            before += bytes(offset - len(before))
        self.set_content(inode, before[:offset] + chunk + before[offset + len(chunk) :])

    def set_content(self, inode: Inode, content: bytes) -> None:
        """Let a file have another content (the effect of truncate, write, or mmap)."""
        inode.content = content
        inode.digest = None
        inode.mtime_ns = inode.ctime_ns = self._now()
        self._note_state(inode)

    def set_attributes(
        self, inode: Inode, *, mode: int | None = None, mtime_ns: int | None = None
    ) -> None:
        """Chmod, or utimensat."""
        if mode is not None:
            inode.mode = mode
        if mtime_ns is not None:
            inode.mtime_ns = mtime_ns // self.resolution_ns * self.resolution_ns
        inode.ctime_ns = self._now()
        self._note_state(inode)

    def tell(self, kind: HintKind, inode: Inode, path: bytes | None = None) -> None:
        """Tell the observers of something done to an open file."""
        if self.observers:
            where = self.path_of(inode) if path is None else path
            if where is not None:
                self._tell(kind, where, inode)

    # -- durability -----------------------------------------------------------------------------

    @property
    def unsynced(self) -> int:
        """How many changes a power cut may take."""
        return len(self._journal)

    def sync(self) -> None:
        """Make everything durable."""
        for change in self._journal:
            self._durable.apply(change)
        self._journal.clear()

    def sync_some(self, inodes: Iterable[Inode], directories: Iterable[Inode]) -> None:
        """Make the contents of these, the names in those, and what these rest on, durable."""
        wanted = {-inode.uid for inode in inodes} | {each.uid for each in directories}
        kept: list[_Change] = []
        synced: list[_Change] = []
        for change in reversed(self._journal):
            if wanted.isdisjoint(change.keys):
                kept.append(change)
            else:
                wanted.update(change.keys)
                synced.append(change)
        for change in reversed(synced):
            self._durable.apply(change)
        self._journal = kept[::-1]

    def cut_power(self, random: Random) -> None:
        """Lose some legal part of what was not synced; all open handles are gone."""
        image = self._durable
        keep = random.choice((0.0, 0.5, 0.9, 1.0))
        closed: set[int] = set()
        for change in self._journal:
            if closed.isdisjoint(change.keys):
                if random.random() < keep:
                    image.apply(change)
                    continue
                if self._is_new_content(change) and random.random() < 0.3:
                    image.apply(_torn(change, random))
            closed.update(change.keys)
        self._journal.clear()
        self.power_cuts += 1
        self._rebuild(image)

    def _is_new_content(self, change: _Change) -> bool:
        """Whether bytes were under way: chmod and utimensat tear no content that is durable."""
        if change.inode is None or change.state is None:
            return False
        durable = self._durable.states.get(change.inode.uid)
        return durable is None or durable.content != change.state.content

    def _rebuild(self, image: _Image) -> None:
        made: dict[int, Inode] = {}

        def build(old: Inode) -> Inode:
            inode = made.get(old.uid)
            if inode is None:
                state = image.states[old.uid]
                inode = Inode(old.kind, old.uid, old.number, state.mode, state.mtime_ns)
                inode.content, inode.ctime_ns = state.content, state.ctime_ns
                inode.target = old.target
                made[old.uid] = inode
                for name, child in image.names.get(old.uid, {}).items():
                    inode.children[name] = build(child)
            inode.links += 1
            return inode

        numbers: dict[int, int] = {}
        self.root = build(self.root)
        for inode in made.values():  # a number that was given on while its first file is back
            if inode.number in numbers:
                self._numbers += 1
                inode.number = self._numbers
            numbers[inode.number] = inode.uid
        self._free = [n for n in range(2, self._numbers + 1) if n not in numbers]
        fresh = _Image()
        for uid, inode in made.items():
            fresh.names[uid] = dict(inode.children)
            fresh.states[uid] = image.states[uid]
        self._durable = fresh

    # -- inside -----------------------------------------------------------------------------------

    def _now(self) -> int:
        return self.now_ns() // self.tick_ns * self.tick_ns

    def _new(self, kind: FileKind, mode: int) -> Inode:
        self._uids += 1
        if self._free:
            number = heapq.heappop(self._free)
        else:
            self._numbers += 1
            number = self._numbers
        return Inode(kind, self._uids, number, mode, self._now())

    def _drop(self, directory: Inode, name: bytes, inode: Inode) -> None:
        at_ns = self._now()
        del directory.children[name]
        inode.links -= 1
        directory.mtime_ns = directory.ctime_ns = inode.ctime_ns = at_ns
        self._note_names(((directory, name, None),), (inode,), at_ns)
        self.release(inode)

    def _check_replaceable(self, inode: Inode, old: Inode, target: bytes, *, replace: bool) -> None:
        if not replace:
            raise _error(errno.EEXIST, target)
        if old.kind is FileKind.MOUNT:
            raise _error(errno.EBUSY, target)
        if old.kind is FileKind.DIRECTORY:
            if inode.kind is not FileKind.DIRECTORY:
                raise _error(errno.EISDIR, target)
            if old.children:
                raise _error(errno.ENOTEMPTY, target)
        elif inode.kind is FileKind.DIRECTORY:
            raise _error(errno.ENOTDIR, target)

    def _is_below(self, directory: Inode, ancestor: Inode) -> bool:
        if directory is ancestor:
            return True
        if ancestor.kind is not FileKind.DIRECTORY:
            return False
        return any(self._is_below(directory, child) for child in ancestor.children.values())

    def _note_names(
        self,
        names: tuple[tuple[Inode, bytes, Inode | None], ...],
        moved: tuple[Inode, ...],
        at_ns: int,
    ) -> None:
        keys = dict.fromkeys(directory.uid for directory, _, _ in names)
        keys.update((each.uid, None) for each in moved if each.kind is FileKind.DIRECTORY)
        by_uid = tuple((directory.uid, name, inode) for directory, name, inode in names)
        self._journal.append(_Change(tuple(keys), by_uid, None, None, at_ns))

    def _note_state(self, inode: Inode) -> None:
        state = _State(inode.content, inode.mode, inode.mtime_ns, inode.ctime_ns)
        self._journal.append(_Change((-inode.uid,), (), inode, state, inode.ctime_ns))

    def _tell(self, kind: HintKind, path: bytes, inode: Inode, source: bytes | None = None) -> None:
        if not self.observers or is_ours(path):
            return
        if kind is not HintKind.GONE:
            path = self.exact(path)
        is_directory = inode.kind is FileKind.DIRECTORY
        hint = Hint(kind=kind, path=path, is_directory=is_directory, source=source)
        for observer in self.observers:
            observer(hint)

    def _tell_move(self, source: bytes, target: bytes, inode: Inode) -> None:
        if is_ours(target):
            self._tell(HintKind.GONE, source, inode)
        else:
            known = None if is_ours(source) else source
            self._tell(HintKind.MOVED_HERE, target, inode, known)


def is_ours(path: bytes) -> bool:
    """Whether a path is `.dizzyd` at the root, or below it."""
    return path == OURS or path.startswith(OURS + b"/")


def _torn(change: _Change, random: Random) -> _Change:
    """Keep only the beginning of a content, or holes in it, as an unsynced file may be found."""
    state = change.state
    assert state is not None
    cut = random.randrange(len(state.content) + 1)
    holes = bytes(len(state.content) - cut) if random.random() < 0.5 else b""
    return change._replace(state=state._replace(content=state.content[:cut] + holes))


def _error(number: int, path: bytes) -> OSError:
    return OSError(number, os.strerror(number), os.fsdecode(path))
