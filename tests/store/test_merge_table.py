"""Hold each row of the merge table (docs/design.md, section 4) between real logs and states."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from store.ids import Kind
from store.objects import Changes
from tests.store.nodes import Node, deliver, make_nodes, settle

Story = Callable[[Node], object]


def pair() -> tuple[Node, Node]:
    anna, bert = make_nodes(2)
    return anna, bert


def both(anna: Node, bert: Node) -> dict[bytes, bytes | None]:
    """Let both end equal, and give what both show."""
    settle(anna, bert)
    assert anna.stored.state.root() == bert.stored.state.root()
    assert anna.files() == bert.files()
    return anna.files()


def conflict_names(files: dict[bytes, bytes | None]) -> list[bytes]:
    return [path for path in files if b" (conflict " in path]


def given(*stories: Story) -> tuple[Node, Node]:
    """Give two nodes that agree on what the stories made."""
    anna, bert = pair()
    for story in stories:
        story(anna)
    both(anna, bert)
    return anna, bert


def test_create_of_one_path_with_the_same_bytes_is_one_object() -> None:
    anna, bert = pair()

    anna.create(b"a", b"same")
    bert.create(b"a", b"same")

    assert both(anna, bert) == {b"a": b"same"}
    assert len(anna.stored.state.object_nos()) == 1


def test_create_of_one_directory_is_one_object_with_all_that_was_put_in() -> None:
    anna, bert = pair()

    for node, name in ((anna, b"a"), (bert, b"b")):
        node.make_directory(b"d")
        node.create(b"d/" + name, name)

    assert both(anna, bert) == {b"d": None, b"d/a": b"a", b"d/b": b"b"}


def test_create_of_one_path_with_other_bytes_keeps_both() -> None:
    anna, bert = pair()

    anna.create(b"a.txt", b"anna")
    bert.create(b"a.txt", b"bert")

    files = both(anna, bert)
    assert sorted(map(str, files.values())) == sorted(map(str, [b"anna", b"bert"]))
    (name,) = conflict_names(files)
    assert name.startswith(b"a (conflict ")
    assert name.endswith(b").txt")


def test_P18_edit_and_edit_keeps_both_and_the_greater_key_has_the_name() -> None:
    anna, bert = given(lambda n: n.create(b"a", b"0"))

    anna.edit(b"a", b"anna")
    bert.edit(b"a", b"bert")
    bert.edit(b"a", b"bert again")  # the greater lamport

    files = both(anna, bert)
    assert files[b"a"] == b"bert again"
    assert [files[name] for name in conflict_names(files)] == [b"anna"]
    assert len(files) == 2


def test_P20_edit_and_delete_leaves_the_edit() -> None:
    anna, bert = given(lambda n: n.create(b"a", b"0"))

    anna.edit(b"a", b"edited")
    bert.delete(b"a")

    assert both(anna, bert) == {b"a": b"edited"}


@pytest.mark.parametrize("later", ["edit", "delete"])
def test_P20_whichever_key_is_greater(later: str) -> None:
    anna, bert = given(lambda n: n.create(b"a", b"0"), lambda n: n.create(b"other", b"0"))

    one = anna if later == "edit" else bert
    one.edit(b"other", b"one")
    one.edit(b"other", b"two")  # whatever comes now has the greater lamport
    anna.edit(b"a", b"edited")
    bert.delete(b"a")

    assert both(anna, bert)[b"a"] == b"edited"


def test_P21_edit_and_move_give_one_file_with_new_bytes_at_the_new_place() -> None:
    anna, bert = given(lambda n: n.create(b"a", b"0"), lambda n: n.make_directory(b"d"))

    anna.edit(b"a", b"edited")
    bert.move(b"a", b"d/b")

    assert both(anna, bert) == {b"d": None, b"d/b": b"edited"}


def test_P24_move_and_move_never_duplicate() -> None:
    anna, bert = given(lambda n: n.create(b"a", b"0"))

    anna.move(b"a", b"b")
    bert.move(b"a", b"c")

    files = both(anna, bert)
    assert files in ({b"b": b"0"}, {b"c": b"0"})


def test_move_and_delete_of_a_file_keeps_it_at_the_moved_place() -> None:
    anna, bert = given(lambda n: n.create(b"a", b"0"))

    anna.move(b"a", b"b")
    bert.delete(b"a")

    assert both(anna, bert) == {b"b": b"0"}


def test_a_void_deletion_that_was_seen_can_be_repeated() -> None:
    anna, bert = given(lambda n: n.create(b"a", b"0"))
    anna.move(b"a", b"b")
    bert.delete(b"a")
    assert both(anna, bert) == {b"b": b"0"}

    bert.delete(b"b")

    assert both(anna, bert) == {}


def test_move_and_delete_of_a_whole_directory_keeps_it_with_its_content() -> None:
    anna, bert = given(
        lambda n: n.make_directory(b"d"),
        lambda n: n.make_directory(b"d/e"),
        lambda n: n.create(b"d/e/f", b"0"),
        lambda n: n.create(b"d/g", b"1"),
    )

    anna.move(b"d", b"moved")
    bert.delete(b"d")

    assert both(anna, bert) == {
        b"moved": None,
        b"moved/e": None,
        b"moved/e/f": b"0",
        b"moved/g": b"1",
    }


def test_P28_add_into_a_directory_that_another_deletes() -> None:
    anna, bert = given(
        lambda n: n.make_directory(b"d"),
        lambda n: n.make_directory(b"d/e"),
        lambda n: n.create(b"d/old", b"0"),
    )

    anna.create(b"d/e/new", b"1")
    bert.delete(b"d")

    assert both(anna, bert) == {b"d": None, b"d/e": None, b"d/e/new": b"1"}


def test_P28_move_into_a_directory_that_another_deletes() -> None:
    anna, bert = given(lambda n: n.make_directory(b"d"), lambda n: n.create(b"a", b"0"))

    anna.move(b"a", b"d/a")
    bert.delete(b"d")

    assert both(anna, bert) == {b"d": None, b"d/a": b"0"}


def test_B11_two_directories_moved_into_each_other_make_no_cycle() -> None:
    anna, bert = given(
        lambda n: n.make_directory(b"x"),
        lambda n: n.make_directory(b"y"),
        lambda n: n.create(b"x/1", b"1"),
        lambda n: n.create(b"y/2", b"2"),
    )

    anna.move(b"x", b"y/x")
    bert.move(b"y", b"x/y")

    files = both(anna, bert)
    assert files in (
        {b"x": None, b"x/1": b"1", b"x/y": None, b"x/y/2": b"2"},
        {b"y": None, b"y/2": b"2", b"y/x": None, b"y/x/1": b"1"},
    )


def test_B11_three_directories_moved_around_a_circle() -> None:
    nodes = make_nodes(3)
    for name in (b"x", b"y", b"z"):
        nodes[0].make_directory(name)
        nodes[0].create(name + b"/in", name)
    settle(*nodes)

    for node, (source, target) in zip(
        nodes, ((b"x", b"y/x"), (b"y", b"z/y"), (b"z", b"x/z")), strict=True
    ):
        node.move(source, target)
    settle(*nodes)

    contents = sorted(value for value in nodes[0].files().values() if value is not None)
    assert contents == [b"x", b"y", b"z"]
    assert nodes[0].files() == nodes[1].files() == nodes[2].files()


def test_B10_a_file_a_directory_and_a_link_of_one_name_are_all_kept() -> None:
    anna, bert = pair()

    anna.create(b"a", b"file")
    bert.make_directory(b"a")
    bert.create(b"a/in", b"1")

    files = both(anna, bert)
    assert files[b"a"] is None, "a directory keeps the name"
    assert files[b"a/in"] == b"1"
    assert [files[name] for name in conflict_names(files)] == [b"file"]


def test_two_directories_moved_to_one_name_are_one_in_the_view() -> None:
    anna, bert = given(
        lambda n: n.make_directory(b"d"),
        lambda n: n.create(b"d/1", b"1"),
        lambda n: n.make_directory(b"e"),
        lambda n: n.create(b"e/2", b"2"),
    )

    anna.move(b"d", b"x")
    bert.move(b"e", b"x")

    assert both(anna, bert) == {b"x": None, b"x/1": b"1", b"x/2": b"2"}


def test_two_files_moved_to_one_name_are_both_kept_and_equal_ones_shown_once() -> None:
    anna, bert = given(
        *(lambda n, p=p: n.create(*p) for p in ((b"a", b"1"), (b"b", b"2"), (b"c", b"1")))
    )
    anna.move(b"a", b"x")
    bert.move(b"b", b"x")
    files = both(anna, bert)
    assert sorted(filter(None, files.values())) == [b"1", b"1", b"2"]
    assert len(conflict_names(files)) == 1

    anna, bert = given(lambda n: n.create(b"a", b"1"), lambda n: n.create(b"c", b"1"))
    anna.move(b"a", b"x")
    bert.move(b"c", b"x")
    assert both(anna, bert) == {b"x": b"1"}


def test_chmod_touch_and_edit_all_count() -> None:
    anna, bert = given(lambda n: n.create(b"a", b"0"))

    anna.touch(b"a", mode=0o755, mtime_ns=5)
    bert.edit(b"a", b"edited")

    assert both(anna, bert) == {b"a": b"edited"}
    (no,) = anna.stored.state.object_nos()
    assert {node.stored.state.rows([no])[no].mode for node in (anna,)} == {1}
    _, (entry,) = bert.stored.view().entries(Changes(set(bert.stored.state.object_nos()), set()))
    assert (entry.mode, entry.kind) == (1, Kind.FILE)


def test_P25_conflict_names_are_equal_everywhere_and_go_when_one_node_resolves() -> None:
    anna, bert, cleo = make_nodes(3)
    anna.create(b"a", b"0")
    settle(anna, bert, cleo)
    anna.edit(b"a", b"anna")
    bert.edit(b"a", b"bert")
    cleo.edit(b"a", b"cleo")
    settle(anna, bert, cleo)
    files = anna.files()
    assert anna.files() == bert.files() == cleo.files()
    first, second = conflict_names(files)

    cleo.delete(first)
    anna.edit(second, b"kept as a file of its own")
    settle(anna, bert, cleo)

    for node in (anna, bert, cleo):
        assert node.files() == {b"a": files[b"a"], second: b"kept as a file of its own"}


def test_P25_renaming_a_copy_resolves_it_everywhere() -> None:
    anna, bert = given(lambda n: n.create(b"a", b"0"))
    anna.edit(b"a", b"anna")
    bert.edit(b"a", b"bert")
    files = both(anna, bert)
    (name,) = conflict_names(files)

    anna.move(name, b"mine")

    assert both(anna, bert) == {b"a": files[b"a"], b"mine": files[name]}


def test_P22_equal_trees_join_without_conflict_and_without_a_byte() -> None:
    anna, bert = pair()
    for node in (anna, bert):
        node.make_directory(b"d")
        for number in range(20):
            node.create(b"d/%d" % number, b"%d" % number)
    written = anna.files()

    settle(anna, bert)

    assert anna.files() == bert.files() == written
    for node in (anna, bert):  # nothing to fetch, nothing to write
        assert node.stored.unsynced.count_missing() == (0, 0)


def test_P23_overlapping_trees_unite_and_only_other_bytes_conflict() -> None:
    anna, bert, cleo = make_nodes(3)
    for node, mine in ((anna, b"1"), (bert, b"2"), (cleo, b"2")):
        node.create(b"same", b"0")
        node.create(b"other", mine)
        node.create(b"only %d" % node.number, b"x")

    settle(anna, bert, cleo)

    files = anna.files()
    assert files == bert.files() == cleo.files()
    assert files.keys() > {b"same", b"other", b"only 0", b"only 1", b"only 2"}
    (copy,) = conflict_names(files)
    assert {files[b"other"], files[copy]} == {b"1", b"2"}
    assert len(files) == 6


def test_P18_an_edit_replaces_only_what_was_on_this_disk() -> None:
    # Given an edit that bert has heard of, and not on his disk
    anna, bert = given(lambda n: n.create(b"a", b"0"))
    anna.edit(b"a", b"anna")
    deliver(anna, bert)

    bert.edit(b"a", b"bert")

    files = both(anna, bert)
    assert sorted(filter(None, files.values())) == [b"anna", b"bert"]


def test_P18_a_deletion_removes_only_what_was_on_this_disk() -> None:
    anna, bert = given(lambda n: n.create(b"a", b"0"))
    anna.edit(b"a", b"anna")
    deliver(anna, bert)

    bert.delete(b"a")

    assert both(anna, bert) == {b"a": b"anna"}
