"""Talk with one proven peer over one link: folders, heads, batches, contents.

A session believes nothing: batches pass store.signing.verify, contents their hash, and the
replica says what the peer may have. It stores nothing itself. Whatever is lost on the way is
found missing when heads are compared again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from peers import heads, wire
from peers.answering import ANSWER_LIMIT_BYTES, BatchServer
from peers.beat import until_beat_s
from peers.cancelling import TaskGroup
from peers.exchange import Ask
from peers.framing import Assembler
from peers.heads import Heads
from peers.inbox import Inbox, Struck
from peers.lane import Lane, loop_time_s
from peers.link import Link, LinkClosed
from peers.outbox import ROOM_BYTES, Outbox, Rank
from peers.parts import divided, first_within, fitting, verify_all
from peers.peer_tips import PeerTips
from peers.replica import Contents, Replica, Runner
from peers.serve import BlobServer, send_all
from store.errors import Malformed
from store.ids import BlobHash, FolderId
from store.signing import SignedBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peers.sessions import Sessions
    from store.events import Content

__all__ = ["Ended", "Link", "LinkClosed", "Replica", "Runner", "Session"]

HEADS_EVERY_S: Final = 0.05
REPAIR_FIRST_S: Final = 5.0
REPAIR_LAST_S: Final = 15.0
PING_EVERY_S: Final = 25.0
WRONG_CONTENTS_LIMIT: Final = 32
SILENCE_S: Final = 70.0
BAD_CODE: Final = 1  # the peer misbehaved


class Ended(Struct, frozen=True, kw_only=True):
    """Why a session ended. After `is_struck` the peer is to be left alone for a while."""

    reason: str
    is_struck: bool = False


class _Shared:
    """What one session knows of one folder."""

    def __init__(self) -> None:
        self.said: Heads | None = None  # what the peer said last
        self.tips = PeerTips()  # that, and what was sent to it or came from it since
        self.sent: Heads | None = None  # what we said last
        self.has_offered = False
        self.repair_at_s = 0.0
        self.repair_every_s = REPAIR_FIRST_S

    @property
    def is_equal(self) -> bool:
        """Whether both sides said that they have the same, and folded it to the same state."""
        if self.said is None or self.sent is None:
            return False
        return heads.is_in_sync(self.sent, self.said)


class Session:
    """One connected peer. `await run()` is its whole life."""

    def __init__(self, link: Link, sessions: Sessions) -> None:
        """Prepare; nothing is sent before run()."""
        self.link = link
        self.agent = link.agent
        self._sessions = sessions
        self._replica: Replica = sessions.replica
        self._runner: Runner = sessions.runner
        self._wrong_contents = 0
        self._outbox = Outbox()
        self.lane = Lane(self.agent, self.send, loop_time_s, lambda: link.received_bytes)
        self.server = BlobServer(
            self.agent,
            self._replica,
            self._runner,
            self._outbox,
            upload=sessions.upload,
            lists=sessions.lists,
            remember=sessions.remembered(self.agent).add,
            budget=sessions.budget(self.agent),
        )
        self._batch_server = BatchServer(
            self.agent, self._replica, self._runner, self._outbox, shares=self.shares
        )
        self._folders: dict[FolderId, _Shared] = {}
        self._offered: frozenset[bytes] = frozenset()  # what the peer shares with us
        self._due: dict[FolderId, bool] = {}  # heads to be said; whether to ask for theirs
        self._due_event = asyncio.Event()
        self._inbox = Inbox(self, sessions)
        self._heard_at_s = 0.0
        self._pinged_at_s: tuple[int, float] = (0, 0.0)
        self._tasks: TaskGroup | None = None

    async def run(self) -> Ended:
        """Exchange everything with the peer until the link closes or the peer is struck off.

        The link is closed when this returns or is cancelled.
        """
        self._heard_at_s = loop_time_s()
        ended = Ended(reason="closed")
        try:
            former = self._sessions.joined(self)
            await self._greet()
            async with TaskGroup() as tasks:
                if former is not None:  # its goodbye may take a second
                    tasks.create_task(former.link.close())
                self._tasks = tasks
                tasks.create_task(self._receive_all())
                tasks.create_task(send_all(self.link, self._outbox))
                tasks.create_task(self._outbox.failure())
                tasks.create_task(self._inbox.run())
                tasks.create_task(self._batch_server.run())
                tasks.create_task(self._say_heads())
                tasks.create_task(self._watch())
                tasks.create_task(self.server.run())
        except* LinkClosed as group:
            ended = Ended(reason=str(group.exceptions[0]))
        except* (Malformed, Struck) as group:
            ended = Ended(reason=str(group.exceptions[0]), is_struck=True)
        finally:
            self._sessions.left(self)
            await self.link.close()
        await self._ask_others()
        return ended

    async def _ask_others(self) -> None:
        for folder in self._folders:
            await self._sessions.ask(folder)

    # -- what is told -------------------------------------------------------------------------

    def send(self, message: wire.Message) -> None:
        """Send a short message before all batches and contents that wait."""
        self._outbox.put(Rank.CONTROL, message)

    def shares(self, folder: FolderId) -> bool:
        """Whether both sides say that they share this folder."""
        return folder in self._folders

    def follow(self, former: Session) -> None:
        """Take the place of an earlier session: the peer shares what it did, until it says more.

        So what was under way there goes on here at once.
        """
        self._offered = former._offered

    @property
    def folders(self) -> list[FolderId]:
        """List the folders that both sides share."""
        return list(self._folders)

    def said(self, folder: FolderId) -> Heads | None:
        """Give what the peer last said that it has of a folder."""
        shared = self._folders.get(folder)
        return None if shared is None else shared.said

    async def _greet(self) -> None:
        await self.announce_folders()
        self.tell_addresses(await self._replica.addresses())

    async def announce_folders(self) -> None:
        """Say which folders are shared with the peer now; begin or end exchanging them."""
        ours = self._replica.folders_shared_with(self.agent)
        # In one row with heads: late ones would offer what is shared no more.
        self._outbox.put(Rank.LOG, wire.Folders(tuple(ours)))
        self._meet(frozenset(ours))

    def _meet(self, ours: frozenset[FolderId]) -> None:
        common = {folder for folder in ours if folder in self._offered}
        for folder in [one for one in self._folders if one not in common]:
            del self._folders[folder]
            self._sessions.exchange(folder).gone(self.agent)
        fresh = sorted(common - self._folders.keys())
        for folder in fresh:
            self._folders[folder] = _Shared()
            self._sessions.exchange(folder).heads_said(self.agent, {})  # it may be asked
        if fresh:
            self._replica.note_connected(self.agent, list(self._folders))
        for folder in fresh:
            self.announce_heads(folder)

    def tell_addresses(self, records: Sequence[wire.SignedAddresses]) -> None:
        """Say where members can be reached."""
        for start in range(0, len(records), 128):
            self.send(wire.Addresses(tuple(records[start : start + 128])))

    def announce_heads(self, folder: FolderId, *, is_question: bool = False) -> None:
        """Say soon what this node has; many calls in a row are one message."""
        if folder in self._folders:
            self._due[folder] = self._due.get(folder, False) or is_question
            self._due_event.set()

    def offer_again(self, folder: FolderId) -> None:
        """Offer soon what snapshot there is by now."""
        if folder in self._folders:
            self._folders[folder].has_offered = False
            self.announce_heads(folder)

    def push(self, folder: FolderId, batches: Sequence[SignedBatch], contents: Contents) -> None:
        """Send fresh batches at once if the peer can use them at once and keeps up."""
        shared = self._folders.get(folder)
        if shared is None:
            return
        room_bytes = ROOM_BYTES - self._outbox.waiting_bytes(Rank.LOG)  # the rest by heads
        usable = shared.tips.push(first_within(batches, room_bytes), loop_time_s())
        if not usable:
            return
        inline = tuple(wire.SmallContent(blob, content) for blob, content in contents.items())
        for part in divided([self._sessions.pack(signed) for signed in usable]):
            packed = tuple(part)
            self._outbox.put(Rank.LOG, wire.News(folder, packed, fitting(packed, inline)))
            inline = ()

    def tips(self, folder: FolderId) -> PeerTips | None:
        """Give what the peer has of a folder as far as is known; None if it is not shared."""
        shared = self._folders.get(folder)
        return None if shared is None else shared.tips

    def get(self, folder: FolderId, ask: Ask) -> None:
        """Put a question of the exchange to this peer."""
        self.send(wire.Get(ask.request, folder, ask.ranges, ask.ids, ANSWER_LIMIT_BYTES))

    # -- what is heard ------------------------------------------------------------------------

    async def _receive_all(self) -> None:
        assembler = Assembler(wire.parse)
        while True:
            frame = await self.link.receive()
            self._heard_at_s = loop_time_s()
            try:
                message = assembler.accept(frame)
            except Malformed as bad:
                self._sessions.rejected["malformed"] += 1
                await self._part(bad)
                raise
            if message is not None:
                await self._hear(message)

    async def _part(self, bad: Malformed) -> None:
        """Say why the link is about to be closed, if the peer still listens."""
        message = wire.Error(BAD_CODE, bad.what.encode()[:255])
        try:
            async with asyncio.timeout(1.0):
                await self.link.send(wire.frames(message, 0)[0])
        except (LinkClosed, TimeoutError):
            return

    async def _hear(self, message: wire.Message) -> None:  # noqa: C901, PLR0912 - one line a kind
        match message:
            case wire.Data() | wire.NotHave() | wire.Chunks() | wire.Difference():
                self.lane.arrived(message)
            case wire.Small():
                if message.request:
                    self.lane.arrived(message)
                else:
                    self._hear_late(message)
            case (
                wire.Want()
                | wire.WantSmall()
                | wire.WantChunks()
                | wire.WantDifference()
                | wire.Cancel()
            ):
                self.server.accept(message)
            case wire.News():
                await self._inbox.take_news(message)
            case wire.Batches():
                await self._inbox.take_answer(message)
            case wire.HeadsSaid():
                await self._hear_heads(message)
            case wire.Get():
                self._batch_server.take(message)
            case wire.Folders():
                self._offered = frozenset(message.folders)
                self._meet(frozenset(self._replica.folders_shared_with(self.agent)))
            case wire.Have():
                self._hear_have(message)
            case wire.Offer():
                await self._hear_offer(message)
            case wire.Addresses():
                fresh = await self._replica.learn_addresses(self.agent, message.records)
                self._sessions.pass_on_addresses(fresh, self.agent)
            case wire.Fork():
                await self._hear_fork(message)
            case wire.Ping():
                if self._outbox.has_room(Rank.CONTROL):
                    self.send(wire.Pong(message.number))
            case wire.Pong():
                if message.number == self._pinged_at_s[0]:
                    self.link.rtt_s = loop_time_s() - self._pinged_at_s[1]
            case wire.Error():
                raise LinkClosed("peer", "ended the session")
            case wire.Unknown():
                self._sessions.rejected["unknown-message"] += 1

    async def _hear_heads(self, message: wire.HeadsSaid) -> None:
        folder = FolderId(message.folder)
        if folder not in self._folders:  # heads are an offer too, if Folders was lost
            self._offered |= {folder}
            self._meet(frozenset(self._replica.folders_shared_with(self.agent)))
        shared = self._folders.get(folder)
        if shared is None:
            self._offered -= {folder}
            self._sessions.rejected["unknown-folder"] += 1
            return
        said = Heads(
            heads=message.heads,
            state_root=message.state_root,
            state_version=message.state_version,
            is_importing=message.is_importing,
            is_applied=message.is_applied,
        )
        if said.is_applied and said != shared.said:
            self._sessions.fetcher.may_have_more(self.agent, folder)
        shared.said = said
        shared.tips.said(said.heads, loop_time_s())
        self._sessions.exchange(folder).heads_said(self.agent, heads.by_log(said.heads))
        await self._replica.note_heads(self.agent, folder, said)
        if message.is_question:
            self.announce_heads(folder)
        if shared.sent is None or said.heads != shared.sent.heads:
            await self._inbox.ask_after_all(folder)

    async def _hear_offer(self, message: wire.Offer) -> None:
        """Begin with the snapshot that the peer offers, if this node has nothing yet."""
        folder = FolderId(message.folder)
        if not self.shares(folder):
            return
        proven, bad = verify_all((message.founding, message.checkpoint))
        self._sessions.rejected.update(bad)
        if len(proven) != 2:  # noqa: PLR2004 - what founded the folder, and the checkpoint
            return
        beginnings = self._sessions.beginnings
        beginnings.offered(folder, self.agent, *proven)
        if not beginnings.is_under_way(folder):
            wanted = await beginnings.shelf.wanted(folder, *proven)
            if wanted is not None:
                self.bring(folder, proven[1], wanted, catches_up=False)

    def bring(
        self,
        folder: FolderId,
        checkpoint: SignedBatch,
        wanted: tuple[Content, int],
        *,
        catches_up: bool,
    ) -> None:
        """Fetch a snapshot from this peer and begin with it, beside everything else."""
        beginnings = self._sessions.beginnings
        claim = None if self._tasks is None else beginnings.claim(folder)
        if self._tasks is None or claim is None:
            return
        begun = self._sessions.begin(self, folder, checkpoint, wanted, claim, catches_up=catches_up)
        task = self._tasks.create_task(begun)  # it may be cancelled before it began
        task.add_done_callback(lambda _: beginnings.release(folder, claim))

    async def _hear_fork(self, fork: wire.Fork) -> None:
        if self.shares(FolderId(fork.folder)) and await self._replica.learn_fork(self.agent, fork):
            self._sessions.announce_fork(fork, self.agent)

    def _hear_late(self, message: wire.Small) -> None:
        contents = {BlobHash(one.hash): one.content for one in message.contents}
        self._note_late(FolderId(message.folder), contents, [])

    def _hear_have(self, message: wire.Have) -> None:
        self._note_late(FolderId(message.folder), {}, [BlobHash(one) for one in message.hashes])

    def _note_late(self, folder: FolderId, contents: Contents, blobs: Sequence[BlobHash]) -> None:
        if self.shares(folder):
            self._sessions.fetcher.arrived_late(self.agent, folder, contents, blobs)

    # -- faults of the peer ---------------------------------------------------------------------

    def strike_content(self) -> None:
        """Count a content that was not what was asked for; a file can change while it is sent."""
        self._sessions.rejected["bad-content"] += 1
        self._wrong_contents += 1
        if self._wrong_contents >= WRONG_CONTENTS_LIMIT:
            self._outbox.fail(Struck("sent wrong contents"))

    # -- time ---------------------------------------------------------------------------------

    async def _say_heads(self) -> None:
        """Say heads where they are due, at most every HEADS_EVERY_S."""
        while True:
            await self._due_event.wait()
            self._due_event.clear()
            due, self._due = self._due, {}
            for folder, is_question in due.items():
                await self._say_heads_of(folder, is_question=is_question)
            await asyncio.sleep(HEADS_EVERY_S)

    async def _say_heads_of(self, folder: FolderId, *, is_question: bool) -> None:
        ours = await self._replica.heads(folder)
        shared = self._folders.get(folder)
        if shared is None or folder not in self._replica.folders_shared_with(self.agent):
            return  # it was left meanwhile, and the peer is about to hear of it
        if not shared.has_offered:  # before the heads, so that nothing is asked for yet
            shared.has_offered = True
            offered = await self._sessions.snapshots.to_offer(folder)
            if offered is not None:
                offer = wire.Offer(folder, *map(self._sessions.pack, offered))
                self._outbox.put(Rank.LOG, offer)
        if shared.sent != ours:
            shared.repair_every_s = REPAIR_FIRST_S
        shared.sent = ours
        shared.repair_at_s = loop_time_s() + shared.repair_every_s
        said = wire.HeadsSaid(
            folder,
            ours.heads,
            ours.state_root,
            ours.state_version,
            ours.is_importing,
            ours.is_applied,
            is_question,
        )
        # Behind the batches that were pushed: heads that overtook them would be asked for. The
        # next are said when these have left: who reads slowly hears of the newest only.
        await self._outbox.left(Rank.LOG, self._outbox.put(Rank.LOG, said))

    async def _watch(self) -> None:
        """Ping in silence, compare heads again while they differ, end where nobody answers."""
        pinged_at_s = loop_time_s()
        while True:
            await asyncio.sleep(until_beat_s(loop_time_s()))
            now_s = loop_time_s()
            if now_s - self._heard_at_s > SILENCE_S:
                raise LinkClosed("peer", "is silent")
            if now_s - pinged_at_s >= PING_EVERY_S:
                pinged_at_s = now_s
                self._pinged_at_s = (self._pinged_at_s[0] + 1, now_s)
                self.send(wire.Ping(self._pinged_at_s[0]))
                if not self._folders:
                    await self.announce_folders()  # the first ones may have been lost
            for folder, shared in list(self._folders.items()):
                if not shared.is_equal and now_s >= shared.repair_at_s:
                    await self._repair(folder, shared)

    async def _repair(self, folder: FolderId, shared: _Shared) -> None:
        self.announce_heads(folder, is_question=True)
        shared.repair_every_s = min(shared.repair_every_s + REPAIR_FIRST_S, REPAIR_LAST_S)
        exchange = self._sessions.exchange(folder)
        exchange.ask_again()
        await self._sessions.ask(folder)
