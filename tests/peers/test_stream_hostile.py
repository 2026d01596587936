"""Show what a hostile or broken side of a TLS connection can not do to a stream."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from peers import stream
from peers.address import Address
from peers.link import LinkClosed, Purpose
from peers.transport import NoAnswer
from tests.peers.meeting import Node, listening, make_dialer, make_identity
from tests.peers.raw_tls import HANDSHAKE, KEY_UPDATE, raw_tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOST, CALLER = make_identity(1), make_identity(2)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with listening(HOST) as node:
        node.door.members.add(CALLER.agent)
        yield node


async def test_A3_refused_caller_that_stays_is_let_go_of_when_another_crowds_it_out(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peers.listener.STRANGERS_LIMIT", 1)
    monkeypatch.setattr(stream, "GOODBYE_S", 60.0)  # all the time there is to crowd it out
    raw = await raw_tls(node, tmp_path / "keys")
    raw.writer.write(raw.frame(b"no hello"))
    async with asyncio.timeout(5):
        while not node.listener.rejected:
            await asyncio.sleep(0.01)

    _, second = await asyncio.open_connection(node.address.host, node.address.port)

    async with asyncio.timeout(5):
        with suppress(ConnectionResetError):
            while await raw.reader.read(65536):
                pass
    raw.writer.close()
    second.close()


async def test_link_whose_goodbye_is_cancelled_keeps_no_socket(node: Node, tmp_path: Path) -> None:
    raw = await raw_tls(node, tmp_path / "keys")
    await raw.prove(CALLER, HOST.agent)
    link = await node.next_link()
    closing = asyncio.create_task(link.close())
    await asyncio.sleep(0)  # it waits for the other side to close

    closing.cancel()

    async with asyncio.timeout(5):
        with suppress(ConnectionResetError):
            while await raw.reader.read(65536):
                pass
    raw.writer.close()


async def test_silent_host_is_told_as_silent_however_long_it_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "TICK_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address("127.0.0.1", silent.getsockname()[1])
        with pytest.raises(NoAnswer, match="no answer within 1 s"):
            await make_dialer(CALLER).dial([address], HOST.agent, Purpose.CONTROL, deadline_s=1.0)


@pytest.mark.parametrize("is_proven", [False, True])
async def test_A3_flood_of_key_updates_is_cut_off_before_it_costs_a_turn_of_the_loop(
    node: Node, tmp_path: Path, *, is_proven: bool
) -> None:
    raw = await raw_tls(node, tmp_path / "keys")
    if is_proven:
        await raw.prove(CALLER, HOST.agent)
        await node.next_link()

    raw.writer.write(b"".join(raw.key_update() for _ in range(9700)))  # they fit one read

    answered = 0
    async with asyncio.timeout(3):  # a stranger's deadline would be five
        with suppress(ConnectionError):
            while piece := await raw.reader.read(65536):
                answered += len(piece)
    assert answered < 80 * 1024, "each is answered with as many bytes"
    raw.writer.transport.abort()


async def test_key_updates_that_come_now_and_then_among_frames_are_counted_together(
    node: Node, tmp_path: Path
) -> None:
    raw = await raw_tls(node, tmp_path / "keys")
    await raw.prove(CALLER, HOST.agent)
    link = await node.next_link()

    heard = 0
    with suppress(LinkClosed, ConnectionError):
        async with asyncio.timeout(60):
            while heard < 1000:  # it reads no answer to them
                raw.writer.write(b"".join(raw.key_update() for _ in range(10)) + raw.frame(b"x"))
                await link.receive()
                heard += 1

    assert 50 < heard < 200
    assert link.is_closed
    raw.writer.transport.abort()


async def test_half_a_key_update_ends_the_link_only(node: Node, tmp_path: Path) -> None:
    raw = await raw_tls(node, tmp_path / "keys")
    await raw.prove(CALLER, HOST.agent)
    link = await node.next_link()
    raw.writer.write(raw.frame(b"x"))
    assert await link.receive() == b"x"
    raw.writer.write(raw.record(KEY_UPDATE[:4], HANDSHAKE))
    await asyncio.sleep(0.2)

    with pytest.raises(LinkClosed):
        await link.send(b"answer")
    assert link.is_closed
    raw.writer.close()
