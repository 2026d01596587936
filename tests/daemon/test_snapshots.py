"""Make checkpoints beside the other work: little by little, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ParamSpec, TypeVar, cast

import pytest

from daemon import snapshots
from daemon.config import HistoryConfig
from daemon.engine import Engine
from daemon.procedures import BeginWithSnapshot, Procedures
from daemon.shelf import Shelf
from daemon.snapshot_parts import kept_of
from daemon.snapshots import Rule, Snapshots
from store.access import Role
from store.db import open_database
from store.errors import Malformed
from store.events import Checkpointed, Tagged, encode
from store.folder import StoredFolder
from store.founding import add_folder, share_folder
from store.ids import Epoch, FolderId
from store.joined import founding_batch
from store.kept_snapshot import checkpoint_in
from store.signing import AgentKey
from tests.store.nodes import Node, make_nodes
from tests.store.test_joined import checkpointed, joiner
from tests.store.test_joined import kept_of as put_pieces

P = ParamSpec("P")
T = TypeVar("T")


class Inline:
    """Runs at once."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return fn(*args, **kwargs)


class Clock:
    """Each reading is a second later, so that every slice of work ends at once."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def now_ns(self) -> int:
        return int(self.at_s * 10**9)

    def monotonic_s(self) -> float:
        self.at_s += 1
        return self.at_s


class Owner:
    """A node that owns a folder, as far as snapshots are concerned."""

    def __init__(self, home: Path, rule: Rule) -> None:
        self.path = home / "db.sqlite"
        key = AgentKey.from_seed(b"\1" * 32)
        shelf = Shelf(open_database(self.path), key, bytes)
        stored = share_folder(
            shelf.db,
            key,
            folder_key=AgentKey.from_seed(b"\xff" * 32),
            name="f",
            label=b"a",
            path=b"/0",
            epoch=Epoch(bytes(16)),
            nonce=bytes(16),
            wall_ms=1,
        )
        shelf.put(stored)
        self.acts = Node(0, stored)
        self.stored = stored
        self.clock = Clock()
        self.engine = Engine(clock=self.clock, random_bytes=bytes, transactions=shelf)
        self.work = SimpleNamespace(
            folder_no=stored.no,
            folder=stored.id,
            is_settled=True,
            tail=SimpleNamespace(is_lagging=False),
            standing=SimpleNamespace(
                is_joining=False, own_member=stored.own_member(), last_change_ms=None
            ),
        )
        world = SimpleNamespace(core=Inline(), pool=Inline(), clock=self.clock)
        self.node = SimpleNamespace(
            shelf=shelf,
            works={stored.id: self.work},
            world=world,
            engine=self.engine,
            procedures=Procedures(shelf),
            sessions=SimpleNamespace(offer_again=lambda _folder: None),
        )
        self.snapshots = Snapshots(cast("Any", self.node), rule)

    async def look(self) -> None:
        """Do what a look at the folder does."""
        made = self.snapshots
        if await made._is_due(cast("Any", self.work)):
            reading = open_database(self.path, read_only=True)
            await made._make(cast("Any", self.work), reading)
            reading.connection.close()


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Owner:
    monkeypatch.setattr(snapshots, "_REST_S", 0)
    made = Owner(tmp_path, Rule(from_batches=20))
    made.acts.create(b"a", b"0")
    return made


async def test_a_log_that_grew_and_shrinks_is_told_by_a_checkpoint(owner: Owner) -> None:
    for number in range(30):
        owner.acts.materialise()
        owner.acts.edit(b"a", b"%d more" % number)
    root = owner.stored.state.root()

    await owner.look()

    signed = await owner.snapshots.offered(owner.stored.id)
    assert signed is not None
    told = checkpoint_in(signed)
    assert told is not None
    assert told.state_root == root
    assert kept_of(owner.stored).is_whole(told.snapshot)
    read = await owner.snapshots.read(owner.stored.id, cast("Any", told.snapshot.hash), 0, 17)
    assert read == b"dizzyd/snapshot/2"
    before = owner.stored.log.batches
    await owner.look()  # nothing came since
    assert owner.stored.log.batches == before


async def test_a_log_that_says_no_more_than_its_snapshot_gets_no_checkpoint(owner: Owner) -> None:
    for number in range(30):
        owner.acts.create(b"%d" % number, b"%d more" % number)
    before = owner.stored.log.batches

    await owner.look()

    assert owner.stored.log.batches == before
    assert await owner.snapshots.offered(owner.stored.id) is None
    assert owner.stored.db.execute("SELECT count(*) FROM snapshot_piece").fetchone() == (0,)
    assert not await owner.snapshots._is_due(cast("Any", owner.work))


async def test_what_is_to_be_done_comes_before_a_snapshot(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        owner.acts.materialise()
        owner.acts.edit(b"a", b"%d more" % number)
    before = owner.stored.log.batches
    steps = 0
    right = snapshots._step

    def step(*args: Any) -> tuple[Checkpointed | None, bool]:
        nonlocal steps
        steps += 1
        owner.work.is_settled = steps < 5
        return right(*args)

    monkeypatch.setattr(snapshots, "_step", step)

    await owner.look()

    assert steps == 5
    assert owner.stored.log.batches == before
    owner.work.is_settled = True
    monkeypatch.setattr(snapshots, "_step", right)
    await owner.look()
    assert owner.stored.log.batches == before + 1


@pytest.mark.parametrize(
    "change",
    [
        lambda work: setattr(work, "is_settled", False),
        lambda work: setattr(work.standing, "is_joining", True),
        lambda work: setattr(work.tail, "is_lagging", True),
        lambda work: setattr(work.standing, "own_member", None),
        lambda work: setattr(work.standing, "last_change_ms", 1_000_000 - 59_000),
    ],
)
async def test_a_checkpoint_waits_for_rest_and_is_the_owners(
    owner: Owner, change: Callable[[Any], None]
) -> None:
    for number in range(30):
        owner.acts.create(b"%d" % number, b"%d more" % number)
    assert await owner.snapshots._is_due(cast("Any", owner.work))

    change(owner.work)

    assert not await owner.snapshots._is_due(cast("Any", owner.work))


def test_P11_a_refused_snapshot_leaves_nothing_behind_in_the_engines_transaction(
    tmp_path: Path,
) -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    signed, pieces = checkpointed(anna)
    told = checkpoint_in(signed)
    assert told is not None
    wrong = Checkpointed(told.frontier, told.state_version, bytes(32), told.snapshot)
    with anna.stored.change():
        [lie] = anna.stored.append([encode(wrong)], 5)
    key = bert.stored.key
    shelf = Shelf(open_database(tmp_path / "db.sqlite"), key, bytes)
    no = add_folder(
        shelf.db, folder=FolderId(anna.stored.id), name="f", path=b"/9", epoch=Epoch(bytes(16))
    )
    shelf.put(StoredFolder(shelf.db, no, anna.stored.id, key))
    new = Node(9, shelf[no])
    put_pieces(new, lie, pieces)
    engine = Engine(clock=Clock(), random_bytes=bytes, transactions=shelf)

    with pytest.raises(Malformed, match="another state"):
        engine.perform(
            Procedures(shelf).begin_with, BeginWithSnapshot(folder_no=no, checkpoint=lie)
        )

    assert shelf.db.execute("SELECT count(*) FROM batch").fetchone() == (0,)
    assert shelf.db.execute("SELECT count(*) FROM buried").fetchone() == (0,)
    assert not shelf[no].log.heads()
    engine.perform(Procedures(shelf).begin_with, BeginWithSnapshot(folder_no=no, checkpoint=signed))
    assert shelf[no].state.root() == told.state_root
    assert shelf[no].own_member() is not None
    assert Role(shelf[no].log.members()[key.agent].role) is Role.WRITE


def is_warned(node: Node) -> bool:
    return node.stored.has_wrong_checkpoint


def test_a_checkpoint_that_tells_another_state_is_reported() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    right, _ = checkpointed(anna)
    bert.stored.admit(anna.wires(), b"0")
    assert not is_warned(bert)
    told = checkpoint_in(right)
    assert told is not None

    wrong = Checkpointed(anna.stored.log.frontier(), 1, bytes(32), told.snapshot)
    with anna.stored.change():
        [lie] = anna.stored.append([encode(wrong)], 5)
    bert.stored.admit([lie], b"0")
    assert is_warned(bert)

    better, _ = checkpointed(anna)
    bert.stored.admit([better], b"0")
    assert not is_warned(bert)

    wrong = Checkpointed(anna.stored.log.frontier(), 1, bytes(32), told.snapshot)
    with bert.stored.change():
        [invented] = bert.stored.append([encode(wrong)], 5)
    again = joiner(anna)
    again.stored.admit([*anna.wires(), invented], b"0")
    assert not is_warned(again)  # only the owner's counts


def begun(tmp_path: Path, anna: Node, like: Node, epoch: Epoch) -> tuple[Shelf, StoredFolder]:
    """Let a node begin with a snapshot of what anna has."""
    signed, pieces = checkpointed(anna)
    key = like.stored.key
    shelf = Shelf(open_database(tmp_path / "db.sqlite"), key, lambda size: b"\7" * size)
    no = add_folder(shelf.db, folder=FolderId(anna.stored.id), name="f", path=b"/9", epoch=epoch)
    shelf.put(StoredFolder(shelf.db, no, anna.stored.id, key))
    put_pieces(Node(9, shelf[no]), signed, pieces)
    engine = Engine(clock=Clock(), random_bytes=bytes, transactions=shelf)
    engine.perform(Procedures(shelf).begin_with, BeginWithSnapshot(folder_no=no, checkpoint=signed))
    return shelf, shelf[no]


def test_who_was_set_back_and_begins_with_a_snapshot_writes_in_a_new_epoch(tmp_path: Path) -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    bert.stored.admit(anna.wires(), b"0")
    bert.create(b"b", b"1")
    anna.stored.admit(bert.wires(), b"0")
    lost = bert.stored.epoch

    _, again = begun(tmp_path, anna, bert, lost)

    assert again.log.own_head(again.key.agent, lost) is not None
    with again.change():
        [opening, *_] = again.append([encode(_tagged(again))], 5)
    assert (opening.header.epoch, opening.header.seq) == (b"\7" * 16, 0)


def _tagged(stored: StoredFolder) -> Tagged:
    return Tagged(object=stored.id, tag=b"t")


async def test_a_second_snapshot_that_comes_too_late_takes_nothing_from_the_first(
    tmp_path: Path,
) -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    shelf, stored = begun(tmp_path, anna, bert, Epoch(bytes(16)))
    late, _ = checkpointed(anna)
    node = SimpleNamespace(
        shelf=shelf,
        works={stored.id: SimpleNamespace(folder_no=stored.no, folder=stored.id)},
        world=SimpleNamespace(core=Inline()),
        engine=Engine(clock=Clock(), random_bytes=bytes, transactions=shelf),
        procedures=Procedures(shelf),
    )

    assert not await Snapshots(cast("Any", node), Rule()).begin(stored.id, late)

    content = kept_of(stored).content()
    assert content is not None
    assert kept_of(stored).is_whole(content)


async def test_a_fault_while_a_checkpoint_is_made_ends_nothing(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = asyncio.Semaphore(0)

    async def fault(*_: object) -> bool:
        tries.release()
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(Snapshots, "_is_due", fault)
    monkeypatch.setattr(snapshots, "_LOOK_S", 0)
    monkeypatch.setattr(snapshots, "_AGAIN_S", 0)
    running = asyncio.create_task(
        owner.snapshots.run(lambda: open_database(owner.path, read_only=True))
    )

    for _ in range(3):
        await tries.acquire()

    assert not running.done()
    running.cancel()
    await asyncio.wait([running])


async def test_A16_nothing_is_fetched_for_a_checkpoint_that_is_not_the_owners(
    tmp_path: Path,
) -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    bert.stored.admit(anna.wires(), b"0")
    invented, _ = checkpointed(bert)
    right, _ = checkpointed(anna)
    founding = founding_batch(anna.stored)
    assert founding is not None
    shelf = Shelf(open_database(tmp_path / "db.sqlite"), bert.stored.key, bytes)
    folder = FolderId(anna.stored.id)
    no = add_folder(shelf.db, folder=folder, name="f", path=b"/9", epoch=Epoch(bytes(16)))
    shelf.put(StoredFolder(shelf.db, no, folder, bert.stored.key))
    node = SimpleNamespace(
        shelf=shelf,
        works={folder: SimpleNamespace(folder_no=no)},
        world=SimpleNamespace(core=Inline()),
    )
    joining = Snapshots(cast("Any", node), Rule())

    assert await joining.wanted(folder, founding, invented) is None
    assert await joining.wanted(folder, invented, invented) is None
    assert await joining.wanted(folder, right, right) is None
    told = checkpoint_in(right)
    assert told is not None
    assert await joining.wanted(folder, founding, right) == (told.snapshot, 0)


async def test_an_owner_that_began_with_a_snapshot_keeps_that_one(tmp_path: Path) -> None:
    anna = make_nodes(1)[0]
    anna.create(b"a", b"1")
    shelf, again = begun(tmp_path, anna, anna, Epoch(bytes(16)))
    config = SimpleNamespace(history=HistoryConfig())
    node = SimpleNamespace(shelf=shelf, works={}, config=config)

    assert not Snapshots(cast("Any", node), Rule(from_batches=0))._has_grown(again.no)
