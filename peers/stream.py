"""Carry length-prefixed frames over one TLS connection.

It proves nothing and understands no frame. The first four bytes of each frame are its length,
checked before anything is kept for it; a frame of length zero only says that we live. Where
the receiver is slow the network is not read (bounded), where nothing is heard for 15 s the
connection is given up.

Why not WebSocket: see docs/decisions/0001-frames-without-websocket.md.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import TYPE_CHECKING, Final, cast

from peers.beat import until_beat_s
from peers.handshake import HELLO_LIMIT_BYTES
from peers.link import FRAME_LIMIT_BYTES, LinkClosed
from peers.rooms import Rooms
from peers.tls import TlsPipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers.framing import Buffer

LENGTH_BYTES: Final = 4
TICK_S: Final = 5.0  # each side says something at least this often
SILENT_TICKS: Final = 2  # so 10 to 15 s of silence are the end
GOODBYE_S: Final = 1.0

_ALIVE: Final = bytes(LENGTH_BYTES)
_JOIN_LIMIT_BYTES: Final = 16 * 1024  # a TLS record: up to here length and frame go out as one
_FRAME_COST_BYTES: Final = 128  # what Python keeps for a frame beside its bytes
_PAUSE_BYTES: Final = 1024 * 1024  # received and not yet taken: stop reading
_RESUME_BYTES: Final = 512 * 1024
_HELLO_READ_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 256 * 1024  # from the socket, by one call
_TURN_BYTES: Final = 32 * 1024  # go through TLS before it is looked at what they were
# What TLS says for itself (a KeyUpdate has 27 bytes) costs a hundred times what as many bytes of a
# frame do, and is answered whether or not the other side reads: 2,400 of them are 80 ms and 65 KB.
_BESIDE_LIMIT_BYTES: Final = 32 * 1024  # in the life of a connection
_BUFFER_BYTES: Final = 32 * 1024  # a larger frame is read to where it stays, but for its beginning


class FrameStream(asyncio.BufferedProtocol):
    """The frames of one connection, first for the hello, after `open_wide` for a link.

    `begin` is to be awaited before anything else. During the hello a frame has at most
    HELLO_LIMIT_BYTES and is read one at a time, so that what comes early waits, unparsed, for the
    limits of a proven connection.
    """

    def __init__(self, pipe: TlsPipe) -> None:
        """Begin in the hello; the transport comes by connection_made."""
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self._shaken: asyncio.Future[None] = self._loop.create_future()
        self._raw = memoryview(bytearray(_HELLO_READ_BYTES))  # what a socket brought
        self._transport: asyncio.Transport | None = None
        self._limit = HELLO_LIMIT_BYTES
        self._is_wide = False
        self._buffer = memoryview(bytearray(LENGTH_BYTES + HELLO_LIMIT_BYTES))
        self._start = 0  # of what is not yet cut into frames
        self._end = 0
        self._body: memoryview | None = None  # of a large frame of which a part is here
        self._body_end = 0
        self._rooms: Rooms | None = None
        self._frames: deque[Buffer] = deque()
        self._waiting_bytes = 0
        self._is_paused = False
        self._receiver: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._gone = asyncio.Event()
        self._why_closed = ""
        self._ticker: asyncio.TimerHandle | None = None
        self._heard_bytes = 0
        self._silent_ticks = 0
        self.received_bytes = 0
        self.alive_bytes = 0  # of those, what only says that the other side lives
        self.sent_bytes = 0
        self.place = "connection"  # for error messages
        self.certificate_seen = b""  # DER; TLS proved that the other side holds its key

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be sent; frames that arrived can still be received."""
        return bool(self._why_closed)

    @classmethod
    def maker(cls, context: ssl.SSLContext, *, is_server: bool) -> Callable[[], FrameStream]:
        """Make what asyncio calls for each connection."""
        return lambda: cls(TlsPipe(context, is_server=is_server))

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin TLS. asyncio has set TCP_NODELAY."""
        self._transport = cast("asyncio.Transport", transport)
        # One frame at most waits here, what comes after it where it can still be overtaken.
        self._transport.set_write_buffer_limits(high=0)
        self._shake_hands()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give room for what the socket brings."""
        del sizehint
        return self._raw

    def buffer_updated(self, nbytes: int) -> None:
        """Take what came out of TLS and cut it into frames."""
        if self._why_closed:
            return  # read all the same: who closes with something unread cuts off what it said
        for start in range(0, nbytes, _TURN_BYTES):
            self._pipe.take_in(self._raw[start : min(start + _TURN_BYTES, nbytes)])
            if self._shaken.done():
                self._read()
            else:
                self._shake_hands()
            if self.is_closed:
                return

    def eof_received(self) -> None:
        """Let the transport close itself."""
        self._lose("the other side closed it")

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake everybody who waits."""
        self._lose(f"{exc}" if exc else "the other side closed it")
        self._transport = None  # no cycle: a flood is freed as it goes, not when it is collected
        self._gone.set()

    def pause_writing(self) -> None:
        """Let senders wait."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Let senders go on."""
        self._room.set()

    # What the hello and the link call

    async def begin(self) -> None:
        """Return when TLS is up.

        Raises ssl.SSLError where the other side speaks another language, and ConnectionError
        where it leaves; then, and when cancelled, the connection is cut.
        """
        try:
            await self._shaken
        except BaseException:
            self.abort("TLS was not begun")
            raise

    async def send(self, frame: bytes) -> None:
        """As Link.send."""
        if not 0 < len(frame) <= self._limit:
            raise ValueError(f"a frame of {len(frame)} bytes, 1 to {self._limit} are allowed")
        while not self._room.is_set() and not self._why_closed:
            await self._room.wait()
        if self._why_closed or self._transport is None:
            raise LinkClosed(self.place, self._why_closed)
        length = len(frame).to_bytes(LENGTH_BYTES, "big")
        try:
            if len(frame) <= _JOIN_LIMIT_BYTES:
                self._pipe.write(length + frame)
            else:
                self._pipe.write(length)
                self._pipe.write(frame)
        except ssl.SSLError as cause:  # the other side left TLS in the middle of a message
            self.abort(f"TLS broke: {cause}")
            raise LinkClosed(self.place, self._why_closed) from cause
        self._flush()
        self.sent_bytes += LENGTH_BYTES + len(frame)

    async def receive(self) -> Buffer:
        """As Link.receive."""
        while not self._frames:
            if self._why_closed:
                raise LinkClosed(self.place, self._why_closed)
            if self._receiver is not None:
                raise RuntimeError("two receivers on one link")
            self._receiver = self._loop.create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        frame = self._frames.popleft()
        self._waiting_bytes -= len(frame) + _FRAME_COST_BYTES
        if not self._is_wide or (self._is_paused and self._waiting_bytes <= _RESUME_BYTES):
            self._resume()
        return frame

    def open_wide(self, *, is_bulk: bool) -> None:
        """Allow frames of a link from here on: the other side is proven.

        Memory for large frames is used again where they are many.
        """
        self._is_wide = True
        self._limit = FRAME_LIMIT_BYTES
        self._rooms = Rooms(FRAME_LIMIT_BYTES) if is_bulk else None
        early = self._buffer[self._start : self._end]
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._buffer[: len(early)] = early
        self._start, self._end = 0, len(early)
        self._raw = memoryview(bytearray(_READ_BYTES))
        self._tick_later()  # until now whoever greets has a deadline
        self._resume()

    async def close(self) -> None:
        """As Link.close."""
        self._lose("closed here")
        transport = self._transport
        if transport is None:
            return
        self._say_goodbye(transport)
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._gone.wait()
        except TimeoutError:
            transport.abort()
        except asyncio.CancelledError:
            transport.abort()  # else whoever does not leave keeps our socket open
            raise

    def abort(self, why: str) -> None:
        """Cut the connection at once."""
        self._lose(why)
        if self._transport is not None:
            self._transport.abort()

    # Inside

    def _shake_hands(self) -> None:
        try:
            is_done = self._pipe.shake_hands()
        except ssl.SSLError as cause:
            self._fail(cause)
            self.abort("no TLS came")
            return
        self._flush()
        if is_done and not self._shaken.done():
            self.certificate_seen = self._pipe.certificate_seen
            self._shaken.set_result(None)
            self._read()

    def _fail(self, cause: Exception) -> None:
        if not self._shaken.done():
            self._shaken.set_exception(cause)
            self._shaken.exception()  # who would wait for it may have been cancelled

    def _flush(self) -> None:
        waiting = self._pipe.take_out()
        if waiting and self._transport is not None:
            self._transport.write(waiting)

    def _say_goodbye(self, transport: asyncio.Transport) -> None:
        """Send what there is and that it ends; the other side closes when it has all of it."""
        if self._shaken.cancelled() or self._shaken.exception() is not None:
            transport.abort()
            return
        self._pipe.say_goodbye()
        self._flush()
        transport.resume_reading()  # see buffer_updated

    def _read(self) -> None:
        """Take out of TLS what may be taken, and cut it into frames."""
        while not self._is_paused and not self._why_closed:
            if self._body is not None:
                room = self._body[self._body_end :]
            elif self._end < len(self._buffer):
                room = self._buffer[self._end :]
            else:
                self._compact()
                continue
            try:
                count = self._pipe.read_into(room)
            except ssl.SSLError as cause:
                self.abort(f"TLS broke: {cause}")
                return
            self.received_bytes += count
            self._took(count)
            if self._pipe.has_ended:
                self._lose("the other side closed it")
                if self._transport is not None:
                    self._transport.close()
            elif count < len(room):
                self._flush()  # what TLS itself has to say to what came
                if self._pipe.beside_bytes > _BESIDE_LIMIT_BYTES:
                    self.abort("it speaks of TLS more than within it")
                return

    def _took(self, count: int) -> None:
        if self._body is None:
            self._end += count
            self._cut()
            return
        self._body_end += count
        if self._body_end == len(self._body):
            body, self._body = self._body, None
            self._keep(body)
            self._cut()

    def _cut(self) -> None:
        buffer, start, end = self._buffer, self._start, self._end
        while end - start >= LENGTH_BYTES and (self._is_wide or not self._frames):
            length = int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
            if length > self._limit:
                self.abort(f"a frame of {length} bytes was announced")
                return
            body = start + LENGTH_BYTES
            if length > len(buffer) - LENGTH_BYTES:
                self._begin_body(length, buffer[body:end])
                start = end
                break
            if end - body < length:
                break
            start = body + length
            if not length:
                self.alive_bytes += LENGTH_BYTES
            else:
                self._keep(bytes(buffer[body:start]))
        self._start, self._end = (0, 0) if start == end else (start, end)
        self._wake()
        if self._waiting_bytes > (_PAUSE_BYTES if self._is_wide else 0):
            self._pause()

    def _begin_body(self, length: int, begun: memoryview) -> None:
        """Have the rest of a large frame read to where it stays."""
        if self._rooms is None or 2 * length < FRAME_LIMIT_BYTES:  # it would keep a whole room
            room = memoryview(bytearray(length))
        else:
            room = self._rooms.take()
        self._body = room[:length]
        self._body[: len(begun)] = begun
        self._body_end = len(begun)

    def _keep(self, frame: Buffer) -> None:
        self._frames.append(frame)
        self._waiting_bytes += len(frame) + _FRAME_COST_BYTES

    def _compact(self) -> None:
        rest = self._end - self._start
        if self._start == 0 and rest == len(self._buffer):  # no cut frame is that long
            self.abort("more came than may")
            self._end = 0
            return
        self._buffer[:rest] = self._buffer[self._start : self._end]
        self._start, self._end = 0, rest

    def _wake(self) -> None:
        receiver = self._receiver
        if receiver is not None and not receiver.done() and (self._frames or self._why_closed):
            receiver.set_result(None)

    def _pause(self) -> None:
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        self._cut()  # what waited in the buffer comes first
        if self._is_paused and self._waiting_bytes <= (_RESUME_BYTES if self._is_wide else 0):
            self._is_paused = False
            self._silent_ticks = 0
            self._read()  # and what waited within TLS
            if not self._is_paused and self._transport is not None:
                self._transport.resume_reading()

    def _tick(self) -> None:
        """Say that we live, and give up where nothing at all was heard for too long."""
        if self._why_closed or self._transport is None:
            return
        heard = self.received_bytes != self._heard_bytes or self._is_paused
        self._heard_bytes = self.received_bytes
        self._silent_ticks = 0 if heard else self._silent_ticks + 1
        if self._rooms is not None and not heard:
            self._rooms.forget()
        if self._silent_ticks >= SILENT_TICKS:
            self.abort(f"nothing was heard for {SILENT_TICKS * TICK_S:.0f} s")
            return
        if self._room.is_set():
            try:
                self._pipe.write(_ALIVE)
            except ssl.SSLError as cause:
                self.abort(f"TLS broke: {cause}")
                return
            self._flush()
        self._tick_later()

    def _tick_later(self) -> None:
        if self._why_closed:
            return
        wait_s = until_beat_s(self._loop.time(), TICK_S)
        self._ticker = self._loop.call_later(wait_s, self._tick)

    def _lose(self, why: str) -> None:
        if not self._why_closed:
            self._why_closed = why
        self._fail(ConnectionResetError(why))
        self._room.set()
        if self._ticker is not None:
            self._ticker.cancel()
        self._wake()
