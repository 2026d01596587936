"""Hold single sentences of docs/design.md, section 4, that random histories seldom meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from daemon.acts import Deleted, Edited
from store.access import Role
from store.events import (
    Content,
    ContentChanged,
    Event,
    Granted,
    ObjectCreated,
    ObjectDeleted,
    ObjectMoved,
    Tagged,
    encode,
)
from store.folder import StoredFolder
from store.ids import Epoch, Kind, ObjectId, blob_hash, object_id
from store.signing import SignedBatch, sign_batch
from tests.store.nodes import CONTENTS, Node, deliver, looked, make_nodes


def agree(*nodes: Node) -> dict[bytes, bytes | None]:
    """Let all end equal, from what changed alone, and give what all show."""
    for _ in range(2):
        for source in nodes:
            for target in nodes:
                if source is not target:
                    deliver(source, target)
    for node in nodes:
        plan(node)
        node.materialise()
        assert node.stored.state.root() == nodes[0].stored.state.root()
        assert node.files() == nodes[0].files()
    return nodes[0].files()


def plan(node: Node) -> None:
    """Check that what changed names everything that stands otherwise on disk than in the view."""
    stored = node.stored
    considered, _ = stored.view().entries(stored.take_changes())
    entries = {(e.object_no, e.copy): e for e in stored.view().all_entries()}
    rows = {(r.object_no, r.copy): r for r in stored.synced._select("folder_no", [stored.no])}
    for key in entries.keys() | rows.keys():
        entry, row = entries.get(key), rows.get(key)
        is_equal = (
            entry is not None
            and row is not None
            and (entry.parent_no, entry.name, entry.value, entry.events, entry.placement)
            == (row.parent_no, row.name, row.value, row.events, row.placement)
        )
        assert is_equal or key[0] in considered, (entry, row)


def given(number: int, *stories: Callable[[Node], object]) -> list[Node]:
    nodes = make_nodes(number)
    for story in stories:
        story(nodes[0])
    agree(*nodes)
    return nodes


def write(node: Node, events: Sequence[Event | bytes], *, wall_ms: int = 9) -> SignedBatch:
    """Write events that no recorder would, after all that a node knows."""
    stored = node.stored
    raw = [one if isinstance(one, bytes) else encode(one) for one in events]
    with stored.change():
        return stored.log.append(stored.key, stored.epoch, raw, wall_ms, stored.fold)[0]


def branch(
    node: Node, after: SignedBatch | None, events: Sequence[Event | bytes], *, wall_ms: int = 9
) -> SignedBatch:
    """Sign a batch of a node's log after any batch of it: so a fork is made."""
    head = node.stored.log.own_head(node.stored.key.agent, node.stored.epoch)
    assert after is not None or head is None
    grants = [h for h in node.stored.log.heads() if h.agent != node.stored.key.agent]
    deps = () if after is not None else tuple(sorted(h.batch for h in grants))
    lamports = [node.stored.log.lineage.lamport(b) for b in deps]
    return sign_batch(
        node.stored.key,
        folder=node.stored.id,
        epoch=node.stored.epoch,
        seq=0 if after is None else after.header.seq + 1,
        prev=None if after is None else after.id,
        deps=deps,
        lamport=1 + max([*lamports, 0 if after is None else after.header.lamport]),
        wall_ms=wall_ms,
        events=[one if isinstance(one, bytes) else encode(one) for one in events],
    )


def directory(node: Node, name: bytes, *, parent: bytes | None = None) -> tuple[bytes, Event]:
    parent = node.stored.id if parent is None else parent
    identity = object_id(node.stored.id, ObjectId(parent), Kind.DIRECTORY, 0, name)
    event = ObjectCreated(
        parent=parent,
        kind=1,
        generation=0,
        name=name,
        content=None,
        mode=0,
        mtime_ns=0,
        prev=(),
    )
    return identity, event


def id_at(node: Node, path: bytes) -> bytes:
    (row,) = node.rows()[path]
    return node.stored.id_of(row.object_no)


# -- unions ---------------------------------------------------------------------------------------


def unite(anna: Node, bert: Node) -> None:
    """Make directories `d` and `e`, each with another `x`, and let both be named `d`."""
    for name in (b"d", b"e"):
        anna.make_directory(name)
        anna.create(name + b"/x", b"in " + name)
    agree(anna, bert)
    anna.move(b"d", b"u")
    bert.move(b"e", b"u")
    files = agree(anna, bert)
    assert len(files) == 3  # u, u/x, and the other x by its conflict name


def test_a_name_is_free_again_when_a_directory_that_a_child_kept_goes() -> None:
    anna, bert, carl = make_nodes(3)
    anna.make_directory(b"d")
    anna.make_directory(b"e")
    anna.create(b"e/x", b"kept")
    agree(anna, bert, carl)
    # `d` is deleted while a file is put in: the file alone keeps it
    anna.delete(b"d")
    bert.create(b"d/x", b"added")
    agree(anna, bert, carl)
    carl.move(b"e", b"f")
    agree(anna, bert, carl)
    anna.move(b"d", b"u")
    bert.move(b"f", b"u")
    files = agree(anna, bert, carl)
    assert sorted(v for v in files.values() if v) == [b"added", b"kept"]
    (path,) = [p for p, content in files.items() if content == b"added"]

    anna.delete(path)

    assert agree(anna, bert, carl) == {b"u": None, b"u/x": b"kept"}


def test_what_is_in_a_union_gets_its_name_back_when_all_members_part_in_one_batch() -> None:
    anna, bert = make_nodes(2)
    unite(anna, bert)
    members = anna.rows()[b"u"]
    assert len(members) == 2

    write(
        anna,
        [
            ObjectMoved(
                object=anna.stored.id_of(row.object_no),
                parent=anna.stored.id,
                name=name,
                prev=(row.events,),
            )
            for row, name in zip(members, (b"left", b"right"), strict=True)
        ],
    )

    files = agree(anna, bert)
    assert set(files) == {b"left", b"left/x", b"right", b"right/x"}


def test_what_is_to_join_the_first_of_a_union_is_found_again_after_a_restart() -> None:
    anna, bert = make_nodes(2)
    for name in (b"d", b"e"):
        anna.make_directory(name)
        anna.create(name + b"/in-" + name, b"in " + name)
    agree(anna, bert)
    bert.move(b"e", b"u")  # the least key: `e` stands for both
    for number in range(3):
        anna.create(b"%d" % number, b"")
    anna.move(b"d", b"u")
    deliver(bert, anna)
    inside = anna.rows()[b"u/in-d"][0]

    found = anna.stored.unsynced.find()

    assert inside.object_no in found.objects
    entries = {e.object_no: e for e in anna.stored.view().all_entries()}
    assert entries[inside.object_no].parent_no != inside.parent_no


def test_deleting_a_union_while_one_member_is_moved_keeps_that_member_with_its_content() -> None:
    """A child names the deletion of the very directory that held it."""
    anna, bert, carl = make_nodes(3)
    for name in (b"d", b"e"):
        anna.make_directory(name)
        anna.create(name + b"/in-" + name, b"in " + name)
    agree(anna, bert, carl)
    bert.move(b"d", b"u")
    deliver(bert, anna)
    anna.materialise()
    carl_only = carl.rows()[b"e"]
    anna.move(b"e", b"u")
    agree(anna, bert)
    assert carl_only == carl.rows()[b"e"]

    anna.delete(b"u")
    for number in range(5):  # so that carl's move has the greater key
        carl.create(b"%d" % number, b"")
    carl.move(b"e", b"moved")

    files = agree(anna, bert, carl)
    assert files[b"moved/in-e"] == b"in e"
    assert b"in d" not in files.values()


# -- a copy, and where drop_agreed could forget it ------------------------------------------------


def in_conflict(number: int = 2) -> list[Node]:
    nodes = make_nodes(number)
    for node, content in zip(nodes, (b"one", b"two"), strict=False):
        node.create(b"a", content)
    files = agree(*nodes)
    assert len(files) == 2
    return nodes


def copy_in(files: dict[bytes, bytes | None]) -> bytes:
    (copy,) = [path for path in files if b" (conflict " in path]
    return copy


def test_a_copy_that_another_node_resolved_leaves_this_disk_too() -> None:
    anna, bert = in_conflict()
    bert.delete(copy_in(bert.files()))
    bert.materialise()
    bert.edit(b"a", b"new")
    deliver(bert, anna)

    assert anna.edit(b"a", b"new").bound == 1
    anna.stored.unsynced.drop_agreed()

    plan(anna)


def test_P19_taking_the_bytes_of_a_copy_for_the_file_resolves_the_conflict() -> None:
    """`cp COPY a` and `rm COPY`: what the user chose stays, on every node."""
    anna, bert = in_conflict()
    copy = copy_in(anna.files())
    chosen = anna.files()[copy]
    assert chosen is not None
    rows = anna.rows()

    anna.record(Edited(b"a", tuple(rows[b"a"]), looked(chosen)), Deleted(copy, tuple(rows[copy])))

    assert agree(anna, bert) == {b"a": chosen}


def test_taking_the_bytes_of_a_copy_for_the_file_is_not_taken_back() -> None:
    anna, bert = in_conflict()
    chosen = anna.files()[copy_in(anna.files())]
    assert chosen is not None

    anna.edit(b"a", chosen)

    assert agree(anna, bert) == {b"a": chosen}


def test_deleting_a_copy_counts_though_another_node_makes_it_the_file() -> None:
    anna, bert = in_conflict()
    copy = copy_in(anna.files())
    bert.delete(b"a")
    deliver(bert, anna)

    anna.delete(copy)  # on anna's disk both still stand

    assert agree(anna, bert) == {}


# -- void deletions -------------------------------------------------------------------------------


def kept_by_void_deletions() -> list[Node]:
    """Let two values of one file be alive only since a move made their deletions void."""
    anna, bert, carl = in_conflict(3)
    copy = copy_in(anna.files())
    rows = anna.rows()
    anna.record(Deleted(b"a", tuple(rows[b"a"])), Deleted(copy, tuple(rows[copy])))
    bert.move(b"a", b"b")
    files = agree(anna, bert, carl)
    assert sorted(map(str, files.values())) == [str(b"one"), str(b"two")]
    assert b"b" in files
    return [anna, bert, carl]


def test_deleting_a_copy_of_what_only_void_deletions_keep_leaves_the_other() -> None:
    anna, bert, carl = kept_by_void_deletions()
    files = anna.files()
    copy = copy_in(files)

    anna.delete(copy)

    assert agree(anna, bert, carl) == {b"b": files[b"b"]}


def test_deleting_the_file_of_what_only_void_deletions_keep_leaves_the_copy() -> None:
    anna, bert, carl = kept_by_void_deletions()
    files = anna.files()
    copy = copy_in(files)

    anna.delete(b"b")

    assert agree(anna, bert, carl) == {b"b": files[copy]}


def test_deleting_all_of_what_only_void_deletions_keep_ends_it() -> None:
    anna, bert, carl = kept_by_void_deletions()
    rows = anna.rows()

    anna.record(*(Deleted(path, tuple(at)) for path, at in rows.items()))

    assert agree(anna, bert, carl) == {}


def test_editing_a_copy_of_what_only_void_deletions_keep_makes_it_a_file_of_its_own() -> None:
    anna, bert, carl = kept_by_void_deletions()
    files = anna.files()
    copy = copy_in(files)

    anna.edit(copy, b"new")

    assert agree(anna, bert, carl) == {b"b": files[b"b"], copy: b"new"}


def test_renaming_a_copy_of_what_only_void_deletions_keep_leaves_both() -> None:
    anna, bert, carl = kept_by_void_deletions()
    files = anna.files()
    copy = copy_in(files)

    anna.move(copy, b"own")

    assert agree(anna, bert, carl) == {b"b": files[b"b"], b"own": files[copy]}


def test_an_edit_of_what_only_void_deletions_keep_names_them() -> None:
    anna, bert = given(2, lambda n: n.create(b"a", b"1"))
    anna.delete(b"a")
    bert.move(b"a", b"b")
    agree(anna, bert)
    deletion = anna.rows()[b"b"][0].events

    anna.edit(b"b", b"2")

    assert agree(anna, bert) == {b"b": b"2"}
    head = anna.stored.state.rows([anna.rows()[b"b"][0].object_no])
    (row,) = head.values()
    event = anna.stored.state.facts(row.no)
    (edit,) = [f.event for f in event if isinstance(f.event, ContentChanged)]
    assert deletion in edit.prev


def test_an_edit_that_only_a_void_deletion_named_outlives_a_valid_one() -> None:
    anna, bert, carl = given(3, lambda n: n.create(b"a", b"1"))
    carl.move(b"a", b"b")
    deliver(carl, bert)
    bert.materialise()

    bert.delete(b"b")  # he knows of the move, and nothing of the edit
    anna.edit(b"a", b"2")
    anna.delete(b"a")  # she knows of the edit, and nothing of the move

    assert agree(anna, bert, carl) == {b"b": b"2"}


def test_P13_a_deletion_whose_placement_seen_comes_later_is_void_nowhere() -> None:
    """A liar names a move that it does not depend on: arrival must not decide."""
    anna, bert, carl, dora = make_nodes(4)
    anna.make_directory(b"d")
    anna.create(b"d/f", b"content")
    agree(anna, bert, carl, dora)
    before = {node.number: node.rows() for node in (anna, bert)}
    rows = before[0]
    first = bert.move(b"d", b"e").batches[0]
    second = bert.move(b"e", b"g").batches[0]
    deletion = ObjectDeleted(
        object=id_at(anna, b"d"),
        prev=(rows[b"d"][0].events,),
        placement_seen=second.event_ids[0],
        along_with=None,
    )
    lie = write(anna, [deletion])
    along = write(
        anna,
        [
            ObjectDeleted(
                object=id_at(anna, b"d/f"),
                prev=(rows[b"d/f"][0].events,),
                placement_seen=None,
                along_with=lie.event_ids[0],
            )
        ],
    )

    for batch in (first, second, lie, along):
        carl.stored.admit([batch], b"")
    for batch in (lie, along, first, second):
        dora.stored.admit([batch], b"")

    assert carl.stored.state.root() == dora.stored.state.root()
    assert carl.files() == dora.files()
    assert carl.stored.state.void == dora.stored.state.void
    assert dora.stored.rebuild() == carl.stored.state.root()
    agree(anna, bert, carl, dora)


def test_deleting_a_tree_while_another_moves_it_keeps_all_of_it_all_the_way_down() -> None:
    def tree(node: Node) -> None:
        node.make_directory(b"d")
        node.make_directory(b"d/e")
        node.make_directory(b"d/e/f")
        node.create(b"d/e/f/x", b"deep")

    anna, bert, carl = given(3, tree)

    anna.delete(b"d")
    bert.move(b"d", b"m")

    assert agree(anna, bert, carl) == {
        b"m": None,
        b"m/e": None,
        b"m/e/f": None,
        b"m/e/f/x": b"deep",
    }


@pytest.mark.parametrize("what", ["move", "edit"])
def test_deleting_a_tree_while_another_moves_or_edits_one_file_in_it(what: str) -> None:
    def tree(node: Node) -> None:
        node.make_directory(b"d")
        node.make_directory(b"d/e")
        node.create(b"d/e/x", b"x")
        node.create(b"d/e/y", b"y")

    anna, bert, carl = given(3, tree)

    anna.delete(b"d")
    if what == "move":
        bert.move(b"d/e/x", b"d/z")
        expected = {b"d": None, b"d/z": b"x"}
    else:
        bert.edit(b"d/e/x", b"new")
        expected = {b"d": None, b"d/e": None, b"d/e/x": b"new"}

    assert agree(anna, bert, carl) == expected


def test_a_directory_kept_by_a_child_goes_with_it_on_every_node() -> None:
    anna, bert, carl = given(3, lambda n: n.make_directory(b"d"))
    anna.delete(b"d")
    bert.create(b"d/x", b"x")
    assert agree(anna, bert, carl) == {b"d": None, b"d/x": b"x"}

    carl.delete(b"d/x")

    assert agree(anna, bert, carl) == {}


# -- names ----------------------------------------------------------------------------------------


def test_a_longer_conflict_name_is_short_again_when_what_had_that_name_was_moved() -> None:
    anna, bert = in_conflict()
    copy = copy_in(anna.files())
    anna.create(copy + b"!", b"real")
    agree(anna, bert)
    anna.move(copy + b"!", copy)  # a real file takes the conflict's name
    files = agree(anna, bert)
    assert files[copy] == b"real"
    assert len(files) == 3

    bert.move(copy, b"elsewhere")

    assert set(agree(anna, bert)) == {b"a", copy, b"elsewhere"}


def test_P25_a_label_of_an_earlier_grant_that_comes_later_renames_the_copies() -> None:
    anna, bert, carl = make_nodes(3, roles={1: Role.ADMIN})
    bert.create(b"z", b"")
    bert.create(b"a", b"1")  # the greater lamport has the name
    carl.create(b"a", b"2")
    assert b"(conflict c " in copy_in(agree(anna, bert, carl))
    _, given_to_bert, granted = [batch for batch in anna.wires() if batch.is_about_folder]
    earlier = next(
        batch
        for wall_ms in range(99)
        if (batch := grant_by(bert, given_to_bert, carl, b"early", wall_ms)).id < granted.id
    )

    for node in (anna, bert, carl):
        node.stored.admit([earlier], b"")

    files = agree(anna, bert, carl)
    assert b"(conflict early " in copy_in(files)


def grant_by(admin: Node, after: SignedBatch, node: Node, label: bytes, wall: int) -> SignedBatch:
    return sign_batch(
        admin.stored.key,
        folder=admin.stored.id,
        epoch=Epoch(b"\x77" * 16),
        seq=0,
        prev=None,
        deps=(after.id,),
        lamport=after.header.lamport + 1,
        wall_ms=wall,
        events=[
            encode(
                Granted(
                    agent=node.stored.key.agent,
                    role=2,
                    may_delegate=False,
                    expires_ms=None,
                    label=label,
                )
            )
        ],
    )


def test_a_losers_name_does_not_change_with_its_content() -> None:
    anna, bert = make_nodes(2)
    anna.make_directory(b"a")
    bert.create(b"a", b"1")
    files = agree(anna, bert)
    name = copy_in(files)

    anna.edit(name, b"2")

    assert agree(anna, bert) == {b"a": None, name: b"2"}


# -- forks and strange batches --------------------------------------------------------------------


def test_P9_one_event_in_both_branches_of_a_fork_is_ordered_alike_everywhere() -> None:
    """A cloned home records the same file twice: event ids are equal, their keys are not."""
    anna, bert, carl, dora = make_nodes(4)
    create = ObjectCreated(
        parent=anna.stored.id,
        kind=0,
        generation=0,
        name=b"a",
        content=content_of(b"forked"),
        mode=0,
        mtime_ns=0,
        prev=(),
    )
    other = msgspec.structs.replace(create, content=content_of(b"other"))
    branches = [branch(bert, None, [create], wall_ms=wall) for wall in range(6)]
    branches.sort(key=lambda one: one.id)
    rival = branch(carl, None, [other])

    for node, order in ((anna, branches), (dora, branches[::-1])):
        for one in (*order, rival):
            node.stored.admit([one], b"")

    assert anna.stored.state.root() == dora.stored.state.root()
    assert anna.files() == dora.files()
    head = "SELECT object_no, event_id, key FROM head ORDER BY event_id"
    assert anna.stored.db.execute(head).fetchall() == dora.stored.db.execute(head).fetchall()


def content_of(content: bytes) -> Content:
    CONTENTS[blob_hash(content)] = content
    return Content(hash=blob_hash(content), size=len(content))


def test_A19_an_event_that_may_be_skipped_does_not_hide_those_behind_it() -> None:
    anna, bert = make_nodes(2)
    _, event = directory(anna, b"d")

    write(anna, [b"\x91\xcc\xc8", event])

    assert agree(anna, bert) == {b"d": None}


@pytest.mark.parametrize("tag", [b"\x0f", b"\x16", b"\x7f"])
def test_A19_an_unknown_event_stops_its_log_and_is_kept_and_passed_on(tag: bytes) -> None:
    anna, bert, carl = make_nodes(3)
    first = branch(bert, None, [directory(bert, b"before")[1]])
    unknown = branch(bert, first, [b"\x91" + tag])
    after = branch(bert, unknown, [directory(bert, b"after")[1]])

    for one in (first, unknown, after):
        anna.stored.admit([one], b"b")
    anna.stored.reload()
    deliver(anna, carl)

    for node in (anna, carl):
        assert node.files() == {b"before": None}
        assert node.has(after.id)
        assert node.stored.log.held_by_newer == {bert.stored.key.agent}
    anna.make_directory(b"own")
    assert agree(anna, carl) == {b"before": None, b"own": None}


def test_A19_what_was_held_is_applied_once_a_newer_dizzyd_can_read_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    anna, bert, carl = make_nodes(3)
    first, tagged = directory(bert, b"before")
    batches = [
        branch(bert, None, [tagged]),
    ]
    batches.append(branch(bert, batches[0], [Tagged(object=first, tag=b"t")]))
    batches.append(branch(bert, batches[1], [directory(bert, b"after")[1]]))
    monkeypatch.setattr("store.decoding.KNOWN_TAGS", frozenset({1, 2, 3, 4, 5, 16, 17}))
    for one in batches:
        anna.stored.admit([one], b"b")
    assert anna.files() == {b"before": None}
    anna.make_directory(b"own")
    deliver(anna, carl)
    monkeypatch.undo()

    stored = anna.stored
    anna.stored = StoredFolder(stored.db, stored.no, stored.id, stored.key)

    assert anna.files() == {b"before": None, b"after": None, b"own": None}
    assert not anna.stored.log.held_by_newer
    later = branch(bert, batches[2], [directory(bert, b"later")[1]])
    assert anna.stored.admit([later], b"b").applied == [later.id]
    deliver(anna, bert)
    assert anna.stored.state.root() == bert.stored.state.root()
    anna.stored.reload()
    assert len(anna.stored.log._frontier.lamports) == 2


def test_a_role_that_was_taken_away_makes_later_batches_void_and_passes_them_on() -> None:
    anna, bert, carl = make_nodes(3)
    bert.make_directory(b"while-writer")
    agree(anna, bert, carl)
    anna.stored.grant(
        bert.stored.key.agent,
        Role.READ,
        label=b"b",
        expires_ms=None,
        may_delegate=False,
        wall_ms=3,
    )
    # bert does not know yet: what he writes counts
    bert.make_directory(b"unaware")
    agree(anna, bert, carl)
    void = write(bert, [directory(bert, b"aware")[1]])
    after = write(bert, [directory(bert, b"aware too")[1]])

    files = agree(anna, bert, carl)

    assert files == {b"while-writer": None, b"unaware": None}
    for node in (anna, carl):
        assert node.has(void.id)
        assert node.has(after.id)
    # void batches count for lamport and deps
    anna.make_directory(b"next")
    head = anna.stored.log.own_head(anna.stored.key.agent, anna.stored.epoch)
    assert head is not None
    assert anna.stored.log.lineage.lamport(head.batch) == after.header.lamport + 1
    assert len(agree(anna, bert, carl)) == 3


def test_an_event_whose_parent_directory_is_created_later_waits_for_it() -> None:
    """Only a liar leaves the create out of its past; the order must not decide all the same."""
    anna, bert, carl, dora = make_nodes(4)
    outer, make_outer = directory(anna, b"outer")
    inner, make_inner = directory(anna, b"inner", parent=outer)
    make_file = ObjectCreated(
        parent=inner,
        kind=0,
        generation=0,
        name=b"f",
        content=content_of(b"1"),
        mode=0,
        mtime_ns=0,
        prev=(),
    )
    identity = object_id(anna.stored.id, ObjectId(inner), Kind.FILE, 0, b"f")
    below = [
        write(anna, [make_file, ObjectMoved(object=identity, parent=outer, name=b"g", prev=())]),
        write(anna, [Tagged(object=identity, tag=b"t")]),
        write(bert, [make_inner]),
    ]
    above = write(dora, [make_outer])

    for batch in (*below, above):
        carl.stored.admit([batch], b"")
    for batch in (above, *below[::-1]):
        bert.stored.admit([batch], b"")

    assert carl.files() == {b"outer": None, b"outer/inner": None, b"outer/g": b"1"}
    assert agree(anna, bert, carl, dora) == carl.files()
    root = carl.stored.state.root()
    assert carl.stored.rebuild() == root
