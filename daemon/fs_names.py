"""Change the names in the tree: put in place, move, swap, take away, make and remove.

Every change is one step of the kernel where it can be, and nothing is ever replaced: what stood
at a name goes to tmp, a name that is in use is refused. What was displaced is the caller's matter.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from daemon import syscalls
from daemon.disk import ASIDE_PREFIX, DiskError, FileKind, Stat, arriving_name
from daemon.fs_attributes import SHARED_BITS, executable_mode, group_given, set_times
from daemon.fs_below import READABLE, At, Tree, kind_of, stat_of
from daemon.fs_own import own_name
from daemon.fs_stage import LinuxStage, Workshop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.disk import Stage

_PLAIN = (FileKind.FILE, FileKind.SYMLINK)


class TreeNames:
    """The names of one folder's tree."""

    def __init__(self, tree: Tree, shop: Workshop, *, has_exchange: bool) -> None:
        """Use the tree and the directory tmp beside it."""
        self._tree = tree
        self._shop = shop
        self._has_exchange = has_exchange

    def place_new(self, stage: Stage, path: bytes) -> Stat:
        """Give a stage its name in the tree. Raises NameTaken, NameMissing (no parent)."""
        with self._tree.at("make", path) as at:
            return _ours(stage).place(at, group_given(at.directory))

    def place_each(self, pairs: Sequence[tuple[Stage, bytes]]) -> list[Stat | DiskError]:
        """Do place_new for many, in order, and close the stages that got their name."""
        placed: list[Stat | DiskError] = []
        groups: dict[bytes, int | None] = {}  # that each directory gives to what is made in it
        for stage, path in pairs:
            parent = path.rpartition(b"/")[0]
            try:
                with self._tree.at("make", path) as at:
                    if parent not in groups:
                        groups[parent] = group_given(at.directory)
                    placed.append(_ours(stage).place(at, groups[parent]))
            except DiskError as cause:
                placed.append(cause)
            else:
                stage.close()
        return placed

    def place_over(self, stage: Stage, path: bytes, keep_as: bytes) -> tuple[Stat, Stat]:
        """Put a stage where a file stands; that file moves to tmp as `keep_as`, atomically."""
        ours = _ours(stage)
        own_name("keep", keep_as)
        with self._tree.at("replace", path) as at:
            self._require_plain(at.lstat())
            ours.wear(at)
            if not self._has_exchange:
                return self._place_after_taking_away(ours, at, keep_as)
            before = ours.settle(keep_as)
            try:
                self._exchange(at, keep_as)
            except BaseException:
                ours.unsettle(before)
                raise
            placed = ours.used_up() or at.lstat()
            found = os.stat(keep_as, dir_fd=self._shop.directory, follow_symlinks=False)
            return stat_of(placed, FileKind.FILE), stat_of(found, kind_of(found))

    def take_away(self, path: bytes, keep_as: bytes) -> Stat:
        """Move a file or symlink out of the tree to tmp as `keep_as`."""
        own_name("keep", keep_as)
        with self._tree.at("take away", path) as at:
            return self._take(at, keep_as)

    def move(self, source: bytes, target: bytes) -> Stat:
        """Rename within the tree, replacing nothing. Raises NameTaken, NameMissing."""
        with self._tree.at("move", source) as old, self._tree.at("move to", target) as new:
            self._shop.rename(old.directory, old.name, new.directory, new.name)
            found = new.lstat()
            kind = kind_of(found)
        if kind is FileKind.DIRECTORY:
            self._tree.forget()
        return stat_of(found, kind)

    def swap(self, one: bytes, other: bytes) -> None:
        """Exchange two names, in one step where the disk can. Raises NameMissing."""
        with self._tree.at("swap", one) as first, self._tree.at("swap", other) as second:
            if self._has_exchange:
                syscalls.renameat2(
                    first.directory,
                    first.name,
                    second.directory,
                    second.name,
                    syscalls.RENAME_EXCHANGE,
                )
            else:
                self._swap_by_three(first, second)
        self._tree.forget()

    def make_directory(self, path: bytes) -> Stat:
        """Make a directory. Raises NameTaken, NameMissing."""
        with self._tree.at("make the directory", path) as at:
            os.mkdir(at.name, 0o777 & ~self._shop.umask, dir_fd=at.directory)
            found = at.lstat()
            wanted = 0o777 & ~self._shop.umask
            if found.st_mode & SHARED_BITS != wanted:
                # The process's own umask took more; what setgid the parent gave stays.
                self._set_directory_mode(at, wanted)
                found = at.lstat()
            return stat_of(found, kind_of(found))

    def remove_directory(self, path: bytes) -> None:
        """Remove an empty directory. Raises NotEmpty, NameMissing."""
        with self._tree.at("remove the directory", path) as at:
            os.rmdir(at.name, dir_fd=at.directory)
        self._tree.forget()

    def make_symlink(self, target: bytes, path: bytes, mtime_ns: int) -> Stat:
        """Make a symlink. Raises NameTaken, NameMissing."""
        with self._tree.at("make the link", path) as at:
            made = self._shop.own_name()
            os.symlink(target, made, dir_fd=self._shop.directory)
            try:
                self._set_link_time(self._shop.directory, made, mtime_ns)
                self._shop.rename(self._shop.directory, made, at.directory, at.name)
            except BaseException:
                with suppress(OSError):
                    os.unlink(made, dir_fd=self._shop.directory)
                raise
            found = at.lstat()
            return stat_of(found, kind_of(found))

    def set_attributes(self, path: bytes, *, is_executable: bool, mtime_ns: int | None) -> Stat:
        """Set the executable bit (where readable) and the time; masks setuid and the like."""
        with self._tree.at("set the attributes of", path) as at:
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            held = os.open(at.name, flags, dir_fd=at.directory)
            try:
                # The descriptor is the file itself, whatever takes its name meanwhile.
                itself = b"/proc/self/fd/%d" % held
                found = os.fstat(held)
                kind = kind_of(found)
                if kind is FileKind.FILE:
                    mode = executable_mode(found.st_mode, is_executable=is_executable)
                    if mode != found.st_mode & 0o7777:
                        os.chmod(itself, mode)  # noqa: PTH101 - a descriptor, not a path
                if mtime_ns is not None and kind is not FileKind.DEVICE:
                    set_times(itself, mtime_ns)
                return stat_of(os.fstat(held), kind)
            finally:
                os.close(held)

    def _require_plain(self, found: os.stat_result) -> None:
        if kind_of(found) not in _PLAIN:
            raise OSError(errno.EEXIST, "neither a file nor a link stands there")

    def _exchange(self, at: At, keep_as: bytes) -> None:
        """Swap a settled stage with what stands at a name, unless that became a directory."""
        flag = syscalls.RENAME_EXCHANGE
        syscalls.renameat2(self._shop.directory, keep_as, at.directory, at.name, flag)
        displaced = os.stat(keep_as, dir_fd=self._shop.directory, follow_symlinks=False)
        if kind_of(displaced) not in _PLAIN:
            syscalls.renameat2(self._shop.directory, keep_as, at.directory, at.name, flag)
            self._require_plain(displaced)

    def _take(self, at: At, keep_as: bytes) -> Stat:
        self._require_plain(at.lstat())
        self._shop.rename(at.directory, at.name, self._shop.directory, keep_as)
        taken = os.stat(keep_as, dir_fd=self._shop.directory, follow_symlinks=False)
        if kind_of(taken) not in _PLAIN:
            self._shop.rename(self._shop.directory, keep_as, at.directory, at.name)
            self._require_plain(taken)
        return stat_of(taken, kind_of(taken))

    def _place_after_taking_away(
        self, stage: LinuxStage, at: At, keep_as: bytes
    ) -> tuple[Stat, Stat]:
        before = None
        if stage.name is None:
            before = stage.settle(arriving_name(keep_as))
        try:
            displaced = self._take(at, keep_as)
        except BaseException:
            if before is not None:
                stage.unsettle(before)
            raise
        return self._place_or_undo(stage, at, keep_as), displaced

    def _place_or_undo(self, stage: LinuxStage, at: At, keep_as: bytes) -> Stat:
        try:
            return stage.place(at, group_given(at.directory))
        except BaseException:
            try:
                self._shop.rename(self._shop.directory, keep_as, at.directory, at.name)
            except OSError:
                # Somebody was quicker: what was taken stays in tmp, and nothing is lost. So does
                # the stage: by it recovery knows that it never arrived.
                stage.leave()
            raise

    def _swap_by_three(self, first: At, second: At) -> None:
        second.lstat()
        aside = ASIDE_PREFIX + os.urandom(8).hex().encode()
        self._shop.rename(first.directory, first.name, self._shop.directory, aside)
        try:
            self._shop.rename(second.directory, second.name, first.directory, first.name)
        except BaseException:
            with suppress(OSError):
                self._shop.rename(self._shop.directory, aside, first.directory, first.name)
            raise
        self._shop.rename(self._shop.directory, aside, second.directory, second.name)

    def _set_directory_mode(self, at: At, wanted: int) -> None:
        made = os.open(at.name, READABLE, dir_fd=at.directory)
        try:
            found = os.fstat(made)
            with suppress(OSError):
                # A default ACL of the parent decides alone, as for any other program.
                os.getxattr(made, "system.posix_acl_access")
                return
            os.fchmod(made, found.st_mode & 0o7000 | wanted)
        finally:
            os.close(made)

    def _set_link_time(self, directory: int, name: bytes, mtime_ns: int) -> None:
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            set_times(b"/proc/self/fd/%d" % held, mtime_ns)
        finally:
            os.close(held)


def _ours(stage: Stage) -> LinuxStage:
    if not isinstance(stage, LinuxStage):
        raise TypeError("a stage of another disk")
    return stage
