"""Show properties of whole nodes that no part has alone, each by a history made for it."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from daemon.disk import FileKind
from tests.sim import real
from tests.sim.disk import MemoryDisk
from tests.sim.history import TEN_YEARS_S
from tests.sim.playing import (
    content,
    directories,
    files,
    identities,
    node_of,
    played,
    step,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.history import Step
    from tests.sim.outside import Outside

CONFLICT = " (conflict "
LATER = step(9000, 2, "mkdir", "later")  # faults that were arranged end with the history


def alone(node: int, *steps: Step) -> list[Step]:
    """Keep a node alone from second 5 to second 8, when the steps happen."""
    return [step(5000, node, "alone", 3000), *steps]


def calls_of(name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, ...]]:
    """Note the paths of every call of that name, on all disks."""
    calls: list[tuple[bytes, ...]] = []
    method = getattr(MemoryDisk, name)

    def noting(self: MemoryDisk, *args: object, **kwargs: object) -> object:
        calls.append(tuple(each for each in args if isinstance(each, bytes)))
        return method(self, *args, **kwargs)

    monkeypatch.setattr(MemoryDisk, name, noting)
    return calls


# -- what users do at once ------------------------------------------------------------------------


def test_P20_an_edit_beside_a_delete_wins() -> None:
    world = played(
        step(0, 0, "create", "a", 1),
        *alone(1, step(6000, 0, "write", "a", 2), step(6000, 1, "remove", "a")),
    )

    assert files(world) == {"a": content(2)}


def test_P21_an_edit_beside_a_move_is_one_file_with_both() -> None:
    world = played(
        step(0, 0, "create", "a", 1),
        *alone(1, step(6000, 0, "write", "a", 2), step(6000, 1, "move", "a", "b")),
    )

    assert files(world) == {"b": content(2)}


def test_P24_concurrent_moves_never_duplicate_a_file() -> None:
    world = played(
        step(0, 0, "create", "a", 1),
        *alone(1, step(6000, 0, "move", "a", "b"), step(6000, 1, "move", "a", "c")),
    )

    assert list(files(world).values()) == [content(1)]
    assert set(files(world)) <= {"b", "c"}


@pytest.mark.parametrize("resolver", [0, 1, 2])
def test_P25_resolving_a_conflict_on_one_node_resolves_it_on_all(resolver: int) -> None:
    edits = [
        step(0, 0, "create", "a", 1),
        *alone(1, step(6000, 0, "write", "a", 2), step(6000, 1, "write", "a", 3)),
    ]
    conflicted = files(played(*edits))
    [copy] = [name for name in conflicted if CONFLICT in name]

    world = played(*edits, step(20_000, resolver, "remove", copy))

    assert sorted(conflicted.values()) == sorted([content(2), content(3)])
    assert files(world) == {"a": conflicted["a"]}


def test_P28_a_file_added_to_a_directory_keeps_it_from_a_delete() -> None:
    world = played(
        step(0, 0, "mkdir", "d"),
        step(10, 0, "create", "d/old", 1),
        *alone(1, step(6000, 0, "rmtree", "d"), step(6000, 1, "create", "d/new", 2)),
    )

    assert files(world) == {"d/new": content(2)}


def test_B11_cyclic_moves_make_no_cycle_and_lose_nothing() -> None:
    world = played(
        step(0, 0, "mkdir", "x"),
        step(0, 0, "mkdir", "y"),
        step(10, 0, "create", "x/one", 1),
        step(10, 0, "create", "y/two", 2),
        *alone(
            1,
            step(6000, 0, "move_directory", "x", "y/x"),
            step(6000, 1, "move_directory", "y", "x/y"),
        ),
    )

    assert sorted(files(world).values()) == sorted([content(1), content(2)])


# -- joining --------------------------------------------------------------------------------------


def fill(*names_of: dict[str, bytes]) -> Callable[[list[Outside]], None]:
    """Let folders hold files before their nodes start."""

    def before(places: list[Outside]) -> None:
        for place, names in zip(places, names_of, strict=True):
            for name, value in names.items():
                if "/" in name:
                    place.mkdirs(name.rpartition("/")[0].encode())
                place.write(name.encode(), value)
                place.utime(name.encode(), 10**18)
                if place.witness is not None:
                    place.witness.copied(value)

    return before


@pytest.mark.parametrize("make", [real.make, real.make_joining])
def test_P22_identical_trees_join_without_a_write_or_a_transfer(
    make: Callable[..., real.RealNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {"a": b"one", "d/b": b"two", "d/e/c": b"", "run": b"three" * 1000}
    writes = calls_of("place_new", monkeypatch) + calls_of("place_over", monkeypatch)

    world = played(before=fill(tree, tree, tree), make=make)

    assert files(world) == tree
    assert writes == []
    assert all(node_of(world, index).node.fetcher.received_bytes == 0 for index in range(3))


@pytest.mark.parametrize("make", [real.make, real.make_joining])
def test_P23_overlapping_trees_become_their_union(make: Callable[..., real.RealNode]) -> None:
    world = played(
        before=fill(
            {"same": b"s", "d/only": b"0", "other": b"mine"},
            {"same": b"s", "d/also": b"1", "other": b"yours"},
            {"same": b"s", "e/too": b"2", "other": b"mine"},
        ),
        make=make,
    )

    found = files(world)
    copies = [name for name in found if CONFLICT in name]
    assert set(found) - set(copies) == {"same", "d/only", "d/also", "e/too", "other"}
    assert len(copies) == 1
    assert {found["other"], found[copies[0]]} == {b"mine", b"yours"}


# -- echoes, moves, editors -----------------------------------------------------------------------


def test_P29_P30_applying_what_others_did_makes_no_event() -> None:
    world = played(
        step(0, 0, "mkdir", "d"),
        step(5, 0, "create", "d/a", 1),
        step(900, 0, "save", "d/a", 2),
        step(1800, 0, "move_directory", "d", "e"),
        step(2500, 0, "chmod", "e/a", 1),
        step(3000, 0, "swap", "e/a", "e/a"),
        step(4000, 0, "rmtree", "e"),
    )

    assert node_of(world, 1).events() == 0
    assert node_of(world, 2).events() == 0


def test_P26_moving_a_directory_is_one_event_and_one_rename(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    below = [step(10, 0, "create", f"d/{number}", number + 1) for number in range(30)]
    still = [step(0, 0, "mkdir", "d"), *below]
    events = node_of(played(*still), 0).events()
    moves = calls_of("move", monkeypatch)

    world = played(*still, step(5000, 0, "move_directory", "d", "e"))

    assert node_of(world, 0).events() == events + 1
    assert moves == [(b"d", b"e"), (b"d", b"e")]
    assert len(files(world)) == 30


@pytest.mark.parametrize(
    ("verbs", "names"),
    [
        ([("move", "a", "c")], {"c": "a", "b": "b"}),
        ([("swap", "a", "b")], {"a": "b", "b": "a"}),
        ([("exchange", "a", "b")], {"a": "b", "b": "a"}),
        ([("move", "a", "c"), ("move", "b", "a")], {"c": "a", "a": "b"}),
    ],
)
def test_P36_renames_keep_identities(
    verbs: list[tuple[str, str, str]], names: dict[str, str]
) -> None:
    made = [step(0, 0, "create", "a", 1), step(0, 0, "create", "b", 2)]
    before = identities(played(*made))

    world = played(*made, *(step(5000, 0, *verb) for verb in verbs))

    after = identities(world, 1)
    assert after == {name: before[former] for name, former in names.items()}


@pytest.mark.parametrize("verb", ["write", "save", "backup"])
def test_P35_an_editors_save_is_one_edit(verb: str) -> None:
    made = step(0, 0, "create", "a", 1)
    before = played(made)
    keeps = (0,) if verb == "backup" else ()

    world = played(made, step(5000, 0, verb, "a", 2, *keeps))

    assert node_of(world, 0).events() == node_of(before, 0).events() + 1
    assert identities(world, 1) == identities(before)
    assert files(world, 2) == {"a": content(2)}


# -- faults at every instant ----------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["write", "save", "append"])
def test_P31_a_write_at_any_instant_of_apply_is_kept(verb: str) -> None:
    for instant in range(1, 40, 4):
        world = played(
            step(0, 0, "create", "a", 1),
            step(5000, 1, "meddle", instant, verb, "a", 3),
            step(5000, 0, "save", "a", 2),
            LATER,
        )

        found = list(files(world).values())
        was_done = instant < 20 or len(found) > 1
        assert not was_done or any(each.endswith(content(3)) for each in found), (instant, found)


@pytest.mark.parametrize("power", [0, 1])
@pytest.mark.parametrize(
    "verb",
    [("save", "a", 2), ("move", "a", "b"), ("remove", "a"), ("chmod", "a", 1)],
)
def test_P32_a_crash_at_any_instant_of_apply_is_recovered(
    verb: tuple[str | int, ...], power: int
) -> None:
    for instant in range(1, 46, 6):
        world = played(
            step(0, 0, "create", "a", 1),
            step(5000, 1, "crash_at", instant, 500, power),
            step(5000, 0, str(verb[0]), *verb[1:]),
            LATER,
        )

        assert len(files(world)) == (verb[0] != "remove"), instant


@pytest.mark.parametrize(("verb", "number"), [("chmod", 1), ("touch", 12_345)])
def test_P32_F2_what_apply_set_is_not_taken_back_after_a_power_cut(verb: str, number: int) -> None:
    for seed in range(8):  # a power cut loses what chance wills of what is not durable
        acts = [step(0, 0, "create", "a", 1), step(5000, 0, verb, "a", number)]
        events = node_of(played(*acts, seed=seed), 0).events()

        world = played(*acts, step(9000, 1, "power", 500), LATER, seed=seed)

        assert [node_of(world, index).events() for index in (0, 1)] == [events, 0]


@pytest.mark.parametrize("has_exchange", [True, False])
@pytest.mark.parametrize("verb", [("move", "a", "b"), ("create", "a", 3), ("write", "a", 3)])
def test_P24_P32_acts_on_what_a_crash_left_are_taken_for_what_they_are(
    verb: tuple[str | int, ...], *, has_exchange: bool
) -> None:
    for instant in range(8, 16):  # around the exchange
        played(
            step(0, 0, "create", "a", 1),
            step(5000, 1, "crash_at", instant, 2000, 0),
            step(5000, 0, "write", "a", 2),
            step(6000, 1, str(verb[0]), *verb[1:]),
            LATER,
            disk_options={"has_exchange": has_exchange},
        )


# -- what is not there is not deleted -------------------------------------------------------------


def _from_to(
    begin_s: float, end_s: float, begin: Callable[[], None], end: Callable[[], None]
) -> None:
    loop = asyncio.get_running_loop()
    loop.call_at(begin_s, begin)
    loop.call_at(end_s, end)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_P33_E7_E8_a_root_that_is_replaced_deletes_nothing(*, is_restarted: bool) -> None:
    def before(places: list[Outside]) -> None:
        tree = places[1].files
        root, other = tree.root, tree.make(FileKind.DIRECTORY, 0o755)

        def vanish() -> None:
            tree.root = other

        def come_back() -> None:
            tree.root = root

        _from_to(5.0, 15.0, vanish, come_back)

    restart = [step(7000, 1, "stop", 100)] if is_restarted else []
    world = played(
        step(0, 0, "mkdir", "d"),
        step(0, 0, "create", "d/a", 1),
        step(0, 1, "create", "b", 2),
        *restart,
        step(9000, 0, "create", "d/c", 3),
        step(16_000, 2, "touch", "b", 12345),
        before=before,
    )

    assert files(world, 1) == {"d/a": content(1), "b": content(2), "d/c": content(3)}


@pytest.mark.parametrize("path", [b"", b"d"])
def test_P33_E9_what_cannot_be_listed_is_not_deleted(path: bytes) -> None:
    def before(places: list[Outside]) -> None:
        tree = places[1].files

        def lock() -> None:
            tree.set_attributes(tree.get(path), mode=0)

        def unlock() -> None:
            tree.set_attributes(tree.get(path), mode=0o755)

        _from_to(5.0, 9.0, lock, unlock)

    world = played(
        step(0, 0, "mkdir", "d"),
        step(0, 0, "create", "d/a", 1),
        step(6000, 1, "overflow"),
        step(10_000, 1, "overflow"),
        before=before,
    )

    assert files(world) == {"d/a": content(1)}
    assert node_of(world, 1).events() == 0


def test_P33_E5_what_cannot_be_read_is_neither_changed_nor_deleted() -> None:
    world = played(
        step(0, 0, "create", "a", 1),
        step(5000, 1, "fault", 1, errno.EIO, 30),
        step(5001, 1, "overflow"),
        step(40_000, 1, "overflow"),
    )

    assert files(world) == {"a": content(1)}
    assert node_of(world, 1).events() == 0


def test_P34_without_any_hint_a_scan_finds_the_same() -> None:
    acts = [
        step(0, 0, "mkdir", "d"),
        step(0, 0, "create", "d/a", 1),
        step(0, 0, "create", "b", 2),
        step(6000, 0, "save", "b", 3),
        step(6000, 0, "move_directory", "d", "e"),
        step(6000, 0, "create", "c", 4),
    ]

    told = played(*acts)
    untold = played(*acts[:3], step(5500, 0, "mute", 3000), *acts[3:])

    assert files(untold) == files(told) == {"e/a": content(1), "b": content(3), "c": content(4)}
    assert identities(untold) == identities(told)
    assert directories(untold) == {"e"}


def test_P39_ignored_names_make_no_event() -> None:
    def before(places: list[Outside]) -> None:
        for place in places[:1]:
            place.write(b".dizzyignore", b"*.tmp\nbuild/\n")

    world = played(step(3000, 1, "mkdir", "kept"), before=before)
    events = node_of(world, 1).events()

    def more(places: list[Outside]) -> None:
        before(places)
        loop = asyncio.get_running_loop()
        loop.call_at(6.0, lambda: places[1].mkdir(b"build"))
        loop.call_at(6.1, lambda: places[1].device(b"pipe"))
        loop.call_at(7.0, lambda: places[1].rmdir(b"build"))
        loop.call_at(7.1, lambda: places[1].unlink(b"pipe"))

    world = played(step(3000, 1, "mkdir", "kept"), step(8000, 0, "mkdir", "x"), before=more)

    assert node_of(world, 1).events() == events


# -- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        ("flap", 1, 30),  # every 100 ms
        ("stall", 1, 6000),  # from the one to the other: the way back goes on
        ("weather", 1, "breaking", 6000),  # as where TLS finds a flipped bit
        ("weather", 1, "slow", 6000),  # 2 s
        ("weather", 1, "thin", 6000),
        ("cut", 1, 6000),
    ],
)
def test_H3_what_happens_while_a_line_is_bad_arrives_once_and_whole(
    trouble: tuple[str | int, ...],
) -> None:
    world = played(
        step(0, 0, "create", "a", 1),
        step(3000, 0, str(trouble[0]), *trouble[1:]),
        step(3100, 0, "write", "a", 40),  # 70,000 bytes or more
        step(3200, 1, "create", "b", 2),
        step(4000, 0, "write", "a", 3),
        step(4300, 1, "move", "b", "c"),
        step(5000, 2, "create", "d", 4),
    )

    assert files(world, 1) == {"a": content(3), "c": content(2), "d": content(4)}
    batches = "SELECT count(*) FROM batch"
    [counts] = {node_of(world, index).stored.db.execute(batches).fetchone() for index in range(3)}
    assert counts[0] > 0


# -- clocks, names, disks -------------------------------------------------------------------------


@pytest.mark.parametrize("by_s", [TEN_YEARS_S, -TEN_YEARS_S])
@pytest.mark.parametrize("node", [0, 1])
def test_P49_H1_a_clock_that_jumps_ten_years_changes_no_result(by_s: int, node: int) -> None:
    acts = [
        step(0, 0, "create", "a", 1),
        step(4000, 1, "write", "a", 2),
        step(6000, 0, "write", "a", 3),
        step(8000, 2, "move", "a", "b"),
        step(9000, 1, "create", "c", 4),
        step(9500, 0, "remove", "c"),
    ]

    world = played(*acts, step(3000, node, "clock", by_s))

    assert files(world) == {"b": content(3), "c": content(4)} or files(world) == {"b": content(3)}


def test_B4_B5_names_that_others_cannot_have_are_carried_as_they_are() -> None:
    names = ["CON", "nul.txt", "a:b", "dot.", "space ", "line\nbreak", "\udcff\udcfe", "\u202ex"]

    world = played(*(step(0, 0, "create", name, number) for number, name in enumerate(names, 1)))

    assert set(files(world, 1)) == set(names)


def test_B6_names_that_differ_in_case_are_two_files() -> None:
    world = played(step(0, 0, "create", "File", 1), step(0, 1, "create", "file", 2))

    assert files(world) == {"File": content(1), "file": content(2)}


def test_a_file_system_without_exchange_converges_too() -> None:
    world = played(
        step(0, 0, "create", "a", 1),
        step(0, 0, "create", "b", 2),
        step(3000, 1, "save", "a", 3),
        step(5000, 2, "swap", "a", "b"),
        disk_options={"has_exchange": False},
    )

    assert files(world) == {"b": content(3), "a": content(2)}
