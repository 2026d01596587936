"""Play a history on whole nodes and judge what is left when all is quiet.

A node is what a factory makes from a Place; the world knows it only through SimNode. It never
repairs anything: in the end it heals network, disks and processes, waits, and compares.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol

from blake3 import blake3

from daemon.disk import FileKind
from store.errors import DizzyError
from tests.sim.disk import MemoryDisk
from tests.sim.files import Files
from tests.sim.history import FULL_MIX, History, random_history
from tests.sim.loop import Clock, Crashed, SimRunner, SimulationStuck, VirtualLoop, run
from tests.sim.net import Port, SimNet
from tests.sim.oracle import Oracle
from tests.sim.outside import Outside
from tests.sim.steps import Player
from tests.sim.watch import MemoryWatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SETTLE_LIMIT_S = 900.0
QUIET_LIMIT_S = 120.0
SECOND_LOOK_S = 16.0  # 10 s, and the 5 s between rounds of such looks
ECHO_WATCH_S = 95.0  # longer than the 10 s of second looks and the 30 s of polls
START_TRIES = 60
ALL_CHECKS = frozenset({"convergence", "oracle", "echo", "duplicates", "conflicts"})

_Tree = dict[bytes, tuple[FileKind, bytes, bool]]

_conflict = re.compile(rb" \(conflict [A-Za-z0-9._-]{0,24} \d{4}-\d\d-\d\d [0-9a-f]+\)")


class SimNode(Protocol):
    """One life of a node, from start to stop or crash. Its state lives in `Place.home`."""

    async def start(self) -> None:
        """Begin; returns when it watches and listens. Raises DizzyError to be tried again."""

    async def stop(self) -> None:
        """End cleanly."""

    def crash(self) -> None:
        """End here and now: cancel what runs, write nothing. Idempotent.

        Place has already closed disk, network, watcher and runners.
        """

    async def scan(self) -> None:
        """Look at everything, as `dizzyd scan` does."""

    async def quiet(self) -> None:
        """Return when nothing is pending here: no look, no record, no fetch, no apply."""

    def lacking(self) -> set[bytes]:
        """Name the contents (BLAKE3) that it waits for since no peer has them."""

    def state_root(self) -> bytes:
        """Name the state of the one folder."""

    def heads(self) -> object:
        """Give what is applied of each log, comparable with another node's."""

    def events(self) -> int:
        """Count the events of its own log."""

    def has_published(self, content: bytes) -> bool:
        """Whether an event of its own, durable log names this BLAKE3."""

    def problems(self) -> list[str]:
        """List what `status` would call a problem."""


@dataclass(slots=True, kw_only=True, eq=False)
class Place:
    """Where a node lives. A new life gets a new disk, watcher, port, core and pool.

    These, `loop`, `clock` and `random` are all that a node may touch; what belongs to an earlier
    life raises Crashed, so that nothing of a dead process goes on acting.

    `home` keeps what is durable for the node from life to life (its database, its keys).
    """

    name: str
    index: int
    names: tuple[str, ...]  # of all nodes: their addresses
    seed: int
    loop: VirtualLoop
    random: Random
    clock: Clock
    net: SimNet
    files: Files
    outside: Outside
    oracle: Oracle
    home: dict[str, object] = field(default_factory=dict)
    disk: MemoryDisk = field(init=False)
    watcher: MemoryWatcher = field(init=False)
    port: Port = field(init=False)
    core: SimRunner = field(init=False)
    pool: SimRunner = field(init=False)
    node: SimNode | None = None
    life: int = 0
    is_dead: bool = True
    has_lost_hints: bool = False
    disk_options: dict[str, object] = field(default_factory=dict)
    is_reader: bool = False  # joins to read, and its users leave the files alone
    commits: int = 0
    crash_at_commit: tuple[int, bool] | None = None  # its number, and whether behind it

    def commit(self, is_done: bool) -> None:
        """Pass one of the two instants of a commit of this node's database."""
        if self.is_dead:
            raise Crashed
        self.commits += is_done
        if self.crash_at_commit == (self.commits + (not is_done), is_done):
            self.crash_at_commit = None
            self.disk.die()

    def begin_life(self, factory: Callable[[Place], SimNode]) -> SimNode:
        """Make a fresh node on what is durable."""
        self.life += 1
        self.is_dead = False
        self.crash_at_commit = None
        self.disk = MemoryDisk(
            self.files,
            trace=self.loop.trace,
            has_exchange=bool(self.disk_options.get("has_exchange", True)),
            prepares=self.life == 1,
        )
        if self.life == 1:
            self.files.sync()  # a folder is shared or joined durably, or not at all
        self.disk.on_look = self.oracle.looked
        self.watcher = MemoryWatcher(self.files, self.loop, self.random)
        self.port = Port(self.net, self.name)
        self.core = SimRunner(self.loop, self.random, serial=True)
        self.pool = SimRunner(self.loop, self.random, serial=False)
        self.node = factory(self)
        return self.node

    def lives(self) -> bool:
        """Whether a node runs here now; asked again after every await."""
        return not self.is_dead

    def end_life(self) -> None:
        """Take disk, network, watcher and runners from the node: it is dead."""
        self.is_dead = True
        self.disk.close()
        self.port.close()
        self.watcher.stop()
        self.core.kill()
        self.pool.kill()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one history."""

    seed: int
    history: History
    failures: tuple[str, ...]
    trace: str
    virtual_s: float
    frames: int
    calls: int
    lines: tuple[bytes, ...] | None = None  # the trace itself, where it was kept

    @property
    def kinds(self) -> frozenset[str]:
        """The first words of the failures: what a shrunk history must have in common."""
        return frozenset(failure.partition(":")[0] for failure in self.failures)


class World:
    """Nodes `n0`, `n1`, …, and one history."""

    def __init__(
        self,
        seed: int,
        node_factory: Callable[[Place], SimNode],
        *,
        nodes: int = 3,
        history: History | None = None,
        length: int = 60,
        mix: Mapping[str, int] = FULL_MIX,
        checks: frozenset[str] = ALL_CHECKS,
        disk_options: Mapping[str, object] | None = None,
        before: Callable[[list[Outside]], None] | None = None,
        settle_limit_s: float = SETTLE_LIMIT_S,
        reader: int | None = None,
        folds_from: int | None = None,
    ) -> None:
        """Prepare; without `history` it is the random one of the seed.

        `before` may fill the folders before any node starts. `disk_options` go to Files
        (tick_ns, resolution_ns, fold, refuses) and MemoryDisk (has_exchange). The node of the
        index `reader` joins as one, if it joins. Nodes of the index `folds_from` and after it
        have disks that fold case.
        """
        self.seed = seed
        self.history = (
            random_history(seed, nodes=nodes, length=length, mix=mix)
            if history is None
            else history
        )
        self.failures: list[str] = []
        self.places: list[Place] = []
        self.oracle = Oracle()
        self._factory = node_factory
        self._count = nodes
        self._checks = checks
        self._disk_options = dict(disk_options or {})
        self._before = before
        self._settle_limit_s = settle_limit_s
        self._reader = reader
        self._folds_from = nodes if folds_from is None else folds_from
        self._starting: set[asyncio.Task[None]] = set()

    def run(self, *, keep_trace: bool = False) -> Verdict:
        """Play and judge."""
        trace_hash, lines, virtual_s = "", None, 0.0
        try:
            virtual_s, trace = run(self._main, self.seed, keep_trace=keep_trace)
            trace_hash = trace.digest()
            lines = None if trace.lines is None else tuple(trace.lines)
        except SimulationStuck as error:
            self.failures.append(f"stuck: {type(error).__name__}: {error}")
        return Verdict(
            seed=self.seed,
            history=self.history,
            failures=tuple(self.failures),
            trace=trace_hash,
            virtual_s=virtual_s,
            frames=self.places[0].net.frames if self.places else 0,
            calls=sum(place.disk.calls for place in self.places if place.life),
            lines=lines,
        )

    # -- lives ------------------------------------------------------------------------------------

    async def start(self, place: Place) -> None:
        """Begin a life; a node that cannot start is tried again every second."""
        if place.lives():
            return
        for attempt in range(START_TRIES):
            node = place.begin_life(self._factory)
            place.disk.on_crash = lambda: self.note_crash(place, down_ms=500)
            try:
                await node.start()
            except DizzyError as error:
                if place.lives():
                    self.kill(place)
                if attempt == START_TRIES - 1:
                    self.failures.append(f"start: {place.name} cannot start: {error}")
            except Crashed:
                return  # it crashed while it started; note_crash has seen to it
            else:
                return
            await asyncio.sleep(1)
            if place.lives():
                return

    async def stop(self, place: Place) -> None:
        """End a life cleanly."""
        if not place.lives() or place.node is None:
            return
        life = place.life
        try:
            async with asyncio.timeout(10):
                await place.node.stop()
        except TimeoutError:
            if place.is_dead or place.life != life:
                return  # it crashed meanwhile, and what it waited for went with it
            self.failures.append(f"stop: {place.name} did not stop within 10 s")
        except Crashed:
            return
        if place.lives():
            place.end_life()

    def kill(self, place: Place) -> None:
        """End a life at once."""
        if not place.is_dead:
            place.end_life()
            if place.node is not None:
                place.node.crash()

    def cut_power(self, place: Place) -> None:
        """End a life and lose what was not durable."""
        self.kill(place)
        owed = self.oracle.owed()
        held = {blake3(each).digest() for each in _contents(place)} & owed
        place.files.cut_power(place.random)
        everywhere = {blake3(each).digest() for other in self.places for each in _contents(other)}
        for content in sorted(held - everywhere):
            if place.node is None or not place.node.has_published(content):
                self.oracle.excused.add(content)

    def note_crash(self, place: Place, *, down_ms: int, power: bool = False) -> None:
        """Let a life end from within a disk call; it is over before that call returns."""
        place.end_life()
        node = place.node
        place.loop.call_soon(self._after_crash, place, node, power)
        place.loop.call_later(down_ms / 1000 + 0.001, self._restart, place, place.life)

    def restart_later(self, place: Place, down_ms: int) -> None:
        """Begin the next life after a while."""
        place.loop.call_later(down_ms / 1000 + 0.001, self._restart, place, place.life)

    def _after_crash(self, place: Place, node: SimNode | None, power: bool) -> None:
        if node is not None:
            node.crash()
        if power:
            self.cut_power(place)

    def _restart(self, place: Place, life: int) -> None:
        if place.is_dead and place.life == life:
            self._starting.add(place.loop.create_task(self.start(place)))

    # -- the run ----------------------------------------------------------------------------------

    async def _main(self, loop: VirtualLoop) -> float:
        self._build(loop)
        if self._before is not None:
            self._before([place.outside for place in self.places])
        for place in self.places:
            await self.start(place)
        player = Player(self)
        for step in self.history:
            await self._until(loop, step.at_ms / 1000)
            player.play(step)
        await player.end()
        # Who wrote to a file after it was displaced is heard at the second look: no echo.
        await asyncio.sleep(SECOND_LOOK_S)
        await self._settle(loop)
        await self._watch_for_echo()
        self._judge(loop)
        for place in self.places:
            await self.stop(place)
        return loop.time()

    def _build(self, loop: VirtualLoop) -> None:
        net = SimNet(loop, Random(f"net/{self.seed}"))
        names = tuple(f"n{index}" for index in range(self._count))
        file_options = {
            key: value for key, value in self._disk_options.items() if key != "has_exchange"
        }
        for index, name in enumerate(names):
            clock = Clock(loop)
            if index >= self._folds_from:
                file_options["fold"] = bytes.lower
            files = Files(clock.now_ns, **file_options)  # type: ignore[arg-type]
            self.places.append(
                Place(
                    name=name,
                    index=index,
                    names=names,
                    seed=self.seed,
                    loop=loop,
                    random=Random(f"{name}/{self.seed}"),
                    clock=clock,
                    net=net,
                    files=files,
                    outside=Outside(files, self.oracle),
                    oracle=self.oracle,
                    disk_options=self._disk_options,
                    is_reader=index == self._reader,
                )
            )

    async def _until(self, loop: VirtualLoop, at_s: float) -> None:
        if at_s > loop.time():
            await asyncio.sleep(at_s - loop.time())

    async def _settle(self, loop: VirtualLoop) -> None:
        """Heal everything; wait until all nodes are quiet, equal, and stay so."""
        self.places[0].net.heal_all()
        for place in self.places:
            place.crash_at_commit = None
            if not place.is_dead:
                place.disk.heal()
            await self.start(place)
            if place.has_lost_hints and place.node is not None and not place.is_dead:
                await place.node.scan()
        deadline_s = loop.time() + self._settle_limit_s
        before, same = None, 0
        while same < 3:
            if loop.time() > deadline_s:
                self.failures += self._differences() or ["unsettled: nodes go on changing"]
                return
            if not await self._all_quiet():
                same = 0
                continue
            now = self._snapshot()
            is_settled = now == before and not self._differences()
            before, same = now, same + 1 if is_settled else 0
            await asyncio.sleep(1)

    async def _all_quiet(self) -> bool:
        try:
            async with asyncio.timeout(min(QUIET_LIMIT_S, self._settle_limit_s)):
                for place in self.places:
                    if place.node is None or place.is_dead:
                        await asyncio.sleep(1)
                        return False
                    await place.node.quiet()
        except TimeoutError:
            return False
        return True

    def _snapshot(self) -> object:
        return [
            (place.outside.tree(), place.node.state_root(), place.node.heads())
            for place in self.places
            if place.node is not None
        ]

    # -- judging ----------------------------------------------------------------------------------

    def _differences(self) -> list[str]:
        """Say where nodes differ, and what they call problems."""
        if "convergence" not in self._checks:
            return []
        found: list[str] = []
        first = self.places[0]
        tree = first.outside.tree()
        for place in self.places:
            if place.node is None or place.is_dead or first.node is None:
                found.append(f"down: {place.name} does not run")
                continue
            found += [f"problem: {place.name}: {each}" for each in place.node.problems()]
            if not self._waits_in_vain():
                found += _tree_differences(first, tree, place)
            if place.node.state_root() != first.node.state_root():
                found.append(f"state: {first.name} and {place.name} have other roots")
            if place.node.heads() != first.node.heads():
                found.append(f"heads: {first.name} and {place.name} have other heads")
        return found

    def _waits_in_vain(self) -> bool:
        """Whether a node waits for a content that its user destroyed before anybody got it.

        A version that was edited and removed within the time of its transfer can still be wanted:
        where somebody moved the file meanwhile. It stays pending; the others show what they have.
        """
        lacking = {
            value
            for place in self.places
            if place.node is not None and not place.is_dead
            for value in place.node.lacking()
        }
        if not lacking:
            return False
        there = {blake3(each).digest() for place in self.places for each in _contents(place)}
        lost = lacking - there
        return bool(lost) and lost <= self.oracle.gone

    async def _watch_for_echo(self) -> None:
        if "echo" not in self._checks or self.failures:
            return
        nodes = [place.node for place in self.places if place.node is not None]
        events = [node.events() for node in nodes]
        trees = [place.outside.tree() for place in self.places]
        await asyncio.sleep(ECHO_WATCH_S)
        for place, count, tree in zip(self.places, events, trees, strict=True):
            if place.node is None or place.is_dead:
                self.failures.append(f"down: {place.name} died while all was quiet")
                continue
            more = place.node.events() - count
            if more:
                self.failures.append(f"echo: {place.name} made {more} events while all was quiet")
            if place.outside.tree() != tree:
                self.failures.append(f"echo: {place.name} changed files while all was quiet")

    def _judge(self, loop: VirtualLoop) -> None:
        for place in self.places:
            if place.is_reader and place.node is not None and place.node.events():
                self.failures.append(f"role: {place.name} reads and made events")
            tree = place.outside.tree()
            shown = tree | _folded_away(place, tree, self.places[0].outside.tree())
            files = [value for kind, value, _ in shown.values() if kind is FileKind.FILE]
            if "oracle" in self._checks:
                kept = set(place.outside.kept().values())
                for content in self.oracle.missing(files):
                    where = "only in its history" if content in kept else "nowhere there"
                    self.failures.append(f"lost: {place.name}: {content[:24]!r} is {where}")
            if "duplicates" in self._checks:
                self.failures += self._duplicates(place, tree)
            if "conflicts" in self._checks:
                self.failures += _odd_conflict_names(place, tree)
        self.failures += [f"error: {each}" for each in loop.errors if "Crashed()" not in each]

    def _duplicates(
        self, place: Place, tree: dict[bytes, tuple[FileKind, bytes, bool]]
    ) -> list[str]:
        """Find contents written once that stand at two paths (property 24)."""
        paths: dict[bytes, list[bytes]] = {}
        for path, (kind, value, _) in tree.items():
            if kind is FileKind.FILE and value:
                paths.setdefault(value, []).append(path)
        return [
            f"duplicate: {place.name}: {value[:24]!r} stands at {sorted(places)}"
            for value, places in sorted(paths.items())
            if len(places) > 1
            and blake3(value).digest() in self.oracle.written
            and blake3(value).digest() not in self.oracle.copies
        ]


def _contents(place: Place) -> list[bytes]:
    tree = place.outside.tree().values()
    files = [value for kind, value, _ in tree if kind is FileKind.FILE]
    return files + list(place.outside.kept().values())


def _tree_differences(
    first: Place, tree: dict[bytes, tuple[FileKind, bytes, bool]], other: Place
) -> list[str]:
    theirs = other.outside.tree()
    away = _folded_away(other, theirs, tree)
    # What was moved to a name that cannot exist there stays where it was.
    stays = [path for path in theirs if path not in tree and theirs[path] in away.values()]
    theirs = {path: theirs[path] for path in theirs if path not in stays} | away
    if theirs == tree:
        return []
    return [
        f"tree: {path!r} is {_shown(tree.get(path))} at {first.name}"
        f" and {_shown(theirs.get(path))} at {other.name}"
        for path in sorted(tree.keys() | theirs.keys())
        if tree.get(path) != theirs.get(path)
    ][:5]


def _folded_away(place: Place, there: _Tree, wanted: _Tree) -> _Tree:
    """Give what cannot exist at a place: another name stands there that its disk takes for it."""
    fold = place.files.fold
    if fold is None:
        return {}
    names: dict[bytes, bytes] = {fold(path): path for path in there}
    away: _Tree = {}
    for path, found in wanted.items():
        parts = path.split(b"/")
        prefixes = [b"/".join(parts[: end + 1]) for end in range(len(parts))]
        first = next((each for each in prefixes if each not in there), None)
        if first is not None and fold(first) in names:
            away[path] = found
    return away


def _shown(found: tuple[FileKind, bytes, bool] | None) -> str:
    if found is None:
        return "nothing"
    kind, value, is_executable = found
    return f"{kind.name.lower()} {value[:24]!r}{' executable' if is_executable else ''}"


def _odd_conflict_names(place: Place, tree: dict[bytes, tuple[FileKind, bytes, bool]]) -> list[str]:
    """Find names that claim to be conflict copies and are not formed as design.md 4 says."""
    return [
        f"conflict name: {place.name}: {path!r}"
        for path in sorted(tree)
        if b" (conflict " in path and not _conflict.search(path)
    ]


def replay(
    seed: int, factory: Callable[[Place], SimNode], history: History, **options: object
) -> Verdict:
    """Play a given history with the chances of a seed."""
    return World(seed, factory, history=history, **options).run()  # type: ignore[arg-type]


def same_twice(make: Callable[[], World]) -> tuple[Verdict, str]:
    """Run one world twice; say where the traces part, or nothing."""
    first, second = make().run(keep_trace=True), make().run(keep_trace=True)
    if first.trace == second.trace:
        return first, ""
    for number, (one, other) in enumerate(zip(first.lines or (), second.lines or (), strict=False)):
        if one != other:
            return first, f"line {number}: {one[:80]!r} and then {other[:80]!r}"
    return first, "one trace is longer than the other"
