"""Show that what is being brought to the disk is not taken for what is there."""

from __future__ import annotations

from typing import Any, cast

import pytest
from msgspec.structs import replace

from daemon import planning
from daemon.acts import Created, Deleted, Moved
from daemon.disk import FileKind
from daemon.misfits import DiskNames
from daemon.planning import UnderWay, plan_changes, split_slow
from daemon.procedures import Procedures, RecordActs
from daemon.shelf import Shelf
from daemon.steps import Bind, Claim, Plan, RemoveFile, RemoveTree, SwapNames, WriteFile
from tests.daemon.planning import file_entry
from tests.store.nodes import Node, deliver, looked, make_nodes


def pair() -> tuple[Node, Node]:
    anna, bert = make_nodes(2)
    return anna, bert


def test_a_deletion_that_comes_while_the_file_is_fetched_stays_to_be_planned() -> None:
    anna, bert = pair()
    anna.record(Created(b"a", looked(b"one")))
    deliver(anna, bert)
    under_way = UnderWay()
    made, _ = plan_changes(bert.stored, [], frozenset(), under_way)
    assert made is not None
    anna.record(Deleted(b"a", tuple(anna.rows()[b"a"])))
    deliver(anna, bert)

    bert.stored.unsynced.drop_agreed(under_way.objects())

    assert set(bert.stored.take_changes().objects) == set(made.objects)


def test_a_bunch_that_binds_asks_about_what_it_bound_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asking each time about all that is not bound yet costs the square of a first meeting."""
    anna, bert = pair()
    names = [b"f%d" % number for number in range(6)]
    anna.record(*(Created(name, looked(name)) for name in names))
    deliver(anna, bert)
    asked: list[int] = []
    drop = bert.stored.unsynced.drop_agreed

    def noted(under_way: frozenset[int], *, among: set[int]) -> None:
        asked.append(len(among))
        drop(under_way, among=among)

    monkeypatch.setattr(bert.stored.unsynced, "drop_agreed", noted)
    procedures = Procedures(cast("Shelf", {bert.stored.no: bert.stored}))

    for bunch in (names[:2], names[2:]):
        command = RecordActs(
            folder_no=bert.stored.no,
            acts=tuple(Created(name, looked(name)) for name in bunch),
            wall_ms=1,
            covered_seq=-1,
            under_way=UnderWay(),
        )
        procedures.record(command, cast("Any", lambda _signal: None))

    assert asked == [2, 4]
    assert not bert.stored.take_changes().objects


def test_what_is_done_is_under_way_no_more() -> None:
    under_way = UnderWay()
    under_way.begin([1, 2])
    under_way.begin([2])

    under_way.end([1, 2])

    assert under_way.objects() == {2}


def test_what_two_plans_were_about_at_a_time_is_planned_once_more() -> None:
    """The later one did not know of a conflict copy that the earlier one put in place meanwhile."""
    under_way = UnderWay()
    under_way.begin([1, 2, 3])
    under_way.begin([2])
    under_way.begin([4])

    assert under_way.end([4]) == []
    assert under_way.end([1, 2, 3]) == []
    assert under_way.end([2]) == [2]
    under_way.begin([2])
    assert under_way.end([2]) == []


def test_two_large_versions_of_one_object_are_one_plan() -> None:
    """As two, the later one superseded the earlier one, whose content then never came."""
    steps = [
        WriteFile(Claim(replace(file_entry(no, 0, name, copy=copy), size=2 << 20)), ())
        for no, name, copy in ((3, b"b", b""), (4, b"c", b""), (3, b"b (conflict)", b"e" * 32))
    ]
    steps.append(WriteFile(Claim(file_entry(5, 0, b"small")), ()))

    quick, slow = split_slow(Plan(steps=tuple(steps), objects=frozenset({3, 4, 5, 6})))

    assert quick == Plan(steps=(steps[3],), objects=frozenset({5, 6}))
    assert {part.objects: part.steps for part in slow} == {
        frozenset({3}): (steps[0], steps[2]),
        frozenset({4}): (steps[1],),
    }


def test_a_directory_is_not_deleted_before_what_synced_has_in_it() -> None:
    anna, _ = pair()
    anna.record(
        Created(b"d", looked(b"", kind=FileKind.DIRECTORY)),
        Created(b"d/e", looked(b"", kind=FileKind.DIRECTORY)),
        Created(b"d/e/a", looked(b"one")),
    )
    rows = anna.rows()

    recorded = anna.record(Deleted(b"d", tuple(rows[b"d"])), Deleted(b"d/e", tuple(rows[b"d/e"])))

    assert sorted(recorded.look_again) == [b"d", b"d/e"]
    assert set(anna.rows()) == {b"d", b"d/e", b"d/e/a"}


def test_a_new_directory_at_the_name_of_a_moved_one_is_another() -> None:
    anna, bert = pair()
    anna.record(Created(b"d", looked(b"", kind=FileKind.DIRECTORY)))
    rows = tuple(anna.rows()[b"d"])
    deliver(anna, bert)

    again = looked(b"", kind=FileKind.DIRECTORY)
    anna.record(Moved(b"d", b"e", rows, looked(b"", kind=FileKind.DIRECTORY)), Created(b"d", again))

    assert set(anna.rows()) == {b"d", b"e"}
    assert anna.rows()[b"e"][0].object_no == rows[0].object_no
    assert anna.rows()[b"d"][0].inode == again.stat.inode


def test_a_directory_leaves_whole_however_many_objects_a_plan_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "PLAN_LIMIT", 2)
    anna, bert = pair()
    paths = [b"d", b"d/a", b"d/b", b"d/e", b"d/e/c"]
    kinds = {b"d": FileKind.DIRECTORY, b"d/e": FileKind.DIRECTORY}
    acts = [
        Created(path, looked(b"", kind=kinds[path]) if path in kinds else looked(path))
        for path in paths
    ]
    anna.record(*acts)
    deliver(anna, bert)
    bert.record(*acts)
    bert.stored.take_changes()
    rows = anna.rows()
    anna.record(*(Deleted(path, tuple(rows[path])) for path in paths))
    deliver(anna, bert)

    made, has_more = plan_changes(bert.stored, [], frozenset(), UnderWay())

    assert made is not None
    (step,) = made.steps
    assert isinstance(step, RemoveTree)
    assert len(step.inside) == 4
    assert has_more
    assert not bert.stored.state.changes.objects


def test_B6_what_could_not_go_elsewhere_leaves_when_another_is_to_stand_there() -> None:
    """Planned alone, the other one was in the way of a name that stayed for ever (seed 400480)."""
    anna, bert = pair()
    anna.create(b"x", b"one")
    anna.create(b"y", b"two")
    deliver(anna, bert)
    bert.materialise()
    bert.stored.take_changes()
    misfit = bert.rows()[b"x"][0].object_no
    names = DiskNames(misfits=frozenset({misfit}))
    anna.move(b"x", b"X")
    deliver(anna, bert)
    made, _ = plan_changes(bert.stored, [], frozenset(), UnderWay(), names)
    assert made is not None
    assert (made.steps, made.blocked) == ((), ())  # it stays where it is
    anna.move(b"y", b"x")
    deliver(anna, bert)

    made, _ = plan_changes(bert.stored, [], frozenset(), UnderWay(), names)

    assert made is not None
    assert not made.blocked
    assert [type(step) for step in made.steps] == [SwapNames, RemoveFile]


@pytest.mark.parametrize("is_deep", [False, True])
def test_a_crash_between_a_union_directory_and_its_child_has_nothing_moved_to_itself(
    *, is_deep: bool
) -> None:
    """It was renamed to its own name, which was taken, and that was tried for ever."""
    # Given two directories of one path, of which the disk has both
    anna, bert = pair()
    inside = b"/s" if is_deep else b""
    for node, name in ((anna, b"d"), (bert, b"N")):
        node.make_directory(name)
        if is_deep:
            node.make_directory(name + inside)
        node.materialise()
    anna.create(b"d" + inside + b"/f", b"one")
    deliver(anna, bert)
    bert.materialise()
    anna.materialise()
    anna.move(b"d", b"N")
    deliver(anna, bert)
    deliver(bert, anna)
    for node in (anna, bert):
        node.materialise()
        assert len(node.stored.synced.directories_at(b"N" + inside)) == 2

    # When synced has a file in them still under the number of the other one
    for node in (anna, bert):
        [row] = node.rows()[b"N" + inside + b"/f"]
        one, other = node.stored.synced.directories_at(b"N" + inside)
        old = replace(row, parent_no=other if row.parent_no == one else one)
        with node.stored.change():
            node.stored.synced.put([old])
        node.stored.take_changes()
        made, _ = plan_changes(node.stored, [row.object_no], frozenset(), UnderWay())

        # Then it is there already
        assert made is not None
        [step] = made.steps
        assert isinstance(step, Bind)
        assert step.claim is not None
        assert step.claim.entry.parent_no == row.parent_no
        assert made.blocked == ()
