"""Heal what verify finds: state from the log, files and history from peers, the rest anew.

Nothing is thrown away. A damaged file goes to history when the good one takes its place, by the
planner's own steps: synced is told what really stands there. A damaged version in history stays
under what it is now, beside a good copy. A damaged log or database is replaced by the daemon
itself (daemon.healing). What nobody at hand has stays named, and waits.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from daemon.acts import Act, Edited
from daemon.answers import VerifyLine
from daemon.contents import FolderContents
from daemon.damages import LostVersion, RottenFile
from daemon.disk import Disk, DiskError, Looked
from daemon.findings import finding
from daemon.inspection import Inspection
from daemon.leftovers import FETCH_PREFIX
from daemon.reverting import plan_again, take_all
from daemon.terminal import counted
from daemon.verifying import Verification
from store.errors import EXIT_FAILED, EXIT_TRY_LATER, DizzyError
from store.events import Content, ContentChanged, ObjectCreated
from store.ids import BlobHash
from store.records import BlobRef, SyncedRow

if TYPE_CHECKING:
    from daemon.apply import Applier
    from daemon.folder_work import FolderWork
    from daemon.node import Node
    from store.folder import StoredFolder

WAIT_S: Final = 30.0  # for the good content of a file to arrive
REPLACE_S: Final = 0.5  # the answer is read before the daemon begins anew
_LOOK_S: Final = 0.05
_SMALL_BYTES: Final = 1 << 20


async def repair(node: Node, works: Sequence[FolderWork]) -> AsyncIterator[VerifyLine]:
    """Verify folders at work and heal what is found; the last line is the summary.

    Its `exit_code` is 0 where nothing is damaged any more, 75 where a peer is missing for it, and
    1 where something cannot be healed.
    """
    verification = Verification(node)
    repaired = waiting = left = 0
    lost: list[str] = []
    async for line in verification.lines(works):
        if line.kind != "finding":
            yield line
    for folder in verification.folders:
        async for line in _Repairing(node, folder).lines():
            repaired += line.kind == "repaired"
            waiting += line.kind == "waiting"
            left += line.kind == "finding"
            yield line
        lost += folder.damages.log
    lost += verification.structure
    if lost:
        repaired += 1
        text = "the database is built anew from what proves itself and what peers have"
        yield VerifyLine(kind="repaired", text=text)
        asyncio.get_running_loop().call_later(REPLACE_S, node.on_damage, lost[0])
    for text in verification.unknown:
        left += 1
        yield finding(text, "`dizzyd run` takes it up again when it starts")
    if not waiting and not left and len(works) == len(node.works):
        node.found_damage = ()
    parts = [f"{counted(repaired, 'damage')} repaired"]
    if waiting:
        parts.append(f"{waiting} waiting for a peer that has the content")
    if left:
        parts.append(f"{left} left")
    yield VerifyLine(
        kind="summary",
        text=", ".join(parts) if repaired or waiting or left else "nothing to repair",
        findings=waiting + left,
        exit_code=EXIT_FAILED if left else EXIT_TRY_LATER if waiting else 0,
    )


class _Repairing:
    """One folder, and what was found damaged in it."""

    def __init__(self, node: Node, folder: Inspection) -> None:
        self._node = node
        self._world = node.world
        self._work = folder.work
        self._stored: StoredFolder = node.shelf[folder.work.folder_no]
        self._name = folder.name
        self._damages = folder.damages

    async def lines(self) -> AsyncIterator[VerifyLine]:
        damages = self._damages
        if damages.state and not damages.log:
            await self._world.core.run(self._stored.rebuild)
            self._work.changed()
            yield self._repaired("its state", "folded anew from the log")
        files = {(row.object_no, row.copy) for file in damages.files for row in file.rows}
        damages.records = [row for row in damages.records if (row.object_no, row.copy) not in files]
        if damages.records and not damages.log:
            await self._world.core.run(self._mend_records)
            self._work.look_at_all()
            yield self._repaired(counted(len(damages.records), "record"), "made anew")
        for text in damages.other:
            yield finding(self._name, text)
        disk = self._work.disk
        if disk is None:
            if damages.files or damages.history:
                yield finding(self._name, "the folder is not open, its files stay as they are")
            return
        async for line in self._files():
            yield line
        for lost in damages.history:
            yield await self._version(disk, lost)

    def _repaired(self, what: str, how: str) -> VerifyLine:
        return VerifyLine(kind="repaired", text=f"{self._name}: {what}: {how}")

    # -- files --------------------------------------------------------------------------------

    async def _files(self) -> AsyncIterator[VerifyLine]:
        rotten: list[RottenFile] = []
        for file in self._damages.files:
            if await self._world.core.run(self._mend_row, file):
                yield self._repaired(os.fsdecode(file.path), "only its record was wrong")
            else:
                rotten.append(file)
        if not rotten:
            return
        acts: list[Act] = [
            Edited(path=file.path, rows=tuple(file.rows), looked=file.looked) for file in rotten
        ]
        # Synced is told what stands there; the planner then wants the shared bytes again.
        await self._world.core.run(take_all, self._stored, acts)
        await plan_again(self._node, self._work)
        await self._arrive(rotten)
        for file in rotten:
            shown = os.fsdecode(file.path)
            if await self._is_good(file):
                how = "the shared version is back, the damaged one is in history"
                yield self._repaired(shown, how)
            else:
                yield VerifyLine(kind="waiting", text=f"{self._name}: {shown}: no peer has it now")

    def _mend_records(self) -> None:
        """Let records name the events of the state where they agree with it, else drop them.

        What has no record is looked at like a new file: equal bytes bind, others stay.
        """
        stored = self._stored
        dropped: list[tuple[int, bytes]] = []
        good: list[SyncedRow] = []
        for row in self._damages.records:
            state = stored.state.rows([row.object_no]).get(row.object_no)
            is_alike = state is not None and state.kind == row.kind and state.value == row.value
            if state is None or row.copy or not is_alike or not state.head_event:
                dropped.append((row.object_no, row.copy))
                continue
            placement = state.last_move or b""
            good.append(
                replace(
                    row, events=state.head_event, placement=placement, mode=row.mode & 1, leftover=0
                )
            )
        with stored.change():
            stored.synced.remove(dropped)
            stored.synced.put(good)

    def _mend_row(self, file: RottenFile) -> bool:
        """Put a record right whose own event names the very bytes that stand there."""
        good: list[SyncedRow] = []
        for row in file.rows:
            named = {
                fact.event.content.hash
                for fact in self._stored.state.facts(row.object_no)
                if isinstance(fact.event, ObjectCreated | ContentChanged)
                and isinstance(fact.event.content, Content)
                and row.events.find(fact.event_id) >= 0
            }
            if named != {file.looked.value}:
                return False
            good.append(replace(row, value=file.looked.value))
        with self._stored.change():
            self._stored.synced.put(good)
        return True

    async def _arrive(self, rotten: Sequence[RottenFile]) -> None:
        """Wait until the good contents stand there, or until nobody has them."""
        nos = {row.object_no for file in rotten for row in file.rows}
        try:
            async with asyncio.timeout(WAIT_S):
                while not all([await self._is_good(file) for file in rotten]):
                    if self._work.is_settled or nos <= self._work.waiting_objects:
                        return
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            return

    async def _is_good(self, file: RottenFile) -> bool:
        [rows] = await self._work.rows_at([file.path])
        return bool(rows) and all(row.events and row.value != file.looked.value for row in rows)

    # -- history ------------------------------------------------------------------------------

    async def _version(self, disk: Disk, lost: LostVersion) -> VerifyLine:
        """Keep a good copy beside what a kept version has become, where anybody has one."""
        shown = f"history: {os.fsdecode(lost.name)}"
        kept = await self._fetch(disk, lost)
        await self._world.core.run(self._tell_version, lost, kept)
        if kept is not None:
            return self._repaired(shown, "a good copy is kept again")
        if isinstance(lost.look, Looked):
            return finding(self._name, f"{shown}: nobody at hand has it; it is listed as it is now")
        return finding(self._name, f"{shown}: it is gone, and nobody at hand has it")

    async def _fetch(self, disk: Disk, lost: LostVersion) -> bytes | None:
        world = self._world
        contents = FolderContents(
            places=self._node.places,
            pool=world.pool,
            disk=disk,
            folder_no=self._work.folder_no,
            folder=self._work.folder,
            fetcher=self._node.fetcher,
        )
        ref = BlobRef(hash=BlobHash(lost.value), size=lost.size)
        name = FETCH_PREFIX + lost.value.hex().encode() + b"-kept"
        applier = self._work.applier
        if applier is None:
            return None
        damages = applier.damages
        try:
            with applier.holding(name):  # else a folder at rest takes it for an idle download
                if not await self._fetch_into(disk, name, contents, ref):
                    return None
                await applier.make_durable()
                # The kernel tells of a lost write once: it may have told somebody else of ours.
                if applier.damages != damages:
                    return None
                return await self._keep(disk, applier, name, beside(lost.name))
        except (DiskError, DizzyError):
            return None

    async def _keep(
        self, disk: Disk, applier: Applier, name: bytes, wished: bytes
    ) -> bytes | None:
        """Move a durable download to history, unless somebody took it away; its name there."""
        looked = await self._world.pool.run(disk.look_stage, name)
        if not isinstance(looked, Looked):
            return None
        await self._world.pool.run(disk.keep_stage, name, wished)
        await applier.make_durable()
        return wished

    async def _fetch_into(
        self, disk: Disk, name: bytes, contents: FolderContents, ref: BlobRef
    ) -> bool:
        """Fetch a content into tmp; whether it is there, proven by its hash."""
        pool = self._world.pool
        stage = await pool.run(disk.open_stage, name, ref.size)
        try:
            if ref.size <= _SMALL_BYTES:
                content = (await contents.small([ref])).get(ref.hash)
                if content is None:
                    return False
                await pool.run(stage.write, 0, content)
            elif not await contents.large(ref, stage, None):
                return False
            return bool(await pool.run(stage.hash) == ref.hash)
        finally:
            await pool.run(stage.close)

    def _tell_version(self, lost: LostVersion, kept: bytes | None) -> None:
        """Say in the list of history what is there now, and the good copy."""
        db, no = self._stored.db, self._stored.no
        with self._stored.change():
            if kept is not None:
                db.execute(
                    "INSERT OR REPLACE INTO kept (folder_no, name, object_no, value, size)"
                    " SELECT folder_no, ?, object_no, value, size FROM kept"
                    " WHERE folder_no = ? AND name = ?",
                    (kept, no, lost.name),
                )
            if isinstance(lost.look, Looked):
                db.execute(
                    "UPDATE kept SET value = ?, size = ? WHERE folder_no = ? AND name = ?",
                    (lost.look.value, lost.look.stat.size, no, lost.name),
                )
            elif kept is not None:
                db.execute("DELETE FROM kept WHERE folder_no = ? AND name = ?", (no, lost.name))


def beside(name: bytes) -> bytes:
    """Name a good copy beside a damaged version in history: a nanosecond later, all else alike."""
    moment, mark, rest = name.partition(b"Z-")
    second, point, fraction = moment.rpartition(b".")
    if not (mark and point and fraction.isdigit()):
        return b"0-" + name
    return b"%b.%09dZ-%b" % (second, (int(fraction) + 1) % 10**9, rest)
