"""Hold what the recorder makes of acts: events that name this disk, or no event at all."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from daemon.acts import Act, Created, Deleted, Edited, Moved, Touched
from daemon.disk import FileKind
from daemon.draft import Recorded
from daemon.record import Recorder
from store.access import Role
from store.events import (
    AttributesChanged,
    ContentChanged,
    Event,
    ObjectCreated,
    ObjectDeleted,
    ObjectMoved,
    decode,
)
from tests.store.nodes import Node, deliver, looked, make_nodes, settle, unchanged


def events(recorded: Recorded) -> list[Event]:
    return [decode(raw) for batch in recorded.batches for raw in batch.events]


def kinds(recorded: Recorded) -> list[type[Event]]:
    return [type(event) for event in events(recorded)]


def number_at(node: Node, path: bytes) -> int:
    (row,) = node.rows()[path]
    return row.object_no


def record_unheard(node: Node, *acts: Act, covered_seq: int = -1) -> Recorded:
    """Record what no peer can have heard of, but for batches up to `covered_seq`."""
    node.clock_ms += 1
    with node.stored.change():
        return Recorder(node.stored, node.clock_ms, covered_seq).record(acts)


def moved(node: Node, source: bytes, target: bytes) -> Moved:
    at = tuple(node.rows()[source])
    return Moved(source, target, at, unchanged(at[0]))


@pytest.fixture
def anna() -> Node:
    (node,) = make_nodes(1)
    return node


# -- freshness -----------------------------------------------------------------------------------


def test_an_act_whose_row_changed_since_the_look_is_looked_at_again(anna: Node) -> None:
    anna.create(b"a", b"1")
    stale = tuple(anna.rows()[b"a"])
    anna.edit(b"a", b"2")

    for act in (
        Edited(b"a", stale, looked(b"3")),
        Deleted(b"a", stale),
        Touched(b"a", stale, looked(b"1")),
    ):
        recorded = anna.record(act)
        assert not recorded.batches
        assert recorded.look_again == [b"a"]
    assert anna.files() == {b"a": b"2"}


def test_a_move_whose_row_changed_since_the_look_is_looked_at_again_by_both_names(
    anna: Node,
) -> None:
    """Nobody looked at where it came from: it stood there for ever, for us (seed 402492)."""
    anna.create(b"a", b"1")
    stale = tuple(anna.rows()[b"a"])
    anna.edit(b"a", b"2")

    recorded = anna.record(Moved(b"a", b"z", stale, looked(b"1")))

    assert not recorded.batches
    assert recorded.moves_again == [(b"a", b"z")]


def test_a_create_where_something_is_known_by_now_is_looked_at_again(anna: Node) -> None:
    anna.create(b"a", b"1")
    anna.make_directory(b"d")

    recorded = anna.record(
        Created(b"a", looked(b"2")), Created(b"d", looked(b"", kind=FileKind.DIRECTORY))
    )

    assert not recorded.batches
    assert sorted(recorded.look_again) == [b"a", b"d"]


def test_an_act_in_a_directory_that_is_not_known_is_looked_at_again(anna: Node) -> None:
    anna.create(b"a", b"1")

    recorded = anna.record(Created(b"no/b", looked(b"2")), moved(anna, b"a", b"no/a"))

    assert not recorded.batches
    assert recorded.look_again == [b"no/b"]
    assert recorded.moves_again == [(b"a", b"no/a")]


# -- several acts in one bunch -------------------------------------------------------------------


def test_acts_whose_events_stand_in_several_batches_give_the_state_of_the_log(
    anna: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.own_writer.EVENTS_LIMIT", 1)
    anna.make_directory(b"d")
    for name in (b"a", b"b", b"d/c"):
        anna.create(name, b"in " + name)
    (a,) = anna.rows()[b"a"]
    (b,) = anna.rows()[b"b"]
    tree = [Deleted(path, tuple(anna.rows()[path])) for path in (b"d", b"d/c")]
    new = looked(b"new")
    new = replace(new, stat=replace(new.stat, mode=0o755))

    recorded = anna.record(
        Moved(b"a", b"e", (a,), looked(b"other")),  # a move and an edit of one object
        Edited(b"b", (b,), new),  # an edit and another mode
        *tree,
    )

    assert len(recorded.batches) == 6
    assert anna.files() == {b"e": b"other", b"b": b"new"}
    root = anna.stored.state.root()
    assert anna.stored.rebuild() == root


def test_P36_swaps_and_chains_in_one_bunch_keep_every_identity(anna: Node) -> None:
    for name in (b"a", b"b", b"c"):
        anna.create(name, b"in " + name)
    numbers = {name: number_at(anna, name) for name in (b"a", b"b", b"c")}

    anna.record(moved(anna, b"a", b"b"), moved(anna, b"b", b"a"))
    anna.record(moved(anna, b"c", b"d"), moved(anna, b"a", b"c"), moved(anna, b"b", b"a"))

    assert anna.files() == {b"d": b"in c", b"c": b"in b", b"a": b"in a"}
    assert number_at(anna, b"a") == numbers[b"a"]
    assert number_at(anna, b"c") == numbers[b"b"]
    assert number_at(anna, b"d") == numbers[b"c"]


def test_P36_two_directories_swapped_in_one_bunch_keep_what_is_in_them(anna: Node) -> None:
    for name in (b"d", b"e"):
        anna.make_directory(name)
        anna.create(name + b"/x", b"in " + name)

    recorded = anna.record(moved(anna, b"d", b"e"), moved(anna, b"e", b"d"))

    assert kinds(recorded) == [ObjectMoved, ObjectMoved]
    assert anna.files() == {b"d": None, b"d/x": b"in e", b"e": None, b"e/x": b"in d"}


def test_P26_a_new_tree_and_a_move_into_it_in_one_bunch(anna: Node) -> None:
    anna.make_directory(b"old")
    anna.create(b"old/x", b"x")

    recorded = anna.record(
        Created(b"new", looked(b"", kind=FileKind.DIRECTORY)),
        Created(b"new/sub", looked(b"", kind=FileKind.DIRECTORY)),
        Created(b"new/sub/y", looked(b"y")),
        moved(anna, b"old", b"new/sub/old"),
    )

    assert kinds(recorded).count(ObjectMoved) == 1
    assert anna.files() == {
        b"new": None,
        b"new/sub": None,
        b"new/sub/y": b"y",
        b"new/sub/old": None,
        b"new/sub/old/x": b"x",
    }
    assert set(anna.rows()) == set(anna.files())


def test_what_is_created_in_a_directory_goes_where_another_moved_it() -> None:
    anna, bert = make_nodes(2)
    anna.make_directory(b"d")
    settle(anna, bert)
    bert.move(b"d", b"e")
    deliver(bert, anna)  # known, and not yet done on anna's disk

    anna.create(b"d/x", b"x")
    settle(anna, bert)

    assert anna.files() == bert.files() == {b"e": None, b"e/x": b"x"}


@pytest.mark.parametrize("kind", [FileKind.DIRECTORY, FileKind.SYMLINK])
def test_another_kind_at_one_path_is_another_object(anna: Node, kind: FileKind) -> None:
    anna.create(b"a", b"1")
    rows = tuple(anna.rows()[b"a"])

    recorded = anna.record(Deleted(b"a", rows), Created(b"a", looked(b"target", kind=kind)))

    assert kinds(recorded) == [ObjectDeleted, ObjectCreated]
    (row,) = anna.rows()[b"a"]
    assert row.object_no != rows[0].object_no
    assert int(row.kind) == int(kind)
    anna.record(Deleted(b"a", (row,)), Created(b"a", looked(b"2")))
    assert anna.files() == {b"a": b"2"}
    assert number_at(anna, b"a") == rows[0].object_no  # the file of that name, again
    assert len(anna.files()) == 1


def test_delete_and_create_in_one_bunch_names_the_deletion_of_that_bunch(anna: Node) -> None:
    anna.create(b"a", b"1")
    rows = tuple(anna.rows()[b"a"])

    recorded = anna.record(Deleted(b"a", rows), Created(b"a", looked(b"2")))

    deletion = recorded.batches[0].event_ids[0]
    create = events(recorded)[1]
    assert isinstance(create, ObjectCreated)
    assert create.prev == (deletion,)
    assert anna.files() == {b"a": b"2"}


def test_a_rename_with_other_bytes_is_a_move_and_an_edit(anna: Node) -> None:
    anna.create(b"a", b"1")
    rows = tuple(anna.rows()[b"a"])

    recorded = anna.record(Moved(b"a", b"b", rows, looked(b"2")))

    assert kinds(recorded) == [ObjectMoved, ContentChanged]
    assert anna.files() == {b"b": b"2"}
    assert number_at(anna, b"b") == rows[0].object_no


def test_a_file_created_where_one_was_moved_away_is_another_object(anna: Node) -> None:
    anna.create(b"a", b"1")
    rows = tuple(anna.rows()[b"a"])

    anna.record(Moved(b"a", b"b", rows, unchanged(rows[0])), Created(b"a", looked(b"2")))

    assert anna.files() == {b"a": b"2", b"b": b"1"}
    assert number_at(anna, b"b") == rows[0].object_no


def test_a_tree_is_deleted_parents_first_each_with_the_deletion_of_what_held_it(
    anna: Node,
) -> None:
    anna.make_directory(b"d")
    anna.make_directory(b"d/e")
    anna.create(b"d/e/x", b"x")

    recorded = anna.delete(b"d")

    found = events(recorded)
    ids = recorded.batches[0].event_ids
    assert [e.along_with for e in found if isinstance(e, ObjectDeleted)] == [None, ids[0], ids[1]]


def test_deleting_a_tree_asks_and_writes_in_bulk(anna: Node) -> None:
    anna.make_directory(b"d")
    names = [b"d/%d" % number for number in range(640)]
    anna.record(*(Created(name, looked(name)) for name in names))
    acts = [Deleted(name, tuple(anna.rows()[name])) for name in [b"d", *names]]
    statements: list[str] = []
    anna.stored.db.connection.set_trace_callback(statements.append)

    recorded = anna.record(*acts)

    anna.stored.db.connection.set_trace_callback(None)
    assert kinds(recorded) == [ObjectDeleted] * 641
    assert anna.files() == {}
    # 10 of 64 rows for each of event, object and what went along; a dirty bucket is a row each
    assert sum("bucket" not in one for one in statements) < 70


# -- the unheard-of --------------------------------------------------------------------------------


def test_P36_renaming_what_a_peer_made_and_we_edited_is_a_move() -> None:
    """Our edit is unheard of, the file is not: two objects would come of one."""
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    settle(anna, bert)
    bert.edit(b"a", b"2")

    recorded = record_unheard(bert, moved(bert, b"a", b"b"))
    anna.edit(b"a", b"3")
    settle(anna, bert)

    assert kinds(recorded) == [ObjectMoved]
    assert sorted(map(str, anna.files().values())) == [str(b"2"), str(b"3")]
    assert len(anna.stored.state.object_nos()) == 1


def test_renaming_what_nobody_heard_of_makes_another_object(anna: Node) -> None:
    anna.make_directory(b"New Folder")
    first = number_at(anna, b"New Folder")

    recorded = record_unheard(anna, moved(anna, b"New Folder", b"Photos"))

    assert kinds(recorded) == [ObjectCreated, ObjectDeleted]
    assert anna.files() == {b"Photos": None}
    assert number_at(anna, b"Photos") != first


def test_renaming_what_a_peer_has_heard_of_is_a_move(anna: Node) -> None:
    anna.create(b"a", b"1")
    head = anna.stored.log.own_head(anna.stored.key.agent, anna.stored.epoch)
    assert head is not None

    recorded = record_unheard(anna, moved(anna, b"a", b"b"), covered_seq=head.seq)

    assert kinds(recorded) == [ObjectMoved]


def test_renaming_what_is_older_than_ten_minutes_is_a_move(anna: Node) -> None:
    anna.create(b"a", b"1")
    anna.edit(b"a", b"2")
    anna.clock_ms += 10 * 60 * 1000

    assert kinds(record_unheard(anna, moved(anna, b"a", b"b"))) == [ObjectMoved]


def test_renaming_a_new_directory_with_something_in_it_is_a_move(anna: Node) -> None:
    anna.make_directory(b"d")
    anna.create(b"d/x", b"x")

    assert kinds(record_unheard(anna, moved(anna, b"d", b"e"))) == [ObjectMoved]


# -- what is shared already ------------------------------------------------------------------------


def test_a_create_that_the_view_wants_binds() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    anna.make_directory(b"d")
    deliver(anna, bert)

    recorded = bert.record(
        Created(b"a", looked(b"1", mtime_ns=77)),
        Created(b"d", looked(b"", kind=FileKind.DIRECTORY)),
    )

    assert not recorded.batches
    assert recorded.bound == 2
    assert set(bert.rows()) == {b"a", b"d"}


def test_an_edit_that_a_peer_made_too_binds() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    settle(anna, bert)
    anna.edit(b"a", b"2")
    deliver(anna, bert)

    recorded = bert.edit(b"a", b"2")

    assert not recorded.batches
    assert recorded.bound == 1
    settle(anna, bert)
    assert bert.files() == {b"a": b"2"}


def test_a_deletion_that_a_peer_made_too_is_no_event() -> None:
    anna, bert = make_nodes(2)
    anna.make_directory(b"d")
    anna.create(b"d/a", b"1")
    settle(anna, bert)
    anna.delete(b"d")
    deliver(anna, bert)

    recorded = bert.delete(b"d")

    assert not recorded.batches
    assert bert.rows() == {}


def test_a_move_that_a_peer_made_too_is_no_event() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    settle(anna, bert)
    anna.move(b"a", b"b")
    deliver(anna, bert)

    recorded = bert.move(b"a", b"b")

    assert not recorded.batches
    assert recorded.bound == 1
    (row,) = bert.rows()[b"b"]
    (there,) = anna.rows()[b"b"]
    assert row.placement == there.placement


def test_a_touch_that_a_peer_made_too_is_no_event() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    settle(anna, bert)
    anna.touch(b"a", mode=0o755, mtime_ns=99)
    deliver(anna, bert)

    assert not bert.touch(b"a", mode=0o755, mtime_ns=99).batches
    (row,) = bert.rows()[b"a"]
    assert (row.mode, row.shared_mtime_ns) == (1, 99)


def test_only_the_executable_bit_and_the_time_are_attributes(anna: Node) -> None:
    anna.create(b"a", b"1")

    assert not anna.touch(b"a", mode=0o600, mtime_ns=5).batches
    assert kinds(anna.touch(b"a", mode=0o700, mtime_ns=5)) == [AttributesChanged]
    assert not anna.touch(b"a", mode=0o755, mtime_ns=5).batches
    assert kinds(anna.touch(b"a", mode=0o755, mtime_ns=6)) == [AttributesChanged]


# -- collapsed objects -----------------------------------------------------------------------------


def collapsed() -> list[Node]:
    """Let two files of equal bytes stand at one name."""
    nodes = make_nodes(2)
    anna, bert = nodes
    anna.create(b"a", b"same")
    anna.create(b"b", b"same")
    settle(*nodes)
    anna.move(b"a", b"c")
    bert.move(b"b", b"c")
    settle(*nodes)
    assert anna.files() == {b"c": b"same"}
    assert len(anna.rows()[b"c"]) == 2
    return nodes


@pytest.mark.parametrize("act", ["edit", "delete", "move"])
def test_an_act_on_collapsed_files_is_recorded_for_each(act: str) -> None:
    anna, bert = collapsed()
    representative = min(
        anna.stored.state.rows([r.object_no for r in anna.rows()[b"c"]]).values(),
        key=lambda row: (row.place_key or b"", row.id),
    )

    if act == "edit":
        recorded = anna.edit(b"c", b"new")
        expected: dict[bytes, bytes | None] = {b"c": b"new"}
        assert kinds(recorded) == [ContentChanged, ObjectDeleted]
        change = events(recorded)[0]
        assert isinstance(change, ContentChanged)
        assert change.object == representative.id
    elif act == "delete":
        assert kinds(anna.delete(b"c")) == [ObjectDeleted, ObjectDeleted]
        expected = {}
    else:
        assert kinds(anna.move(b"c", b"d")) == [ObjectMoved, ObjectMoved]
        expected = {b"d": b"same"}

    settle(anna, bert)
    assert anna.files() == bert.files() == expected


def test_an_edit_of_collapsed_files_that_binds_one_deletes_the_others() -> None:
    """Else the other one would stand in synced with bytes that are gone, for ever."""
    anna, bert = collapsed()
    one = anna.rows()[b"c"][1]
    with bert.stored.change():
        recorder = Recorder(bert.stored, 99, 0)
        theirs = [
            r
            for r in bert.rows()[b"c"]
            if bert.stored.id_of(r.object_no) == anna.stored.id_of(one.object_no)
        ]
        recorder.record([Edited(b"c", tuple(theirs), looked(b"new"))])
    deliver(bert, anna)

    recorded = anna.edit(b"c", b"new")

    assert kinds(recorded) == [ObjectDeleted]
    assert recorded.bound == 1
    settle(anna, bert)
    assert anna.files() == bert.files() == {b"c": b"new"}


# -- losers of a name ------------------------------------------------------------------------------


def test_P19_a_file_created_at_the_name_that_another_lost_is_one_of_its_own() -> None:
    anna, bert = make_nodes(2)
    bert.create(b"a", b"old")
    bert.edit(b"a", b"lost its name")
    anna.make_directory(b"a")
    settle(anna, bert)
    (loser,) = [path for path in anna.files() if path != b"a"]
    anna.delete(b"a")

    anna.create(b"a", b"old")  # by now the loser's way is free; its bytes are no version of this

    assert set(anna.rows()) == {b"a", loser}
    settle(anna, bert)
    assert sorted(map(str, anna.files().values())) == [str(b"lost its name"), str(b"old")]


def test_the_loser_of_a_name_is_an_object_like_any_other() -> None:
    anna, bert = make_nodes(2)
    anna.make_directory(b"a")
    bert.create(b"a", b"1")
    settle(anna, bert)
    (loser,) = [path for path in anna.files() if path != b"a"]

    assert kinds(anna.edit(loser, b"2")) == [ContentChanged]
    assert kinds(anna.move(loser, b"own")) == [ObjectMoved]
    settle(anna, bert)
    assert anna.files() == bert.files() == {b"a": None, b"own": b"2"}
    assert kinds(bert.delete(b"own")) == [ObjectDeleted]


# -- readers ---------------------------------------------------------------------------------------


def test_P40_a_readers_acts_are_local_changes_and_leave_synced_as_it_was() -> None:
    anna, bert = make_nodes(2, roles={1: Role.READ})
    anna.create(b"a", b"1")
    anna.create(b"b", b"1")
    anna.make_directory(b"d")
    settle(anna, bert)
    before = bert.rows()

    for act, path in (
        (Edited(b"a", tuple(before[b"a"]), looked(b"2")), b"a"),
        (Deleted(b"a", tuple(before[b"a"])), b"a"),
        (Moved(b"a", b"c", tuple(before[b"a"]), unchanged(before[b"a"][0])), b"c"),
        (Created(b"new", looked(b"new")), b"new"),
    ):
        recorded = bert.record(act)
        assert not recorded.batches
        assert recorded.local_changes == [path]
        assert bert.rows() == before


def test_P29_a_bunch_without_acts_writes_nothing(anna: Node) -> None:
    recorded = anna.record()

    assert not recorded.batches
    assert not recorded.look_again


def test_one_row_given_twice_is_one_directory_in_synced(anna: Node) -> None:
    anna.make_directory(b"d")
    (row,) = anna.rows()[b"d"]

    with anna.stored.change():
        anna.stored.synced.put([row, row])
        anna.stored.synced.remove([(row.object_no, row.copy)])

    assert anna.stored.synced.directories_at(b"d") == []
    assert anna.stored.synced.directories == 0


def test_what_a_void_batch_creates_is_not_agreed_with_this_disk(
    anna: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(anna.stored, "fold", lambda _applied: None)
        anna.record(Created(b"a", looked(b"1")))

    assert anna.stored.synced.rows_at(b"a") == []
    assert anna.stored.synced.files == 0
