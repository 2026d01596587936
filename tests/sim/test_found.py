"""Replay the histories that found an error, cut down to what it needed."""

from __future__ import annotations

import errno

import pytest

from daemon.outcomes import Reason
from tests.sim import invited
from tests.sim.history import Step
from tests.sim.playing import content, directories, files, node_of, played, step


def test_nodes_that_lose_their_links_while_they_are_stopped_end() -> None:
    played()


def test_a_conflict_copy_that_could_not_be_carried_is_written() -> None:
    played(
        step(18_499, 2, "twice", "ä.md", 39, 40),
        step(19_270, 0, "backup", "ä.md", 43, 1),
        step(19_270, 1, "backup", "ä.md", 44, 0),
        seed=23,
    )


def test_a_file_with_a_time_to_come_can_be_removed() -> None:
    world = played(
        step(129, 2, "clock", 257_845_854),
        step(592, 2, "write", "a", 1),
        step(1365, 1, "remove", "a"),
        seed=6,
    )

    assert files(world) == {}


def test_members_that_were_alone_together_find_each_other() -> None:
    played(
        step(14_373, 2, "alone", 3836),
        step(14_373, 0, "alone", 4233),
        step(15_395, 0, "create", "b", 27),
        seed=10,
    )


def test_an_edit_made_after_a_crash_behind_the_exchange_is_of_what_was_placed() -> None:
    played(
        step(10_160, 1, "save", "x y", 7),
        step(14_847, 0, "crash_at", 67, 2627, 0),
        step(17_679, 2, "save", "x y", 19),
        step(18_573, 0, "save", "x y", 21),
        step(18_573, 2, "write", "x y", 22),
        step(19_902, 0, "write", "x y", 25),
        seed=3,
    )


def test_a_directory_is_not_recorded_gone_before_what_apply_moves_out_of_it() -> None:
    played(
        step(180, 2, "mkdir", "Neuer Ordner"),
        step(6224, 1, "twice", "Notes.txt", 4, 5),
        step(10_952, 0, "write", "Neuer Ordner/c", 13),
        step(12_160, 0, "save", "Neuer Ordner/ä.md", 14),
        step(12_331, 2, "move", "Neuer Ordner/ä.md", "a"),
        step(12_331, 1, "full", 323),
        step(12_331, 1, "rmtree", "Neuer Ordner"),
        seed=175,
    )


def test_a_deletion_that_comes_while_its_file_is_fetched_is_not_forgotten() -> None:
    played(
        step(2105, 1, "mkdir", "d"),
        step(4196, 1, "save", "d/notes.txt", 9),
        step(8826, 0, "weather", 1, "slow", 6661),
        step(11_084, 0, "hold", "d/a", 19, 20, 2686),
        step(11_893, 2, "weather", 1, "thin", 3707),
        step(14_533, 0, "alone", 60),
        step(15_838, 0, "rmtree", "d"),
        step(17_423, 1, "append", "d/notes.txt", 26),
        seed=161,
    )


def test_a_name_that_could_not_be_read_and_was_moved_is_no_problem() -> None:
    played(
        step(312, 2, "kill", 5586),
        step(748, 1, "fault", 21, errno.EACCES, 1),
        step(9774, 1, "write", "Notes.txt", 6),
        step(9774, 0, "weather", 2, "thin", 4569),
        step(9774, 2, "mkdir", "Neuer Ordner"),
        step(9780, 2, "mkdir", "Neuer Ordner/e"),
        step(9780, 0, "save", "Notes.txt", 8),
        step(11_109, 1, "swap", "Notes.txt", "Notes.txt"),
        seed=200,
    )


def test_a_name_that_apply_misses_is_judged_with_the_other_half_of_its_rename() -> None:
    move: list[Step] = [
        step(1062, 1, "write", "ä.md", 7),
        step(1134, 0, "write", "ä.md", 9),
        step(1134, 2, "move", "ä.md", "b"),
    ]

    world = played(*move, seed=155)

    assert files(world) == {"b": content(9, 155)}


def test_one_failed_sync_is_no_problem_for_ever() -> None:
    played(
        step(805, 2, "meddle", 16, "mkdir", "d"),
        step(7000, 0, "fault", 1, errno.EIO, 6),
        step(7000, 1, "create", "a", 1),
        step(7000, 0, "create", "b", 2),
        step(20_000, 1, "mkdir", "e"),
    )


def test_a_file_moved_while_its_node_is_down_behind_the_exchange_is_one_file() -> None:
    played(
        step(4661, 2, "meddle", 6, "write", "x y", 10),
        step(4661, 0, "crash_at", 52, 1454, 1),
        step(5022, 2, "write", "x y", 12),
        step(5022, 0, "mkdir", "d"),
        step(7530, 1, "write", "x y", 14),
        step(8081, 0, "move", "x y", "d/x y"),
        seed=2134,
    )


def test_an_edit_of_a_file_that_leaves_is_not_taken_for_one_of_its_backup_copy() -> None:
    played(
        step(290, 0, "write", "b", 1),
        step(339, 0, "hold", "b", 2, 3, 1219),
        step(339, 2, "save", "b", 4),
        step(339, 0, "copy", "b", "x y"),
        step(413, 2, "fault", 18, 13, 3),
        step(817, 2, "remove", "b"),
        step(817, 0, "backup", "x y", 9, 1),
        step(3480, 2, "backup", "x y", 10, 0),
        step(5020, 0, "save", "x y", 11),
        step(5071, 2, "twice", "x y", 12, 13),
        step(9511, 0, "save", "c", 15),
        step(9744, 0, "fault", 14, 28, 30),
        step(9939, 1, "append", "c", 17),
        step(12_559, 2, "backup", "c", 21, 1),
        step(15_872, 0, "hold", "c", 22, 23, 1628),
        step(15_872, 1, "remove", "c"),
        seed=2174,
    )


def test_a_row_below_a_directory_that_is_gone_does_not_stay_for_ever() -> None:
    played(
        step(1139, 2, "mkdir", "d"),
        step(1139, 1, "save", "run.sh", 1),
        step(1757, 0, "move", "run.sh", "d/b"),
        step(1757, 0, "move", "d/b", "d/a"),
        step(2286, 2, "rmtree", "d"),
        step(2301, 1, "remove", "d/a"),
        seed=320,
    )


def test_what_a_failed_sync_left_open_is_not_taken_for_an_edit() -> None:
    played(
        step(499, 2, "save", "ä.md", 2),
        step(3852, 0, "move", "ä.md", "c"),
        step(5923, 2, "fault", 15, errno.EIO, 3),
        step(5984, 2, "move", "c", "run.sh"),
        step(5984, 1, "symlink", "/etc/passwd", "b"),
        step(5984, 1, "write", "run.sh", 5),
        step(6331, 2, "move", "d/Notes.txt", "d/run.sh"),
        seed=321,
    )


def test_nothing_is_put_where_synced_has_what_could_not_be_moved_away() -> None:
    played(
        step(1158, 1, "save", "ä.md", 1),
        step(1760, 0, "write", "c", 4),
        step(2049, 0, "swap", "c", "ä.md"),
        step(2049, 1, "write", "c", 5),
        step(2077, 2, "mkdir", "d"),
        step(2077, 0, "kill", 60),
        step(2077, 2, "remove", "c"),
        step(2077, 2, "mute", 2947),
        step(2252, 2, "meddle", 16, "swap", "ä.md", "ä.md"),
        step(2979, 1, "write", "d/ä.md", 11),
        step(2979, 2, "hold", "d/ä.md", 12, 13, 3458),
        seed=1117,
    )


def test_a_directory_that_could_not_be_listed_is_listed_later() -> None:
    played(
        step(1062, 1, "mkdir", "d"),
        step(2578, 2, "mkdir", "Neuer Ordner"),
        step(5429, 2, "fault", 9, errno.ENOSPC, 30),
        step(5429, 2, "move_directory", "d", "Neuer Ordner/e"),
        step(5592, 2, "mkdir", "Neuer Ordner/d"),
        step(15_252, 2, "move_directory", "Neuer Ordner/d", "d"),
        seed=2084,
    )


def test_what_stood_in_a_directory_that_apply_moved_during_a_scan_is_found() -> None:
    played(
        step(4235, 1, "mkdir", "e"),
        step(6050, 0, "mkdir", "e/d"),
        step(7721, 2, "save", "e/d/x y", 10),
        step(7796, 0, "fault", 21, 13, 30),
        step(11_258, 0, "write", "e/d/x y", 18),
        step(11_258, 2, "move_directory", "e", "d"),
        step(11_379, 0, "create", "e/d/notes.txt", 20),
        seed=50_188,
    )


def test_a_node_that_dies_just_behind_its_admission_calls_its_inviter() -> None:
    played(
        step(4000, 0, "create", "a", 1),
        step(8189, 2, "crash_commit", 1, 1, 2710, 1),
        step(9000, 2, "join", 0, "write"),
        seed=60_010,
        make=invited.make,
    )


def test_a_directory_made_where_another_is_about_to_come_leaves_none_behind() -> None:
    played(
        step(3504, 1, "mkdir", "e"),
        step(4206, 0, "meddle", 48, "move_directory", "e", "Neuer Ordner"),
        step(4446, 0, "meddle", 12, "write", "Notes.txt", 10),
        step(4446, 1, "big", "Notes.txt", 11),
        step(6733, 0, "mkdir", "d"),
        step(6733, 1, "move_directory", "Neuer Ordner", "d"),
        seed=62_003,
    )


def test_what_was_put_into_a_directory_just_before_apply_moves_it_is_found() -> None:
    played(
        step(3504, 1, "mkdir", "e"),
        step(4206, 0, "meddle", 48, "move_directory", "e", "Neuer Ordner"),
        step(4446, 0, "meddle", 12, "write", "Notes.txt", 10),
        step(4446, 1, "big", "Notes.txt", 11),
        step(5671, 1, "mkdir", "Neuer Ordner/Neuer Ordner"),
        step(6733, 0, "mkdir", "d"),
        step(6733, 0, "move_directory", "d", "Neuer Ordner/Neuer Ordner/e"),
        step(6733, 1, "move_directory", "Neuer Ordner", "d"),
        seed=62_003,
    )


def _one_that_moves_beside_a_copy_and_is_removed(*fault: Step) -> None:
    """Let apply swap a file with its conflict copy and remove the one, a call failing there."""
    played(
        step(626, 2, "write", "x y", 1),
        step(626, 1, "write", "x y", 2),
        step(2686, 0, "move", "x y", "notes.txt"),
        step(2941, 1, "swap", "notes.txt", "notes.txt"),
        step(2941, 2, "remove", "notes.txt"),
        *fault,
        step(4353, 1, "save", "ä.md", 4),
        seed=70_300,
    )


def test_a_failing_stat_behind_a_swap_does_not_make_the_swap_a_users() -> None:
    _one_that_moves_beside_a_copy_and_is_removed(step(2941, 1, "fault", 24, errno.ENOSPC, 1))


def test_an_error_behind_a_swap_is_finished_from_what_the_swap_left() -> None:
    _one_that_moves_beside_a_copy_and_is_removed(step(2941, 0, "fault", 9, errno.ENOSPC, 1))


def test_a_failed_sync_behind_a_swap_is_finished_from_what_the_swap_left() -> None:
    _one_that_moves_beside_a_copy_and_is_removed(step(2941, 0, "fault", 11, errno.ENOSPC, 1))


def test_a_chmod_and_a_touch_of_what_a_crash_left_placed_are_shared() -> None:
    world = played(
        step(10_848, 0, "save", "notes.txt", 23),
        step(13_929, 2, "backup", "notes.txt", 26, 0),
        step(13_929, 1, "crash_at", 11, 2280, 0),
        step(15_182, 1, "chmod", "notes.txt", 1),
        step(15_182, 1, "touch", "notes.txt", 1_234_567_890),
        seed=101_763,
    )

    file = world.places[0].files.get(b"notes.txt")
    assert (file.mode & 0o100, file.mtime_ns) == (0o100, 1_234_567_890 * 10**9)


def test_B6_two_names_of_one_file_to_a_disk_that_folds_case_are_kept_and_told() -> None:
    world = played(
        step(10, 0, "create", "notes.txt", 1), step(10, 1, "create", "Notes.txt", 2), folds_from=1
    )

    assert files(world, 0) == {"notes.txt": content(1), "Notes.txt": content(2)}
    assert files(world, 1) == files(world, 2) == {"Notes.txt": content(2)}
    assert set(node_of(world, 2).work.trouble.failed) == {Reason.CANNOT_EXIST}


def test_B6_a_directory_that_cannot_be_beside_another_is_not_bound_to_it_and_then_deleted() -> None:
    world = played(
        step(10, 0, "mkdir", "d"),
        step(10, 1, "mkdir", "D"),
        step(1000, 0, "create", "d/a", 1),
        step(1000, 1, "create", "D/b", 2),
        step(8000, 0, "create", "d/x", 3),
        step(8000, 1, "remove", "D/b"),
        folds_from=1,
    )

    assert files(world, 0) == {"d/a": content(1), "d/x": content(3)}
    assert directories(world, 1) == {"D"}


def test_B6_a_directory_of_another_case_is_one_rename_also_where_the_disk_folds_case() -> None:
    world = played(
        step(1727, 0, "mkdir", "d"),
        step(3359, 2, "recase", "d", "D"),
        step(8741, 2, "mkdir", "d/e"),
        folds_from=1,
    )

    assert [directories(world, index) for index in range(3)] == [{"D", "D/e"}] * 3


def test_a_copy_that_a_crash_left_in_place_is_bound_before_its_object_moves() -> None:
    played(
        step(244, 2, "mkdir", "d"),
        step(4288, 2, "hold", "ä.md", 10, 11, 1448),
        step(4612, 2, "write", "ä.md", 14),
        step(4932, 0, "write", "ä.md", 15),
        step(5568, 2, "symlink", "../..", "d/run.sh"),
        step(5568, 2, "crash_commit", 5, 0, 2809, 1),
        step(7235, 2, "move", "ä.md", "d/Notes.txt"),
        seed=120_165,
    )


@pytest.mark.parametrize("instant", range(4, 10))
def test_F1_a_new_file_whose_disk_went_before_synced_knew_it_is_no_create(instant: int) -> None:
    """Its node heard of the rename while the disk was away, and recorded it as its own."""
    world = played(
        step(1000, 1, "unplug", instant, 4000),
        step(1000, 0, "create", "a", 1),
        step(3000, 0, "move", "a", "b"),
    )

    assert [files(world, index) for index in range(3)] == [{"b": content(1)}] * 3
    assert node_of(world, 1).events() == 0


def test_B6_what_moves_to_a_name_that_another_leaves_in_another_case_waits_for_it() -> None:
    world = played(
        step(1200, 2, "mkdir", "e"),
        step(10_056, 2, "create", "e/notes.txt", 1),
        step(10_606, 2, "create", "e/b", 2),
        step(12_686, 2, "swap", "e/NOTES.TXT", "e/b"),
        folds_from=1,
    )

    swapped = {"e/NOTES.TXT": content(2), "e/b": content(1)}
    assert [files(world, index) for index in range(3)] == [swapped] * 3


def test_a_file_moved_into_a_directory_that_apply_renames_at_that_moment_is_no_deletion() -> None:
    world = played(
        step(0, 1, "mkdir", "d"),
        step(11_012, 2, "mkdir", "e"),
        step(12_357, 2, "big", "d/b", 23),
        step(15_495, 0, "mkdir", "e/Neuer Ordner"),
        step(21_658, 1, "move_directory", "e", "d/d"),
        step(21_658, 0, "move", "d/b", "e/Neuer Ordner/a"),
        seed=200_889,
    )

    assert [set(files(world, index)) for index in range(3)] == [{"d/d/Neuer Ordner/a"}] * 3


def test_B6_what_cannot_move_makes_way_for_what_is_to_stand_there() -> None:
    world = played(
        step(1200, 2, "mkdir", "e"),
        step(5746, 1, "create", "e/notes.txt", 4),
        step(6938, 2, "write", "e/notes.txt", 8),
        step(6938, 1, "append", "e/notes.txt", 9),
        step(10_056, 2, "recase", "e/notes.txt", "e/NOTES.TXT"),
        step(10_056, 2, "hold", "e/notes.txt", 22, 23, 1564),
        step(10_606, 2, "create", "e/b", 24),
        step(12_686, 2, "swap", "e/NOTES.TXT", "e/b"),
        seed=6,
        folds_from=1,
    )

    assert files(world, 1)["e/b"] == content(23, 6)


def test_B6_what_cannot_move_is_edited_where_it_stays() -> None:
    world = played(
        step(4895, 2, "mkdir", "d"),
        step(9943, 1, "write", "d/nOTES.TXT", 10),
        step(10_479, 0, "recase", "d/nOTES.TXT", "d/Notes.txt"),
        step(10_479, 0, "write", "d/nOTES.TXT", 11),
        step(10_810, 1, "move_directory", "d", "e"),
        step(21_707, 1, "hold", "e/nOTES.TXT", 24, 25, 1349),
        step(21_707, 2, "recase", "e/nOTES.TXT", "e/Notes.txt"),
        step(22_112, 0, "recase", "e/Notes.txt", "e/nOTES.TXT"),
        seed=20_001,
        folds_from=1,
    )

    assert content(25, 20_001) in files(world, 2).values()


def test_a_late_write_to_a_removed_file_is_heard_although_the_clock_is_set_back() -> None:
    world = played(
        step(1877, 2, "mkdir", "e"),
        step(1877, 2, "meddle", 10, "mkdir", "e/e"),
        step(3340, 1, "twice", "x y", 2, 3),
        step(4761, 2, "hold", "x y", 4, 5, 3731),
        step(4955, 0, "move", "x y", "e/e/b"),
        step(8405, 0, "rmtree", "e/e"),
        step(17_567, 2, "clock", -60_540_832),
        seed=204_337,
        disk_options={"has_exchange": False},
    )

    assert content(5, 204_337) in files(world).values()


@pytest.mark.parametrize("instant", range(62, 70))
def test_E1_a_directory_that_went_with_one_in_it_is_not_forgotten_alone(instant: int) -> None:
    """What was known in it had no place any more, and was planned for ever (seed 300615)."""
    world = played(
        step(4359, 0, "mkdir", "d"),
        step(6560, 0, "create", "d/Notes.txt", 6),
        step(10_193, 2, "mute", 1497),
        step(10_693, 2, "mkdir", "d/e"),
        step(10_832, 2, "write", "d/b", 13),
        step(12_333, 2, "mkdir", "d/e/e"),
        step(12_333, 2, "crash_at", instant, 2085, 1),
        step(13_276, 1, "rmtree", "d"),
        step(15_149, 1, "backup", "d/Notes.txt", 15, 1),
        seed=300_615,
    )

    assert content(13, 300_615) in files(world, 2).values()


def test_what_is_exchanged_with_a_name_in_other_letters_is_recorded() -> None:
    """Its look was dropped: the second half of the exchange was not told from a rename."""
    world = played(
        step(8708, 1, "mkdir", "d"),
        step(9856, 1, "save", "d/c", 14),
        step(9856, 1, "recase", "d/c", "d/C"),
        step(11_974, 0, "move_directory", "d", "Neuer Ordner"),
        step(12_424, 2, "create", "Neuer Ordner/x y", 22),
        step(12_424, 2, "exchange", "Neuer Ordner/c", "Neuer Ordner/x y"),
        seed=2894,
        folds_from=0,
    )

    assert content(14, 2894) in files(world, 0).values()
