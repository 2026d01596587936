"""Turn what a socket brings into what was said over TLS, and what is said into what it carries.

It has no socket and waits for nothing: whoever has one hands in what came and takes out what is
to go. asyncio's own TLS does the same with more copies and twice the time in the interpreter for
each byte (docs/decisions/0032-tls-without-asyncio.md).
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers.framing import Buffer

# A record beside what it says: header 5 ‖ kind 1 ‖ tag 16 = 22 bytes (RFC 8446, 5.2)
RECORD_COST_BYTES: Final = 22


class TlsPipe:
    """TLS of one connection. Any call may raise ssl.SSLError: then it is over."""

    def __init__(self, context: ssl.SSLContext, *, is_server: bool) -> None:
        """Begin; shake_hands() says the first word of a client."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        self._taken_bytes = 0  # since the hands were shaken
        self._content_bytes = 0  # of those, with what their records cost
        self.has_ended = False  # the other side said that nothing more comes

    def shake_hands(self) -> bool:
        """Go on with the handshake; whether it is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self._taken_bytes = self._incoming.pending
        return True

    @property
    def beside_bytes(self) -> int:
        """What came since the hands were shaken and is no content: TLS's own messages.

        A record of which only a part has come counts until all of it is here: 16 KiB at most.
        """
        return self._taken_bytes - self._incoming.pending - self._content_bytes

    @property
    def certificate_seen(self) -> bytes:
        """The other side's certificate, DER, after the handshake; empty if it showed none."""
        return self._tls.getpeercert(binary_form=True) or b""

    def take_in(self, received: Buffer) -> None:
        """Keep what a socket brought, until read_into() takes it."""
        self._incoming.write(received)
        self._taken_bytes += len(received)

    def read_into(self, room: memoryview) -> int:
        """Fill `room` as far as what was taken in suffices; gives the number of bytes."""
        # Into a buffer it gives a number, which typeshed does not know.
        read = cast("Callable[[int, memoryview], int]", self._tls.read)
        count, size = 0, len(room)
        try:
            while count < size:
                got = read(size - count, room[count:])  # a record at most: 16 KiB
                if not got:
                    self.has_ended = True
                    break
                count += got
                self._content_bytes += got + RECORD_COST_BYTES
        except ssl.SSLWantReadError:
            pass
        if self.beside_bytes < 0:  # a record that is read in two parts counts as two
            self._content_bytes += self.beside_bytes
        return count

    def write(self, content: Buffer) -> None:
        """Say something; take_out() has it then."""
        self._tls.write(content)

    def take_out(self) -> bytes:
        """Give all that a socket is to carry by now."""
        return self._outgoing.read()

    def say_goodbye(self) -> None:
        """Say that nothing more comes."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # it also wants to hear the other's, and that may never come
            return
