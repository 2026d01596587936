from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.msgpack import encode
from msgspec.structs import replace

from daemon import planner
from daemon.planner import (
    Bind,
    MakeDirectory,
    MakeLink,
    MoveName,
    Plan,
    RemoveDirectory,
    RemoveFile,
    RemoveTree,
    SetAttributes,
    SwapNames,
    WriteFile,
    places,
    plan,
)
from daemon.steps import key_of
from store.ids import Kind
from store.records import Entry
from tests.daemon.planning import (
    ROOT,
    Tree,
    directory_entry,
    file_entry,
    link_entry,
    listing_of,
    parents,
    synced_as,
    trees,
)


def planned(before: list[Entry], after: list[Entry]) -> Plan:
    return plan(after, [synced_as(e) for e in before], parent_of=parents(before).get)


def executed(before: list[Entry], after: list[Entry]) -> Tree:
    tree = Tree([synced_as(entry) for entry in before])
    made = planned(before, after)
    assert made.blocked == ()
    for step in made.steps:
        tree.execute(step)
    assert tree.listing() == listing_of(after)
    assert set(tree.rows) == {key_of(entry) for entry in after}
    return tree


@settings(max_examples=150, deadline=None, derandomize=True)
@given(trees(), trees())
def test_a_plan_makes_any_tree_into_any_other(before: list[Entry], after: list[Entry]) -> None:
    executed(before, after)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(trees(is_mixed=False), trees(is_mixed=False), st.data())
def test_a_plan_of_some_changed_objects_leaves_the_others(
    before: list[Entry], after: list[Entry], data: st.DataObject
) -> None:
    # Given a view in which everything changed, planned in two parts, as when a part failed
    rows = [synced_as(entry) for entry in before]
    tree = Tree(rows)
    objects = sorted({entry.object_no for entry in [*before, *after]})
    some = set(data.draw(st.lists(st.sampled_from(objects), unique=True))) if objects else set()

    # When both parts are planned and blocked ones are planned with what blocks them
    for _ in range(6):
        held = list(tree.rows.values())
        wanted = [entry for entry in after if entry.object_no in some]
        mine = [row for row in held if row.object_no in some]
        near = places(wanted, mine)
        others = [r for r in held if r.object_no not in some and (r.parent_no, r.name) in near]
        up = {r.object_no: r.parent_no for r in held}
        made = plan(wanted, mine, occupants=others, parent_of=up.get)
        tree.stored.clear()
        for step in made.steps:
            attempt = deepcopy(tree)
            try:
                attempt.execute(step)
            except (AssertionError, KeyError):
                # A parent that is not there yet, a directory that is not empty: the disk
                # refuses this step, and the rest is planned again with more objects.
                continue
            tree = attempt
        some = set(objects)

    # Then the tree is as wanted
    assert tree.listing() == listing_of(after)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(trees())
def test_nothing_to_do_gives_no_steps(entries: list[Entry]) -> None:
    assert planned(entries, entries).steps == ()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(trees(), trees(), st.data())
def test_what_is_plainly_new_is_planned_as_pairing_it_would(
    before: list[Entry], after: list[Entry], data: st.DataObject
) -> None:
    # Given some objects of a view that changed, and what stands at their places
    objects = sorted({entry.object_no for entry in [*before, *after]})
    some = set(data.draw(st.lists(st.sampled_from(objects), unique=True))) if objects else set()
    held = [synced_as(entry) for entry in before]
    wanted = [entry for entry in after if entry.object_no in some]
    mine = [row for row in held if row.object_no in some]
    near = places(wanted, mine)
    others = [r for r in held if r.object_no not in some and (r.parent_no, r.name) in near]

    def made() -> Plan:
        return plan(wanted, mine, occupants=others, parent_of=parents(before).get)

    # When they are planned as they are, and with nothing parted from the rest
    parted = made()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "_part_new", lambda wanted, *_: ([], wanted))
        paired = made()

    # Then the same contents are written, and the same is in the way (parked names may differ)
    def writes(one: Plan) -> list[bytes]:
        return sorted(encode(s) for s in one.steps if isinstance(s, WriteFile | MakeLink))

    assert writes(parted) == writes(paired)
    assert [type(s) for s in parted.steps if not isinstance(s, WriteFile | MakeLink)] == [
        type(s) for s in paired.steps if not isinstance(s, WriteFile | MakeLink)
    ]
    assert {b.object_nos for b in parted.blocked} == {b.object_nos for b in paired.blocked}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(trees(), st.data())
def test_what_only_leaves_is_planned_as_pairing_it_would(
    before: list[Entry], data: st.DataObject
) -> None:
    # Given some objects that are gone from the view, and what stands at their places
    held = [synced_as(entry) for entry in before]
    some = set(data.draw(st.lists(st.sampled_from(held), unique=True))) if held else set()
    mine = [row for row in held if row in some or data.draw(st.booleans())]
    near = places([], mine)
    others = [row for row in held if row not in mine and (row.parent_no, row.name) in near]

    def made() -> list[tuple[object, ...]]:
        steps = plan([], mine, occupants=others, parent_of=parents(before).get).steps
        for step in steps:
            gone: set[int] = set()
            for each in step.singly if isinstance(step, RemoveTree) else (step,):
                if not isinstance(each, RemoveFile | RemoveDirectory):
                    continue
                assert each.source.parent_no not in gone, "what is in a directory goes before it"
                gone.update(row.object_no for row in each.rows if row.kind is Kind.DIRECTORY)
        return sorted(
            (
                type(step).__name__,
                encode(replace(step, inside=()) if isinstance(step, RemoveTree) else step),
                sorted(map(encode, step.inside if isinstance(step, RemoveTree) else ())),
            )
            for step in steps
        )

    # When they are planned as they are, and as everything else is
    quick = made()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "plain_removals", lambda _rows: None)
        paired = made()

    # Then the same is removed, and the same directories go whole
    assert quick == paired


def test_a_new_file_with_the_bytes_of_one_that_leaves_is_a_rename() -> None:
    made = planned([file_entry(1, ROOT, b"a", b"same")], [file_entry(2, ROOT, b"b", b"same")])

    assert [type(step) for step in made.steps] == [MoveName]


def test_a_file_moved_and_edited_is_renamed_and_then_replaced() -> None:
    made = planned([file_entry(1, ROOT, b"a", b"one")], [file_entry(1, ROOT, b"b", b"two")])

    assert [type(step) for step in made.steps] == [MoveName, WriteFile]
    written = made.steps[1]
    assert isinstance(written, WriteFile)
    assert written.before


def test_P26_moving_a_directory_is_one_rename_whatever_it_holds() -> None:
    inner = [file_entry(10 + n, 1, b"f%d" % n) for n in range(100)]
    home = directory_entry(1, ROOT, b"d")
    other = directory_entry(2, ROOT, b"e")
    after = [replace(home, parent_no=2, name=b"moved"), other, *inner]

    made = planned([home, other, *inner], after)

    assert [type(step) for step in made.steps] == [MoveName]


def test_two_names_that_trade_places_are_swapped() -> None:
    one, two = file_entry(1, ROOT, b"a", b"one"), file_entry(2, ROOT, b"b", b"two")

    made = planned([one, two], [replace(one, name=b"b"), replace(two, name=b"a")])

    assert [type(step) for step in made.steps] == [SwapNames]


def test_a_chain_of_renames_is_done_from_its_free_end() -> None:
    files = [file_entry(n, ROOT, b"%d" % n, b"content %d" % n) for n in range(1, 6)]
    after = [replace(entry, name=b"%d" % (entry.object_no + 1)) for entry in files]

    tree = executed(files, after)

    assert tree.renames == 5


def test_P24_a_ring_of_five_renames_takes_four_swaps() -> None:
    files = [file_entry(n, ROOT, b"%d" % n, b"content %d" % n) for n in range(5)]
    files = [replace(entry, object_no=entry.object_no + 1) for entry in files]
    after = [replace(entry, name=b"%d" % (entry.object_no % 5)) for entry in files]

    assert executed(files, after).renames == 4


def test_parent_and_child_trade_places_under_one_name() -> None:
    outer, inner = directory_entry(1, ROOT, b"a"), directory_entry(2, 1, b"b")
    after = [replace(inner, parent_no=ROOT, name=b"a"), replace(outer, parent_no=2, name=b"b")]

    executed([outer, inner], after)


def test_old_bytes_go_to_their_conflict_name_in_the_exchange_that_brings_the_new() -> None:
    before = file_entry(1, ROOT, b"a", b"mine")
    winner = file_entry(1, ROOT, b"a", b"theirs", events=b"f" * 32)
    loser = file_entry(1, ROOT, b"a (conflict)", b"mine", copy=b"c" * 32)

    made = planned([before], [winner, loser])

    (step,) = made.steps
    assert isinstance(step, WriteFile)
    assert step.displaced_to is not None
    assert step.displaced_to.entry == loser


def test_a_conflict_copy_that_becomes_the_file_is_renamed_not_fetched() -> None:
    winner = file_entry(1, ROOT, b"a", b"theirs", events=b"f" * 32)
    loser = file_entry(1, ROOT, b"a (conflict)", b"mine", copy=b"c" * 32)

    made = planned([winner, loser], [file_entry(1, ROOT, b"a", b"mine")])

    assert [type(step) for step in made.steps] == [SwapNames, RemoveFile]
    executed([winner, loser], [file_entry(1, ROOT, b"a", b"mine")])


def test_newer_events_for_the_same_bytes_change_synced_alone() -> None:
    before = file_entry(1, ROOT, b"a")

    made = planned([before], [replace(before, events=b"f" * 32, placement=b"p" * 32)])

    assert [type(step) for step in made.steps] == [Bind]


def test_a_joiners_own_time_stays_until_the_shared_one_changes() -> None:
    entry = file_entry(1, ROOT, b"a", mtime_ns=10**18)
    row = replace(synced_as(entry), mtime_ns=5)

    assert plan([entry], [row]).steps == ()
    (step,) = plan([replace(entry, mtime_ns=10**18 + 1)], [row]).steps
    assert isinstance(step, SetAttributes)
    assert step.sets_mtime


def test_a_changed_mode_alone_leaves_the_time() -> None:
    entry = file_entry(1, ROOT, b"a")

    (step,) = plan([replace(entry, mode=1)], [synced_as(entry)]).steps

    assert isinstance(step, SetAttributes)
    assert not step.sets_mtime


def test_a_new_directory_takes_over_the_one_that_leaves_its_place() -> None:
    before, after = directory_entry(1, ROOT, b"d"), directory_entry(2, ROOT, b"d")

    made = planned([before], [after])

    assert [type(step) for step in made.steps] == [Bind, Bind]
    executed([before], [after])


def test_wanted_children_leave_a_directory_before_it_goes() -> None:
    home, inner = directory_entry(1, ROOT, b"d"), file_entry(2, 1, b"f")

    made = planned([home, inner], [replace(inner, parent_no=ROOT)])

    assert [type(step) for step in made.steps] == [MoveName, RemoveDirectory]


def test_B10_a_file_a_link_and_a_directory_take_each_others_names() -> None:
    home, inner = directory_entry(1, ROOT, b"a"), file_entry(2, 1, b"x", b"two")
    link = link_entry(3, ROOT, b"l", b"a/x")
    after = [
        file_entry(4, ROOT, b"a", b"new"),
        replace(home, name=b"l"),
        replace(link, parent_no=1, name=b"x"),
    ]

    executed([home, inner, link], after)


def test_a_file_held_by_an_unchanged_object_is_only_forgotten() -> None:
    mine = synced_as(file_entry(1, ROOT, b"a"))
    other = synced_as(file_entry(2, ROOT, b"a"))

    made = plan([], [mine], occupants=[other])

    assert made.steps == (Bind(None, (mine,), ((1, b""),)),)


def test_what_cannot_leave_yet_is_named_and_nothing_is_removed_for_it() -> None:
    mine = file_entry(1, ROOT, b"a", b"one")
    other = synced_as(file_entry(2, ROOT, b"b", b"two"))

    made = plan([replace(mine, name=b"b")], [synced_as(mine)], occupants=[other])

    assert made.steps == ()
    assert [(b.object_nos, b.by) for b in made.blocked] == [((1,), (2,))]


def test_E13_a_thousand_directories_deep_is_no_recursion() -> None:
    deep = [directory_entry(n, n - 1, b"d") for n in range(1, 2001)]

    made = planned([], deep)

    numbers = [s.claim.entry.object_no for s in made.steps if isinstance(s, MakeDirectory)]
    assert numbers == list(range(1, 2001))
    (step,) = planned(deep, []).steps
    assert isinstance(step, RemoveTree)
    assert len(step.singly) == 2000


def test_B6_a_name_waits_until_what_the_disk_takes_for_it_has_left() -> None:
    one, other = file_entry(1, ROOT, b"notes", b"one"), file_entry(2, ROOT, b"b", b"two")
    wanted = [replace(one, name=b"b"), replace(other, name=b"NOTES")]

    made = plan(wanted, [synced_as(one), synced_as(other)], fold=bytes.lower)

    swap, move = made.steps
    assert isinstance(swap, SwapNames)
    assert (swap.one.source.name, swap.one.target.name) == (b"notes", b"b")
    assert isinstance(move, MoveName)
    assert (move.source.name, move.target.name) == (b"notes", b"NOTES")


def test_B6_a_name_that_another_keeps_in_another_case_is_left_to_the_disk() -> None:
    one, other = file_entry(1, ROOT, b"notes", b"one"), file_entry(2, ROOT, b"b", b"two")

    made = plan(
        [one, replace(other, name=b"NOTES")], [synced_as(one), synced_as(other)], fold=bytes.lower
    )

    assert [type(step) for step in made.steps] == [MoveName]
    assert not made.blocked
