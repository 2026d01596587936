"""Be the smallest node that converges, to test the simulator itself.

Files at the root only, no identity, no signatures: each event names path, content and what it
replaces; heads are what nothing replaces; all but the greatest head stand beside it under a
conflict name. It is written against the same interfaces as the real node and shares no code
with it. Its `flaws` are the errors that the simulator must notice.
"""

from __future__ import annotations

import asyncio
import pickle
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, cast

from blake3 import blake3

from daemon.disk import DiskError, Looked, NameMissing, NameTaken, NewFile
from daemon.hints import HintKind
from peers.link import LinkClosed
from store.ids import AgentId
from tests.sim.history import CRASH_MIX, FLAT_MIX, NETWORK_MIX, TROUBLE_MIX
from tests.sim.net import Said, Unreachable
from tests.sim.world import ALL_CHECKS

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from daemon.hints import Hint
    from peers.link import Link
    from tests.sim.world import Place

MIX = {**FLAT_MIX, **NETWORK_MIX, **CRASH_MIX, **TROUBLE_MIX}
CHECKS = ALL_CHECKS - {"duplicates"}  # a rename is a delete and a create here
FRAME = 200_000
QUIET_S = 0.05
AGAIN_S = 1.0


class Fact(NamedTuple):
    """One event; content None is a deletion."""

    lamport: int
    author: str
    number: int
    path: bytes
    content: bytes | None
    prev: frozenset[bytes]

    def id(self) -> bytes:
        """Name it."""
        content = b"-" if self.content is None else blake3(self.content).digest()
        text = f"{self.lamport} {self.author} {self.number} {self.path!r} {sorted(self.prev)}"
        return blake3(text.encode() + content).digest()


class Synced(NamedTuple):
    """What disk and facts last agreed on for one name."""

    path: bytes
    facts: frozenset[bytes]
    value: bytes
    signature: tuple[int, int, int, int]
    is_racy: bool


class Home:
    """What outlives a life."""

    def __init__(self) -> None:
        self.facts: dict[bytes, Fact] = {}
        self.synced: dict[bytes, Synced] = {}
        self.wrote: dict[bytes, tuple[bytes, bytes, bytes]] = {}  # path, fact, content meant
        self.placed: dict[bytes, bytes] = {}  # name in tmp: what was meant to be displaced


class Toy:
    """One life."""

    def __init__(self, place: Place, flaws: Iterable[str] = ()) -> None:
        self._place = place
        self._port = place.port
        self._flaws = frozenset(flaws)
        self._home = cast("Home", place.home.setdefault("toy", Home()))
        self._links: list[Link] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._news: list[asyncio.Event] = []
        self._rest = asyncio.Event()
        self._said = Said(agent=AgentId(place.name.encode().ljust(32)))
        self._problems: list[str] = []

    # -- SimNode ----------------------------------------------------------------------------------

    async def start(self) -> None:
        self._place.watcher.start(self._hinted)
        self._port.listen(self._said, self._accept)
        self._begin(self._work())
        for name in self._place.names:
            if name < self._place.name:
                self._begin(self._dial(name))
        if "echo" in self._flaws:
            self._begin(self._echo())
        self._wake.set()

    async def stop(self) -> None:
        self.crash()

    def crash(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def scan(self) -> None:
        self._wake.set()

    async def quiet(self) -> None:
        await self._rest.wait()

    def lacking(self) -> set[bytes]:
        return set()

    def state_root(self) -> bytes:
        return blake3(b"".join(sorted(self._home.facts))).digest()

    def heads(self) -> object:
        return len(self._home.facts)

    def events(self) -> int:
        return sum(fact.author == self._place.name for fact in self._home.facts.values())

    def has_published(self, content: bytes) -> bool:
        return any(
            fact.content is not None and blake3(fact.content).digest() == content
            for fact in self._home.facts.values()
            if fact.author == self._place.name
        )

    def problems(self) -> list[str]:
        return self._problems

    async def _echo(self) -> None:
        """Say again and again what is known already."""
        while True:
            await asyncio.sleep(30)
            for row in list(self._home.synced.values())[:1]:
                content = self._home.facts[min(row.facts)].content
                self._learn(self._fact(row.path, content, row.facts, 0))
                self._wake.set()

    # -- network ----------------------------------------------------------------------------------

    def _accept(self, link: Link) -> None:
        self._begin(self._talk(link))

    async def _dial(self, name: str) -> None:
        while True:
            with suppress(Unreachable, TimeoutError):
                async with asyncio.timeout(5):
                    link = await self._port.dial(self._said, name)
                await self._talk(link)
            await asyncio.sleep(0.5)

    async def _talk(self, link: Link) -> None:
        self._links.append(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tell_all(link))
                group.create_task(self._listen(link))
        except* (LinkClosed, TimeoutError):
            pass
        finally:
            self._links.remove(link)
            await link.close()

    async def _tell_all(self, link: Link) -> None:
        """Send what is there, then what is new."""
        told: set[bytes] = set()
        news = asyncio.Event()
        self._news.append(news)
        while True:
            news.clear()
            for name in [each for each in self._home.facts if each not in told]:
                told.add(name)
                await link.send(pickle.dumps(self._home.facts[name]))
            await news.wait()

    async def _listen(self, link: Link) -> None:
        while True:
            fact: Fact = pickle.loads(await link.receive())
            name = fact.id()
            if name not in self._home.facts and "deaf" not in self._flaws:
                self._learn(fact)
                self._wake.set()

    # -- files ------------------------------------------------------------------------------------

    def _hinted(self, hints: list[Hint]) -> None:
        if any(hint.kind is not HintKind.CHANGED for hint in hints):
            self._wake.set()

    async def _work(self) -> None:
        while True:
            if not self._wake.is_set():
                self._rest.set()
            await self._wake.wait()
            self._rest.clear()
            await asyncio.sleep(QUIET_S)
            self._wake.clear()
            try:
                await self._place.core.run(self._recover)
                is_racy = await self._place.core.run(self._look)
                is_behind = await self._place.core.run(self._apply)
            except DiskError:
                is_racy = is_behind = True
            if is_racy or is_behind:
                await asyncio.sleep(AGAIN_S if not is_racy else 0.1)
                self._wake.set()

    def _look(self) -> bool:
        """Record how the disk differs from synced; say whether to look again soon."""
        disk, home = self._place.disk, self._home
        disk.check_root()
        found = {name: stat for name, stat in disk.list_directory(b"") if stat.kind == 0}
        now_ns = self._place.clock.now_ns()
        looks: dict[bytes, Looked] = {}
        is_racy = False
        for name, stat in found.items():
            known = home.synced.get(name)
            signature = (stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns)
            if known is not None and known.signature == signature and not known.is_racy:
                continue
            looked = disk.look([name])[0]
            if not isinstance(looked, Looked):
                is_racy = True
                continue
            looks[name] = looked
            is_racy |= abs(now_ns - stat.mtime_ns) < 20_000_000
        facts: list[tuple[Fact, bytes, Looked | None]] = []
        wanted = self._view()
        for name, looked in looks.items():
            known = home.synced.get(name)
            if known is not None and known.value == looked.value:
                home.synced[name] = self._synced(known.path, known.facts, looked)
                continue
            path = name if known is None else known.path
            heads = frozenset() if known is None else known.facts
            if (shown := self._bound(wanted, name, looked.value)) is not None:
                home.synced[name] = self._synced(*shown, looked)
                continue
            content = disk.read(name, 0, looked.stat.size, looked.stat)
            facts.append((self._fact(path, content, heads, len(facts)), name, looked))
        for name, known in list(home.synced.items()):
            if name not in found:
                facts.append((self._fact(known.path, None, known.facts, len(facts)), name, None))
        if facts:
            if "careless" not in self._flaws:
                disk.sync()
            for fact, name, row in facts:
                self._learn(fact)
                if row is None:
                    home.synced.pop(name, None)
                elif fact.path == name:  # a changed conflict copy: the look behind apply binds it
                    home.synced[name] = self._synced(fact.path, frozenset((fact.id(),)), row)
        return is_racy

    def _apply(self) -> bool:
        """Make the disk what the facts say; say whether something was in the way."""
        wanted, home = self._view(), self._home
        is_behind = False
        for name in sorted(home.synced.keys() - wanted.keys()):
            is_behind |= not self._replace(name, None)
        for name, (path, content, fact) in sorted(wanted.items()):
            known = home.synced.get(name)
            if known is None or known.facts != {fact} or known.path != path:
                is_behind |= not self._replace(name, (path, content, fact))
        return is_behind

    def _replace(self, name: bytes, new: tuple[bytes, bytes, bytes] | None) -> bool:
        disk, home = self._place.disk, self._home
        known = home.synced.get(name)
        keep = b"tmp-%d-%d" % (self._place.life, disk.instants)
        try:
            if new is None:
                home.wrote.pop(name, None)
                home.placed[keep] = pickle.dumps((name, known, True))
                disk.take_away(name, keep)
                self._keep(keep)
                disk.sync()
                home.synced.pop(name, None)
                return True
            path, content, fact = new
            row_facts = frozenset((fact,))
            value = blake3(content).digest()
            if known is not None and known.value == value:
                home.synced[name] = known._replace(path=path, facts=row_facts)
                return True
            file = NewFile(content=content, is_executable=False, mtime_ns=0)
            home.wrote[name] = (path, fact, value)
            [stage] = disk.stage_many([file])
            disk.sync()
            if known is None:
                stat = disk.place_new(stage, name)
            else:
                home.placed[keep] = pickle.dumps((name, known, False))
                stat, _ = disk.place_over(stage, name, keep)
            placed = Looked(stat=stat, value=value, looked_at_ns=self._place.clock.now_ns())
            disk.sync()
            home.synced[name] = self._synced(path, row_facts, placed)
            del home.wrote[name]
            if known is not None:
                self._keep(keep)
            stage.close()
            disk.sync()
        except (NameTaken, NameMissing):
            return False
        return True

    def _recover(self) -> None:
        """Finish what was displaced before a crash."""
        for keep, _ in self._place.disk.list_stages():
            if keep in self._home.placed:
                self._keep(keep)

    def _keep(self, keep: bytes) -> None:
        """See to what was displaced: an unknown content is a user's change."""
        disk, home = self._place.disk, self._home
        name, known, is_removal = pickle.loads(home.placed[keep])
        looked = disk.look_stage(keep)
        if not isinstance(looked, Looked):
            raise DiskError("look at what was displaced")
        meant = home.wrote.get(name)
        is_ours = meant is not None and meant[2] == looked.value
        if is_ours or "lossy" in self._flaws:  # a crash came before it was put in place
            disk.remove_stage(keep)
            del home.placed[keep]
            return
        if is_removal:
            home.synced.pop(name, None)
        elif meant is not None:  # it was put in place before a crash: what stands there came after
            row = Synced(meant[0], frozenset((meant[1],)), meant[2], (0, 0, 0, 0), is_racy=True)
            home.synced[name] = row
            del home.wrote[name]
        was = known or Synced(name, frozenset(), b"", (0, 0, 0, 0), is_racy=False)
        content = None
        if looked.value != was.value:
            disk.keep_stage(keep, keep)
            disk.sync()
            content = disk.read_history(keep, 0, looked.stat.size)
            self._place.oracle.looked(name, looked.value)
            fact = self._fact(was.path, content, was.facts, 0)
            self._learn(fact)
            self._wake.set()
        else:
            disk.keep_stage(keep, keep)
        del home.placed[keep]

    # -- facts ------------------------------------------------------------------------------------

    def _learn(self, fact: Fact) -> None:
        self._home.facts[fact.id()] = fact
        for news in self._news:
            news.set()

    def _fact(self, path: bytes, content: bytes | None, prev: frozenset[bytes], more: int) -> Fact:
        facts = self._home.facts.values()
        lamport = 1 + max((fact.lamport for fact in facts), default=0)
        return Fact(lamport, self._place.name, self.events() + more, path, content, prev)

    def _view(self) -> dict[bytes, tuple[bytes, bytes, bytes]]:
        """Give each name with path, content and head."""
        replaced = {prev for fact in self._home.facts.values() for prev in fact.prev}
        heads: dict[bytes, dict[bytes, tuple[int, bytes]]] = {}
        for name, fact in self._home.facts.items():
            if name not in replaced and fact.content is not None:
                best = heads.setdefault(fact.path, {})
                best[fact.content] = max(best.get(fact.content, (0, b"")), (fact.lamport, name))
        view: dict[bytes, tuple[bytes, bytes, bytes]] = {}
        for path, contents in heads.items():
            ordered = sorted(((key, content) for content, key in contents.items()), reverse=True)
            for number, ((_, head), content) in enumerate(ordered):
                label = b" (conflict toy 2026-01-01 %s)" % head.hex()[:12].encode()
                view[path + label if number else path] = (path, content, head)
        return view

    def _bound(
        self, wanted: dict[bytes, tuple[bytes, bytes, bytes]], name: bytes, value: bytes
    ) -> tuple[bytes, frozenset[bytes]] | None:
        """Find what a content on disk is already: our own write before a crash, mostly."""
        shown = wanted.get(name)
        if shown is not None and blake3(shown[1]).digest() == value:
            return shown[0], frozenset((shown[2],))
        if name in self._home.wrote and self._home.wrote[name][2] == value:
            path, fact, _ = self._home.wrote[name]
            return path, frozenset((fact,))
        return None

    def _synced(self, path: bytes, facts: frozenset[bytes], looked: Looked) -> Synced:
        stat = looked.stat
        signature = (stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns)
        is_racy = abs(looked.looked_at_ns - stat.ctime_ns) < 20_000_000
        return Synced(path, facts, looked.value, signature, is_racy)

    def _begin(self, coroutine: Coroutine[object, object, None]) -> None:
        self._tasks.append(self._place.loop.create_task(coroutine))


def make(place: Place) -> Toy:
    """Make a node without flaws."""
    return Toy(place)
