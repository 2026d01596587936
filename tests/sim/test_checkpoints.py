"""Join by a snapshot with whole nodes: what is begun with, what is refused, what goes on."""

from __future__ import annotations

from typing import cast

import pytest

from daemon.snapshot_parts import kept_of
from daemon.snapshots import Snapshots
from store.ids import BlobHash, FolderId
from store.joined import catch_up
from tests.sim import invited
from tests.sim.history import Step
from tests.sim.invited import InvitedNode
from tests.sim.outside import Outside
from tests.sim.playing import content, files, played, step
from tests.sim.world import Place, World

LATER = 3  # who joins by one that joined
SAVES = [step(4000 + 40 * number, 0, "write", "a", 1 + number) for number in range(40)]
JOINED: list[Step] = [
    *SAVES,
    step(7000, 0, "checkpoint"),
    step(7100, 1, "cut", 2, 8000),  # the newcomer has the owner alone
    step(8000, 2, "join", 0, "write"),
    step(12_000, 2, "create", "b", 60),
    step(12_500, 0, "write", "a", 61),
    step(13_000, 0, "checkpoint"),
]


def stubs(world: World, index: int) -> int:
    """Count the batches of which a node knows the place alone."""
    node = cast("InvitedNode", world.places[index].node)
    (number,) = node.stored.db.execute("SELECT count(*) FROM batch WHERE header = x''").fetchone()
    return int(number)


def test_P10_who_joins_begins_with_the_snapshot_and_goes_on_with_the_tail() -> None:
    world = played(*JOINED, seed=1, make=invited.make)

    assert stubs(world, 2) > 10
    assert stubs(world, 0) == stubs(world, 1) == 0
    assert files(world) == {"a": content(61), "b": content(60)}


def test_who_began_with_a_snapshot_goes_on_with_it_after_a_crash() -> None:
    crash = [step(11_000, 2, "kill", 500), step(12_700, 2, "crash_commit", 1, 1, 300, 1)]

    world = played(*JOINED, *crash, seed=1, make=invited.make)

    assert stubs(world, 2) > 10


def test_P11_a_snapshot_with_other_bytes_is_not_believed_and_the_log_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = 0
    right = Snapshots.read

    async def wrong(
        self: Snapshots, folder: FolderId, blob: BlobHash, offset: int, length: int
    ) -> bytes | None:
        nonlocal given
        part = await right(self, folder, blob, offset, length)
        if part is None:
            return None
        given += 1
        return part[:-1] + bytes([part[-1] ^ 1])

    monkeypatch.setattr(Snapshots, "read", wrong)

    world = played(*JOINED, seed=1, make=invited.make)

    assert given > 0
    assert stubs(world, 2) == 0
    assert files(world) == {"a": content(61), "b": content(60)}


def test_a_peer_that_has_no_snapshot_after_all_costs_nothing_but_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(Snapshots, "read", nothing)

    world = played(*JOINED, seed=1, make=invited.make)

    assert stubs(world, 2) == 0
    assert files(world) == {"a": content(61), "b": content(60)}


def test_who_is_invited_by_one_that_the_checkpoint_does_not_know_gets_the_tail_from_them() -> None:
    invited_later = [
        *SAVES,
        step(7000, 0, "checkpoint"),
        step(8000, 2, "join", 0, "admin"),
        step(15_000, 0, "write", "a", 61),
        step(17_000, LATER, "cut", 0, 40_000),  # the next has whom that one was let in by alone
        step(17_000, LATER, "cut", 1, 40_000),
        step(18_000, LATER, "join", 2, "write"),
        step(40_000, 2, "write", "a", 62),
    ]

    seen: list[dict[str, bytes]] = []

    def make(place: Place) -> InvitedNode:
        if place.index == LATER:  # while the cuts still hold
            place.loop.call_later(50, lambda: seen.append(files(world, LATER)))
        return invited.make(place)

    world = World(1, make, nodes=LATER + 1, history=invited_later)

    assert world.run().failures == ()
    assert stubs(world, LATER) > 10
    assert seen == [{"a": content(62)}]


@pytest.mark.parametrize("is_alone_with_owner", [True, False])
def test_P23_files_that_stood_where_one_joins_by_a_snapshot_are_kept(
    is_alone_with_owner: bool,
) -> None:
    gone = b"a content that was deleted"

    def before(outsides: list[Outside]) -> None:
        outsides[0].write(b"gone", gone)
        outsides[2].write(b"a", b"of the joiner")  # other bytes than any version had
        outsides[2].write(b"own", b"only here")
        outsides[2].write(b"gone", gone)

    steps = [*SAVES, step(6500, 0, "remove", "gone"), step(7000, 0, "checkpoint")]
    steps += [step(7100, 1, "cut", 2, 8000)] if is_alone_with_owner else []
    steps += [step(8000, 2, "join", 0, "write")]

    world = played(*steps, seed=1, make=invited.make, before=before)

    assert stubs(world, 2) > 10
    found = files(world)
    assert files(world, 2) == found
    assert (found["own"], found["gone"]) == (b"only here", gone)
    assert sorted(found.values()) == sorted([b"of the joiner", content(40), b"only here", gone])


AWAY = step(3500, 1, "cut", 0, 30_000)


def let_go(node: InvitedNode) -> None:
    """Let a node keep nothing below its checkpoint but what the snapshot holds."""
    checkpoint = kept_of(node.stored).checkpoint()
    assert checkpoint is not None
    catch_up(node.stored, kept_of(node.stored), checkpoint)


def test_P12_who_was_away_goes_on_with_the_snapshot_of_who_has_nothing_else() -> None:
    history = [
        AWAY,
        *SAVES,
        step(5000, 1, "create", "b", 60),
        step(5500, 1, "write", "a", 61),
        step(7000, 0, "checkpoint"),
        step(8000, 0, "write", "a", 63),
        step(25_000, 1, "write", "b", 62),
        step(70_000, 0, "write", "a", 64),
        step(70_000, 1, "write", "c", 65),
    ]

    def make(place: Place) -> InvitedNode:
        node = invited.make(place)
        if place.index == 0:
            place.loop.call_later(9, lambda: let_go(node))
        return node

    world = World(1, make, nodes=2, history=history)

    assert world.run().failures == ()
    assert stubs(world, 0) == stubs(world, 1) > 10
    found = files(world)
    assert files(world, 1) == found
    assert (found["b"], found["c"]) == (content(62), content(65))
    assert {content(61), content(64)} <= set(found.values())
