"""Hold folders of signed batches and contents in memory, as tests of the exchange need them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from blake3 import blake3

from peers import wire
from peers.fetch import Fetcher
from peers.heads import Heads
from peers.link import Link, LinkClosed
from peers.sessions import Sessions
from store.admitted import Admitted
from store.ids import AgentId, BatchId, BlobHash, Epoch, FolderId, blob_hash
from store.records import BlobRef
from store.signing import AgentKey, SignedBatch, WireBatch, sign_batch, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from peers.session import Ended

EPOCH = Epoch(bytes(16))
PENDING_LIMIT = 10_000


def key_of(number: int) -> AgentKey:
    return AgentKey.from_seed(bytes([number]) * 32)


FOLDER = FolderId(key_of(200).agent)


class Inline:
    """Runs everything at once, where it stands."""

    async def run(self, fn: Callable[..., object], *args: object, **kwargs: object) -> object:
        await asyncio.sleep(0)
        return fn(*args, **kwargs)


class Log:
    """One folder's batches, those with gaps waiting."""

    def __init__(self) -> None:
        self.batches: dict[BatchId, SignedBatch] = {}
        self.waiting: dict[BatchId, tuple[SignedBatch, AgentId]] = {}
        self.order: list[BatchId] = []

    def admit(self, source: AgentId, batches: Sequence[SignedBatch]) -> Admitted:
        result = Admitted()
        for signed in sorted(batches, key=lambda one: (one.header.lamport, one.id)):
            if signed.id in self.batches or signed.id in self.waiting:
                result.known += 1
            elif sum(s == source for _, s in self.waiting.values()) >= PENDING_LIMIT:
                result.refuse("pending-full")
            else:
                self.waiting[signed.id] = (signed, source)
        self._release(result)
        result.missing = {
            parent
            for signed, _ in self.waiting.values()
            for parent in parents(signed)
            if parent not in self.batches and parent not in self.waiting
        }
        return result

    def _release(self, result: Admitted) -> None:
        while True:
            ready = [
                signed
                for signed, _ in self.waiting.values()
                if all(parent in self.batches for parent in parents(signed))
            ]
            if not ready:
                return
            for signed in ready:
                del self.waiting[signed.id]
                lamport = max((self.batches[p].header.lamport for p in parents(signed)), default=0)
                if signed.header.lamport != lamport + 1:
                    result.refuse("bad-lamport")
                    continue
                assert all(parent in self.batches for parent in parents(signed))
                self.batches[signed.id] = signed
                self.order.append(signed.id)
                result.stored.append(signed)

    def heads(self) -> tuple[wire.Head, ...]:
        named = {signed.header.prev for signed in self.batches.values()}
        return tuple(
            sorted(
                (
                    wire.Head(signed.log, signed.header.seq, signed.id)
                    for signed in self.batches.values()
                    if signed.id not in named
                ),
                key=lambda head: (head.log, head.seq, head.batch),
            )
        )


def parents(signed: SignedBatch) -> list[BatchId]:
    header = signed.header
    return list(header.deps) if header.prev is None else [header.prev, *header.deps]


class MemoryReplica:
    """A node's folders. `members` is shared by all nodes of a test."""

    def __init__(self, key: AgentKey, members: dict[FolderId, set[AgentId]]) -> None:
        self.key = key
        self.members = members
        self.logs: dict[FolderId, Log] = {folder: Log() for folder in members}
        self.blobs: dict[FolderId, dict[BlobHash, bytes]] = {folder: {} for folder in members}
        self.noted: dict[tuple[AgentId, FolderId], Heads] = {}
        self.available: list[BlobHash] = []
        self.records: dict[bytes, wire.SignedAddresses] = {}
        self.forks: set[bytes] = set()
        self.calls: Counter[str] = Counter()
        self.fails: Callable[[int], bool] = lambda offset: False
        self.corrupts = False
        self.is_away: Callable[[], bool] = lambda: False  # nothing can be read just now

    def folders_shared_with(self, agent: AgentId) -> list[FolderId]:
        return [f for f in self.logs if {agent, self.key.agent} <= self.members[f]]

    def may_read(self, agent: AgentId, folder: FolderId) -> bool:
        return agent in self.members.get(folder, ())

    async def heads(self, folder: FolderId) -> Heads:
        self.calls["heads"] += 1
        tips = self.logs[folder].heads()
        root = blake3(b"".join(sorted(self.logs[folder].batches))).digest()
        return Heads(heads=tips, state_root=root)

    async def unknown_batches(self, folder: FolderId, ids: Sequence[BatchId]) -> list[BatchId]:
        return [batch for batch in ids if batch not in self.logs[folder].batches]

    async def read_batches(
        self,
        folder: FolderId,
        ranges: Sequence[wire.Range],
        ids: Sequence[bytes],
        limit_bytes: int,
    ) -> tuple[list[WireBatch], bool]:
        self.calls["read_batches"] += 1
        wanted = set(ids)
        found = [
            signed
            for signed in self.logs[folder].batches.values()
            if signed.id in wanted
            or any(
                one.log == signed.log
                and (-1 if one.after_seq is None else one.after_seq) < signed.header.seq
                and signed.header.seq <= one.through_seq
                for one in ranges
            )
        ]
        found.sort(key=lambda one: (one.header.lamport, one.id))
        total = 0
        for number, signed in enumerate(found):
            total += len(signed.body)
            if number and total > limit_bytes:
                return [one.wire for one in found[:number]], True
        return [one.wire for one in found], False

    async def admit(
        self, folder: FolderId, source: AgentId, batches: Sequence[SignedBatch]
    ) -> Admitted:
        self.calls["admit"] += 1
        return self.logs[folder].admit(source, batches)

    async def read_blob(
        self, agent: AgentId, folder: FolderId, blob: BlobHash, offset: int, length: int
    ) -> bytes | None:
        self.calls["read_blob"] += 1
        content = self.blobs.get(folder, {}).get(blob)
        if content is None or not self.may_read(agent, folder) or self.fails(offset):
            return None
        if self.is_away():
            return None
        piece = content[offset : offset + length]
        return bytes([piece[0] ^ 1]) + piece[1:] if self.corrupts and piece else piece

    async def read_small(
        self, agent: AgentId, folder: FolderId, blobs: Sequence[BlobHash], limit_bytes: int
    ) -> list[bytes | None]:
        self.calls["read_small"] += 1
        found: list[bytes | None] = []
        if self.is_away():
            return [None] * len(blobs)
        for blob in blobs:
            content = self.blobs.get(folder, {}).get(blob)
            if content is None or not self.may_read(agent, folder):
                found.append(None)
                continue
            limit_bytes -= len(content)
            if found and limit_bytes < 0:
                break
            found.append(bytes([content[0] ^ 1]) + content[1:] if self.corrupts else content)
        return found

    async def addresses(self) -> list[wire.SignedAddresses]:
        return list(self.records.values())

    async def learn_addresses(
        self, source: AgentId, records: Sequence[wire.SignedAddresses]
    ) -> list[wire.SignedAddresses]:
        fresh = []
        for one in records:
            held = self.records.get(one.agent)
            if held is None or held.counter < one.counter:
                self.records[one.agent] = one
                fresh.append(one)
        return fresh

    async def learn_fork(self, source: AgentId, fork: wire.Fork) -> bool:
        is_new = fork.header not in self.forks
        self.forks.add(fork.header)
        return is_new

    async def note_heads(self, agent: AgentId, folder: FolderId, heads: Heads) -> None:
        self.noted[agent, folder] = heads

    def note_connected(self, agent: AgentId, folders: Sequence[FolderId]) -> None:
        self.calls["connected"] += 1

    def note_gone(self, agent: AgentId) -> None:
        self.calls["gone"] += 1

    def note_available(self, folder: FolderId, blobs: Sequence[BlobHash]) -> None:
        self.available.extend(blobs)

    # -- what a test does

    def keep(self, *contents: bytes, folder: FolderId = FOLDER) -> list[BlobRef]:
        refs = []
        for content in contents:
            blob = blob_hash(content)
            self.blobs[folder][blob] = content
            refs.append(BlobRef(hash=blob, size=len(content)))
        return refs

    def write(self, *events: bytes, folder: FolderId = FOLDER, epoch: Epoch = EPOCH) -> SignedBatch:
        """Append a batch of our own, after all that is stored."""
        log = self.logs[folder]
        mine = [
            one
            for one in log.batches.values()
            if one.header.agent == self.key.agent and one.header.epoch == epoch
        ]
        last = max(mine, key=lambda one: one.header.seq, default=None)
        tips = {BatchId(head.batch) for head in log.heads()}
        deps = tips - ({last.id} if last else set())
        lamport = max((log.batches[tip].header.lamport for tip in tips), default=0)
        if last is not None:
            lamport = max(lamport, last.header.lamport)
        signed = sign_batch(
            self.key,
            folder=folder,
            epoch=epoch,
            seq=0 if last is None else last.header.seq + 1,
            prev=None if last is None else last.id,
            deps=deps,
            lamport=lamport + 1,
            wall_ms=0,
            events=events or (b"\x91\x01",),
        )
        result = log.admit(self.key.agent, [signed])
        assert result.stored == [signed]
        return signed


class Node:
    """One node: replica, fetcher, sessions, over links that a test makes."""

    def __init__(self, number: int, members: dict[FolderId, set[AgentId]]) -> None:
        self.key = key_of(number)
        self.agent = self.key.agent
        self.replica = MemoryReplica(self.key, members)
        self.fetcher = Fetcher(Inline())  # type: ignore[arg-type]
        self.sessions = Sessions(self.replica, Inline(), self.fetcher)  # type: ignore[arg-type]
        self.ended: list[Ended] = []

    async def talk(self, link: Link) -> None:
        self.ended.append(await self.sessions.open(link).run())

    def write(self, *events: bytes, contents: dict[BlobHash, bytes] | None = None) -> SignedBatch:
        signed = self.replica.write(*events)
        self.sessions.announce(FOLDER, [signed], contents)
        return signed

    @property
    def batches(self) -> set[BatchId]:
        return set(self.replica.logs[FOLDER].batches)


class PipeLink:
    """One end of a connection in memory that a test can make lossy."""

    def __init__(self, agent: AgentId) -> None:
        self.agent = agent
        self.other: PipeLink
        self.rtt_s = 0.0
        self.frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.sent: list[bytes] = []
        self.keeps_sent = False
        self.is_closed = False
        self.random: Random | None = None
        self.loss = self.duplicate = self.reorder = 0.0
        self.cut_after: int | None = None
        self.bytes_per_s: float | None = None  # how fast what this end sends arrives
        self.line_free_s = 0.0
        self.sent_frames = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.room = asyncio.Event()

    async def send(self, frame: bytes) -> None:
        if self.is_closed:
            raise LinkClosed("pipe", "closed")
        while self.other.frames.qsize() > 64 and not self.is_closed:
            self.room.clear()
            await self.room.wait()
        self.sent_frames += 1
        self.sent_bytes += len(frame)
        if self.keeps_sent:
            self.sent.append(frame)
        if self.cut_after is not None and self.sent_frames > self.cut_after:
            await self.close()
            raise LinkClosed("pipe", "cut")
        loop = asyncio.get_running_loop()
        if self.bytes_per_s is not None:
            self._send_slowly(frame, self.bytes_per_s)
            return
        if self.random is None:
            self.other.arrive(frame)
            return
        if self.random.random() < self.loss:
            return
        for _ in range(2 if self.random.random() < self.duplicate else 1):
            late = self.random.random() * 0.2 if self.random.random() < self.reorder else 0.001
            loop.call_later(late, self.other.arrive, frame)

    def _send_slowly(self, frame: bytes, bytes_per_s: float) -> None:
        """Let a frame arrive bit by bit, behind those before it."""
        loop = asyncio.get_running_loop()
        start_s = max(loop.time(), self.line_free_s)
        self.line_free_s = start_s + len(frame) / bytes_per_s
        pieces = 1 + int(len(frame) / bytes_per_s)
        for number in range(1, pieces):
            at_s = start_s + (self.line_free_s - start_s) * number / pieces
            loop.call_at(at_s, self.other.count, len(frame) // pieces)
        loop.call_at(self.line_free_s, self.other.arrive, frame)

    def count(self, size: int) -> None:
        self.received_bytes += size

    def arrive(self, frame: bytes) -> None:
        self.received_bytes += len(frame)
        self.frames.put_nowait(frame)

    async def receive(self) -> bytes:
        frame = None if self.is_closed else await self.frames.get()
        self.other.room.set()
        if frame is None:
            raise LinkClosed("pipe", "closed")
        return frame

    async def close(self) -> None:
        for end in (self, self.other):
            if not end.is_closed:
                end.is_closed = True
                end.frames.put_nowait(None)
                end.room.set()


def pipe(one: AgentId, other: AgentId) -> tuple[PipeLink, PipeLink]:
    """Connect two agents; the first link is the one that `one` holds."""
    near, far = PipeLink(other), PipeLink(one)
    near.other, far.other = far, near
    return near, far


def connect(tasks: asyncio.TaskGroup, one: Node, other: Node) -> tuple[PipeLink, PipeLink]:
    near, far = pipe(one.agent, other.agent)
    tasks.create_task(one.talk(near))  # type: ignore[arg-type]
    tasks.create_task(other.talk(far))  # type: ignore[arg-type]
    return near, far


def with_bulk(tasks: asyncio.TaskGroup, nodes: Sequence[Node]) -> list[PipeLink]:
    """Let nodes open bulk links to each other, and run their fetchers."""
    opened: list[PipeLink] = []
    by_agent = {node.agent: node for node in nodes}
    for node in nodes:

        async def open_bulk(agent: AgentId, node: Node = node) -> Link:
            near, far = pipe(node.agent, agent)
            opened.append(far)
            tasks.create_task(by_agent[agent].sessions.serve_bulk(far))  # type: ignore[arg-type]
            return near  # type: ignore[return-value]

        node.fetcher.sources.open_bulk = open_bulk
        tasks.create_task(node.fetcher.run())
    return opened


def nodes(count: int) -> list[Node]:
    members = {FOLDER: {key_of(number).agent for number in range(1, count + 1)}}
    return [Node(number, members) for number in range(1, count + 1)]


async def until(condition: Callable[[], bool], within_s: float = 120.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.05)  # virtual time


def reproven(signed: SignedBatch) -> SignedBatch:
    return verify(signed.wire)
