"""Nodes without disk or network: the real log, state, view and recorder, a perfect disk.

`materialise` makes synced equal to the view, as apply would; acts are then made up from synced
rows, as the scanner would find them. Batches are carried by hand, in any order.
"""

from __future__ import annotations

import random
from itertools import count

from daemon.acts import Act, Created, Deleted, Edited, Moved, Touched
from daemon.disk import FileKind, Looked, Stat
from daemon.draft import Recorded
from daemon.record import Recorder
from store.access import Role
from store.db import memory_database
from store.folder import StoredFolder
from store.founding import add_folder, share_folder
from store.ids import BatchId, Epoch, Kind, blob_hash
from store.records import Entry, SyncedRow
from store.signing import AgentKey, SignedBatch, verify

CONTENTS: dict[bytes, bytes] = {}  # what a value of a file stands for

_inodes = count(1000)
_verified: dict[bytes, SignedBatch] = {}


def looked(content: bytes, *, kind: FileKind = FileKind.FILE, mtime_ns: int = 5) -> Looked:
    """Make what a look at a file with that content would give."""
    CONTENTS[blob_hash(content)] = content
    value = {FileKind.FILE: blob_hash(content), FileKind.SYMLINK: content}.get(kind, b"")
    stat = Stat(kind, next(_inodes), len(content), mtime_ns, mtime_ns, 0o644, 1)
    return Looked(stat, value, mtime_ns)


def unchanged(row: SyncedRow, *, mode: int = 0o644, mtime_ns: int | None = None) -> Looked:
    """Make what a look at a file gives that still holds what synced says."""
    seen_ns = row.mtime_ns if mtime_ns is None else mtime_ns
    stat = Stat(FileKind(int(row.kind)), row.inode, row.size, seen_ns, 5, mode, 1)
    return Looked(stat, row.value, 9)


class Node:
    """One agent with one folder."""

    def __init__(self, number: int, stored: StoredFolder) -> None:
        self.number = number
        self.stored = stored
        self.clock_ms = 1_700_000_000_000

    def record(self, *acts: Act) -> Recorded:
        self.clock_ms += 1
        with self.stored.change():
            recorder = Recorder(self.stored, self.clock_ms, 10**9)
            return recorder.record(acts)

    def materialise(self) -> None:
        """Make synced equal to the view, as if everything had been fetched and applied."""
        stored = self.stored
        entries = stored.view().all_entries()
        rows = [_row(entry) for entry in entries]
        keys = {(row.object_no, row.copy) for row in rows}
        old = stored.synced._select("folder_no", [stored.no])
        with stored.change():
            stored.synced.remove([(r.object_no, r.copy) for r in old])
            stored.synced.put(rows)
        assert len(keys) == len(rows)

    def rows(self) -> dict[bytes, list[SyncedRow]]:
        found: dict[bytes, list[SyncedRow]] = {}
        for row in self.stored.synced._select("folder_no", [self.stored.no]):
            path = self.stored.synced.path_of_row(row)
            assert path is not None, row
            found.setdefault(path, []).append(row)
        return found

    def wires(self) -> list[SignedBatch]:
        heads = self.stored.log.heads()
        found, _ = self.stored.log.read([(h.log, None, h.seq) for h in heads], [], 1 << 40)
        for wire in found:
            if wire.signature not in _verified:
                _verified[wire.signature] = verify(wire)
        return [_verified[wire.signature] for wire in found]

    def has(self, batch: bytes) -> bool:
        return self.stored.log.has(BatchId(batch))

    # -- what a user does, by path of this disk -----------------------------------------------

    def create(self, path: bytes, content: bytes) -> Recorded:
        return self.record(Created(path, looked(content)))

    def make_directory(self, path: bytes) -> Recorded:
        return self.record(Created(path, looked(b"", kind=FileKind.DIRECTORY)))

    def edit(self, path: bytes, content: bytes) -> Recorded:
        return self.record(Edited(path, tuple(self.rows()[path]), looked(content)))

    def move(self, source: bytes, target: bytes) -> Recorded:
        at = tuple(self.rows()[source])
        return self.record(Moved(source, target, at, unchanged(at[0])))

    def delete(self, path: bytes) -> Recorded:
        """Delete what stands there and, parents first, all that is below."""
        rows = self.rows()
        below = sorted(p for p in rows if p == path or p.startswith(path + b"/"))
        return self.record(*(Deleted(p, tuple(rows[p])) for p in below))

    def touch(self, path: bytes, *, mode: int, mtime_ns: int) -> Recorded:
        at = tuple(self.rows()[path])
        return self.record(Touched(path, at, unchanged(at[0], mode=mode, mtime_ns=mtime_ns)))

    def files(self) -> dict[bytes, bytes | None]:
        """Give path -> content as the view wants it; None for a directory."""
        return {
            b"/".join(path): None
            if kind == Kind.DIRECTORY
            else CONTENTS[value]
            if kind == Kind.FILE
            else value
            for path, (kind, value) in self.view().items()
        }

    def view(self) -> dict[tuple[bytes, ...], tuple[int, bytes]]:
        """Give path -> (kind, value), from the view alone; checks that paths are unique."""
        entries = self.stored.view().all_entries()
        paths: dict[tuple[bytes, ...], tuple[int, bytes]] = {}
        placed = {e.object_no: e for e in entries if e.kind == Kind.DIRECTORY}
        for entry in entries:
            if entry.collapsed:
                continue
            path = [entry.name]
            parent = entry.parent_no
            while parent != self.stored.root_no:
                above = placed[parent]
                assert len(path) < 200, "cycle"
                path.append(above.name)
                parent = above.parent_no
            key = tuple(reversed(path))
            assert key not in paths, f"two entries at {key}"
            paths[key] = (int(entry.kind), entry.value)
        return paths


def _row(entry: Entry) -> SyncedRow:
    return SyncedRow(
        object_no=entry.object_no,
        copy=entry.copy,
        parent_no=entry.parent_no,
        name=entry.name,
        kind=entry.kind,
        value=entry.value,
        inode=next(_inodes),
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        ctime_ns=5,
        mode=entry.mode,
        looked_at_ns=10**9,
        shared_mtime_ns=entry.mtime_ns,
        events=entry.events,
        placement=entry.placement,
    )


def make_nodes(number: int, *, roles: dict[int, Role] | None = None) -> list[Node]:
    """Make nodes that share one folder and know each other; they may write unless told."""
    keys = [AgentKey.from_seed(bytes([i + 1]) * 32) for i in range(number)]
    stored = share_folder(
        memory_database(),
        keys[0],
        folder_key=AgentKey.from_seed(b"\xff" * 32),
        name="f",
        label=b"a",
        path=b"/0",
        epoch=Epoch(bytes(16)),
        nonce=bytes(16),
        wall_ms=1,
    )
    for i, key in enumerate(keys[1:], 1):
        stored.grant(
            key.agent,
            (roles or {}).get(i, Role.WRITE),
            label=b"abcdef"[i : i + 1],
            expires_ms=None,
            may_delegate=False,
            wall_ms=2,
        )
    nodes = [Node(0, stored)]
    for i, key in enumerate(keys[1:], 1):
        database = memory_database()
        no = add_folder(
            database, folder=stored.id, name="f", path=b"/%d" % i, epoch=Epoch(bytes([i]) * 16)
        )
        node = Node(i, StoredFolder(database, no, stored.id, key))
        node.stored.admit(nodes[0].wires(), b"0")
        nodes.append(node)
    return nodes


def deliver(source: Node, target: Node, rng: random.Random | None = None, share: float = 1) -> None:
    """Carry batches over, in random order and perhaps not all of them."""
    batches = [b for b in source.wires() if not target.has(b.id)]
    if rng is not None:
        batches = [b for b in batches if rng.random() < share]
        rng.shuffle(batches)
        for batch in batches:
            target.stored.admit([batch], bytes([source.number]))
            if rng.random() < 0.2:
                target.stored.admit([batch], bytes([source.number]))
    else:
        target.stored.admit(batches, bytes([source.number]))


def settle(*nodes: Node) -> None:
    """Carry everything everywhere and make each disk equal to its view."""
    for _ in range(2):
        for source in nodes:
            for target in nodes:
                if source is not target:
                    deliver(source, target)
    for node in nodes:
        node.materialise()


def random_act(node: Node, rng: random.Random) -> list[Act]:
    """Make up something that a user does to what is on the disk now."""
    rows = node.rows()
    paths = sorted(rows)
    directories = [b"", *(p for p in paths if rows[p][0].kind == Kind.DIRECTORY)]
    name = b"n%d" % rng.randrange(6)
    parent = rng.choice(directories)
    target = parent + b"/" + name if parent else name
    kind = rng.randrange(8)
    if kind <= 2 or not paths:
        if target in rows:
            kind = 3
        else:
            what = rng.choice([FileKind.FILE, FileKind.FILE, FileKind.DIRECTORY, FileKind.SYMLINK])
            return [Created(target, looked(b"c%d" % rng.randrange(4), kind=what))]
    path = rng.choice(paths)
    at = tuple(rows[path])
    is_directory = at[0].kind == Kind.DIRECTORY
    stat_kind = FileKind(int(at[0].kind))
    if kind <= 3 and not is_directory:
        new = looked(b"e%d" % rng.randrange(5), kind=stat_kind)
        if new.value != at[0].value:
            return [Edited(path, at, new)]
    if kind <= 5 and target not in rows and not target.startswith(path + b"/"):
        return [Moved(path, target, at, unchanged(at[0]))]
    if kind == 6:
        below = [p for p in paths if p == path or p.startswith(path + b"/")]
        return [Deleted(p, tuple(rows[p])) for p in sorted(below)]
    if not is_directory:
        touched = unchanged(at[0], mode=0o755, mtime_ns=rng.randrange(99))
        return [Touched(path, at, touched)]
    return []
