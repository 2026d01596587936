"""An owner for appliers: a journal in memory, contents in a dictionary, faults on demand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from daemon import fs_root
from daemon.agreeing import row_of
from daemon.apply import Applied, Applier
from daemon.core import InlineRunner, Runner
from daemon.disk import Disk, Looked, Stage
from daemon.displaced import DisplacedWatch, Names
from daemon.fs import LinuxDisk
from daemon.outcomes import (
    Agreed,
    Begun,
    Bundle,
    Displaced,
    Intent,
    Kept,
    Outcome,
    Reopened,
    Settled,
    Unwatched,
    Watch,
    Watched,
)
from daemon.places import Earlier
from daemon.planner import plan
from daemon.steps import Key, Plan, key_of
from store.ids import BlobHash, Kind, blob_hash
from store.records import BlobRef, Entry, SyncedRow
from tests.daemon.planning import CONTENTS, ROOT

NOW_NS = 1_800_000_000_000_000_000


class Crash(BaseException):
    """The process ends here."""


class Clock:
    def __init__(self) -> None:
        self.ns = NOW_NS

    def now_ns(self) -> int:
        self.ns += 1000
        return self.ns

    def monotonic_s(self) -> float:
        return self.ns / 1e9


class MemoryJournal:
    def __init__(self) -> None:
        self.rows: dict[Key, SyncedRow] = {}
        self.intents: dict[bytes, bytes] = {}
        self.watching: dict[bytes, Watch | Bundle] = {}
        self.displaced: list[Displaced] = []
        self.kept: list[Kept] = []
        self.commits = 0

    async def begin(self, intents: Sequence[Intent]) -> None:
        await asyncio.sleep(0)
        for intent in intents:
            assert intent.number not in self.intents
            self.intents[intent.number] = msgspec.msgpack.encode(intent)

    async def commit(self, outcomes: Sequence[Outcome]) -> None:
        await asyncio.sleep(0)
        self.commits += 1
        for outcome in outcomes:
            match outcome:
                case Begun(intent):
                    assert intent.number not in self.intents
                    self.intents[intent.number] = msgspec.msgpack.encode(intent)
                case Agreed(rows, gone, intent):
                    for key in gone:
                        self.rows.pop(key, None)
                    for row in rows:
                        self.rows[key_of(row)] = row
                    self.intents.pop(intent, None)
                case Settled(intent):
                    self.intents.pop(intent, None)
                case Reopened(reopened):
                    assert reopened.number in self.intents
                    self.intents[reopened.number] = msgspec.msgpack.encode(reopened)
                case Kept():
                    self.kept.append(outcome)
                case Displaced():
                    self.displaced.append(outcome)
                case Watched(watch):
                    self.watching[watch.name] = watch
                case Unwatched(name):
                    self.watching.pop(name, None)
                case _:
                    raise AssertionError(outcome)

    async def open_intents(self) -> Sequence[Intent]:
        return [msgspec.msgpack.decode(each, type=Intent) for each in self.intents.values()]

    async def watches(self, due_ns: int) -> Sequence[Watch | Bundle]:
        return [watch for watch in self.watching.values() if watch.due_ns <= due_ns]

    def path_of(self, directory_no: int) -> bytes | None:
        names: list[bytes] = []
        while directory_no != ROOT:
            row = self.rows.get((directory_no, b""))
            if row is None or len(names) > len(self.rows):
                return None
            names.append(row.name)
            directory_no = row.parent_no
        return b"/".join(reversed(names))

    def inode_of(self, directory_no: int) -> int | None:
        row = self.rows.get((directory_no, b""))
        return None if row is None else row.inode

    def path_of_row(self, about: SyncedRow | Entry) -> bytes | None:
        parent = self.path_of(about.parent_no)
        if parent is None:
            return None
        return parent + b"/" + about.name if parent else about.name


class DictBlobs:
    def __init__(self, contents: Sequence[bytes] = CONTENTS) -> None:
        self.contents = {blob_hash(content): content for content in contents}
        self.asked = 0
        self.large_gate: asyncio.Event | None = None

    async def small(self, refs: Sequence[BlobRef]) -> dict[BlobHash, bytes]:
        await asyncio.sleep(0)
        self.asked += len(refs)
        return {r.hash: self.contents[r.hash] for r in refs if r.hash in self.contents}

    async def large(self, ref: BlobRef, stage: Stage, old: Earlier | None) -> bool:
        if self.large_gate is not None:
            await self.large_gate.wait()
        content = self.contents.get(ref.hash)
        if content is None:
            return False
        stage.write(0, content)
        return stage.hash() == ref.hash


class Faults:
    """Passes every call of a Disk on, and does something at one of them."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.calls = 0
        self.names: list[str] = []
        self.before: dict[int, Callable[[], None]] = {}
        self.after: dict[int, Callable[[], None]] = {}

    def heal(self) -> None:
        self.before.clear()
        self.after.clear()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.disk, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            number = self.calls
            self.calls += 1
            self.names.append(name)
            if number in self.before:
                self.before[number]()
            result = method(*args, **kwargs)
            if number in self.after:
                self.after[number]()
            return result

        call.__name__ = name
        return call


class World:
    """One folder on a real disk, its view, and whoever plans until both agree."""

    def __init__(self, root: Path, runner: Runner | None = None) -> None:
        self.root = root
        self.runner = runner or InlineRunner()
        root.mkdir(exist_ok=True)
        fs_root.prepare(os.fsencode(root), b"f" * 32)
        self.clock = Clock()
        self.journal = MemoryJournal()
        self.blobs = DictBlobs()
        self.ignored: set[bytes] = set()
        self.open()

    def open(self) -> None:
        self.linux = LinuxDisk.open(os.fsencode(self.root), umask=0o022)
        self.faults = Faults(cast("Disk", self.linux))
        self.disk = cast("Disk", self.faults)
        names = Names(self.clock)
        self.applier = Applier(
            self.disk,
            self.runner,
            self.journal,
            self.blobs,
            self.clock,
            self.journal,
            names=names,
            is_ignored=lambda path, _is_directory: path.rpartition(b"/")[2] in self.ignored,
        )
        self.watch = DisplacedWatch(self.disk, InlineRunner(), self.journal, self.clock, names)

    async def restart(self) -> Applied:
        self.linux.close()
        self.open()
        return await self.applier.recover()

    def plan(self, wanted: Sequence[Entry]) -> Plan:
        return plan(wanted, list(self.journal.rows.values()), parent_of=self.parent_of)

    async def apply(self, wanted: Sequence[Entry]) -> Applied:
        return await self.applier.apply(self.plan(wanted))

    def parent_of(self, directory_no: int) -> int | None:
        row = self.journal.rows.get((directory_no, b""))
        return None if row is None else row.parent_no

    async def converge(self, wanted: Sequence[Entry], rounds: int = 12) -> list[Applied]:
        done = []
        for _ in range(rounds):
            self.scan(wanted)
            done.append(await self.apply(wanted))
            if done[-1].is_complete:
                return done
        raise AssertionError(f"not done after {rounds} rounds: {done[-1]}")

    def scan(self, wanted: Sequence[Entry]) -> None:
        """Bind what stands where it is wanted, as the recorder does; believe no stale stat."""
        for entry in sorted(wanted, key=lambda entry: entry.kind is not Kind.DIRECTORY):
            path = self.journal.path_of_row(entry)
            row = self.journal.rows.get(key_of(entry))
            if path is None or (row is not None and self.linux.stat(self._at(row)) is not None):
                continue
            (looked,) = self.linux.look([path])
            if not isinstance(looked, Looked) or int(looked.stat.kind) != int(entry.kind):
                continue
            if entry.kind is Kind.DIRECTORY or looked.value == entry.value:
                self.journal.rows[key_of(entry)] = row_of(entry, looked.stat, looked.looked_at_ns)
        for key, row in list(self.journal.rows.items()):
            self._refresh(key, row, wanted)

    def _at(self, row: SyncedRow) -> bytes:
        return self.journal.path_of_row(row) or b".dizzyd/none"

    def _refresh(self, key: Key, row: SyncedRow, wanted: Sequence[Entry]) -> None:
        path = self.journal.path_of_row(row)
        stat = None if path is None else self.linux.stat(path)
        if path is None or stat is None:
            del self.journal.rows[key]
            return
        seen = stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns
        if row.kind is Kind.DIRECTORY:
            self.journal.rows[key] = replace(row, inode=stat.inode)
        elif seen != (row.inode, row.size, row.mtime_ns, row.ctime_ns):
            (looked,) = self.linux.look([path])
            assert isinstance(looked, Looked)
            value = row.value
            if looked.value != row.value:
                entries = [e for e in wanted if key_of(e) == key and e.value == looked.value]
                if not entries:
                    return  # a user's change; the recorder's matter
                value = looked.value
            self.journal.rows[key] = replace(
                row, value=value, inode=seen[0], size=seen[1], mtime_ns=seen[2], ctime_ns=seen[3]
            )

    # -- looking -------------------------------------------------------------------------------

    def listing(self) -> dict[bytes, tuple[Kind, bytes]]:
        found = {}
        for path in self.walk():
            below = b"/" + os.fsencode(path.relative_to(self.root))
            if path.is_symlink():
                found[below] = Kind.SYMLINK, os.fsencode(path.readlink())
            elif path.is_dir():
                found[below] = Kind.DIRECTORY, b""
            else:
                found[below] = Kind.FILE, bytes(blob_hash(path.read_bytes()))
        return found

    def walk(self) -> Iterator[Path]:
        for directory, directories, files in os.walk(self.root):
            if Path(directory) == self.root:
                directories.remove(".dizzyd")
            for name in [*directories, *files]:
                yield Path(directory) / name

    def private(self, name: str) -> list[bytes]:
        return [p.read_bytes() for p in (self.root / ".dizzyd" / name).iterdir() if p.is_file()]

    def all_contents(self) -> set[bytes]:
        tree = {p.read_bytes() for p in self.walk() if p.is_file() and not p.is_symlink()}
        return tree | set(self.private("tmp")) | set(self.private("history"))
