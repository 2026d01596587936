"""Act as the user's programs do: editors, file managers, shells, on the same files as a node.

Everything raises OSError as the system calls do. What a user writes, copies and destroys is told
to a `Witness`, so that a checker can know what may be gone afterwards and what may not.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

from daemon.disk import FileKind
from daemon.hints import HintKind
from tests.sim.files import OURS, is_ours

if TYPE_CHECKING:
    from tests.sim.files import Files, Inode


class Witness(Protocol):
    """Remembers what users did to contents."""

    def wrote(self, content: bytes) -> None:
        """Note that a user let a file hold this content."""

    def destroyed(self, content: bytes) -> None:
        """Note that a user overwrote or removed a file holding it, seeing it there."""

    def copied(self, content: bytes) -> None:
        """Note that a user let a second file hold it."""

    def made(self, path: bytes, maker: object) -> None:
        """Note that a user made a file of this name."""

    def renamed(self, path: bytes, content: bytes, maker: object) -> None:
        """Note that a user gave a file of this name another one."""


class Handle:
    """A file that a program keeps open for writing, whatever happens to its name."""

    def __init__(self, outside: Outside, inode: Inode) -> None:
        """Open it."""
        self._outside = outside
        self._inode = inode
        self._is_open = True
        self._cuts = outside.files.power_cuts
        inode.pins += 1
        inode.writers += 1

    def write(self, content: bytes, *, offset: int = 0) -> None:
        """Write over what is there."""
        self._check()
        self._outside.write_open(self._inode, offset, content)

    def rewrite(self, content: bytes) -> None:
        """Truncate, then write."""
        self._check()
        self._outside.fill(self._inode, content)

    def close(self) -> None:
        """Close it."""
        if self._is_open:
            self._is_open = False
            if self._cuts == self._outside.files.power_cuts:
                self._outside.close_open(self._inode)

    def _check(self) -> None:
        """A power cut ends all programs."""
        if not self._is_open or self._cuts != self._outside.files.power_cuts:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class Outside:
    """All that is not dizzyd, on one machine."""

    def __init__(self, files: Files, witness: Witness | None = None) -> None:
        """Act on `files`."""
        self.files = files
        self.witness = witness

    # -- seeing

    def read(self, path: bytes) -> bytes:
        """Give a file's content."""
        inode = self.files.get(path)
        if inode.kind is not FileKind.FILE:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
        return inode.content

    def exists(self, path: bytes) -> bool:
        """Whether something stands there."""
        return self.files.find(path) is not None

    def tree(self) -> dict[bytes, tuple[FileKind, bytes, bool]]:
        """Give every path with its kind, its content or target, and its executable bit."""
        return {
            path: (
                inode.kind,
                inode.target if inode.kind is FileKind.SYMLINK else inode.content,
                inode.kind is FileKind.FILE and bool(inode.mode & 0o100),
            )
            for path, inode in self.files.walk()
        }

    def kept(self) -> dict[bytes, bytes]:
        """Give what lies in `.dizzyd`: history and tmp."""
        found: dict[bytes, bytes] = {}
        for below in (b"/history", b"/tmp"):
            directory = self.files.find(OURS + below)
            if directory is not None:
                walked = self.files.walk(directory, OURS + below)
                found.update((path, inode.content) for path, inode in walked)
        return found

    # -- files

    def write(self, path: bytes, content: bytes) -> None:
        """Write in place: create, or truncate and write, then close."""
        handle = self.open(path)
        try:
            handle.rewrite(content)
        finally:
            handle.close()

    def create(self, path: bytes, content: bytes) -> None:
        """Write a file that must not be there yet."""
        if self.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(path))
        self.write(path, content)

    def append(self, path: bytes, more: bytes) -> None:
        """Add to the end."""
        inode = self._file(path)
        handle = Handle(self, inode)
        handle.write(more, offset=len(inode.content))
        handle.close()

    def save_atomically(self, path: bytes, content: bytes) -> None:
        """Save as many editors do: a temporary file beside it, renamed over it."""
        mode = self.files.get(path).mode if self.exists(path) else None
        directory = path.rpartition(b"/")[0]
        temporary = (directory + b"/" if directory else b"") + b".goutputstream-" + _suffix(path)
        self.write(temporary, content)
        if mode is not None:
            self.files.set_attributes(self.files.get(temporary), mode=mode)
        self.rename(temporary, path)

    def save_with_backup(self, path: bytes, content: bytes, *, keeps: bool = False) -> None:
        """Save as vim and emacs can: the old file becomes NAME~, a new one is written.

        The backup goes afterwards unless `keeps`. A backup that stays is an edit and a create
        (docs/design.md, 5, rule 3): who renames the file meanwhile has its old bytes twice.
        """
        inode = self._file(path)
        if keeps:
            self._copied(inode.content)
        backup = path + b"~"
        self.rename(path, backup)
        self.write(path, content)
        if not keeps:
            self.unlink(backup)

    def copy(self, source: bytes, target: bytes) -> None:
        """Copy a file; onto itself nothing happens, as cp(1) refuses it."""
        if self.files.find(source) is self.files.find(target):
            return
        content = self.read(source)
        self._copied(content)
        self.write(target, content)

    def open(self, path: bytes) -> Handle:
        """Open a file for writing, making it if it is not there; nothing is truncated."""
        _check(path)
        inode = self.files.find(path)
        if inode is None:
            inode = self.files.make(FileKind.FILE, 0o644)
            self.files.link(inode, path)
            if self.witness is not None:
                self.witness.made(path, self)
        elif inode.kind is not FileKind.FILE:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
        return Handle(self, inode)

    def unlink(self, path: bytes) -> None:
        """Remove a file or symlink."""
        _check(path)
        inode = self.files.unlink(path)
        if inode.links == 0:
            self._destroyed(inode)

    def rename(self, source: bytes, target: bytes) -> None:
        """Rename as rename(2): a file that stood at the target is gone.

        A rename over a file is an edit of that one, as an atomic save is (docs/design.md, 5,
        rule 1), and a delete of the other: who moves the other meanwhile keeps it, too.
        """
        _check(source)
        _check(target)
        old = self.files.rename(source, target, replace=True)
        renamed = self.files.get(target)
        if self.witness is not None and renamed.kind is FileKind.FILE:
            self.witness.renamed(source, renamed.content, self)
        if old is not None and old.kind is FileKind.FILE:
            self._copied(self.files.get(target).content)
        if old is not None and old.links == 0:
            self._destroyed(old)

    def exchange(self, one: bytes, other: bytes) -> None:
        """Swap two names in one instant."""
        _check(one)
        _check(other)
        self._note_swap(one, other)
        self.files.exchange(one, other)

    def swap(self, one: bytes, other: bytes) -> None:
        """Swap two names by three renames, as people do."""
        between = one + b".swap"
        self._note_swap(one, other)
        self.files.get(other)
        self.rename(one, between)
        self.rename(other, one)
        self.rename(between, other)

    def _note_swap(self, one: bytes, other: bytes) -> None:
        """If one of the two is removed before anybody looked, it was a rename over a file."""
        for path in (one, other):
            inode = self.files.find(path)
            if inode is not None and inode.kind is FileKind.FILE:
                self._copied(inode.content)

    def hard_link(self, source: bytes, target: bytes) -> None:
        """Give a file a second name."""
        _check(target)
        inode = self._file(source)
        self._copied(inode.content)
        self.files.link(inode, target)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symlink."""
        _check(path)
        self.files.place(path)
        self.files.link(self.files.make(FileKind.SYMLINK, 0o777, target), path)

    def device(self, path: bytes) -> None:
        """Make a FIFO."""
        _check(path)
        self.files.link(self.files.make(FileKind.DEVICE, 0o644), path)

    # -- directories

    def mkdir(self, path: bytes) -> None:
        """Make a directory."""
        _check(path)
        if self.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(path))
        self.files.place(path)
        self.files.link(self.files.make(FileKind.DIRECTORY, 0o755), path)

    def mkdirs(self, path: bytes) -> None:
        """Make a directory and those above it, as far as they are missing."""
        parts = path.split(b"/")
        for end in range(1, len(parts) + 1):
            if not self.exists(b"/".join(parts[:end])):
                self.mkdir(b"/".join(parts[:end]))

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        _check(path)
        self.files.rmdir(path)

    def remove_tree(self, path: bytes) -> None:
        """Remove a directory with all in it, as `rm -r`."""
        _check(path)
        directory = self.files.get(path)
        for below, inode in reversed(list(self.files.walk(directory, path))):
            if inode.kind is FileKind.DIRECTORY:
                self.files.rmdir(below)
            else:
                self.unlink(below)
        if directory.kind is FileKind.DIRECTORY:
            self.files.rmdir(path)
        else:
            self.unlink(path)

    # -- attributes

    def chmod(self, path: bytes, mode: int) -> None:
        """Change the mode."""
        _check(path)
        inode = self.files.get(path)
        before_ns = inode.ctime_ns
        self.files.set_attributes(inode, mode=mode)
        # Linux tells this from another change of the same tick since 6.13. On an older one the
        # next look does not see a chmod within 4 ms behind our own placing of the file.
        inode.ctime_ns = max(inode.ctime_ns, before_ns + 1)
        self.files.tell(HintKind.CHANGED, inode, path)

    def utime(self, path: bytes, mtime_ns: int) -> None:
        """Change the time of modification."""
        _check(path)
        inode = self.files.get(path)
        self.files.set_attributes(inode, mtime_ns=mtime_ns)
        self.files.tell(HintKind.CHANGED, inode, path)

    # -- what handles do

    def write_open(self, inode: Inode, offset: int, content: bytes) -> None:
        """Write into an open file."""
        before = inode.content
        self.files.write(inode, offset, content)
        self._replaced(inode, before)

    def fill(self, inode: Inode, content: bytes) -> None:
        """Truncate an open file and write it anew; both can be seen by others."""
        before = inode.content
        if before:
            self.files.set_content(inode, b"")
        self.files.set_content(inode, content)
        self._replaced(inode, before)

    def close_open(self, inode: Inode) -> None:
        """Close an open file."""
        inode.pins -= 1
        inode.writers -= 1
        self.files.tell(HintKind.CLOSED, inode)
        self.files.release(inode)

    def _replaced(self, inode: Inode, before: bytes) -> None:
        if self.witness is not None and before != inode.content:
            if before:
                self.witness.destroyed(before)
            if inode.links:  # else another program's rename or rm took it from its writer
                self.witness.wrote(inode.content)
        self.files.tell(HintKind.CHANGED, inode)

    def _destroyed(self, inode: Inode) -> None:
        if self.witness is not None and inode.kind is FileKind.FILE:
            self.witness.destroyed(inode.content)

    def _copied(self, content: bytes) -> None:
        if self.witness is not None:
            self.witness.copied(content)

    def _file(self, path: bytes) -> Inode:
        inode = self.files.get(path)
        if inode.kind is not FileKind.FILE or is_ours(path):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
        return inode


def _suffix(path: bytes) -> bytes:
    return b"%06d" % (sum(path) % 1_000_000)


def _check(path: bytes) -> None:
    """Keep users of histories out of `.dizzyd`: what they do there is a test of its own."""
    if is_ours(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fsdecode(path))
