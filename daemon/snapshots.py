"""Make, keep, offer and take the snapshots of a node's folders.

The owner's node makes one at rest, when the log has grown by enough since the last and a snapshot
says it in half the bytes; little by little, so that no save waits for it, and given up when there
is something else to do. Who made one, or began with one, gives it to who joins.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daemon.log_pruning import LogPruner, is_at_rest
from daemon.procedures import BeginWithSnapshot, RecordCheckpoint
from daemon.snapshot_parts import kept_of
from store.access import is_owner
from store.checkpoint import Standing, standing, write
from store.errors import BadSignature, Malformed
from store.events import Checkpointed, Content
from store.ids import BlobHash, FolderId, short
from store.joined import founder, founding_batch, lacks_of
from store.kept_snapshot import checkpoint_in, read_at
from store.signing import SignedBatch
from store.state import STATE_VERSION

if TYPE_CHECKING:
    from daemon.folder_work import FolderWork
    from daemon.node import Node
    from store.db import Database

logger = logging.getLogger(__name__)

SIZE_LIMIT_BYTES: Final = 1 << 30  # of a snapshot that is fetched
_MAKING: Final = b"being made"
_LOOK_S: Final = 60.0
_AGAIN_S: Final = 3600.0  # after a fault
_SLICE_S: Final = 0.005  # of work, and then
_REST_S: Final = 0.045  # of rest: a tenth of one processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When a checkpoint is made."""

    from_batches: int = 10_000  # since the last
    growth: float = 0.25  # of the log since the last
    gain: float = 2.0  # how many times smaller than the log it is to be
    rest_s: float = 60.0  # for so long nothing happened


class Snapshots:
    """The snapshots of a node (peers.beginning.SnapshotShelf). Owned by the loop."""

    def __init__(self, node: Node, rule: Rule) -> None:
        """Keep them in the node's database."""
        self._node = node
        self._rule = rule
        self._offered: dict[FolderId, SignedBatch | None] = {}  # as far as looked up
        self.pruner = LogPruner(node, self, rule.rest_s)
        self._refused: set[bytes] = set()  # contents that are not what their checkpoints say

    # -- giving and taking ----------------------------------------------------------------------

    async def offered(self, folder: FolderId) -> SignedBatch | None:
        """Give the checkpoint whose snapshot this node can give."""
        work = self._node.works.get(folder)
        if work is None:
            return None
        if folder not in self._offered:
            kept = kept_of(self._node.shelf[work.folder_no])
            self._offered[folder] = await self._node.world.core.run(kept.checkpoint)
        return self._offered[folder]

    def changed(self, folder: FolderId) -> None:
        """Offer another snapshot from now on."""
        self._offered.pop(folder, None)
        self._node.sessions.offer_again(folder)

    async def to_offer(self, folder: FolderId) -> tuple[SignedBatch, SignedBatch] | None:
        """Give what founded the folder, and the checkpoint whose snapshot this node can give."""
        checkpoint = await self.offered(folder)
        work = self._node.works.get(folder)
        if checkpoint is None or work is None:
            return None
        founding = await self._node.world.core.run(self._founding, work.folder_no)
        return None if founding is None else (founding, checkpoint)

    def _founding(self, folder_no: int) -> SignedBatch | None:
        stored = self._node.shelf.get(folder_no)
        return None if stored is None else founding_batch(stored)

    async def read(
        self, folder: FolderId, blob: BlobHash, offset: int, length: int
    ) -> bytes | None:
        """Read a piece of the snapshot that is offered; None for any other content."""
        signed = await self.offered(folder)
        told = None if signed is None else checkpoint_in(signed)
        work = self._node.works.get(folder)
        if told is None or told.snapshot.hash != blob or work is None:
            return None
        kept = kept_of(self._node.shelf[work.folder_no])
        part = await self._node.world.core.run(read_at, kept, told.snapshot, offset, length)
        return part or None

    async def wanted(
        self,
        folder: FolderId,
        founding: SignedBatch,
        checkpoint: SignedBatch,
        *,
        catches_up: bool = False,
    ) -> tuple[Content, int] | None:
        """Say whether to begin with what a peer offers: the content, and its pieces here.

        `catches_up`: a part of the log is here, and nobody gives the rest.
        """
        work, told = self._node.works.get(folder), checkpoint_in(checkpoint)
        if work is None or told is None or checkpoint.header.folder != folder:
            return None
        if founder(founding, folder) != checkpoint.header.agent:
            return None  # before a byte is asked for: anybody can sign something
        if told.state_version != STATE_VERSION or told.snapshot.size > SIZE_LIMIT_BYTES:
            return None
        if told.snapshot.hash in self._refused:
            return None
        stored = self._node.shelf[work.folder_no]

        def find() -> tuple[Content, int] | None:
            if catches_up:
                if stored.ending is not None or not lacks_of(stored, checkpoint):
                    return None
            elif stored.log.batches or stored.log.waiting or stored.is_rebuilt:
                return None
            kept = kept_of(stored)
            with stored.db.transaction():
                kept.drop_others(told.snapshot.hash)
            return told.snapshot, kept.count(told.snapshot.hash)

        return await self._node.world.core.run(find)

    async def keep(self, folder: FolderId, blob: BlobHash, no: int, piece: bytes) -> None:
        """Keep a piece of a snapshot that is on its way."""
        work = self._node.works[folder]
        stored = self._node.shelf[work.folder_no]

        def put() -> None:
            with stored.db.transaction():
                kept_of(stored).keep(blob, no, piece)

        await self._node.world.core.run(put)

    async def begin(
        self, folder: FolderId, checkpoint: SignedBatch, *, catches_up: bool = False
    ) -> bool:
        """Prove the snapshot whose pieces are all here, and begin with it, or go on with it."""
        node = self._node
        work = node.works[folder]
        command = BeginWithSnapshot(
            folder_no=work.folder_no, checkpoint=checkpoint, catches_up=catches_up
        )

        def perform() -> str:
            stored = node.shelf[work.folder_no]
            if stored.log.batches and not catches_up:
                why = "the log began to come meanwhile"
            elif catches_up and not lacks_of(stored, checkpoint):
                why = "the rest of the log came meanwhile"
            else:
                try:
                    node.engine.perform(node.procedures.begin_with, command)
                    why = ""
                except (Malformed, BadSignature) as wrong:  # nothing of it is left
                    why = str(wrong)
                    told = checkpoint_in(checkpoint)
                    self._refused.update(() if told is None else (told.snapshot.hash,))
            if why:
                self._drop(work.folder_no)
            node.engine.run_until_idle()
            return why

        why = await node.world.core.run(perform)
        self._offered.pop(folder, None)
        if why:
            logger.info("snapshot not used folder=%s why=%s", short(folder), why)
            return False
        how = "goes on" if catches_up else "begun"
        logger.info("folder %s with a snapshot folder=%s", how, short(folder))
        await node.folders.members_changed(work)
        return True

    # -- making -----------------------------------------------------------------------------------

    async def run(self, open_reading: Callable[[], Database]) -> None:
        """Make what is due until cancelled; each over a connection of its own."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for work in list(self._node.works.values()):
                try:
                    await self._make_if_due(work, open_reading)
                    await self.pruner.look(work)
                except Exception:  # a full disk, or a folder that was left: nobody needs it
                    logger.exception("no checkpoint made folder=%s", short(work.folder))
                    await asyncio.sleep(_AGAIN_S)

    async def _make_if_due(self, work: FolderWork, open_reading: Callable[[], Database]) -> None:
        if await self._is_due(work):
            database = await self._node.world.pool.run(open_reading)
            try:
                await self._make(work, database)
            finally:
                await self._node.world.pool.run(database.connection.close)

    async def _is_due(self, work: FolderWork) -> bool:
        now_ms = self._node.world.clock.now_ns() // 1_000_000
        if not is_at_rest(work, now_ms, self._rule.rest_s):
            return False
        if not is_owner(work.standing.own_member):
            return False
        return await self._node.world.core.run(self._has_grown, work.folder_no)

    def _has_grown(self, folder_no: int) -> bool:
        stored = self._node.shelf[folder_no]
        if stored.log.restored_no and self._node.config.history.keeps_log:
            return False  # the kept one is what the log here begins with: two would have to stay
        noted = stored.db.meta(_tried_key(folder_no))
        before = 0 if noted is None else int(noted)
        grown = stored.log.batches - before
        return grown >= max(self._rule.from_batches, before * self._rule.growth)

    async def _make(self, work: FolderWork, database: Database) -> None:
        """Write a snapshot beside everything else; record it if it is worth it."""
        node, stored = self._node, self._node.shelf[work.folder_no]
        core, pool = node.world.core, node.world.pool
        at = await core.run(self._standing, work.folder_no)
        if at is None:
            return
        pieces: list[bytes] = []
        database.execute("BEGIN")
        steps = write(database, stored.no, stored.id, at, pieces.append)
        told: Checkpointed | None = None
        done = False
        no = 0
        while not done:
            if not work.is_settled or work.folder not in node.works:
                await core.run(self._drop, work.folder_no)
                return
            told, done = await pool.run(_step, steps, node.world.clock.monotonic_s)
            for piece in pieces:
                await core.run(self._put_away, work.folder_no, no, piece)
                no += 1
            pieces.clear()
            await asyncio.sleep(_REST_S)
        if told is not None and work.folder in node.works:
            await core.run(self._end, work.folder_no, told)
        self.changed(work.folder)

    def _standing(self, folder_no: int) -> Standing | None:
        stored = self._node.shelf[folder_no]
        self._drop(folder_no)
        return standing(stored.log, stored.state)

    def make_now(self, folder_no: int) -> None:
        """Do all of it at once, on the database thread: for the simulator."""
        stored = self._node.shelf[folder_no]
        at = self._standing(folder_no)
        if at is None or not self._has_grown(folder_no):
            return
        pieces: list[bytes] = []
        told: Checkpointed | None = None
        for step in write(stored.db, stored.no, stored.id, at, pieces.append):
            told = step
        for no, piece in enumerate(pieces):
            self._put_away(folder_no, no, piece)
        if told is not None:
            self._end(folder_no, told)
        self._offered.pop(stored.id, None)

    def _put_away(self, folder_no: int, no: int, piece: bytes) -> None:
        stored = self._node.shelf[folder_no]
        with stored.db.transaction():
            kept_of(stored).keep(_making(folder_no), no, piece)

    def _drop(self, folder_no: int) -> None:
        stored = self._node.shelf[folder_no]
        content = kept_of(stored).content()
        with stored.db.transaction():
            kept_of(stored).drop_others(b"" if content is None else content.hash)

    def _end(self, folder_no: int, told: Checkpointed) -> None:
        node, stored = self._node, self._node.shelf[folder_no]
        with stored.db.transaction():
            stored.db.set_meta(_tried_key(folder_no), b"%d" % stored.log.batches)
        is_worth_it = told.snapshot.size * self._rule.gain <= _log_bytes(stored.db, stored.no)
        if not is_worth_it or stored.ending is not None:
            self._drop(folder_no)
            return
        command = RecordCheckpoint(
            folder_no=folder_no,
            checkpoint=told,
            pieces_as=_making(folder_no),
            wall_ms=node.world.clock.now_ns() // 1_000_000,
        )
        node.engine.perform(node.procedures.record_checkpoint, command)
        node.engine.run_until_idle()
        logger.info("checkpoint made folder=%s bytes=%d", short(stored.id), told.snapshot.size)


def _step(
    steps: Iterator[Checkpointed | None], monotonic_s: Callable[[], float]
) -> tuple[Checkpointed | None, bool]:
    """Work for a moment; gives what is to be said in the end, and whether this is the end."""
    until_s = monotonic_s() + _SLICE_S
    for told in steps:
        if told is not None or monotonic_s() >= until_s:
            return told, told is not None
    return None, True


def _making(folder_no: int) -> bytes:
    return _MAKING + b" %d" % folder_no


def _tried_key(folder_no: int) -> str:
    return f"checkpoint-tried/{folder_no}"


def _log_bytes(database: Database, folder_no: int) -> int:
    (size,) = database.execute(
        "SELECT sum(length(header) + length(body)) + 64 * count(*) FROM batch WHERE folder_no = ?",
        (folder_no,),
    ).fetchone()
    return int(size or 0)
