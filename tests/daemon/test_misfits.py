"""See where a file stays whose name this disk cannot hold."""

from __future__ import annotations

from msgspec.structs import replace

from daemon.misfits import Misfits, stay
from tests.daemon.planning import ROOT, directory_entry, file_entry, synced_as


def test_B6_a_misfit_stays_where_it_is_and_gets_the_content_that_it_has_by_now() -> None:
    before = file_entry(1, ROOT, b"a", b"one")
    now = replace(file_entry(1, ROOT, b"B", b"two"), placement=b"moved")

    (found,) = stay([now], [synced_as(before)], {1})

    assert (found.name, found.placement) == (b"a", before.placement)
    assert found.value == now.value


def test_B6_a_misfit_leaves_where_another_is_to_stand() -> None:
    rows = [synced_as(file_entry(1, ROOT, b"a", b"one"))]
    other = file_entry(2, ROOT, b"a", b"two")

    assert stay([file_entry(1, ROOT, b"B", b"one"), other], rows, {1}) == [other]


def test_B6_a_misfit_that_was_never_here_does_not_come() -> None:
    assert stay([file_entry(1, ROOT, b"B", b"one")], [], {1}) == []


def test_B6_a_copy_that_is_the_object_itself_by_now_stays_too() -> None:
    row = replace(synced_as(file_entry(1, ROOT, b"a (conflict)", b"one")), copy=b"copy")

    (found,) = stay([file_entry(1, ROOT, b"a", b"one")], [row], {1})

    assert (found.name, found.copy) == (b"a (conflict)", b"")


def test_B6_directories_and_others_are_wanted_as_they_are() -> None:
    wanted = [directory_entry(1, ROOT, b"D"), file_entry(2, 1, b"x", b"one")]

    assert stay(wanted, [synced_as(directory_entry(1, ROOT, b"d"))], {1}) == wanted


def test_B6_a_name_that_is_refused_again_and_again_is_tried_ever_more_seldom() -> None:
    misfits = Misfits()
    misfits.refused([1])
    waits = []
    for _ in range(9):
        assert misfits.lately == {1}
        waits.append(misfits.stayed([1])[1])
        assert not misfits.lately
        misfits.refused([1])

    assert waits == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]

    misfits.encourage()
    assert misfits.stayed([1]) == {1: 5.0}
    misfits.came([1])
    assert not misfits
