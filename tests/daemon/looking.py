"""Stand-ins for scanner tests: synced in a dict, calls made in place, and acts folded onto rows."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import msgspec

from daemon.acts import Created, Deleted, Edited, Moved
from daemon.disk import FileKind, Looked
from daemon.fs import LinuxDisk
from daemon.ignore import IgnoreRules
from daemon.look_set import EVERYTHING, LookSet, parent_of
from daemon.matching import match
from daemon.scanner import scan
from store.ids import Kind
from store.records import PRIMARY, SyncedRow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from daemon.acts import Act
    from daemon.differences import Differences, Problem
    from daemon.look_set import Again

P = ParamSpec("P")
T = TypeVar("T")
ROOT_NO = 0


class Inline:
    """Runs blocking calls where it stands."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return fn(*args, **kwargs)


class WallClock:
    stands_at_ns: int | None = None

    def now_ns(self) -> int:
        return time.time_ns() if self.stands_at_ns is None else self.stands_at_ns


class DictTree:
    """Synced rows in a dict, by object number."""

    def __init__(self) -> None:
        self.rows: dict[int, SyncedRow] = {}
        self._last_no = ROOT_NO
        self._by_parent: dict[int, dict[bytes, list[SyncedRow]]] | None = None

    def _children(self) -> dict[int, dict[bytes, list[SyncedRow]]]:
        if self._by_parent is None:
            self._by_parent = {}
            for row in self.rows.values():
                names = self._by_parent.setdefault(row.parent_no, {})
                names.setdefault(row.name, []).append(row)
        return self._by_parent

    def at(self, path: bytes) -> list[SyncedRow]:
        nos = [ROOT_NO]
        rows: list[SyncedRow] = []
        for name in path.split(b"/"):
            rows = [row for no in nos for row in self._children().get(no, {}).get(name, ())]
            nos = [row.object_no for row in rows if row.kind is Kind.DIRECTORY]
        return rows

    def inside(self, directory: bytes) -> list[SyncedRow]:
        nos = [ROOT_NO] if not directory else [row.object_no for row in self.at(directory)]
        return [
            row for no in nos for names in self._children().get(no, {}).values() for row in names
        ]

    async def rows_in(self, directories: Sequence[bytes]) -> list[list[SyncedRow]]:
        return [self.inside(path) for path in directories]

    async def rows_at(self, paths: Sequence[bytes]) -> list[list[SyncedRow]]:
        return [self.at(path) for path in paths]

    def known(self, paths: Sequence[bytes]) -> set[bytes]:
        return {path for path in paths if self.at(path)}

    def path_of(self, no: int) -> bytes:
        names: list[bytes] = []
        while no != ROOT_NO:
            row = self.rows[no]
            names.append(row.name)
            no = row.parent_no
        return b"/".join(reversed(names))

    def paths(self) -> dict[bytes, list[SyncedRow]]:
        found: dict[bytes, list[SyncedRow]] = {}
        for no, row in self.rows.items():
            found.setdefault(self.path_of(no), []).append(row)
        return found

    def put(self, row: SyncedRow) -> None:
        self.rows[row.object_no] = row
        self._by_parent = None

    def new_row(self, parent_no: int, name: bytes, looked: Looked) -> SyncedRow:
        self._last_no += 1
        stat = looked.stat
        return SyncedRow(
            object_no=self._last_no,
            copy=PRIMARY,
            parent_no=parent_no,
            name=name,
            kind=Kind(int(stat.kind)),
            value=looked.value,
            inode=stat.inode,
            size=stat.size,
            mtime_ns=stat.mtime_ns,
            ctime_ns=stat.ctime_ns,
            mode=int(stat.is_executable),
            looked_at_ns=looked.looked_at_ns,
            shared_mtime_ns=stat.mtime_ns,
            events=b"",
            placement=b"",
        )


def relooked(row: SyncedRow, looked: Looked) -> SyncedRow:
    stat = looked.stat
    return msgspec.structs.replace(
        row,
        value=looked.value,
        inode=stat.inode,
        size=stat.size,
        mtime_ns=stat.mtime_ns,
        ctime_ns=stat.ctime_ns,
        mode=int(stat.is_executable),
        looked_at_ns=looked.looked_at_ns,
    )


class Fold:
    """Takes a list of acts in order, as the recorder does: the latest placement of a path wins."""

    def __init__(self, tree: DictTree) -> None:
        self.tree = tree
        self.placed: dict[bytes, int] = {}
        self.deleted: list[bytes] = []

    def directory(self, path: bytes) -> int:
        no = ROOT_NO
        prefix = b""
        for name in path.split(b"/") if path else ():
            prefix = prefix + b"/" + name if prefix else name
            if prefix in self.placed:
                no = self.placed[prefix]
                continue
            [no] = [
                row.object_no
                for row in self.tree._children().get(no, {}).get(name, ())
                if row.kind is Kind.DIRECTORY
            ]
        assert no == ROOT_NO or self.tree.rows[no].kind is Kind.DIRECTORY
        return no

    def take(self, act: Act) -> None:
        tree = self.tree
        if isinstance(act, Created):
            parent, name = parent_of(act.path), act.path.rpartition(b"/")[2]
            clash = [r for r in tree.at(act.path) if int(r.kind) == int(act.looked.stat.kind)]
            assert not clash, f"{act.path!r} is made while the same kind stands there"
            row = tree.new_row(self.directory(parent), name, act.looked)
            tree.put(row)
            self.placed[act.path] = row.object_no
        elif isinstance(act, Moved):
            parent, name = parent_of(act.target), act.target.rpartition(b"/")[2]
            parent_no = self.directory(parent)
            for row in act.rows:
                assert tree.rows[row.object_no] == row
                moved = relooked(row, act.looked)
                tree.put(msgspec.structs.replace(moved, parent_no=parent_no, name=name))
                self.placed[act.target] = row.object_no
        elif isinstance(act, Deleted):
            above = parent_of(act.path)
            assert not any(path.startswith(act.path + b"/") for path in self.deleted), above
            self.deleted.append(act.path)
            for row in act.rows:
                del tree.rows[row.object_no]
            tree._by_parent = None
        else:
            for row in act.rows:
                assert tree.rows[row.object_no].object_no == row.object_no
                current = tree.rows[row.object_no]
                tree.put(relooked(current, act.looked))


class Bench:
    """A folder on a real disk, its synced rows, and what scans of it gave."""

    def __init__(self, root: Path) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        LinuxDisk.prepare(os.fsencode(root), b"\x01" * 32)
        self.disk = LinuxDisk.open(os.fsencode(root), umask=0o022)
        self.tree = DictTree()
        self.rules = IgnoreRules()
        self.problems: list[Problem] = []
        self.agains: list[Again] = []
        self.bunches: list[Differences] = []
        self.clock = WallClock()

    async def look(self, where: LookSet = EVERYTHING, *, fold: bool = True) -> list[Act]:
        acts: list[Act] = []
        self.problems, self.agains, self.bunches = [], [], []
        async for bunch in scan(self.disk, self.tree, self.rules, Inline(), self.clock, where):
            self.bunches.append(bunch)
            self.problems += bunch.problems
            self.agains += bunch.agains
            found = match(bunch)
            acts += found
            if fold:
                taker = Fold(self.tree)
                for act in found:
                    taker.take(act)
        return acts

    def path(self, name: str) -> Path:
        return self.root / name

    def write(self, name: str, content: bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def no(self, name: str) -> int:
        [row] = self.tree.at(name.encode())
        return row.object_no

    def age(self, name: str = "") -> None:
        """Make files old, so that their rows are not racy."""
        paths = [self.root / name] if name else [*self.root.rglob("*")]
        for path in paths:
            if not path.is_symlink() and path.is_file():
                os.utime(path, ns=(1_600_000_000_000_000_001, 1_600_000_000_000_000_001))

    def on_disk(self) -> dict[bytes, tuple[int, bytes, int]]:
        found: dict[bytes, tuple[int, bytes, int]] = {}
        waiting = [b""]
        while waiting:
            directory = waiting.pop()
            for name, stat in self.disk.list_directory(directory):
                path = directory + b"/" + name if directory else name
                if stat.kind is FileKind.DIRECTORY:
                    waiting.append(path)
                    found[path] = (int(stat.kind), b"", stat.inode)
                elif stat.kind in (FileKind.FILE, FileKind.SYMLINK):
                    [look] = self.disk.look([path])
                    assert isinstance(look, Looked)
                    found[path] = (int(stat.kind), look.value, stat.inode)
        return found

    def in_rows(self) -> dict[bytes, tuple[int, bytes, int]]:
        found: dict[bytes, tuple[int, bytes, int]] = {}
        for path, rows in self.tree.paths().items():
            assert len(rows) == 1, f"{path!r} is there {len(rows)} times"
            found[path] = (int(rows[0].kind), rows[0].value, rows[0].inode)
        return found


def names(
    acts: Sequence[Act], kind: type[Created | Moved | Deleted | Edited] | None = None
) -> list[str]:
    """Show acts shortly: `Moved a b`."""
    shown: list[str] = []
    for act in acts:
        if kind is not None and not isinstance(act, kind):
            continue
        if isinstance(act, Moved):
            shown.append(f"Moved {os.fsdecode(act.source)} {os.fsdecode(act.target)}")
        else:
            shown.append(f"{type(act).__name__} {os.fsdecode(act.path)}")
    return shown
