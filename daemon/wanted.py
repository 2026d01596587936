"""Choose what a restore brings back: one version of an object, or a tree as it was.

The log alone decides; neither disk nor peers are asked, and nothing is changed. Where a moment is
asked for, the log is folded up to it (store.past), in units that hold nobody up for long.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from daemon.deletions import first_of_deletion
from daemon.history import find_objects
from daemon.snapshot_parts import carry_snapshot, snapshot_moment_ms
from daemon.versions import DELETED, ObjectVersions, Version, name_of
from store.errors import DizzyError, UsageError
from store.ids import BatchId, Kind
from store.past import Dated, Past, cut_at, cut_before, dated

if TYPE_CHECKING:
    from daemon.folder_work import FolderWork
    from daemon.node import Node
    from store.folder import StoredFolder
    from store.records import Entry

_HEADERS_AT_ONCE: Final = 4096
_BATCHES_AT_ONCE: Final = 64  # 64 MiB at most
_SHOWN_DIGITS: Final = 12
_CANDIDATES: Final = 5


class Wanted(Struct, frozen=True, kw_only=True, gc=False):
    """One thing to be brought back; `path` is below what was asked for, empty for itself."""

    path: bytes
    kind: Kind
    value: bytes
    size: int
    mode: int
    mtime_ns: int


class Choice(Struct, frozen=True, kw_only=True):
    """What is to be brought back, directories before what is in them; `which` says it.

    `is_tree`: a directory or the whole folder was asked for.
    """

    wanted: tuple[Wanted, ...]
    which: str
    is_tree: bool = False


class Choosing:
    """One choice in the making: run `steps` to its end, then `choice` is there."""

    def __init__(self, node: Node, work: FolderWork, path: bytes) -> None:
        """Choose for a path of a folder; the empty one is the whole folder."""
        self._node = node
        self._work = work
        self._path = path
        self._shown = os.fsdecode(path) or "the folder"
        self._choice: Choice | None = None

    @property
    def choice(self) -> Choice:
        """What was chosen, once the steps are done."""
        if self._choice is None:
            raise RuntimeError("the choice was not made yet")
        return self._choice

    @property
    def _stored(self) -> StoredFolder:
        return self._node.shelf[self._work.folder_no]

    async def steps(
        self, at_ms: int | None, hash_digits: str | None
    ) -> AsyncIterator[tuple[int, int]]:
        """Choose; yields (done, total) parts of the log while it is read.

        Raises UsageError where it is not clear what is meant, DizzyError where it is not known.
        """
        found = await find_objects(self._node, self._work, self._path) if self._path else []
        if hash_digits is not None:
            self._choice = self._by_hash(found, hash_digits)
        elif at_ms is not None:
            async for step in self._at_moment(found, at_ms):
                yield step
        else:
            async for step in self._latest(found):
                yield step

    # -- one version --------------------------------------------------------------------------

    def _by_hash(self, found: Sequence[ObjectVersions], digits: str) -> Choice:
        named: dict[bytes, tuple[ObjectVersions, Version]] = {}
        for one in found:
            for version in one.contents:
                if version.value is not None:
                    named.setdefault(name_of(one.kind, version.value), (one, version))
        fitting = [pair for name, pair in named.items() if name.hex().startswith(digits)]
        if len(fitting) == 1:
            return _one_version(*fitting[0])
        shown = [name.hex()[:_SHOWN_DIGITS] for name in named][:_CANDIDATES]
        hint = f"one of {', '.join(shown)}" if shown else "`dizzyd history PATH` lists versions"
        why = "several versions begin so" if fitting else "no version of it has that hash"
        raise UsageError(f"restore {self._shown} --at {digits}", why, hint=hint)

    async def _latest(self, found: Sequence[ObjectVersions]) -> AsyncIterator[tuple[int, int]]:
        """Choose the version before the present one, or what a deletion took away."""
        [rows] = await self._work.rows_at([self._path])
        if not self._path or (rows and rows[0].kind is Kind.DIRECTORY):
            raise UsageError(
                f"restore {self._shown}",
                "say as of when: it is there now",
                hint="give --at TIME, such as --at yesterday",
            )
        if rows:
            here = {row.object_no for row in rows}
            self._choice = self._previous([one for one in found if one.no in here], rows[0].value)
            return
        gone = [one for one in found if not one.is_alive and _deletion(one) is not None]
        if not gone:
            raise self._unknown(found)
        last = max(gone, key=lambda one: one.versions[-1].key)
        if last.kind is not Kind.DIRECTORY:
            self._choice = _one_version(last, last.contents[0])
            return
        deletion = _deletion(last)
        if deletion is None:  # never: it was looked for above
            raise self._unknown(found)
        batch = await self._node.world.core.run(
            first_of_deletion, self._stored, last.no, BatchId(deletion.batch)
        )
        async for step in self._fold(
            lambda batches: cut_before(batches, batch),
            last.id,
            f"before it was deleted at {_local(deletion.wall_ms)}",
        ):
            yield step

    def _previous(self, found: Sequence[ObjectVersions], present: bytes) -> Choice:
        for one in found:
            for version in one.contents:
                if version.value != present:
                    return _one_version(one, version)
        if any(one.left_out for one in found):
            raise self._left_out()
        raise DizzyError(
            f"restore {self._shown}",
            "no earlier version was ever recorded",
            hint="`dizzyd history PATH` lists what there is",
        )

    def _unknown(self, found: Sequence[ObjectVersions]) -> DizzyError:
        if found:
            return DizzyError(
                f"restore {self._shown}",
                f"it is {os.fsdecode(found[0].path)} now",
                hint=f"`dizzyd restore` that, or give --at TIME or --at HASH for {self._shown}",
            )
        return DizzyError(
            f"restore {self._shown}",
            "nothing of that name was ever recorded",
            hint="`dizzyd history PATH` tells what a name was",
        )

    # -- a moment -----------------------------------------------------------------------------

    async def _at_moment(
        self, found: Sequence[ObjectVersions], at_ms: int
    ) -> AsyncIterator[tuple[int, int]]:
        [rows] = await self._work.rows_at([self._path])
        here = {row.object_no for row in rows}
        present = next((one.id for one in found if one.no in here), None)
        now_ms = self._node.world.clock.now_ns() // 1_000_000
        if at_ms < await self._node.world.core.run(snapshot_moment_ms, self._stored):
            raise self._left_out()
        async for step in self._fold(
            lambda batches: cut_at(batches, at_ms, now_ms),
            present,
            f"as it was at {_local(at_ms)}",
        ):
            yield step

    async def _fold(
        self, cut: Callable[[Sequence[Dated]], list[Dated]], identity: bytes | None, which: str
    ) -> AsyncIterator[tuple[int, int]]:
        """Fold a cut of the log and choose from its tree: the object, else what stood there."""
        node, work = self._node, self._work
        core, pool = node.world.core, node.world.pool
        headers: list[Dated] = []
        after_no = self._stored.log.restored_no
        while read := await core.run(_read_headers, self._stored, after_no):
            after_no = read[-1][0]
            headers += [header for _, header in read]
        try:
            batches = await pool.run(cut, sorted(headers, key=lambda one: (one.lamport, one.id)))
        except KeyError:
            raise self._left_out() from None
        past = await pool.run(Past, work.folder)
        try:
            if self._stored.log.restored_no:
                checkpoint = await carry_snapshot(core, pool, self._stored, past.snapshot)
                await pool.run(past.begin_with, checkpoint)
            for start in range(0, len(batches), _BATCHES_AT_ONCE):
                ids = [batch.id for batch in batches[start : start + _BATCHES_AT_ONCE]]
                wires, _ = await core.run(self._stored.log.read, [], ids, 1 << 40)
                await pool.run(past.admit, wires)
                yield start, len(batches)
            self._choice = await pool.run(self._from_tree, past, identity, which)
        finally:
            await pool.run(past.close)

    def _left_out(self) -> DizzyError:
        """Say that this node cannot tell what was before its log begins."""
        return DizzyError(
            f"restore {self._shown}",
            "the log before the checkpoint with which it begins here is not here",
            hint="ask a node that has all of it, or give a later --at",
        )

    def _from_tree(self, past: Past, identity: bytes | None, which: str) -> Choice:
        tree = past.tree()
        base = self._path if identity is None else _find(past, tree, identity)
        if base is None or (base and base not in tree):
            base = self._path
        if base and base not in tree:
            raise DizzyError(
                f"restore {self._shown}",
                f"it was not there {which.removeprefix('as it was ')}",
                hint="`dizzyd history PATH` tells when it was",
            )
        below = base + b"/" if base else b""
        wanted = [
            _wanted(entry, path[len(below) :])
            for path, entry in tree.items()
            if path.startswith(below)
        ]
        if base:
            wanted.insert(0, _wanted(tree[base], b""))
        is_tree = not base or tree[base].kind is Kind.DIRECTORY
        return Choice(wanted=tuple(wanted), which=which, is_tree=is_tree)


def _read_headers(stored: StoredFolder, after_no: int) -> list[tuple[int, Dated]]:
    rows = stored.db.execute(
        "SELECT no, id, header FROM batch WHERE folder_no = ? AND is_applied = 1 AND no > ?"
        " ORDER BY no LIMIT ?",
        (stored.no, after_no, _HEADERS_AT_ONCE),
    )
    return [(no, dated(BatchId(batch), header)) for no, batch, header in rows]


def _find(past: Past, tree: dict[bytes, Entry], identity: bytes) -> bytes | None:
    """Find where an object stood; conflict copies of it are not it."""
    no = past.number_of(identity)
    return next((p for p, e in tree.items() if e.object_no == no and not e.copy), None)


def _wanted(entry: Entry, path: bytes) -> Wanted:
    return Wanted(
        path=path,
        kind=entry.kind,
        value=entry.value,
        size=entry.size,
        mode=entry.mode,
        mtime_ns=entry.mtime_ns,
    )


def _one_version(one: ObjectVersions, version: Version) -> Choice:
    wanted = Wanted(
        path=b"",
        kind=one.kind,
        value=version.value or b"",
        size=version.size,
        mode=version.mode,
        mtime_ns=version.mtime_ns,
    )
    digits = name_of(one.kind, wanted.value).hex()[:_SHOWN_DIGITS]
    return Choice(wanted=(wanted,), which=f"version {digits} of {_local(version.wall_ms)}")


def _deletion(one: ObjectVersions) -> Version | None:
    """Give the last deletion of an object that is gone."""
    return next((v for v in reversed(one.versions) if v.what == DELETED and not v.is_void), None)


def _local(ms: int) -> str:
    """Write a wall clock in milliseconds for people."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC).astimezone():%Y-%m-%d %H:%M:%S %Z}"
