"""Try to refute properties of log, state and view on random histories; the id is the seed."""

from __future__ import annotations

import random

import msgspec
import pytest

from daemon.acts import Created, Edited
from daemon.disk import FileKind
from store.access import Role
from store.admitted import Admitted
from store.db import memory_database
from store.events import Content, ContentChanged, ObjectCreated, ObjectDeleted, encode
from store.folder import StoredFolder
from store.founding import add_folder
from store.ids import Epoch, EventId, Kind, blob_hash
from store.signing import AgentKey, SignedBatch, sign_batch
from tests.store.histories import (
    SEEDS,
    History,
    events_of,
    history,
    replay_directories,
    versions_of,
)
from tests.store.nodes import Node, deliver, looked, make_nodes, random_act, settle

seeds = pytest.mark.parametrize("seed", SEEDS)


def observers(told: History, number: int) -> list[Node]:
    """Make nodes that know the folder's id alone."""
    made = []
    for index in range(number):
        database = memory_database()
        no = add_folder(
            database,
            folder=told.nodes[0].stored.id,
            name="f",
            path=b"/observer%d" % index,
            epoch=Epoch(bytes([99]) * 16),
        )
        key = AgentKey.from_seed(bytes([200 + index]) * 32)
        made.append(Node(9, StoredFolder(database, no, told.nodes[0].stored.id, key)))
    return made


def dump(node: Node) -> list[str]:
    return list(node.stored.db.connection.iterdump())


# -- log -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("difference", [-1, 1, 1000])
def test_P4_a_batch_with_a_wrong_lamport_is_refused_and_changes_no_table(difference: int) -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    deliver(anna, bert)
    before = dump(bert)
    head = anna.stored.log.own_head(anna.stored.key.agent, anna.stored.epoch)
    assert head is not None
    last = next(b for b in anna.wires() if b.id == head.batch)

    wrong = sign_batch(
        anna.stored.key,
        folder=anna.stored.id,
        epoch=anna.stored.epoch,
        seq=head.seq + 1,
        prev=head.batch,
        deps=(),
        lamport=last.header.lamport + 1 + difference,
        wall_ms=1,
        events=[last.events[0]],
    )
    admitted = bert.stored.admit([wrong], b"x")

    assert admitted.refused == {"bad-lamport": 1}
    assert not admitted.stored
    assert dump(bert) == before


@seeds
def test_P5_A13_no_batch_is_applied_before_what_it_names(seed: int) -> None:
    told = history(seed)
    rng = told.rng()
    (observer,) = observers(told, 1)
    applied: list[bytes] = []
    waiting = [*told.batches, *rng.choices(told.batches, k=5)]
    rng.shuffle(waiting)

    for batch in waiting:
        applied.extend(observer.stored.admit([batch], b"x").applied)
    observer.stored.admit(waiting, b"x")

    place = {batch: index for index, batch in enumerate(applied)}
    assert len(place) == len(applied) == len(told.batches)
    for batch in told.batches:
        for parent in (*batch.header.deps, *filter(None, [batch.header.prev])):
            assert place[parent] < place[batch.id]
    assert observer.stored.log.waiting == 0


@seeds
def test_P6_A8_the_same_batches_again_leave_the_database_as_it_is(seed: int) -> None:
    told = history(seed)
    node = told.nodes[1]
    before = dump(node)

    rng = told.rng()
    again = rng.sample(told.batches, len(told.batches))
    results = [node.stored.admit([batch], b"x") for batch in again]
    results.append(node.stored.admit(again, b"y"))

    assert not any(result.stored or result.refused for result in results)
    assert sum(result.known for result in results) == 2 * len(again)
    assert dump(node) == before


def test_P7_what_a_failed_transaction_took_back_is_written_anew_under_its_number() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    published = {(b.log, b.header.seq): b.id for b in anna.wires()}

    def write_and_fail() -> None:
        with anna.stored.change():
            anna.stored.log.append(
                anna.stored.key, anna.stored.epoch, [created(anna, b"lost")], 5, anna.stored.fold
            )
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    anna.create(b"b", b"2")
    deliver(anna, bert)

    everything = {(b.log, b.header.seq): b.id for b in anna.wires()}
    assert len(everything) == len(anna.wires()) == len(published) + 1
    assert everything.items() >= published.items()
    assert bert.files() == {b"a": b"1", b"b": b"2"}


def created(node: Node, name: bytes) -> bytes:
    return encode(
        ObjectCreated(
            parent=node.stored.id,
            kind=int(Kind.FILE),
            generation=0,
            name=name,
            content=Content(hash=blob_hash(b"x"), size=1),
            mode=0,
            mtime_ns=1,
            prev=(),
        )
    )


@pytest.mark.parametrize("seed", range(10))
def test_P9_A11_both_branches_of_a_fork_reach_one_state_in_any_order(seed: int) -> None:
    # Given an agent that lives twice, with one key, one epoch and one past
    rng = random.Random(seed)
    anna, bert, cleo = make_nodes(3)
    anna.create(b"a", b"0")
    settle(anna, bert, cleo)
    key, epoch = anna.stored.key, anna.stored.epoch
    twin = observers(History(seed, [anna], anna), 1)[0]
    twin.stored = StoredFolder(twin.stored.db, twin.stored.no, anna.stored.id, key)
    twin.stored.epoch = epoch
    deliver(bert, twin)
    twin.materialise()

    # When both write the same sequence numbers, and the branches arrive in different orders
    for node in (anna, twin):
        for _ in range(6):
            node.record(*random_act(node, rng))
        node.create(b"of %d" % id(node), b"x")
    one, other = [b for b in anna.wires() if not bert.has(b.id)], twin.wires()
    other = [b for b in other if not bert.has(b.id)]
    assert {(b.log, b.header.seq) for b in one} & {(b.log, b.header.seq) for b in other}
    results: list[Admitted] = []
    for node, order in ((bert, [*one, *other]), (cleo, [*other, *one])):
        results.append(node.stored.admit(order, b"x"))
    anna.stored.admit(other, b"x")

    # Then all end equal, and each one that saw both reports the agent
    assert bert.stored.state.root() == cleo.stored.state.root() == anna.stored.state.root()
    assert bert.view() == cleo.view() == anna.view()
    assert [result.forked for result in results] == [{key.agent}, {key.agent}]
    for node in (bert, cleo):
        assert sum(head.agent == key.agent for head in node.stored.log.heads()) == 2
        assert node.stored.rebuild() == bert.stored.state.root()


# -- state ---------------------------------------------------------------------------------------


@seeds
def test_P13_equal_sets_of_batches_give_equal_roots_and_views(seed: int) -> None:
    told = history(seed)
    rng = told.rng()

    for observer in observers(told, 2):
        order = rng.sample(told.batches, len(told.batches))
        for batch in order:
            observer.stored.admit([batch], b"x")
        assert observer.stored.state.root() == told.nodes[0].stored.state.root()
        assert observer.view() == told.nodes[0].view()

    assert len({node.stored.state.root() for node in told.nodes}) == 1
    assert told.nodes[0].view() == told.nodes[1].view() == told.nodes[2].view()


@seeds
def test_P14_state_does_not_depend_on_how_a_delivery_is_cut(seed: int) -> None:
    told = history(seed)
    rng = told.rng()
    at_once, one_by_one, in_parts = observers(told, 3)

    at_once.stored.admit(told.batches, b"x")
    for batch in told.batches:
        one_by_one.stored.admit([batch], b"x")
    rest = list(told.batches)
    while rest:
        size = rng.randrange(1, 6)
        in_parts.stored.admit(rest[:size], b"x")
        rest = rest[size:]

    assert at_once.stored.state.root() == one_by_one.stored.state.root()
    assert at_once.stored.state.root() == in_parts.stored.state.root()
    assert at_once.view() == one_by_one.view() == in_parts.view() == told.nodes[0].view()


@seeds
def test_P14_state_is_what_a_rebuild_from_the_log_gives(seed: int) -> None:
    told = history(seed)
    node = told.nodes[2]
    root, view = node.stored.state.root(), node.view()

    assert node.stored.rebuild() == root
    assert node.view() == view


@seeds
def test_P15_P16_directories_stand_where_a_replay_of_all_moves_puts_them(seed: int) -> None:
    # history() itself walks the tree after every step
    told = history(seed)
    stored = told.nodes[0].stored
    expected = replay_directories(list(events_of(told.batches)), stored.id)

    directories = stored.state.directories
    found = {
        directory.id: (directories[directory.parent_no].id, directory.name)
        for directory in directories
        if directory.no != directories.root_no
    }

    assert found == expected


@seeds
def test_P17_P24_every_object_has_one_place_and_every_path_one_meaning(seed: int) -> None:
    told = history(seed)
    stored = told.nodes[0].stored

    entries = stored.view().all_entries()
    told.nodes[0].view()  # refuses two entries at one path

    shown = [entry.object_no for entry in entries if not entry.copy]
    assert len(shown) == len(set(shown)), "an object stands at two places"
    rows = stored.state.rows(stored.state.object_nos())
    alive = {
        no
        for no, row in rows.items()
        if (
            stored.state.directories[no].is_visible if row.kind == Kind.DIRECTORY else row.flags & 1
        )
    }
    assert set(shown) == alive, "something alive is not shown, or something dead is"


@seeds
def test_P18_every_content_is_a_head_or_was_replaced_by_name(seed: int) -> None:
    told = history(seed)
    state = told.nodes[0].stored.state

    for identity, versions in versions_of(list(events_of(told.batches))).items():
        row = state.rows_by_id([identity])[identity]
        heads = {row.head_event}
        if row.flags & 2:
            heads = {head.event_id for head in state.heads(row.no) if head.is_head}
        known = set(heads)
        waiting = list(heads)
        while waiting:
            for prev in versions[EventId(waiting.pop())].event.prev:  # type: ignore[union-attr]
                if prev not in known and EventId(prev) in versions:
                    known.add(prev)
                    waiting.append(prev)
        below = {
            one.event.content.hash
            for one in versions.values()
            if one.id in known
            and isinstance(one.event, ObjectCreated | ContentChanged)
            and isinstance(one.event.content, Content)
        }
        for one in versions.values():
            if one.id in known or isinstance(one.event, ObjectDeleted):
                continue
            assert isinstance(one.event, ObjectCreated), "an edit was lost"
            assert not one.event.prev
            if isinstance(one.event.content, Content):
                assert one.event.content.hash in below, "a create was lost"


@pytest.mark.parametrize("seed", range(10))
def test_P19_what_a_user_wrote_is_shown_or_was_replaced_by_one_who_had_it(seed: int) -> None:
    # Given each node's disk as the only place that its user sees
    rng = random.Random(seed)
    nodes = make_nodes(3)
    written: dict[bytes, bytes] = {}  # event id of a version -> content
    replaced: set[bytes] = set()
    for step in range(100):
        node = rng.choice(nodes)
        what = rng.random()
        if what < 0.25:  # heard of, and not on disk yet
            deliver(rng.choice([n for n in nodes if n is not node]), node)
            continue
        if what < 0.4:
            node.materialise()
            continue
        on_disk = {row.value for rows in node.rows().values() for row in rows}
        for act in random_act(node, rng):
            if isinstance(act, Created | Edited) and act.looked.stat.kind is FileKind.FILE:
                unique = looked(b"%d of %d" % (step, node.number))
                act = msgspec.structs.replace(act, looked=unique)  # noqa: PLW2901
            recorded = node.record(act)
            for batch in recorded.batches:
                for known in events_of([batch]):
                    if isinstance(known.event, ObjectCreated | ContentChanged):
                        value = known.event.content
                        if isinstance(value, Content):
                            written[known.id] = value.hash
                    for prev in getattr(known.event, "prev", ()):
                        if prev in written:
                            assert written[prev] in on_disk, "replaced unseen"
                            replaced.add(prev)
    settle(*nodes)

    shown = {value for _, value in nodes[0].view().values()}
    for event, value in written.items():
        assert event in replaced or value in shown
    assert nodes[0].view() == nodes[1].view() == nodes[2].view()


# -- roles and clocks ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_P40_A21_what_a_reader_signs_has_no_effect_on_any_node(seed: int) -> None:
    # Given a reader who writes a log all the same, correctly signed
    rng = random.Random(seed)
    anna, bert, reader = make_nodes(3, roles={2: Role.READ})
    anna.create(b"a", b"0")
    settle(anna, bert, reader)
    forged: list[SignedBatch] = []
    for index in range(3):
        with reader.stored.change():
            forged += reader.stored.log.append(
                reader.stored.key,
                reader.stored.epoch,
                [created(reader, b"forged %d" % index)],
                7,
                reader.stored.fold,
            )
    root = anna.stored.state.root()

    # When it reaches everybody, mixed with what counts
    rng.shuffle(forged)
    for node in (anna, bert):
        result = node.stored.admit(forged, b"x")
        assert len(result.stored) == 3, "void batches are stored and passed on"
        assert node.stored.state.root() == root

    # Then it counts as applied for whoever builds on it, and for nothing else
    anna.create(b"later", b"1")
    settle(anna, bert, reader)
    assert anna.files() == bert.files() == reader.files() == {b"a": b"0", b"later": b"1"}
    assert bert.stored.rebuild() == anna.stored.state.root()


def test_P40_a_readers_own_changes_stay_local() -> None:
    anna, reader = make_nodes(2, roles={1: Role.READ})
    anna.create(b"a", b"0")
    settle(anna, reader)

    recorded = [reader.create(b"b", b"1"), reader.edit(b"a", b"2"), reader.delete(b"a")]

    assert [r.local_changes for r in recorded] == [[b"b"], [b"a"], [b"a"]]
    assert not any(r.batches for r in recorded)
    assert len(reader.wires()) == len(anna.wires())


@pytest.mark.parametrize("years", [-10, 10, -60, 30])
def test_P49_H1_a_wrong_clock_changes_no_root(years: int) -> None:
    roots = []
    for shift_ms in (0, years * 365 * 86_400_000):
        anna, bert = make_nodes(2)
        anna.create(b"a", b"0")
        settle(anna, bert)
        bert.clock_ms = max(0, bert.clock_ms + shift_ms)
        bert.edit(b"a", b"bert")
        bert.create(b"new", b"1")
        anna.edit(b"a", b"anna")
        anna.move(b"a", b"b")
        settle(anna, bert)
        assert anna.stored.state.root() == bert.stored.state.root()
        assert anna.files() == bert.files()
        roots.append(set(anna.files().values()))

    assert roots[0] == roots[1], "the same contents survive, whatever the clock said"
