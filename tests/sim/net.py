"""Carry frames between node names over links that can be slow, cut, stalled or faulty.

A link is by default what TCP gives: ordered and whole, or broken. A break may come behind any
frame, so within a message too, and takes all that is under way and what arrived unread: a byte
further or less would be the same to who reads frames. So nodes see loss where links break, and
what they know already, in other orders, where several peers tell them of it. Loss, duplicates and
reordering of single frames are a test's own choice; no history makes them. Who is allowed to talk
is for the door of the node that is called.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from peers.link import FRAME_LIMIT_BYTES, Link, LinkClosed, Purpose
from store.errors import DizzyError
from tests.sim.loop import Crashed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from peers.invite import Invite
    from store.ids import AgentId
    from tests.sim.loop import VirtualLoop

WINDOW_BYTES = 1024 * 1024  # what may be under way in one direction before send waits
AFTER_S = 3e-6  # later than what is due "now", so that a goodbye is never before the last frame

__all__ = ["Link", "LinkClosed", "Path", "Port", "Said", "SimLink", "SimNet", "Unreachable"]


class Unreachable(DizzyError):
    """Nobody answers at that address, or somebody else than was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a node proves and says of itself when a link begins."""

    agent: AgentId
    label: bytes = b""
    instance: bytes = bytes(16)
    state_version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """How frames travel from one node to another; each direction has its own."""

    latency_s: float = 0.001
    jitter_s: float = 0.001
    bytes_per_s: float = 100e6
    break_rate: float = 0.0  # share of frames on which the link breaks
    loss: float = 0.0  # share of frames that vanish: no real link does this
    duplicate: float = 0.0
    reorder: float = 0.0
    is_cut: bool = False  # links break, dialling is refused
    is_stalled: bool = False  # nothing arrives and nobody is told, until it goes on


class Door(Protocol):
    """What a host says to who calls, in the place of the hello; raises DizzyError to refuse."""

    def __call__(self, caller: Said, invite: Invite | None, /) -> Awaitable[None]:
        """Let the caller in, by its invite where it shows one."""


async def _open_door(_caller: Said, _invite: Invite | None) -> None:
    """Let everybody in."""


class SimNet:
    """All nodes and the links between them."""

    def __init__(self, loop: VirtualLoop, random: Random) -> None:
        """Begin with nobody."""
        self._loop = loop
        self._random = random
        self._paths: dict[tuple[str, str], Path] = {}
        self._listeners: dict[str, tuple[Said, Callable[[Link], None], Door]] = {}
        self._ends: list[SimLink] = []
        self._moved: dict[tuple[str, str], asyncio.Event] = {}
        self.normal = Path()
        self.frames = 0
        self.bytes = 0

    # -- nodes

    def listen(
        self, name: str, said: Said, accept: Callable[[Link], None], door: Door = _open_door
    ) -> None:
        """Let `name` be dialled at the address `name`; `accept` gets each link let in."""
        self._listeners[name] = (said, accept, door)

    def leave(self, name: str) -> None:
        """End a node: nobody listens there, all its links break."""
        self._listeners.pop(name, None)
        self._break(lambda end: name in (end.here, end.there))

    async def dial(
        self,
        here: str,
        said: Said,
        address: str,
        *,
        expected: AgentId | None = None,
        purpose: Purpose = Purpose.CONTROL,
        invite: Invite | None = None,
    ) -> Link:
        """Connect to the node that listens at an address, which is its name.

        Raises Unreachable when nobody does, when the way is cut, or when it is not the agent
        `expected`, and what the door of that node raises; waits while the way is stalled. The
        way may be cut before the caller hears that it was let in.
        """
        there = address
        began_s = self._loop.time()
        await asyncio.sleep(self._delay(here, there))
        for way in ((here, there), (there, here)):
            await self._passable(way)
        other, _, door = self._listening(here, there)
        if expected not in (None, other.agent):
            raise Unreachable(f"dial {there}", "another agent answers")
        await door(said, invite)
        await asyncio.sleep(self._delay(there, here))
        other, accept, _ = self._listening(here, there)
        self._note("dial", here, there, 0)
        rtt_s = self._loop.time() - began_s
        near = SimLink(self, here, there, other, is_dialler=True, purpose=purpose, rtt_s=rtt_s)
        far = SimLink(self, there, here, said, is_dialler=False, purpose=purpose, rtt_s=rtt_s)
        near.other, far.other = far, near
        self._ends += [near, far]
        accept(far)
        return near

    def _listening(self, here: str, there: str) -> tuple[Said, Callable[[Link], None], Door]:
        listener = self._listeners.get(there)
        if listener is None or self.path(here, there).is_cut or self.path(there, here).is_cut:
            raise Unreachable(f"dial {there}", "connection refused")
        return listener

    # -- weather

    def path(self, here: str, there: str) -> Path:
        """Say how frames travel from here to there."""
        return self._paths.get((here, there), self.normal)

    def set_path(self, here: str, there: str, path: Path) -> None:
        """Change one direction; what is stalled goes on when it is stalled no more."""
        self._paths[here, there] = path
        if path.is_cut:
            self._break(lambda end: {end.here, end.there} == {here, there})
        if not path.is_stalled:
            if (event := self._moved.pop((here, there), None)) is not None:
                event.set()
            for end in self._ends:
                if (end.here, end.there) == (here, there):
                    end.resume()

    def cut(self, one: str, other: str) -> None:
        """Break what connects two nodes, and refuse new links."""
        for way in ((one, other), (other, one)):
            self.set_path(*way, replace(self.path(*way), is_cut=True))

    def stall(self, here: str, there: str) -> None:
        """Let nothing arrive in one direction, without telling anybody."""
        self.set_path(here, there, replace(self.path(here, there), is_stalled=True))

    def heal(self, one: str, other: str) -> None:
        """Make both directions normal again."""
        self.set_path(one, other, self.normal)
        self.set_path(other, one, self.normal)

    def heal_all(self) -> None:
        """Make everything normal again."""
        for way in list(self._paths):
            self.set_path(*way, self.normal)
        self._paths.clear()

    def break_links(self, one: str, other: str) -> None:
        """Break what connects two nodes now; they may dial again at once."""
        self._break(lambda end: {end.here, end.there} == {one, other})

    async def flap(self, one: str, other: str, *, every_s: float, times: int) -> None:
        """Cut and heal again and again."""
        for _ in range(times):
            self.cut(one, other)
            await asyncio.sleep(every_s)
            self.heal(one, other)
            await asyncio.sleep(every_s)

    # -- for links

    def delay_of(self, here: str, there: str, size: int) -> tuple[float, float]:
        """Give the seconds that a frame holds the line, and those that it then travels."""
        path = self.path(here, there)
        return size / path.bytes_per_s, self._delay(here, there)

    def draw(self, rate: float) -> bool:
        """Let chance decide; asks for none where the rate is 0."""
        return rate > 0 and self._random.random() < rate

    def delivered(self, here: str, there: str, frame: bytes) -> None:
        """Count a frame that arrived."""
        self.frames += 1
        self.bytes += len(frame)
        self._note("frame", here, there, len(frame))
        self._loop.trace.fold(frame)

    def forget(self, end: SimLink) -> None:
        """Drop a closed end."""
        if end in self._ends:
            self._ends.remove(end)

    @property
    def loop(self) -> VirtualLoop:
        """The loop whose time counts."""
        return self._loop

    def _delay(self, here: str, there: str) -> float:
        path = self.path(here, there)
        return path.latency_s + self._random.random() * path.jitter_s

    async def _passable(self, way: tuple[str, str]) -> None:
        while self.path(*way).is_stalled:
            await self._moved.setdefault(way, asyncio.Event()).wait()

    def _break(self, concerns: Callable[[SimLink], bool]) -> None:
        for end in [each for each in self._ends if concerns(each)]:
            end.break_off()

    def _note(self, what: str, here: str, there: str, size: int) -> None:
        line = f"{what} {here} {there} {size} {self._loop.time():.9f}"
        self._loop.trace.fold(line.encode())


class Port:
    """The network as one life of a node's process has it; nothing works once it is closed."""

    def __init__(self, net: SimNet, name: str) -> None:
        """Stand at `name`, which is also the address."""
        self.address = name
        self._net = net
        self._is_closed = False

    def listen(self, said: Said, accept: Callable[[Link], None], door: Door = _open_door) -> None:
        """Let others dial; `accept` gets each new link, proven."""
        self._check()
        self._net.listen(self.address, said, accept, door)

    async def dial(
        self,
        said: Said,
        address: str,
        *,
        expected: AgentId | None = None,
        purpose: Purpose = Purpose.CONTROL,
        invite: Invite | None = None,
    ) -> Link:
        """Connect to the node at an address. Raises Unreachable, and what its door raises."""
        self._check()
        link = await self._net.dial(
            self.address, said, address, expected=expected, purpose=purpose, invite=invite
        )
        if self._is_closed:
            self._net.break_links(self.address, address)
        self._check()
        return link

    def close(self) -> None:
        """Let the process be over: nobody listens, all links break."""
        self._is_closed = True
        self._net.leave(self.address)

    def _check(self) -> None:
        if self._is_closed:
            raise Crashed


class SimLink:
    """One end of a link."""

    other: SimLink

    def __init__(
        self,
        net: SimNet,
        here: str,
        there: str,
        said: Said,
        *,
        is_dialler: bool,
        purpose: Purpose,
        rtt_s: float,
    ) -> None:
        """Stand at `here`; what is sent comes out `there`, where the node `said` who it is."""
        self.here = here
        self.there = there
        self.agent = said.agent
        self.label = said.label
        self.instance = said.instance
        self.state_version = said.state_version
        self.address = there
        self.is_dialler = is_dialler
        self.purpose = purpose
        self.rtt_s = rtt_s
        self.opened_at_s = net.loop.time()
        self.received_bytes = 0
        self.sent_bytes = 0
        self.is_closed = False
        self._net = net
        self._inbox: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._flying: deque[bytes] = deque()  # ordered frames on their way to the other end
        self._stalled: list[bytes] = []
        self._pending_bytes = 0  # sent and not yet received by whoever reads the other end
        self._line_free_s = 0.0
        self._last_arrival_s = 0.0

    async def send(self, frame: bytes) -> None:
        """Send one frame; wait while too much is under way. Raises LinkClosed."""
        if not 0 < len(frame) <= FRAME_LIMIT_BYTES:
            raise ValueError(f"a frame of {len(frame)} bytes")
        while self._pending_bytes > WINDOW_BYTES and not self.is_closed:
            self._room.clear()
            await self._room.wait()
        if self.is_closed:
            raise self._closed()
        path = self._net.path(self.here, self.there)
        if self._net.draw(path.break_rate):
            self.other.break_off()
            self.break_off()
            raise self._closed()
        self.sent_bytes += len(frame)
        if self._net.draw(path.loss):
            return
        self._launch(bytes(frame), path)
        if self._net.draw(path.duplicate):
            self._launch(bytes(frame), path)

    async def receive(self) -> bytes:
        """Give the next frame. Raises LinkClosed."""
        while not self._inbox:
            if self.is_closed:
                raise self._closed()
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._inbox.popleft()
        self.received_bytes += len(frame)
        self.other.make_room(len(frame))
        return frame

    async def close(self) -> None:
        """Close this end; the other reads what is under way, then LinkClosed."""
        if self.is_closed:
            return
        self.is_closed = True
        self._wake()
        _, delay_s = self._net.delay_of(self.here, self.there, 0)
        at_s = max(self._last_arrival_s, self._net.loop.time() + delay_s) + AFTER_S
        self._net.loop.call_at(at_s, self._say_goodbye)

    def make_room(self, size: int) -> None:
        """Note that the other end received so much."""
        self._pending_bytes -= size
        self._room.set()

    def break_off(self) -> None:
        """Break this end at once: what was not received is lost."""
        self._inbox.clear()
        self._flying.clear()
        self._stalled.clear()
        self.is_closed = True
        self._wake()
        self._net.forget(self)

    def hang_up(self) -> None:
        """End this end because the other closed; what arrived can still be received."""
        self.is_closed = True
        self._wake()
        self._net.forget(self)

    def resume(self) -> None:
        """Deliver what was stalled."""
        stalled, self._stalled = self._stalled, []
        for frame in stalled:
            self._arrive(frame)
        if self.is_closed:
            self._say_goodbye()

    def _launch(self, frame: bytes, path: Path) -> None:
        loop = self._net.loop
        self._pending_bytes += len(frame)
        busy_s, delay_s = self._net.delay_of(self.here, self.there, len(frame))
        self._line_free_s = max(self._line_free_s, loop.time()) + busy_s
        at_s = self._line_free_s + delay_s
        if self._net.draw(path.reorder):
            loop.call_at(at_s + 5 * (path.latency_s + path.jitter_s), self._arrive, frame)
            return
        at_s = self._last_arrival_s = max(at_s, self._last_arrival_s)
        self._flying.append(frame)
        loop.call_at(at_s, self._arrive_next)

    def _arrive_next(self) -> None:
        if self._flying:
            self._arrive(self._flying.popleft())

    def _arrive(self, frame: bytes) -> None:
        if self._net.path(self.here, self.there).is_stalled:
            self._stalled.append(frame)
            return
        other = self.other
        if other.is_closed:
            return
        self._net.delivered(self.here, self.there, frame)
        other._inbox.append(frame)
        other._arrived.set()

    def _say_goodbye(self) -> None:
        if not self._net.path(self.here, self.there).is_stalled:
            self.other.hang_up()
            self._net.forget(self)

    def _wake(self) -> None:
        self._arrived.set()
        self._room.set()

    def _closed(self) -> LinkClosed:
        return LinkClosed(f"talk to {self.there}", "the link is closed")


def _is_a_link(link: SimLink) -> Link:
    """Let the type checker hold this class to the interface."""
    return link
