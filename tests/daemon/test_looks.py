"""When to look: the rules of docs/design.md, 5, with every time handed in."""

from __future__ import annotations

from itertools import pairwise

from daemon.hints import Hint, HintKind
from daemon.look_set import Again, AgainReason
from daemon.looks import (
    CHANGING_LIMIT_S,
    DIRECTORIES_LIMIT,
    GONE_LIMIT_S,
    PATHS_OF_ONE_DIRECTORY,
    QUIET_S,
    LookSchedule,
)

JUST = QUIET_S + 1e-9


def schedule_with(*known: bytes) -> LookSchedule:
    names = set(known)
    return LookSchedule(names.intersection)


def closed(path: bytes) -> Hint:
    return Hint(HintKind.CLOSED, path)


def gone(path: bytes) -> Hint:
    return Hint(HintKind.GONE, path)


def appeared(path: bytes) -> Hint:
    return Hint(HintKind.APPEARED, path)


def moved(target: bytes, source: bytes | None) -> Hint:
    return Hint(HintKind.MOVED_HERE, target, source=source)


def test_a_known_path_is_due_at_once_when_closed() -> None:
    schedule = schedule_with(b"a")
    schedule.touch([closed(b"a")], 10.0)
    where = schedule.due(10.0)
    assert where.paths == (b"a",)
    assert where.settled == {b"a"}
    assert schedule.next_due_s is None


def test_a_file_moved_into_a_directory_that_we_then_renamed_is_judged_where_it_is_now() -> None:
    schedule = schedule_with(b"x", b"e")
    schedule.touch([moved(b"d/sub/y", b"x")], 10.0)
    schedule.touch([Hint(HintKind.MOVED_HERE, b"e", is_directory=True, source=b"d")], 10.01)

    where = schedule.due(10.0 + JUST)

    assert set(where.paths) == {b"x", b"e", b"e/sub/y"}
    assert where.moves == {b"e/sub/y": b"x"}


def test_a_file_moved_into_a_directory_just_made_is_judged_when_that_is_looked_at() -> None:
    schedule = schedule_with(b"x")
    schedule.touch([appeared(b"new")], 10.0)
    schedule.touch([moved(b"new/y", b"x")], 10.001)

    where = schedule.due(10.0 + QUIET_S)  # the look at the directory finds the file in it

    assert where.moves == {b"new/y": b"x"}
    assert {b"x", b"new"} <= set(where.paths)


def test_a_rename_that_apply_was_in_the_way_of_is_looked_at_as_a_whole() -> None:
    schedule = schedule_with(b"x", b"a", b"b")
    schedule.look_again_at_moves([(b"x", b"y"), (b"a", b"b"), (b"b", b"a")], 10.0)
    schedule.miss([b"x"], 10.001)  # apply found the name gone, too

    where = schedule.due(10.0 + JUST)

    assert set(where.paths) == {b"x", b"y", b"a", b"b"}
    assert where.moves == {b"y": b"x", b"b": b"a", b"a": b"b"}


def test_a_rename_that_went_on_meanwhile_is_judged_by_where_it_is_now() -> None:
    schedule = schedule_with(b"x")
    schedule.touch([moved(b"z", b"x")], 10.0)
    schedule.look_again_at_moves([(b"x", b"y")], 10.001)

    where = schedule.due(10.01 + 2 * JUST)

    assert set(where.paths) == {b"x", b"y", b"z"}
    assert where.moves == {b"z": b"x"}


def test_a_known_path_is_due_at_once_when_a_temporary_file_is_renamed_over_it() -> None:
    schedule = schedule_with(b"a")
    schedule.touch([appeared(b".a.tmp"), closed(b".a.tmp"), moved(b"a", b".a.tmp")], 10.0)
    assert schedule.due(10.0).paths == (b"a",)
    assert not schedule.due(20.0)


def test_a_new_name_waits_until_nothing_touched_it_for_50_ms() -> None:
    schedule = schedule_with()
    schedule.touch([appeared(b"new")], 10.0)
    schedule.touch([closed(b"new")], 10.04)
    assert not schedule.due(10.06)
    assert schedule.due(10.04 + JUST).paths == (b"new",)


def test_a_path_that_is_closed_without_end_is_looked_at_ten_times_a_second() -> None:
    schedule = schedule_with(b"log")
    looks = 0
    for step in range(12000):
        now_s = 10.0 + step / 200
        schedule.touch([closed(b"log")], now_s)
        looks += bool(schedule.due(now_s))
    assert looks <= 1000 + 60 * 10 + 1  # the allowance, and what came back of it
    assert schedule.next_due_s is not None
    assert schedule.next_due_s <= 70.0 + 0.1  # the last save is not forgotten


def test_hundreds_of_saves_without_pause_are_each_looked_at_at_once() -> None:
    schedule = schedule_with(b"notes")
    for step in range(600):
        now_s = 10.0 + step / 90
        schedule.touch([closed(b"notes")], now_s)
        assert schedule.due(now_s).paths == (b"notes",)


def test_a_few_quick_saves_are_each_looked_at_at_once() -> None:
    schedule = schedule_with(b"notes")
    for step in range(10):
        now_s = 10.0 + step / 10
        schedule.touch([closed(b"notes")], now_s)
        assert schedule.due(now_s).paths == (b"notes",)


def test_a_file_that_keeps_changing_is_looked_at_when_it_rests() -> None:
    schedule = schedule_with(b"log")
    schedule.touch([Hint(HintKind.CHANGED, b"log")], 10.0)
    schedule.touch([Hint(HintKind.CHANGED, b"log")], 10.04)
    assert not schedule.due(10.07)
    where = schedule.due(10.04 + JUST)
    assert where.paths == (b"log",)
    assert not where.settled


def test_names_that_went_are_judged_together_when_none_has_gone_for_50_ms() -> None:
    files = [b"d/%d" % number for number in range(50)]
    schedule = schedule_with(b"d", *files)
    for number, path in enumerate(files):
        schedule.touch([gone(path)], 10.0 + number * 0.03)
        assert not schedule.due(10.0 + number * 0.03)
    schedule.touch([gone(b"d")], 11.5)
    assert not schedule.due(11.54)
    assert set(schedule.due(11.5 + JUST).paths) == {b"d", *files}


def test_names_that_go_on_going_are_judged_after_5_s() -> None:
    schedule = schedule_with(*[b"d/%d" % number for number in range(1000)])
    first_due = None
    for number in range(600):
        now_s = 10.0 + number * 0.02
        schedule.touch([gone(b"d/%d" % number)], now_s)
        if first_due is None and schedule.due(now_s):
            first_due = now_s
    assert first_due is not None
    assert GONE_LIMIT_S - 0.1 <= first_due - 10.0 <= GONE_LIMIT_S + 0.1


def test_names_that_went_elsewhere_do_not_wait_for_each_other() -> None:
    schedule = schedule_with(b"one/a", b"two/b")
    schedule.touch([gone(b"one/a")], 10.0)
    schedule.touch([gone(b"two/b")], 10.04)
    assert schedule.due(10.0 + JUST).paths == (b"one/a",)
    assert schedule.due(10.04 + JUST).paths == (b"two/b",)


def test_both_halves_of_a_move_are_judged_together() -> None:
    schedule = schedule_with(b"a")
    schedule.touch([moved(b"d/b", b"a")], 10.0)
    assert not schedule.due(10.0)
    where = schedule.due(10.0 + JUST)
    assert set(where.paths) == {b"a", b"d/b"}
    assert where.moves == {b"d/b": b"a"}


def test_a_chain_of_renames_names_the_first_source() -> None:
    schedule = schedule_with(b"a", b"b")
    schedule.touch([moved(b"t", b"a"), moved(b"a", b"b"), moved(b"b", b"t")], 10.0)
    where = schedule.due(10.0 + JUST)
    assert where.moves == {b"a": b"b", b"b": b"a"}
    assert set(where.paths) == {b"a", b"b"}


def test_a_file_renamed_away_and_back_is_no_move() -> None:
    schedule = schedule_with(b"a")
    schedule.touch([moved(b"t", b"a"), moved(b"a", b"t")], 10.0)
    where = schedule.due(10.0 + JUST)
    assert set(where.paths) == {b"a", b"t"}
    assert not where.moves


def test_what_is_written_in_a_renamed_directory_waits_for_the_rename() -> None:
    schedule = schedule_with(b"d", b"d/x")
    schedule.touch([Hint(HintKind.MOVED_HERE, b"e", is_directory=True, source=b"d")], 10.0)
    schedule.touch([gone(b"q")], 10.0)
    schedule.touch([closed(b"e/new")], 10.0)
    where = schedule.due(10.0 + JUST)
    assert {b"d", b"e"} <= set(where.paths)
    assert where.moves == {b"e": b"d"}


def test_a_renamed_directory_is_looked_at_at_once_but_a_file_may_be_put_aside() -> None:
    schedule = schedule_with(b"d", b"a")
    schedule.touch([Hint(HintKind.MOVED_HERE, b"e", is_directory=True, source=b"d")], 10.0)
    where = schedule.due(10.0)
    assert set(where.paths) == {b"d", b"e"}
    assert where.moves == {b"e": b"d"}

    schedule.touch([moved(b"a~", b"a")], 11.0)
    assert not schedule.due(11.0)


def test_a_renamed_directory_beside_names_that_go_waits_with_them() -> None:
    schedule = schedule_with(b"d", b"a")
    schedule.touch([gone(b"a")], 10.0)
    schedule.touch([Hint(HintKind.MOVED_HERE, b"e", is_directory=True, source=b"d")], 10.0)
    assert not schedule.due(10.0)
    assert set(schedule.due(10.0 + JUST).paths) == {b"a", b"d", b"e"}


def test_what_waits_below_a_directory_that_we_renamed_is_looked_at_where_it_is_now() -> None:
    schedule = schedule_with(b"e")
    schedule.touch([moved(b"d/sub/new", b"other")], 10.0)
    schedule.touch([Hint(HintKind.MOVED_HERE, b"e", is_directory=True, source=b"d")], 10.01)
    assert schedule.due(10.01).trees == (b"e",)

    schedule.touch([Hint(HintKind.MOVED_HERE, b"e", is_directory=True, source=b"d2")], 20.0)
    assert schedule.due(20.0).trees == ()


def test_renames_carried_by_that_of_their_directory_are_not_looked_at_singly() -> None:
    files = [b"d/sub/%d" % number for number in range(1000)]
    schedule = schedule_with(b"d", b"d/sub", *files)
    hints = [Hint(HintKind.MOVED_HERE, b"e", is_directory=True, source=b"d")]
    hints += [moved(b"e" + path[1:], path) for path in (b"d/sub", *files)]
    schedule.touch(hints, 10.0)
    assert set(schedule.due(10.0 + JUST).paths) == {b"d", b"e"}


def test_many_paths_of_one_directory_become_one_listing() -> None:
    schedule = schedule_with()
    schedule.touch(
        [appeared(b"d/%d" % number) for number in range(PATHS_OF_ONE_DIRECTORY + 5)], 10.0
    )
    where = schedule.due(10.0 + JUST)
    assert where.directories == (b"d",)
    assert not where.paths


def test_a_directory_that_fills_without_pause_is_listed_twice_a_second() -> None:
    schedule = schedule_with()
    listings = 0
    for step in range(4000):
        now_s = 10.0 + step / 1000
        schedule.touch([appeared(b"d/%d.%d" % (step, n)) for n in range(9)], now_s)
        listings += len(schedule.due(now_s).directories)
    assert 2 <= listings <= 8


def test_too_many_directories_become_a_full_scan() -> None:
    schedule = schedule_with()
    for directory in range(DIRECTORIES_LIMIT + 2):
        schedule.touch(
            [
                appeared(b"%d/%d" % (directory, number))
                for number in range(PATHS_OF_ONE_DIRECTORY + 1)
            ],
            10.0,
        )
    assert schedule.due(11.0).is_full
    assert schedule.next_due_s is None


def test_lost_hints_of_everything_are_a_full_scan() -> None:
    schedule = schedule_with(b"a")
    schedule.touch([closed(b"a"), Hint(HintKind.LOST, b"")], 10.0)
    assert schedule.due(10.0).is_full
    assert not schedule.due(20.0)


def test_lost_hints_of_a_directory_are_a_scan_of_what_is_below() -> None:
    schedule = schedule_with()
    schedule.touch([Hint(HintKind.LOST, b"d")], 10.0)
    assert schedule.due(10.0).trees == (b"d",)


def test_a_changing_file_is_looked_at_again_later_and_later() -> None:
    schedule = schedule_with(b"a")
    now_s = 10.0
    waits: list[float] = []
    for _ in range(10):
        schedule.look_again([Again(b"a", AgainReason.CHANGING, 0.1)], now_s)
        due_s = schedule.next_due_s
        assert due_s is not None
        waits.append(due_s - now_s)
        now_s = due_s
        assert schedule.due(now_s).paths == (b"a",)
    assert all(one <= next_one + 1e-6 for one, next_one in pairwise(waits))
    assert waits[-1] <= CHANGING_LIMIT_S + 1e-6
    schedule.look_again([Again(b"a", AgainReason.CHANGING, 0.1)], now_s)
    schedule.touch([closed(b"a")], now_s + 1.0)
    assert schedule.due(now_s + 1.0).paths == (b"a",)


def test_a_racy_path_is_looked_at_again_when_it_is_not_racy_any_more() -> None:
    schedule = schedule_with(b"a")
    schedule.look_again([Again(b"a", AgainReason.RACY, 0.025)], 10.0)
    assert not schedule.due(10.02)
    assert schedule.due(10.026).paths == (b"a",)


def test_P39_our_own_names_are_never_looked_at() -> None:
    schedule = schedule_with(b"a")
    schedule.touch([closed(b".dizzyd/tmp/x"), appeared(b".dizzyd"), gone(b".dizzyd/folder")], 10.0)
    assert not schedule.due(11.0)
    schedule.touch([moved(b".dizzyd/tmp/displaced", b"a"), moved(b"a", b".dizzyd/tmp/new")], 12.0)
    assert schedule.due(13.0).paths == (b"a",)


def test_B13_a_name_renamed_100000_times_costs_bounded_memory() -> None:
    schedule = schedule_with(b"n0")
    for number in range(100_000):
        schedule.touch([moved(b"n%d" % (number + 1), b"n%d" % number)], 10.0)
    where = schedule.due(20.0)
    assert where.moves == {b"n100000": b"n0"}
    assert len(schedule._queue) < 100


def test_an_exchange_of_two_names_looks_at_both() -> None:
    schedule = schedule_with(b"a", b"b")
    schedule.touch([moved(b"b", b"a"), moved(b"a", b"b")], 10.0)
    assert set(schedule.due(10.0 + JUST).paths) == {b"a", b"b"}


def test_an_exchange_with_a_name_in_other_letters_looks_at_both() -> None:
    schedule = schedule_with(b"d/C")
    schedule.touch([appeared(b"d/x y"), closed(b"d/x y")], 10.0)
    schedule.touch([moved(b"d/x y", b"d/c"), moved(b"d/C", b"d/x y")], 10.0)
    paths = {*schedule.due(10.0).paths, *schedule.due(10.0 + JUST).paths}
    assert paths == {b"d/C", b"d/x y"}


def test_a_known_name_that_was_missed_is_judged_with_what_goes_around_it() -> None:
    schedule = schedule_with(b"a")
    schedule.touch([moved(b"b", b"a")], 10.0)

    schedule.miss([b"a"], 10.0 + QUIET_S / 2)

    where = schedule.due(10.0 + JUST)  # not put off, and both halves at once
    assert set(where.paths) == {b"a", b"b"}
    assert where.moves == {b"b": b"a"}


def test_a_further_look_does_not_come_before_the_other_half_of_a_rename() -> None:
    schedule = schedule_with(b"a")
    schedule.touch([moved(b"b", b"a")], 10.0)

    schedule.look_again([Again(b"a", AgainReason.UNSURE, 0.0)], 10.0)

    assert not schedule.due(10.0)
    assert set(schedule.due(10.0 + JUST).paths) == {b"a", b"b"}
