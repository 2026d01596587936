"""Keep the hash-chained logs of all agents in a folder: store, order, serve.

A batch enters only as a SignedBatch (store.signing), and takes effect only when its prev and
deps have. What it means is not decided here: applied batches go to the `fold` that the owner
passes in, in the same transaction.

Two branches of one log (a fork) are both kept: the primary key is the batch id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from store import access, ending, stored_batches
from store.access_sets import RULED_OUT, AccessSets
from store.admitted import Admitted, AppliedBatch, Fold
from store.cuts import CUT_OFF, Cuts
from store.db import Database
from store.decoding import decoded_events, needs_newer
from store.ending import Ending
from store.errors import Malformed
from store.events import CutPoint, Event, decode
from store.frontier import Frontier
from store.ids import AgentId, BatchId, Epoch, EventId, FolderId, LogId, ObjectId, log_id
from store.lineage import Lineage, parents_of
from store.opening import (
    EventCount,
    LogHead,
    known_logs,
    note_restored,
    restored,
    unapplied,
)
from store.own_writer import Opening, OwnWriter, Part
from store.records import Stub
from store.signing import AgentKey, SignedBatch, WireBatch, sign_batch
from store.waiting import WaitingRoom

FOLDER_SHARED_TAG = 16


class FolderLog:
    """All logs of one folder in one database. Owned by the database thread."""

    def __init__(self, database: Database, folder_no: int, folder: FolderId) -> None:
        """Read what is known of the folder's logs; nothing is written."""
        self._db = database
        self.folder_no = folder_no
        self.folder = folder
        self._log_nos: dict[LogId, int] = {}
        self._heads: dict[BatchId, LogHead] = {}
        self._frontier = Frontier(database, folder_no)
        self._room = WaitingRoom()
        self._access = AccessSets(database, folder_no)
        self.lineage = Lineage(database, folder_no, self._access)
        self.cuts = Cuts(database, folder_no)
        self.batches = 0
        self._events = EventCount(database, folder_no)
        self.held_by_newer: set[AgentId] = set()  # logs with an unknown mandatory event
        self._has_unapplied = False  # such, or what follows them
        self.restored_no = 0  # the batches up to here came with a snapshot
        self._restored_frontier: tuple[BatchId, ...] = ()
        self._set_of_stubs: dict[tuple[BatchId, ...], int] = {}
        self._load()

    def _load(self) -> None:
        db = self._db
        self.restored_no, self._restored_frontier = restored(db, self.folder_no)
        known = known_logs(db, self.folder_no, self.restored_no)
        self._log_nos, self._heads, self.batches = known.numbers, known.heads, known.batches
        for no in self._membership_nos():
            self.cuts.note(no)
        held = self._unapplied()
        self._has_unapplied = bool(held)
        self.held_by_newer = {
            AgentId(signed.header.agent) for _, signed in held if needs_newer(signed)
        }

    def _unapplied(self) -> list[tuple[int, SignedBatch]]:
        return unapplied(self._db, self.folder_no)

    # -- reading ------------------------------------------------------------------------------

    def heads(self) -> list[LogHead]:
        """List the heads of all branches of all logs, sorted."""
        return sorted(self._heads.values(), key=lambda head: (head.log, head.seq, head.batch))

    def has(self, batch: BatchId) -> bool:
        """Whether a batch is stored."""
        return batch in self._heads or self.lineage.stored(batch) is not None

    def own_head(self, agent: AgentId, epoch: Epoch) -> LogHead | None:
        """Find the newest batch of a log of ours."""
        own = [h for h in self._heads.values() if h.agent == agent and h.epoch == epoch]
        return max(own, key=lambda head: head.seq, default=None)

    def has_unapplied(self) -> bool:
        """Whether stored batches wait for a newer dizzyd."""
        return bool(self.held_by_newer)

    @property
    def waiting(self) -> int:
        """The number of batches that wait for others."""
        return len(self._room)

    def count_events(self) -> int:
        """Count the events of all stored batches: of a long log slow once, then noted."""
        return self._events.total()

    def missing(self) -> set[bytes]:
        """List the ids of batches that are waited for and not here."""
        return self._room.missing()

    def read(
        self,
        ranges: Sequence[tuple[bytes, int | None, int]],
        ids: Sequence[bytes],
        limit_bytes: int,
    ) -> tuple[list[WireBatch], bool]:
        """Read batches in (lamport, batch id) order, up to about `limit_bytes` (at least one).

        `ranges` are (log id, after seq or None for the start, through seq). The second value
        says whether more would have followed.
        """
        numbered = [
            (no, after, through)
            for log, after, through in ranges
            if (no := self._log_nos.get(LogId(log))) is not None
        ]
        return stored_batches.read_batches(
            self._db,
            self.folder_no,
            numbered,
            ids,
            restored_no=self.restored_no,
            limit_bytes=limit_bytes,
        )

    def all_applied(self) -> Iterable[tuple[int, WireBatch, bool]]:
        """Give all applied batches (no, bytes, is_void) in the order they were applied.

        Those of a snapshot may be thinned; stubs are passed over.
        """
        return stored_batches.all_applied(self._db, self.folder_no)

    # -- membership ---------------------------------------------------------------------------

    def members(self) -> dict[AgentId, access.Member]:
        """Give everybody's role by all membership events that are applied.

        Once the folder was ended everybody may only read; whoever was let in too late for the
        owner to know is among them, so that it can be told.
        """
        known = self._access.members_of(self._membership_nos())
        return access.read_only(known) if self.endings else known

    def owner(self) -> AgentId | None:
        """Give whose folder it is, None before that is known."""
        known = self._access.members_of(self._membership_nos())
        return next((agent for agent, one in known.items() if access.is_owner(one)), None)

    def frontier(self) -> tuple[BatchId, ...]:
        """List the applied batches that no other applied one names, sorted."""
        return tuple(sorted(self._frontier.lamports))

    def _membership_nos(self) -> tuple[int, ...]:
        """List the applied membership batches whose author had the role."""
        return self.lineage.past(self._frontier.lamports)

    # -- writing ------------------------------------------------------------------------------

    def writer(self, key: AgentKey, epoch: Epoch, opening: Opening | None = None) -> OwnWriter:
        """Begin to write own events; see OwnWriter."""
        return OwnWriter(self, key, epoch, opening)

    def append(
        self, key: AgentKey, epoch: Epoch, events: Sequence[bytes], wall_ms: int, fold: Fold
    ) -> list[SignedBatch]:
        """Write own events as one batch or several; see OwnWriter."""
        writer = self.writer(key, epoch)
        for raw in events:
            writer.add(raw)
        return writer.write(wall_ms, fold)

    def write_own(
        self, key: AgentKey, epoch: Epoch, part: Part, wall_ms: int, fold: Fold
    ) -> SignedBatch:
        """Sign, store and apply one batch of our own: for OwnWriter."""
        head = self.own_head(key.agent, epoch)
        prev = None if head is None else head.batch
        deps = self._frontier.deps(prev)
        parents = [self._frontier.lamports[dep] for dep in deps]
        if prev is not None:
            parents.append(self.lineage.lamport(prev))
        signed = sign_batch(
            key,
            folder=self.folder,
            epoch=epoch,
            seq=0 if head is None else head.seq + 1,
            prev=prev,
            deps=deps,
            lamport=1 + max(parents, default=0),
            wall_ms=wall_ms,
            events=part.events,
            event_ids=part.ids,
        )
        self._store(signed, fold, is_applied=True, fresh=part.fresh, made=part.made)
        return signed

    def admit(self, batches: Sequence[SignedBatch], source: bytes, fold: Fold) -> Admitted:
        """Store and apply verified batches, inside a transaction; those with gaps wait.

        `source` is the peer whose waiting room they count against. Applied batches reach `fold`
        in (lamport, batch id) order as far as they came together.
        """
        result = Admitted()
        for signed in sorted(batches, key=lambda one: (one.header.lamport, one.id)):
            self._offer(signed, source, fold, result)
        result.missing = self.missing() if self._room else set()
        return result

    def stand_in(self, stub: Stub) -> None:
        """Store the place of a batch of which a snapshot has left nothing else.

        Inside the transaction that ends with settle(). Raises Malformed where it does not follow
        what was stored before.
        """
        log = log_id(self.folder, stub.agent, stub.epoch)
        former = [head for head in self._heads.values() if head.log == log]
        if self.has(stub.id) or [head.seq + 1 for head in former] != [stub.seq] * bool(stub.seq):
            raise Malformed("snapshot", "has a stub that follows nothing")
        access_no = self._set_of_stubs.get(stub.members)
        if access_no is None:
            members = [self.lineage.stored(one) for one in stub.members]
            if None in members:
                raise Malformed("snapshot", "has a stub that names what is not there")
            nos = sorted(row[0] for row in members if row is not None)
            access_no = self._access.intern(tuple(nos))
            self._set_of_stubs[stub.members] = access_no
        self._db.execute(
            "INSERT INTO batch (folder_no, id, log_no, seq, lamport, access_no, is_applied,"
            " is_void, header, signature, body) VALUES (?,?,?,?,?,?,1,0,x'',x'',x'')",
            (
                self.folder_no,
                stub.id,
                self._number_of_log(log, stub.agent, stub.epoch),
                stub.seq,
                stub.lamport,
                access_no,
            ),
        )
        for head in former:
            del self._heads[head.batch]
        self._heads[stub.id] = LogHead(
            log=log, agent=stub.agent, epoch=stub.epoch, seq=stub.seq, batch=stub.id
        )
        self.batches += 1

    def settle(self, frontier: Sequence[bytes]) -> None:
        """End what a snapshot brought: these batches are what nothing applied names.

        Stubs do not tell what they rest on, so that some others seemed open. Raises Malformed
        where one of them is not among those.
        """
        if any(batch not in self._frontier.lamports for batch in frontier):
            raise Malformed("snapshot", "is of another frontier than its checkpoint says")
        db, folder_no = self._db, self.folder_no
        self._set_of_stubs.clear()
        self._frontier.keep(frontier)
        (self.restored_no,) = db.execute(
            "SELECT coalesce(max(no), 0) FROM batch WHERE folder_no = ?", (folder_no,)
        ).fetchone()
        self._restored_frontier = tuple(map(BatchId, frontier))
        note_restored(db, folder_no, self.restored_no, frontier)

    def restored_count(self) -> int:
        """Count the batches that came with a snapshot."""
        (number,) = self._db.execute(
            "SELECT count(*) FROM batch WHERE folder_no = ? AND no <= ?",
            (self.folder_no, self.restored_no),
        ).fetchone()
        return int(number)

    def has_forked_below_snapshot(self) -> bool:
        """Whether a log has forked of which a snapshot left only places: then none tells it."""
        return any(
            self._db.execute(
                "SELECT 1 FROM batch WHERE log_no = ? AND header = x'' LIMIT 1",
                (self._log_nos[head.log],),
            ).fetchone()
            for head in self._heads.values()
            if self.restored_no and self._has_forked(head)
        )

    def _has_forked(self, head: LogHead) -> bool:
        (number,) = self._db.execute(
            "SELECT count(*) FROM batch WHERE log_no = ?", (self._log_nos[head.log],)
        ).fetchone()
        return bool(number != head.seq + 1)

    @property
    def is_overruled(self) -> bool:
        """Whether the folder was ended without what a snapshot rests on: by a copied home.

        What it left out would count again; here all that it holds counts on.
        """
        return bool(self.endings) and not self.cuts.kept.issuperset(self._restored_frontier)

    def has_held_to_apply(self) -> bool:
        """Whether something was held for a newer dizzyd, and this is it."""
        return any(self._is_readable(signed) for _, signed in self._unapplied())

    def _is_readable(self, signed: SignedBatch) -> bool:
        """Whether what was held can take effect; what others refuse by now never will."""
        return (
            not needs_newer(signed)
            and self.lineage.has_applied_parents(signed)
            and not decoded_events(signed)[1]
        )

    def apply_held(self, fold: Fold) -> list[BatchId]:
        """Apply what was held and can be read by now, inside a transaction."""
        applied: list[BatchId] = []
        for no, signed in self._unapplied():
            if not self._is_readable(signed):
                continue
            is_void = self._judge(no, signed)
            self._db.execute("UPDATE batch SET is_applied = 1 WHERE no = ?", (no,))
            self._frontier.advance(signed)
            fold(AppliedBatch(no=no, signed=signed, is_void=is_void))
            applied.append(signed.id)
        return applied

    def forget_waiting(self, source: bytes) -> None:
        """Drop what a peer sent that waits for others: it is gone, or it misbehaved."""
        self._room.forget(source)

    def _offer(self, signed: SignedBatch, source: bytes, fold: Fold, result: Admitted) -> None:
        if signed.header.folder != self.folder:
            result.refuse("wrong-folder")
            return
        if signed.id in self._room or self.has(signed.id):
            result.known += 1
            return
        missing = self._missing_parents(signed)
        if missing:
            if not self._room.put(signed, source, missing):
                result.refuse("pending-full")
            return
        ready = [signed]
        while ready:
            signed = ready.pop(0)
            reason = self.lineage.broken_rule(signed, self._log_nos.get(signed.log))
            decoded, broken = ((), reason) if reason else decoded_events(signed)
            broken = broken or self._strangeness(signed)
            if broken:
                result.refuse(broken)
                self._room.drop_waiters(signed.id, result)
                continue
            if any(h.log == signed.log and h.seq >= signed.header.seq for h in self._of(signed)):
                result.forked.add(AgentId(signed.header.agent))
            can_apply = self._can_apply(signed)
            is_applied = self._store(signed, fold, is_applied=can_apply, decoded=decoded)
            result.stored.append(signed)
            if is_applied:
                result.applied.append(signed.id)
            ready.extend(self._room.released_by(signed.id, self._missing_parents))

    def _strangeness(self, signed: SignedBatch) -> str:
        """Name what is wrong with an author whom nobody in the batch's past ever let in.

        The past of a batch never changes, so such a batch can count nowhere and at no time; to
        store and pass it on would let anybody's invented agents fill every node's disk (A14).
        """
        if FOLDER_SHARED_TAG in signed.tags or not self.lineage.has_applied_parents(signed):
            return ""
        past = self.lineage.past(parents_of(signed))
        is_known = AgentId(signed.header.agent) in self._access.members_of(past)
        return "" if is_known else "stranger"

    def _of(self, signed: SignedBatch) -> list[LogHead]:
        if signed.log not in self._log_nos:
            return []
        return [head for head in self._heads.values() if head.log == signed.log]

    def _missing_parents(self, signed: SignedBatch) -> list[bytes]:
        return [parent for parent in parents_of(signed) if not self.has(parent)]

    def _can_apply(self, signed: SignedBatch) -> bool:
        if needs_newer(signed):
            self.held_by_newer.add(AgentId(signed.header.agent))
            self._has_unapplied = True
            return False
        return not self._has_unapplied or self.lineage.has_applied_parents(signed)

    def _store(
        self,
        signed: SignedBatch,
        fold: Fold,
        *,
        is_applied: bool,
        fresh: set[bytes] | None = None,
        made: Mapping[EventId, ObjectId] | None = None,
        decoded: Sequence[Event | None] = (),
    ) -> bool:
        header = signed.header
        batch_no = self._db.execute(
            "INSERT INTO batch (folder_no, id, log_no, seq, lamport, access_no, is_applied,"
            " is_void, header, signature, body) VALUES (?,?,?,?,?,0,?,0,?,?,?) RETURNING no",
            (
                self.folder_no,
                signed.id,
                self._log_no(signed),
                header.seq,
                header.lamport,
                is_applied,
                signed.header_bytes,
                signed.signature,
                signed.body,
            ),
        ).fetchone()[0]
        # What is held is judged when it is read: apply_held().
        is_void = self._judge(batch_no, signed) if is_applied else False
        if header.prev is not None:
            self._heads.pop(BatchId(header.prev), None)
        self._heads[signed.id] = LogHead(
            log=signed.log,
            agent=AgentId(header.agent),
            epoch=Epoch(header.epoch),
            seq=header.seq,
            batch=signed.id,
        )
        self.batches += 1
        self._events.add(batch_no, header.count)
        if is_applied:
            self._frontier.advance(signed)
            fold(
                AppliedBatch(
                    no=batch_no,
                    signed=signed,
                    is_void=is_void,
                    fresh=fresh or set(),
                    made=made or {},
                    decoded=decoded,
                )
            )
        return is_applied

    def _judge(self, batch_no: int, signed: SignedBatch) -> bool:
        """Note what the author of a stored batch could know of roles; tell whether it is void."""
        past = self.lineage.past(parents_of(signed))
        verdict = 0 if self._counts(signed, self._access.members_of(past)) else RULED_OUT
        is_ending = False
        if not verdict and signed.is_about_folder:
            if access.is_membership(signed.events[0]):
                past = tuple(sorted({*past, batch_no}))
            is_ending = ending.is_ending(AgentId(signed.header.agent), signed.events)
        if not verdict and self.endings and not is_ending and signed.id not in self.cuts.kept:
            verdict = CUT_OFF
        self._db.execute(
            "UPDATE batch SET access_no = ?, is_void = ? WHERE no = ?",
            (self._access.intern(past), verdict, batch_no),
        )
        if is_ending:
            self.cuts.note(batch_no)
        if is_ending or signed.id in self.cuts.points:
            verdict = self.cuts.cut_anew(batch_no, verdict, self.restored_no)
        return bool(verdict)

    # -- the end ------------------------------------------------------------------------------

    @property
    def endings(self) -> Mapping[int, Ending]:
        """What ended the folder for all, by the number of the batch."""
        return self.cuts.endings

    def cut_points(self) -> list[CutPoint]:
        """Give the cut of an ending made now: what is applied here and nothing applied follows.

        Oldest first: beyond ending.POINTS_LIMIT the newest are left out.
        """
        return self._frontier.cut_points()

    def _counts(self, signed: SignedBatch, known: Mapping[AgentId, access.Member]) -> bool:
        author = AgentId(signed.header.agent)
        if not signed.is_about_folder:
            return access.may_write(known.get(author))
        return all(
            access.counts(author, signed.header.seq, decode(raw), known) for raw in signed.events
        )

    def _log_no(self, signed: SignedBatch) -> int:
        no = self._log_nos.get(signed.log)
        if no is None:
            header = signed.header
            no = self._number_of_log(signed.log, AgentId(header.agent), Epoch(header.epoch))
        return no

    def _number_of_log(self, log: LogId, agent: AgentId, epoch: Epoch) -> int:
        no = self._log_nos.get(log)
        if no is None:
            no = self._log_nos[log] = self._db.execute(
                "INSERT INTO log (folder_no, id, agent, epoch) VALUES (?, ?, ?, ?) RETURNING no",
                (self.folder_no, log, agent, epoch),
            ).fetchone()[0]
        return int(no)
