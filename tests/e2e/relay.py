"""Stand between two nodes as a TCP relay whose line can be cut, stalled and counted.

It looks at no byte and changes none: what it passes on is what came.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Final, TypeVar

T = TypeVar("T")

LOOPBACK: Final = "127.0.0.1"
_PIECE_BYTES = 1 << 18
_ANSWER_LIMIT_S = 10.0
_CALL_ROUNDS = 10  # of the loop: more than asyncio needs to begin or to end a connection


class Line(Enum):
    """What a line does with what comes."""

    OPEN = "open"
    CUT = "cut"  # connections end, and new ones end at once
    STALLED = "stalled"  # connections stay, and nothing moves


class Exchange:
    """All relays of a test run, on a loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._relays: list[Relay] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="relays", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], T]) -> T:
        """Do something on the loop and return what it gave."""

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_ANSWER_LIMIT_S)

    def relay(self, target_port: int) -> Relay:
        """Open a relay to a port of this machine."""
        made = Relay(self, target_port)
        self._relays.append(made)
        opening = asyncio.run_coroutine_threadsafe(made.listen(), self._loop)
        opening.result(_ANSWER_LIMIT_S)
        return made

    def end(self) -> None:
        """Drop everything and stop the thread."""

        async def end_all() -> None:
            for relay in self._relays:
                await relay.end()

        asyncio.run_coroutine_threadsafe(end_all(), self._loop).result(_ANSWER_LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_LIMIT_S)
        self._loop.close()


class Relay:
    """One line to one node. Its port stays the same while it is cut."""

    def __init__(self, exchange: Exchange, target_port: int) -> None:
        self._exchange = exchange
        self._target_port = target_port
        self._line = Line.OPEN
        self._may_move = asyncio.Event()
        self._may_move.set()
        self._passed_bytes = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._bound: socket.socket | None = None
        self.port = 0

    async def listen(self) -> None:
        """Begin to take connections."""
        # Not by start_server: ended while a call is being taken, it leaves that socket open.
        self._bound = socket.create_server((LOOPBACK, 0), backlog=100)
        self._bound.setblocking(False)
        self.port = self._bound.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._bound, self._accept)

    @property
    def address(self) -> str:
        """Where a node reaches the one behind the relay."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def passed_bytes(self) -> int:
        """How many bytes went through, both ways."""
        return self._passed_bytes

    def open(self) -> None:
        """Let everything through."""
        self._exchange.call(lambda: self._set(Line.OPEN))

    def cut(self) -> None:
        """End all connections and every new one."""
        self._exchange.call(lambda: self._set(Line.CUT))

    def stall(self) -> None:
        """Keep connections and move nothing, as a dead line does."""
        self._exchange.call(lambda: self._set(Line.STALLED))

    def close(self) -> None:
        """End the relay."""
        self._exchange.call(self._hang_up)

    async def end(self) -> None:
        """End the relay from within the loop, and return when no socket of it is left."""
        self._hang_up()
        for _ in range(_CALL_ROUNDS):  # none is cancelled before it began: that would close nothing
            await asyncio.sleep(0)
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        for _ in range(_CALL_ROUNDS):  # what was aborted closes in the rounds after
            await asyncio.sleep(0)

    def _hang_up(self) -> None:
        self._set(Line.CUT)
        bound, self._bound = self._bound, None
        if bound is not None:
            asyncio.get_running_loop().remove_reader(bound)
            bound.close()

    def _set(self, line: Line) -> None:
        self._line = line
        if line is Line.STALLED:
            self._may_move.clear()
        else:
            self._may_move.set()
        if line is Line.CUT:
            for writer in self._writers:
                writer.transport.abort()

    def _accept(self) -> None:
        if self._bound is None:
            return
        with suppress(OSError):  # the caller has left again
            caller, _ = self._bound.accept()
            call = asyncio.get_running_loop().create_task(self._take(caller))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _take(self, caller: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=caller)
        self._writers.add(writer)
        onward: asyncio.StreamWriter | None = None
        try:
            await self._may_move.wait()
            if self._line is Line.CUT:
                return
            back, onward = await asyncio.open_connection(LOOPBACK, self._target_port)
            self._writers.add(onward)
            await asyncio.gather(self._pass(reader, onward), self._pass(back, writer))
        except OSError:
            pass  # either side ended; so does the other, below
        finally:
            for one in filter(None, (writer, onward)):
                self._writers.discard(one)
                one.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE_BYTES):
            await self._may_move.wait()
            if self._line is Line.CUT:
                return
            writer.write(piece)
            self._passed_bytes += len(piece)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
