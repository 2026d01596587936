from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from peers import certificate, listener, stream
from peers.address import Address
from peers.handshake import Caller, HelloFailed, InviteExpired, InviteUsed
from peers.link import FRAME_LIMIT_BYTES, Link, LinkClosed, Purpose
from peers.listener import STRANGERS_LIMIT
from peers.sockets import listen_on
from peers.transport import NoAnswer, PortBusy, first_free_port
from store.errors import DatabaseDamaged
from tests.peers.meeting import Node, listening, make_dialer, make_identity, make_invite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

HOST, CALLER, STRANGER = make_identity(1), make_identity(2, label=b"laptop"), make_identity(3)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with listening(HOST) as node:
        node.door.members.add(CALLER.agent)
        yield node


async def call(node: Node, purpose: Purpose = Purpose.CONTROL) -> tuple[Link, Link]:
    """Dial the node as its member; give both ends."""
    ours = await make_dialer(CALLER).dial([node.address], HOST.agent, purpose)
    return ours, await node.next_link()


async def bare(node: Node) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a TLS stream to the node that says nothing by itself."""
    return await asyncio.open_connection(
        node.address.host,
        node.address.port,
        ssl=certificate.client_context(),
        server_hostname="",
    )


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Wait for the end of a stream; give what came before it."""
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


# Links


async def test_link_knows_who_is_proven_on_both_sides(node: Node) -> None:
    ours, theirs = await call(node, Purpose.BULK)

    assert (ours.agent, ours.is_dialler, ours.label) == (HOST.agent, True, b"node")
    assert (theirs.agent, theirs.is_dialler, theirs.label) == (CALLER.agent, False, b"laptop")
    assert ours.purpose is theirs.purpose is Purpose.BULK
    assert ours.address == str(node.address)
    assert theirs.address.startswith("127.0.0.1:")
    assert 0 < ours.rtt_s < 5
    assert 0 < theirs.rtt_s < 5
    await ours.close()


@pytest.mark.parametrize("purpose", [Purpose.CONTROL, Purpose.BULK])
async def test_frames_of_all_lengths_arrive_whole_and_in_order(
    node: Node, purpose: Purpose
) -> None:
    ours, theirs = await call(node, purpose)
    lengths = [1, 2, 4095, 4096, 4097, 16383, 16384, 16385, FRAME_LIMIT_BYTES - 1, 7]
    lengths += [FRAME_LIMIT_BYTES] * 20 + [FRAME_LIMIT_BYTES - 300, 1] * 10 + [3] * 5000
    frames = [os.urandom(min(length, 16)).ljust(length, b".") for length in lengths]

    async def send_all() -> None:
        for frame in frames:
            await ours.send(frame)

    async with asyncio.TaskGroup() as tasks, asyncio.timeout(30):
        tasks.create_task(send_all())
        received = [await theirs.receive() for _ in frames]

    assert received == frames
    await ours.close()


async def test_frames_said_together_with_the_welcome_are_not_lost(node: Node) -> None:
    sent = [b"first", b"second" * 10_000, b"third"]
    dialling = asyncio.create_task(
        make_dialer(CALLER).dial([node.address], HOST.agent, Purpose.CONTROL)
    )
    theirs = await node.next_link()
    for frame in sent:
        await theirs.send(frame)
    await theirs.close()

    ours = await dialling

    assert [await ours.receive() for _ in sent] == sent
    with pytest.raises(LinkClosed):
        await ours.receive()


async def test_frame_too_long_or_empty_is_refused_before_it_is_sent(node: Node) -> None:
    ours, theirs = await call(node)

    for frame in (b"", bytes(FRAME_LIMIT_BYTES + 1)):
        with pytest.raises(ValueError, match="frame of"):
            await ours.send(frame)

    await ours.send(b"still fine")
    assert await theirs.receive() == b"still fine"


async def test_slow_receiver_slows_its_sender_down(node: Node) -> None:
    ours, theirs = await call(node)
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            await ours.send(bytes(FRAME_LIMIT_BYTES))
            sent += 1

    flooding = asyncio.create_task(flood())
    before = -1
    while sent != before:  # until it is stuck
        before = sent
        await asyncio.sleep(0.3)

    bound = 40 * 1024 * 1024 // FRAME_LIMIT_BYTES  # kernel buffers and ours
    assert 0 < sent < bound
    for _ in range(bound):
        await theirs.receive()
    assert sent >= bound
    flooding.cancel()
    await theirs.close()


async def test_closed_link_says_so_at_once_to_everybody(node: Node) -> None:
    ours, theirs = await call(node)
    receiving = asyncio.create_task(ours.receive())
    await asyncio.sleep(0)

    await theirs.close()
    await theirs.close()

    async with asyncio.timeout(5):
        with pytest.raises(LinkClosed):
            await receiving
    for link in (ours, theirs):
        with pytest.raises(LinkClosed):
            await link.send(b"late")
        assert link.is_closed


async def test_what_was_said_before_the_goodbye_arrives_though_much_is_unread_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def listen_with_little_room(addresses: Sequence[Address]) -> list[socket.socket]:
        bound = listen_on(addresses)
        for each in bound:  # those that it accepts have as little
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        return bound

    monkeypatch.setattr(listener, "listen_on", listen_with_little_room)
    monkeypatch.setattr(stream, "GOODBYE_S", 0.2)
    async with listening(HOST) as node, asyncio.timeout(20):
        node.door.members.add(CALLER.agent)
        ours, theirs = await call(node)
        for link in (theirs, ours):  # what a side does not take waits in the kernels
            for _ in range(8):
                await link.send(bytes(FRAME_LIMIT_BYTES))
        for link in (ours, theirs):  # until it takes no more
            while link.received_bytes < 4 * FRAME_LIMIT_BYTES:
                await asyncio.sleep(0)

        await ours.send(b"last words")
        await ours.close()  # its patience ends before they are read, or even sent

        for _ in range(8):
            assert len(await theirs.receive()) == FRAME_LIMIT_BYTES
        assert await theirs.receive() == b"last words"
        with pytest.raises(LinkClosed):
            await theirs.receive()


async def test_connection_that_is_cut_without_a_goodbye_ends_the_link(node: Node) -> None:
    writer, link = await member_stream(node)

    writer.transport.abort()

    async with asyncio.timeout(5):
        with pytest.raises(LinkClosed):
            await link.receive()


async def test_every_socket_has_nodelay(node: Node) -> None:
    ours, theirs = await call(node)

    for link in (ours, theirs):
        transport = link._stream._transport  # type: ignore[attr-defined]
        plain = transport.get_extra_info("socket")
        assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await ours.close()


async def test_idle_link_lives(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TICK_S", 0.05)
    ours, theirs = await call(node)
    before = [ours.received_bytes, theirs.received_bytes]

    await asyncio.sleep(0.5)

    # who waits for an answer is not to take a sign of life for a part of it
    assert [ours.received_bytes, theirs.received_bytes] == before
    await ours.send(b"still here")
    assert await theirs.receive() == b"still here"
    assert theirs.received_bytes == before[1] + 4 + len(b"still here")


async def test_paused_receiver_is_not_taken_for_a_dead_peer(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "TICK_S", 0.05)
    ours, theirs = await call(node)
    for _ in range(8):
        await ours.send(bytes(FRAME_LIMIT_BYTES))

    await asyncio.sleep(0.5)

    for _ in range(8):
        assert len(await theirs.receive()) == FRAME_LIMIT_BYTES


# Hostile input


async def member_stream(node: Node) -> tuple[asyncio.StreamWriter, Link]:
    """Be a proven member that then writes raw bytes."""
    reader, writer = await bare(node)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    caller = Caller(
        CALLER,
        expected=HOST.agent,
        certificate_hash=certificate.certificate_hash(shown),
        purpose=Purpose.CONTROL,
        nonce=os.urandom(32),
    )
    writer.write(framed(caller.hello()))
    answer = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
    writer.write(framed(caller.prove(answer)))
    return writer, await node.next_link()


@pytest.mark.parametrize("length", [FRAME_LIMIT_BYTES + 1, 2**31, 2**32 - 1])
async def test_A1_length_of_a_frame_is_checked_before_anything_is_kept(
    node: Node, length: int
) -> None:
    writer, link = await member_stream(node)

    writer.write(length.to_bytes(4, "big"))

    with pytest.raises(LinkClosed, match="was announced"):
        await link.receive()
    writer.close()


@pytest.mark.parametrize("length", [4097, FRAME_LIMIT_BYTES, 2**31, 2**32 - 1])
async def test_A1_length_of_a_hello_is_checked_before_anything_is_kept(
    node: Node, length: int
) -> None:
    reader, writer = await bare(node)

    writer.write(length.to_bytes(4, "big") + bytes(1000))

    assert await ended(reader) == b""
    await node.until_rejected("left-during-hello")
    writer.close()


async def test_A2_truncated_frame_then_close_ends_the_link_only(node: Node) -> None:
    writer, link = await member_stream(node)

    writer.write(framed(bytes(1000))[:500])
    await writer.drain()
    writer.close()

    with pytest.raises(LinkClosed):
        await link.receive()
    await call(node)


async def test_A2_truncated_frame_then_silence_ends_the_link(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "TICK_S", 0.1)
    writer, link = await member_stream(node)

    writer.write(framed(bytes(1000))[:500])

    async with asyncio.timeout(5):
        with pytest.raises(LinkClosed, match="nothing was heard"):
            await link.receive()
    writer.close()


async def test_A3_thousand_silent_callers_leave_the_service_unharmed(node: Node) -> None:
    loop = asyncio.get_running_loop()
    callers = []
    most = 0
    for number in range(1000):
        caller = socket.socket()
        caller.setblocking(False)
        callers.append(caller)
        await loop.sock_connect(caller, (node.address.host, node.address.port))
        with suppress(OSError):
            caller.send(b"\x16" if number % 2 else b"")
        most = max(most, len(node.listener._strangers))

    ours, theirs = await call(node)

    assert most <= STRANGERS_LIMIT
    assert node.listener.rejected["too-many-strangers"] >= 1000 - 2 * STRANGERS_LIMIT
    await ours.send(b"served")
    assert await theirs.receive() == b"served"
    for caller in callers:
        caller.close()


async def test_A3_one_byte_a_moment_ends_at_the_deadline(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peers.listener.HELLO_DEADLINE_S", 0.5)
    reader, writer = await bare(node)

    for letter in framed(bytes(36))[:20]:
        writer.write(bytes((letter,)))
        await asyncio.sleep(0.05)

    assert await ended(reader) == b""
    await node.until_rejected("hello-deadline")
    writer.close()


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", os.urandom(4096), b"\x00" * 100, b"SSH-2.0-x\r\n"],
)
async def test_A5_garbage_is_closed_in_the_tls_handshake(node: Node, garbage: bytes) -> None:
    reader, writer = await asyncio.open_connection(node.address.host, node.address.port)

    writer.write(garbage)

    assert len(await ended(reader)) <= 7  # at most a TLS alert
    await node.until_rejected("no-tls")
    writer.close()
    await call(node)


async def test_A5_garbage_behind_the_hello_ends_the_link_only(node: Node) -> None:
    writer, link = await member_stream(node)

    plain = writer.get_extra_info("socket")
    os.write(plain.fileno(), b"\x17\x03\x03\x00\x40" + os.urandom(64))  # a record of no key

    async with asyncio.timeout(5):
        with pytest.raises(LinkClosed, match="TLS broke"):
            await link.receive()
    writer.close()
    await call(node)


async def test_A5_tls_1_2_is_refused(node: Node) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(node.address.host, node.address.port, ssl=context)
    await node.until_rejected("no-tls")


async def test_A5_http_inside_tls_gets_no_answer(node: Node) -> None:
    reader, writer = await bare(node)

    writer.write(b"GET / HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\n\r\n")

    assert await ended(reader) == b""
    writer.close()


async def test_A6_stranger_hears_the_same_as_one_with_a_wrong_signature(node: Node) -> None:
    heard = []
    for identity, spoil in ((STRANGER, 0), (CALLER, 1), (HOST, 0)):
        reader, writer = await bare(node)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        caller = Caller(
            identity,
            expected=HOST.agent,
            certificate_hash=certificate.certificate_hash(shown),
            purpose=Purpose.CONTROL,
            nonce=os.urandom(32),
        )
        writer.write(framed(caller.hello()))
        answer = await reader.readexactly(38)
        proof = bytearray(caller.prove(answer[4:]))
        proof[-1] ^= spoil
        writer.write(framed(bytes(proof)))
        heard.append(await ended(reader))
        writer.close()

    assert heard == [b"", b"", b""]
    assert node.listener.rejected == {
        "unknown-agent": 1,
        "bad-hello-signature": 1,
        "our-own-key": 1,
    }


async def test_A6_dialler_says_that_it_is_not_known(node: Node) -> None:
    with pytest.raises(NoAnswer, match="does not know this node"):
        await make_dialer(STRANGER).dial([node.address], HOST.agent, Purpose.CONTROL)

    assert node.arrived.empty()


async def test_P44_recorded_hello_opens_nothing_on_a_second_connection(node: Node) -> None:
    reader, writer = await bare(node)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    caller = Caller(
        CALLER,
        expected=HOST.agent,
        certificate_hash=certificate.certificate_hash(shown),
        purpose=Purpose.CONTROL,
        nonce=os.urandom(32),
    )
    writer.write(framed(caller.hello()))
    proof = framed(caller.prove((await reader.readexactly(38))[4:]))
    writer.write(proof)
    await node.next_link()

    reader, second = await bare(node)
    second.write(framed(caller.hello()))
    await reader.readexactly(38)
    second.write(proof)

    assert await ended(reader) == b""
    await node.until_rejected("bad-hello-signature")
    assert node.arrived.empty()
    writer.close()
    second.close()


async def test_P44_host_sends_no_byte_before_the_proof_but_its_nonce(node: Node) -> None:
    reader, writer = await bare(node)
    writer.write(framed(bytes((0, 1, 0, 1)) + bytes(32)))
    assert len(await reader.readexactly(38)) == 38
    writer.write(framed(bytes(180)))

    assert await ended(reader) == b""
    writer.close()


async def test_door_that_fails_refuses_its_caller_and_stays(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(agent: bytes) -> bool:
        raise DatabaseDamaged("database", f"cannot look up {agent.hex()}")

    with monkeypatch.context() as broken:
        broken.setattr(node.door, "admit_member", fail)
        with pytest.raises(NoAnswer):
            await make_dialer(CALLER).dial([node.address], HOST.agent, Purpose.CONTROL)

    assert node.listener.rejected["door-failed"] == 1
    await call(node)


# Joining


async def test_A22_joiner_is_admitted_once_and_others_are_told(node: Node) -> None:
    invite = make_invite(HOST.agent, node.address)
    node.door.expect(invite)

    link = await make_dialer(STRANGER).dial(
        invite.addresses, invite.inviter, Purpose.JOIN, invite=invite
    )
    theirs = await node.next_link()

    assert (theirs.agent, theirs.purpose) == (STRANGER.agent, Purpose.JOIN)
    await link.send(b"what is there?")
    assert await theirs.receive() == b"what is there?"
    with pytest.raises(InviteUsed):
        await make_dialer(make_identity(9)).dial(
            invite.addresses, invite.inviter, Purpose.JOIN, invite=invite
        )
    assert node.listener.rejected["invite-used"] == 1
    again = await make_dialer(STRANGER).dial(
        invite.addresses, invite.inviter, Purpose.JOIN, invite=invite
    )
    assert again.agent == HOST.agent


async def test_A22_expired_invite_is_told_and_an_unknown_one_is_not(node: Node) -> None:
    expired = make_invite(HOST.agent, node.address)
    node.door.expect(expired)
    node.door.expired.add(expired.id)
    unknown = make_invite(HOST.agent, node.address, secret=b"u" * 16)
    dialer = make_dialer(STRANGER)

    with pytest.raises(InviteExpired):
        await dialer.dial(expired.addresses, HOST.agent, Purpose.JOIN, invite=expired)
    with pytest.raises(NoAnswer, match="not the invite") as silent:
        await dialer.dial(unknown.addresses, HOST.agent, Purpose.JOIN, invite=unknown)

    assert silent.value.exit_code == 75
    assert node.door.members == {CALLER.agent}


# Dialling


async def test_first_address_that_answers_is_taken(node: Node) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = Address("127.0.0.1", closed.getsockname()[1])
        silent = socket.create_server(("127.0.0.1", 0))
        hanging = Address("127.0.0.1", silent.getsockname()[1])

        async with asyncio.timeout(5):
            link = await make_dialer(CALLER).dial(
                [hanging, nobody, node.address], HOST.agent, Purpose.CONTROL
            )

    assert link.address == str(node.address)
    await node.next_link()
    assert node.arrived.empty()
    silent.close()


async def test_same_node_at_two_addresses_gets_one_link(node: Node) -> None:
    same = Address("localhost", node.address.port)

    for _ in range(10):
        link = await make_dialer(CALLER).dial([same, node.address], HOST.agent, Purpose.CONTROL)
        theirs = await node.next_link()
        assert node.arrived.empty()
        await link.send(b"x")
        assert await theirs.receive() == b"x"
        await link.close()


async def test_no_answer_names_each_address_with_its_reason(node: Node) -> None:
    async with listening(STRANGER) as other:
        with socket.socket() as closed, socket.create_server(("127.0.0.1", 0)) as silent:
            closed.bind(("127.0.0.1", 0))
            addresses = [
                Address("127.0.0.1", closed.getsockname()[1]),
                other.address,
                Address("127.0.0.1", silent.getsockname()[1]),
                Address("no-such-name.invalid", 7499),
            ]

            with pytest.raises(NoAnswer) as failed:
                await make_dialer(CALLER).dial(
                    addresses, HOST.agent, Purpose.CONTROL, deadline_s=1.0
                )

    assert [address for address, _ in failed.value.reasons] == addresses
    refused, another, nothing, unknown = (reason for _, reason in failed.value.reasons)
    assert refused == "connection refused"
    assert another == f"another agent answers there, {STRANGER.agent[:4].hex()}"
    assert nothing == "no answer within 1 s"
    assert unknown == "the name is not known"
    assert failed.value.exit_code == 75
    assert "firewall" in failed.value.hint
    assert other.arrived.empty()
    assert node.arrived.empty()


async def test_name_that_no_resolver_can_be_asked_for_is_a_reason_and_no_crash(node: Node) -> None:
    addresses = [Address("a..b", 7499), Address("x" * 64 + ".lan", 7499)]

    with pytest.raises(NoAnswer) as failed:
        await make_dialer(CALLER).dial(addresses, HOST.agent, Purpose.CONTROL)
    link = await make_dialer(CALLER).dial([*addresses, node.address], HOST.agent, Purpose.CONTROL)

    assert [reason for _, reason in failed.value.reasons] == ["the name is not known"] * 2
    await link.close()


async def test_dialling_without_any_address_says_so() -> None:
    with pytest.raises(NoAnswer, match="no address"):
        await make_dialer(CALLER).dial([], HOST.agent, Purpose.CONTROL)


async def test_A23_calling_ourselves_is_refused_before_any_connection(node: Node) -> None:
    with pytest.raises(HelloFailed, match="this node itself"):
        await make_dialer(HOST).dial([node.address], HOST.agent, Purpose.CONTROL)

    assert not node.listener.rejected


async def test_A23_own_address_in_a_list_of_another_is_named() -> None:
    async with listening(CALLER) as own:
        with pytest.raises(NoAnswer, match="this node itself"):
            await make_dialer(CALLER).dial([own.address], HOST.agent, Purpose.CONTROL)


async def test_cancelled_dial_leaves_nothing_behind(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = Address("127.0.0.1", silent.getsockname()[1])
        dialling = asyncio.create_task(
            make_dialer(CALLER).dial([hanging], HOST.agent, Purpose.CONTROL)
        )
        await asyncio.sleep(0.1)

        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling

    assert node.arrived.empty()


# Listening


@pytest.mark.parametrize("at", ["[::]:0", "[::1]:0", "127.0.0.1:0", "0.0.0.0:0"])
async def test_listen_address_is_bound_for_its_families(at: str) -> None:
    async with listening(HOST, at) as node:
        node.door.members.add(CALLER.agent)
        port = node.address.port
        hosts = {"[::]:0": ["127.0.0.1", "::1"], "[::1]:0": ["::1"]}.get(at, ["127.0.0.1"])
        for host in hosts:
            link = await make_dialer(CALLER).dial(
                [Address(host, port)], HOST.agent, Purpose.CONTROL
            )
            theirs = await node.next_link()
            assert theirs.address.startswith("[::1]:" if host == "::1" else "127.0.0.1:")
            await link.close()


async def test_busy_port_is_named_and_nothing_stays_bound(node: Node) -> None:
    free = first_free_port(20_000)

    with pytest.raises(PortBusy) as busy:
        listen_on([Address("127.0.0.1", free), node.address])

    assert str(node.address) in str(busy.value)
    assert "in use" in busy.value.why
    assert "listen" in busy.value.hint
    for bound in listen_on([Address("127.0.0.1", free)]):
        bound.close()


async def test_first_free_port_passes_over_a_busy_one(node: Node) -> None:
    assert first_free_port(node.address.port) != node.address.port


async def test_ports_are_free_after_the_listener() -> None:
    async with listening(HOST) as node:
        address = node.address

    for bound in listen_on([address]):
        bound.close()
