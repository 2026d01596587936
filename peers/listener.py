"""Answer calls, and hand out the links of callers that proved who they are.

No byte of a stranger gets further than TLS and the fixed layouts of peers.handshake: there is
no HTTP, no decoder and no allocation by a length that he names. At most 64 callers are
unproven at a time, each for at most 5 s. What is said over a link is none of its business.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from typing import TYPE_CHECKING, Final

from peers import certificate
from peers.backoff import StrangerDelays
from peers.handshake import (
    HELLO_DEADLINE_S,
    NONCE_BYTES,
    Door,
    HelloRefused,
    Host,
    Refusal,
    Verdict,
    judge,
)
from peers.link import Link, LinkClosed
from peers.sockets import address_of, listen_on
from peers.stream import FrameStream
from peers.tls_link import TlsLink
from store.errors import DizzyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peers.address import Address
    from peers.identity import Identity

STRANGERS_LIMIT: Final = 64
_ACCEPT_PAUSE_S: Final = 0.5  # out of file descriptors: some time to get one back

logger = logging.getLogger(__name__)


class Listener:
    """Answer calls: prove each caller and hand its link to `on_link`, on the loop.

    `open` binds, `serve` runs until it is cancelled, under the caller's TaskGroup. `rejected`
    counts refusals by reason. Links handed out live on after the listener.
    """

    def __init__(
        self,
        identity: Identity,
        own: certificate.Certificate,
        *,
        door: Door,
        on_link: Callable[[Link], None],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """Prepare to answer as this identity, with its certificate."""
        self._identity = identity
        self._context = certificate.server_context(own)
        self._hash = certificate.certificate_hash(own.der)
        self._door = door
        self._on_link = on_link
        self._random_bytes = random_bytes
        self._sockets: list[socket.socket] = []
        self._strangers: dict[asyncio.Task[None], str] = {}  # in the order of their coming
        self._delays = StrangerDelays()
        self.rejected: Counter[str] = Counter()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it listens, with the ports as bound."""
        return tuple(address_of(bound.getsockname()) for bound in self._sockets)

    def open(self, addresses: Sequence[Address]) -> None:
        """Bind all addresses or none; `[::]` takes both families.

        Raises PortBusy that names the address.
        """
        self._sockets += listen_on(addresses)

    def close(self) -> None:
        """Let go of the ports."""
        for bound in self._sockets:
            bound.close()
        self._sockets.clear()

    async def serve(self) -> None:
        """Answer calls until cancelled; the ports are free when this returns.

        With no address to listen on it returns at once.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for bound in self._sockets:
                    tasks.create_task(self._accept(bound, tasks))
        finally:
            self.close()

    async def _accept(self, bound: socket.socket, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while bound.fileno() >= 0:
            try:
                caller, name = await loop.sock_accept(bound)
            except OSError as cause:
                if cause.errno != errno.ECONNABORTED:  # descriptors or memory ran out
                    logger.warning("cannot take a call reason=%s", cause.strerror)
                    await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            self._make_room()
            address = address_of(name)
            task = tasks.create_task(self._answer(caller, address))
            self._strangers[task] = address.host
            task.add_done_callback(self._leave)
            # A backlog would else be taken in one go, and dropped before it began, unclosed.
            await asyncio.sleep(0)

    def _make_room(self) -> None:
        """Drop the oldest unproven caller, of the address that has the most of them."""
        if len(self._strangers) < STRANGERS_LIMIT:
            return
        crowd, _ = Counter(self._strangers.values()).most_common(1)[0]
        oldest = next(task for task, host in self._strangers.items() if host == crowd)
        del self._strangers[oldest]
        oldest.cancel()
        self._refuse(crowd, Refusal.CROWD)

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._strangers.pop(task, None)

    def _refuse(self, host: str, refusal: Refusal) -> None:
        self.rejected[refusal.value] += 1
        self._delays.note_failure(host, asyncio.get_running_loop().time())
        logger.debug("caller refused reason=%s", refusal.value)

    async def _answer(self, caller: socket.socket, address: Address) -> None:
        """Hear one caller out; whatever it was, it ends here or as a link."""
        stream: FrameStream | None = None
        try:
            async with asyncio.timeout(HELLO_DEADLINE_S):
                stream = await self._begin_tls(caller, address.host)
                link = await self._hear(stream, address)
        except TimeoutError:
            refusal = Refusal.DEADLINE
        except OSError:  # those of TLS are OSErrors
            refusal = Refusal.TLS
        except LinkClosed:
            refusal = Refusal.LEFT
        except HelloRefused as refused:
            refusal = refused.refusal
        except DizzyError as cause:  # of the door: this caller cannot be judged, others may be
            logger.error("caller not judged reason=%s", cause)  # noqa: TRY400 - no bug of ours
            refusal = Refusal.UNJUDGED
        except BaseException:
            if stream is not None:
                stream.abort("dropped")
            raise
        else:
            self._delays.note_proof(address.host, link.opened_at_s)
            self._on_link(link)
            return
        self._refuse(address.host, refusal)
        if stream is not None:
            await stream.close()

    async def _begin_tls(self, caller: socket.socket, host: str) -> FrameStream:
        loop = asyncio.get_running_loop()
        try:
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if delay_s := self._delays.delay_s(host, loop.time()):
                await asyncio.sleep(delay_s)
        except BaseException:
            caller.close()
            raise
        # From here on the socket belongs to its transport.
        _, stream = await loop.connect_accepted_socket(
            FrameStream.maker(self._context, is_server=True), caller
        )
        await stream.begin()
        return stream

    async def _hear(self, stream: FrameStream, address: Address) -> Link:
        loop = asyncio.get_running_loop()
        nonce = self._random_bytes(NONCE_BYTES)
        host = Host(self._identity, certificate_hash=self._hash, nonce=nonce)
        await stream.send(host.answer(bytes(await stream.receive())))
        answered_at_s = loop.time()
        claim = host.check(bytes(await stream.receive()))
        rtt_s = loop.time() - answered_at_s
        verdict, said = await judge(host, claim, self._door)
        await stream.send(said)
        if verdict is Verdict.INVITE_USED:
            raise HelloRefused(Refusal.INVITE_USED)
        if verdict is Verdict.INVITE_EXPIRED:
            raise HelloRefused(Refusal.INVITE_EXPIRED)
        return TlsLink(stream, claim.other, address=str(address), is_dialler=False, rtt_s=rtt_s)
