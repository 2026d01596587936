"""Try to refute what a snapshot promises: it and the tail are the whole log, for every cut."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec
import pytest

from daemon.acts import Created, Touched
from store import snapshot
from store.checkpoint import OlderLogNeeded, Restored, describe, restore
from store.codec import decode_header, split_thinned, thin_body
from store.errors import BadSignature, DizzyError, Malformed
from store.events import (
    Checkpointed,
    Content,
    CutPoint,
    Granted,
    Revoked,
    Tagged,
    Untagged,
    decode,
    encode,
)
from store.ids import FolderId, blob_hash
from store.log import FolderLog
from store.objects import OBJECT_COLUMNS
from store.signing import SignedBatch, WireBatch, verify_thinned
from tests.store.histories import SEEDS, history
from tests.store.nasty import nasty_log
from tests.store.nodes import Node, deliver, looked, make_nodes, random_act, unchanged
from tests.store.test_log import make_directory, sign
from tests.vectors import make_snapshot, snapshot_reader

seeds = pytest.mark.parametrize("seed", SEEDS[:24])
CUTS = 3  # of each history
STEPS = 60


def folded(folder: FolderId, batches: list[SignedBatch]) -> Restored:
    """Fold whole batches, as a node that has them all."""
    made = Restored(folder)
    made.admit(batches)
    return made


def taken(source: Restored | Node) -> tuple[Checkpointed, list[bytes]]:
    """Take a snapshot of what is applied."""
    pieces: list[bytes] = []
    at = source.stored if isinstance(source, Node) else source
    checkpoint = describe(at.db, at.log, at.state, pieces.append)
    assert checkpoint is not None
    return checkpoint, pieces


def rows(source: Restored) -> dict[str, list[tuple[object, ...]]]:
    """Give every folded row, by ids instead of numbers; where events stand is left out."""
    db = source.db
    ids = dict(db.execute("SELECT no, id FROM object").fetchall())
    columns = OBJECT_COLUMNS.split(", ")
    objects = [
        tuple(
            ids.get(value) if column.endswith("no") else value
            for column, value in zip(columns, row, strict=True)
        )
        for row in db.execute(f"SELECT {OBJECT_COLUMNS} FROM object")
    ]
    found: dict[str, list[tuple[object, ...]]] = {"object": objects}
    for table in ("head", "object_tag", "void_deletion", "along_deletion", "directory_move"):
        names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        found[table] = [
            tuple(
                ids[value] if name in ("object_no", "parent_no") else value
                for name, value in zip(names, row, strict=True)
            )
            for row in db.execute(f"SELECT * FROM {table}")
        ]
    batches = dict(db.execute("SELECT no, id FROM batch").fetchall())
    sets = {
        no: tuple(
            sorted(
                batches[int.from_bytes(joined[at : at + 8], "big")]
                for at in range(0, len(joined), 8)
            )
        )
        for no, joined in db.execute("SELECT no, batches FROM access_set")
    }
    found["batch"] = [
        (*row, sets.get(access_no, ()))
        for *row, access_no in db.execute(
            "SELECT b.id, b.seq, b.lamport, b.is_applied, l.id, b.access_no"
            " FROM batch b JOIN log l ON l.no = b.log_no"
        )
    ]
    found["head_of_log"] = [(head.log, head.seq, head.batch) for head in source.log.heads()]
    found["frontier"] = db.execute("SELECT batch_id FROM frontier").fetchall()
    found["member"] = [(member,) for member in source.log.members().values()]
    return {table: sorted(some, key=repr) for table, some in found.items()}


def cuts(batches: list[SignedBatch], number: int, rng: random.Random) -> Iterator[int]:
    """Choose after how many batches, in their order, to cut: every cut, or some of them."""
    every = range(1, len(batches) + 1)
    yield from every if number >= len(every) else sorted(rng.sample(every, number))


def past_of(batches: list[SignedBatch], one: SignedBatch) -> list[SignedBatch]:
    """Choose what the author of a batch knew when it signed it."""
    by_id = {batch.id: batch for batch in batches}
    known: set[bytes] = set()
    waiting = [*one.header.deps, one.header.prev]
    while waiting:
        batch = waiting.pop()
        if batch is not None and batch not in known:
            known.add(batch)
            header = by_id[batch].header
            waiting += [*header.deps, header.prev]
    return [batch for batch in batches if batch.id in known]


def closed_part(batches: list[SignedBatch], rng: random.Random) -> list[SignedBatch]:
    """Choose a part of a log that is closed under prev and deps: what some node might know."""
    known: set[bytes] = set()
    part = []
    for batch in batches:  # parents come before
        header = batch.header
        parents = {*header.deps} if header.prev is None else {header.prev, *header.deps}
        if parents <= known and (rng.random() < 0.85 or header.seq == 0):
            known.add(batch.id)
            part.append(batch)
    return part


def touched_history(seed: int, *, end_after: int = STEPS) -> list[SignedBatch]:
    """Make a history in which bits, times and tags are set again and again, also at once.

    The owner ends the folder after so many steps, if there are more.
    """
    rng = random.Random(seed)
    nodes = make_nodes(3)
    for step in range(STEPS):
        if step == end_after:
            nodes[0].stored.end(1)
        node = rng.choice(nodes[1:] if step >= end_after else nodes)
        what = rng.random()
        at = [(path, tuple(some)) for path, some in sorted(node.rows().items()) if not some[0].copy]
        if what < 0.35 and at:
            path, some = rng.choice(at)
            seen = unchanged(some[0], mode=rng.choice([0o644, 0o755]), mtime_ns=rng.randrange(99))
            if some[0].kind != 1:
                node.record(Touched(path, some, seen))
        elif what < 0.5 and at:
            _, some = rng.choice(at)
            kind = rng.choice([Tagged, Untagged])
            identity = node.stored.id_of(some[0].object_no)
            with node.stored.change():
                node.stored.append([encode(kind(identity, rng.choice([b"x", b"y"])))], 1)
        elif what < 0.75:
            node.record(*random_act(node, rng))
        elif what < 0.9:
            other = rng.choice([one for one in nodes[step >= end_after :] if one is not node])
            deliver(other, node, rng, rng.choice([0.5, 1]))
        node.materialise()
    for _ in range(2):
        for source in nodes:
            for target in nodes:
                if source is not target:
                    deliver(source, target)
    return nodes[0].wires()


def assert_tail_completes(
    batches: list[SignedBatch], covered: list[SignedBatch], rng: random.Random
) -> int:
    """Compare snapshot and tail with a full replay; gives how many events were left out."""
    folder = FolderId(batches[0].header.folder)
    there = folded(folder, rng.sample(covered, len(covered)))
    checkpoint, pieces = taken(there)
    here = restore(pieces, folder, checkpoint)
    assert rows(here) == rows(there)
    names = {batch.id for batch in covered}
    tail = [batch for batch in batches if batch.id not in names]
    rng.shuffle(tail)
    for batch in tail:
        here.admit([batch])
    there.admit(tail)
    assert here.state.root() == there.state.root()
    assert rows(here) == rows(there)
    assert not here.log.waiting
    left_out = sum(
        raw == b""
        for header, body in here.db.execute("SELECT header, body FROM batch WHERE header != x''")
        for raw in split_thinned(body, decode_header(header).count)
    )
    (stubs,) = here.db.execute("SELECT count(*) FROM batch WHERE header = x''").fetchone()
    here._fold_anew()
    assert rows(here) == rows(there)
    again = FolderLog(here.db, here.log.folder_no, folder)
    assert again.heads() == here.log.heads()
    assert again.frontier() == here.log.frontier()
    here.close()
    there.close()
    return left_out + int(stubs)


@seeds
def test_P10_P12_a_snapshot_and_the_tail_give_what_a_full_replay_gives(seed: int) -> None:
    told = history(seed)
    rng = told.rng()

    for end in cuts(told.batches, CUTS, rng):
        assert_tail_completes(told.batches, told.batches[:end], rng)


@seeds
def test_P10_P12_also_where_some_know_what_others_do_not(seed: int) -> None:
    told = history(seed)
    rng = told.rng()

    for _ in range(3):
        assert_tail_completes(told.batches, closed_part(told.batches, rng), rng)


@pytest.mark.parametrize("seed", range(12))
def test_P10_P12_what_is_left_out_is_never_missed(seed: int) -> None:
    batches = touched_history(seed)
    rng = random.Random(seed)

    left_out = sum(
        assert_tail_completes(batches, batches[:end], rng) for end in cuts(batches, CUTS, rng)
    )

    assert left_out > 0


def test_P10_at_every_cut_of_a_history() -> None:
    batches = touched_history(1)
    rng = random.Random(1)

    for end in range(1, len(batches) + 1):
        assert_tail_completes(batches, batches[:end], rng)


@pytest.mark.parametrize("seed", range(12))
def test_P10_P41_an_ending_in_the_tail_cuts_off_what_the_snapshot_holds(seed: int) -> None:
    batches = touched_history(seed, end_after=STEPS * 2 // 3)
    rng = random.Random(seed)
    (ending,) = [
        batch
        for batch in batches
        if batch.is_about_folder and isinstance(decode(batch.events[0]), Revoked)
    ]
    known = past_of(batches, ending)  # the owner checkpoints what it knows alone

    for end in cuts(known, CUTS, rng):
        assert_tail_completes(batches, known[:end], rng)
    assert_tail_completes(batches, closed_part(known, rng), rng)


@pytest.mark.parametrize("seed", range(12))
def test_P12_an_ending_by_a_copy_of_the_owners_home_asks_for_the_whole_log(seed: int) -> None:
    rng = random.Random(seed)
    batches = touched_history(seed)
    folder = FolderId(batches[0].header.folder)
    owner = make_nodes(1)[0]
    mine = [one for one in batches if one.log == owner.stored.own_log]
    last = rng.choice(mine)  # what the copy had
    covered = [*past_of(batches, mine[-1]), mine[-1]]  # the owner's own node went on
    cut = (CutPoint(log=last.log, seq=last.header.seq, batch=last.id),)
    owner.stored.admit(batches, b"1")
    ending = sign(owner, last, [Revoked(agent=owner.stored.key.agent, cut=cut)])
    there = folded(folder, covered)
    checkpoint, pieces = taken(there)
    here = restore(pieces, folder, checkpoint)

    if last is mine[-1]:
        here.admit([ending])
        there.admit([ending])
        assert rows(here) == rows(there)
    else:
        with pytest.raises(OlderLogNeeded):
            here.admit([ending])
    there.admit([] if last is mine[-1] else [ending])
    assert describe(there.db, there.log, there.state, lambda _: None) is None


@pytest.mark.parametrize("seed", range(6))
def test_equal_logs_give_equal_bytes_whatever_came_first(seed: int) -> None:
    batches = touched_history(seed)
    rng = random.Random(seed)
    folder = FolderId(batches[0].header.folder)
    part = closed_part(batches, rng)

    told = [taken(folded(folder, rng.sample(part, len(part)))) for _ in range(3)]

    assert told[0] == told[1] == told[2]
    checkpoint, pieces = told[0]
    assert checkpoint.snapshot == Content(blob_hash(b"".join(pieces)), sum(map(len, pieces)))


# -- P11: what was altered is refused --------------------------------------------------------------


def refused(pieces: list[bytes], folder: FolderId, checkpoint: Checkpointed) -> bool:
    try:
        restore(pieces, folder, checkpoint).close()
    except (Malformed, BadSignature):
        return True
    return False


@pytest.mark.parametrize("seed", range(3))
def test_P11_a_flipped_bit_anywhere_is_refused(seed: int) -> None:
    batches = touched_history(seed)[:25]
    folder = FolderId(batches[0].header.folder)
    checkpoint, pieces = taken(folded(folder, batches))
    whole = b"".join(pieces)
    rng = random.Random(seed)

    for _ in range(150):
        altered = bytearray(whole)
        altered[rng.randrange(len(altered))] ^= 1 << rng.randrange(8)
        assert refused([bytes(altered)], folder, checkpoint)


def records(folder: FolderId, whole: bytes) -> list[SignedBatch]:
    """Read the batches of a snapshot in which nothing is buried and nothing a stub."""
    found = list(snapshot.read([whole], folder))
    return [one for one in found if isinstance(one, SignedBatch)]


def packed(folder: FolderId, batches: list[WireBatch], number: int | None = None) -> bytes:
    """Write such a snapshot by hand, as docs/log-format.md says."""
    count = len(batches) if number is None else number
    parts = [b"dizzyd/snapshot/2", folder, bytes(4), bytes(4), bytes(8), count.to_bytes(8, "big")]
    for batch in batches:
        parts += [b"\0", len(batch.header).to_bytes(4, "big"), batch.header, batch.signature]
        parts += [len(batch.body).to_bytes(4, "big"), batch.body]
    return b"".join(parts)


def created_history(seed: int) -> list[SignedBatch]:
    """Make a history of which a snapshot leaves out nothing."""
    rng = random.Random(seed)
    nodes = make_nodes(2)
    for number in range(8):
        node = rng.choice(nodes)
        node.record(Created(b"n%d" % number, looked(b"%d" % number)))
        node.materialise()
        deliver(nodes[number % 2], nodes[1 - number % 2])
    deliver(nodes[1], nodes[0])
    return nodes[0].wires()


def resigned(checkpoint: Checkpointed, whole: bytes) -> Checkpointed:
    """Let the content be the one that is said, so that only its meaning can refuse it."""
    return msgspec.structs.replace(checkpoint, snapshot=Content(blob_hash(whole), len(whole)))


@pytest.mark.parametrize("seed", range(3))
def test_P11_a_batch_dropped_added_or_thinned_further_is_refused_by_the_root(seed: int) -> None:
    batches = created_history(seed)
    folder = FolderId(batches[0].header.folder)
    checkpoint, pieces = taken(folded(folder, batches[:-1]))
    told = [batch.wire for batch in records(folder, b"".join(pieces))]
    assert packed(folder, told) == b"".join(pieces)

    for place in range(len(told)):
        without = packed(folder, told[:place] + told[place + 1 :])
        assert refused([without], folder, resigned(checkpoint, without))
    more = packed(folder, [*told, batches[-1].wire])
    assert refused([more], folder, resigned(checkpoint, more))
    assert refused([more], folder, checkpoint)


def test_P11_an_event_that_was_left_out_or_put_in_is_refused_by_the_root() -> None:
    anna, _ = make_nodes(2)
    anna.create(b"a", b"1")
    anna.create(b"b", b"2")
    anna.materialise()
    folder = anna.stored.id
    checkpoint, pieces = taken(anna)
    told = [batch.wire for batch in records(folder, b"".join(pieces))]
    thinned = WireBatch(told[-1].header, told[-1].signature, thin_body(told[-1].body, 1, {0}))

    without = packed(folder, [*told[:-1], thinned])

    assert len(records(folder, without)) == len(told)
    assert refused([without], folder, resigned(checkpoint, without))


def test_P11_a_batch_about_the_folder_cannot_be_thinned() -> None:
    anna, _ = make_nodes(2)
    grants = [
        Granted(agent=bytes([one]) * 32, role=2, may_delegate=False, expires_ms=None, label=b"")
        for one in range(2)
    ]
    signed = sign(anna, anna.wires()[-1], grants)
    body = thin_body(signed.body, 2, {1})

    with pytest.raises(Malformed, match="not whole"):
        verify_thinned(WireBatch(signed.header_bytes, signed.signature, body))


def test_P10_what_an_ending_cut_off_counts_once_the_point_of_the_cut_comes() -> None:
    anna, bert = make_nodes(2)
    early = sign(bert, None, [make_directory(bert, b"early")])
    point = sign(bert, early, [make_directory(bert, b"point")])
    first = anna.wires()
    cut = tuple(
        CutPoint(log=one.log, seq=one.header.seq, batch=one.id) for one in (point, first[-1])
    )
    last = sign(anna, first[-1], [Revoked(agent=anna.stored.key.agent, cut=cut)])
    batches = [*first, early, point, last]

    assert_tail_completes(batches, first, random.Random(1))


@pytest.mark.parametrize(
    ("alter", "why"),
    [
        (lambda folder, told: packed(folder, told)[:-1], "ends too early"),
        (lambda folder, told: packed(folder, told) + b"\0", "left over"),
        (lambda folder, told: packed(folder, told, len(told) + 1), "ends too early"),
        (lambda folder, told: packed(folder, told, len(told) - 1), "left over"),
        (lambda folder, told: packed(folder, told, 2**64 - 1), "ends too early"),
        (lambda folder, told: packed(FolderId(bytes(32)), told), "another folder"),
        (lambda folder, told: packed(folder, told[1:2] + told[:1] + told[2:]), "belong"),
        (lambda folder, told: packed(folder, told[:1] * 2 + told[1:]), "belong"),
        (lambda folder, told: packed(folder, told).replace(b"t/2", b"t/3", 1), "version"),
        (lambda folder, told: packed(folder, told)[:74] + b"\xff" * 4, "allowed"),
        (lambda folder, told: b"", "early"),
    ],
)
def test_P11_what_is_not_exactly_a_snapshot_is_refused(
    alter: Callable[[FolderId, list[WireBatch]], bytes], why: str
) -> None:
    anna, _ = make_nodes(2)
    anna.create(b"a", b"1")
    folder = anna.stored.id
    _, pieces = taken(anna)
    told = [batch.wire for batch in records(folder, b"".join(pieces))]

    with pytest.raises(DizzyError, match=why):
        records(folder, alter(folder, told))


def test_a_snapshot_of_another_state_version_is_not_tried() -> None:
    anna, _ = make_nodes(2)
    checkpoint, pieces = taken(anna)

    with pytest.raises(Malformed, match="state version 2"):
        restore(pieces, anna.stored.id, msgspec.structs.replace(checkpoint, state_version=2))


def test_P48_reading_stops_at_the_first_byte_too_many() -> None:
    anna, _ = make_nodes(2)
    checkpoint, pieces = taken(anna)
    given = 0

    def endless() -> Iterator[bytes]:
        nonlocal given
        yield from pieces
        while True:
            given += 1
            yield bytes(1000)

    assert refused(endless(), anna.stored.id, checkpoint)  # type: ignore[arg-type]
    assert given == 1


def test_pieces_are_bounded_and_any_cut_of_them_reads_the_same() -> None:
    anna, _ = make_nodes(2)
    for number in range(40):
        anna.record(
            *(
                Created(b"n%d-%d-" % (number, one) + b"x" * 200, looked(b"%d" % one))
                for one in range(200)
            )
        )
    checkpoint, pieces = taken(anna)

    assert checkpoint.snapshot.size > 2 * snapshot.PIECE_LIMIT_BYTES
    assert max(map(len, pieces)) <= snapshot.PIECE_LIMIT_BYTES
    whole = b"".join(pieces)
    slices = [whole[start : start + 777] for start in range(0, len(whole), 777)]
    restored = restore(slices, anna.stored.id, checkpoint)
    assert restored.state.root() == anna.stored.state.root()


# -- golden vector ---------------------------------------------------------------------------------

VECTOR = json.loads(make_snapshot.PATH.read_text("ascii"))
PARTS = tuple(bytes.fromhex(VECTOR[part]) for part in ("folder", "checkpointed", "snapshot"))


def test_the_snapshot_vector_is_what_the_code_makes_and_the_second_reader_accepts_it() -> None:
    told = make_snapshot.batches()

    assert make_snapshot.make() == VECTOR
    found = snapshot_reader.check(*PARTS)
    assert sorted(found.left_out) == sorted((told[one].id, at) for one, at in VECTOR["left_out"])
    assert found.stubs == [told[one].id for one in VECTOR["stubs"]]
    marks = [told[one].event_ids[at][:16] for one, at in VECTOR["buried"]]
    assert sorted(found.buried) == sorted(marks)


def test_P11_the_second_reader_refuses_each_mutated_byte_of_the_vector() -> None:
    folder, checkpointed, whole = PARTS
    content = decode(checkpointed)
    assert isinstance(content, Checkpointed)

    for place in range(len(whole)):
        altered = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        with pytest.raises(snapshot_reader.Refused):
            snapshot_reader.check(folder, checkpointed, altered)
    for end in range(0, len(whole), 7):
        cut = encode(resigned(content, whole[:end]))
        with pytest.raises(snapshot_reader.Refused):
            snapshot_reader.check(folder, cut, whole[:end])


def test_P11_an_altered_snapshot_is_refused_even_if_its_hash_is_said_to_be_right() -> None:
    folder, checkpointed, whole = PARTS
    content = decode(checkpointed)
    assert isinstance(content, Checkpointed)
    told_by_the_root = 0
    stub = whole.index(b"\1" + make_snapshot.batches()[VECTOR["stubs"][0]].id)
    first = whole.index(make_snapshot.batches()[0].header_bytes) - 5
    buried, at = VECTOR["buried"][0]
    create = make_snapshot.batches()[buried].events[at]  # of a batch that is thinned
    where = whole.index(create)
    # What only the owner's word proves: marks, where a stub stood, the rest of what is buried.
    taken_on_trust = {
        *range(first),
        *range(stub, stub + 45),
        *range(where, where + len(create)),
    }

    for place in sorted(set(range(49, len(whole), 3)) - taken_on_trust):
        altered = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        said = resigned(content, altered)
        assert refused([altered], FolderId(folder), said), place
        with suppress(snapshot_reader.Refused):
            snapshot_reader.check(folder, encode(said), altered)
            told_by_the_root += 1  # an event of a thinned batch, which no signature covers

    assert told_by_the_root > 0


@pytest.mark.parametrize("seed", range(24))
def test_P10_P12_burying_is_never_missed_whatever_anybody_signs(seed: int) -> None:
    batches = nasty_log(seed)
    rng = random.Random(seed)

    assert_tail_completes(batches, batches[: rng.randrange(1, len(batches) + 1)], rng)
    assert_tail_completes(batches, closed_part(batches, rng), rng)
