from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemon.control import BODY_LIMIT_BYTES, ControlServer
from daemon.home import Home
from daemon.route import PREFIX
from daemon.routes import ROUTES
from store.errors import DizzyError, UsageError
from tests.daemon.fake_node import FakeNode, as_operations, make_home, served

JSON = "Content-Type: application/json"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "h")


@pytest.fixture
async def node(home: Home) -> AsyncIterator[FakeNode]:
    fake = FakeNode()
    async with served(fake, home):
        yield fake


async def request(
    home: Home, method: str, path: str, *headers: str, body: bytes = b""
) -> tuple[int, Any]:
    """Speak plain HTTP to the socket; answers status and body."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_unix_connection(str(home.control_socket))
        lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join((*lines, "", "")).encode() + body)
        answer = await reader.read()
        writer.close()
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), content


async def test_status_is_served_as_json(home: Home, node: FakeNode) -> None:
    code, content = await request(home, "GET", f"{PREFIX}/status")

    assert code == 200
    assert json.loads(content)["node"]["name"] == "laptop"


async def test_C8_the_socket_is_private_and_goes_with_a_clean_stop(home: Home) -> None:
    before = os.umask(0)
    try:
        async with served(FakeNode(), home):
            found = home.control_socket.lstat()
            assert stat.S_ISSOCK(found.st_mode)
            assert stat.S_IMODE(found.st_mode) == 0o600
    finally:
        os.umask(before)

    assert not home.control_socket.exists()


async def test_C8_another_uid_is_refused(home: Home, node: FakeNode) -> None:
    server = ControlServer(as_operations(node), home)
    server._allowed_uids = {os.geteuid() + 1}
    await server.start()

    code, content = await request(home, "GET", f"{PREFIX}/status")
    await server.stop()

    assert code == 403
    assert json.loads(content)["why"] == "belongs to another user"
    assert node.calls == []


@pytest.mark.root
async def test_C8_another_user_is_refused_even_where_modes_let_them_in(home: Home) -> None:
    fake = FakeNode()
    program = f"""
import os, socket
os.setgroups([]); os.setgid(65534); os.setuid(65534)
connection = socket.socket(socket.AF_UNIX)
connection.connect({str(home.control_socket)!r})
connection.sendall(b"GET {PREFIX}/status HTTP/1.0\\r\\n\\r\\n")
print(connection.recv(100).split()[1].decode())
"""
    async with served(fake, home):
        home.control_socket.chmod(0o666)
        directory = home.state
        while directory != directory.parent and directory != Path("/tmp"):
            directory.chmod(0o755)
            directory = directory.parent
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd="/"
        )
        out, _ = await process.communicate()

    assert out == b"403\n"
    assert fake.calls == []


async def test_a_leftover_socket_is_replaced_and_a_newer_one_is_left(home: Home) -> None:
    with socket.socket(socket.AF_UNIX) as leftover:
        leftover.bind(str(home.control_socket))
    first = ControlServer(as_operations(FakeNode()), home)
    second = ControlServer(as_operations(FakeNode()), home)
    await first.start()
    await second.start()

    await first.stop()
    await first.stop()

    assert (await request(home, "GET", f"{PREFIX}/status"))[0] == 200
    await second.stop()
    assert not home.control_socket.exists()


async def test_a_home_with_a_long_path_is_served(tmp_path: Path) -> None:
    home = make_home(tmp_path / ("d" * 120))
    async with served(FakeNode(), home):
        with home.short_socket_path() as path:
            reader, writer = await asyncio.open_unix_connection(path)
        writer.write(f"GET {PREFIX}/status HTTP/1.0\r\n\r\n".encode())
        assert b" 200 " in await reader.readline()
        writer.close()


async def test_C7_GET_never_reaches_what_changes_state(home: Home, node: FakeNode) -> None:
    for route in ROUTES:
        if route.method == "POST":
            code, _ = await request(home, "GET", route.path)
            assert code == 405, route.path

    assert node.calls == []


@pytest.mark.parametrize(
    "headers",
    [(), ("Content-Type: text/plain",), ("Content-Type: application/x-www-form-urlencoded",),
     (JSON, "Content-Encoding: gzip")],
)  # fmt: skip
async def test_C6_a_body_that_is_not_plain_json_is_415(
    home: Home, node: FakeNode, headers: tuple[str, ...]
) -> None:
    code, _ = await request(home, "POST", f"{PREFIX}/leave", *headers, body=b'{"name": "x"}')

    assert code == 415
    assert node.calls == []


async def test_C9_a_large_body_is_413(home: Home, node: FakeNode) -> None:
    body = b'"' + b"x" * BODY_LIMIT_BYTES + b'"'

    code, _ = await request(home, "POST", f"{PREFIX}/leave", JSON, body=body)

    assert code == 413
    assert node.calls == []


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"{}", b'{"name": 3}', b'{"name": "x", "y": 1}', b"[" * 100_000, b"\xff", b"NaN"],
)
async def test_a_wrong_body_is_an_error_with_its_reason(
    home: Home, node: FakeNode, body: bytes
) -> None:
    code, content = await request(home, "POST", f"{PREFIX}/leave", JSON, body=body)

    assert code == 400
    assert json.loads(content)["exit_code"] == 2
    assert node.calls == []


@pytest.mark.parametrize("query", ["q=3", "q={", "q=[]", "q={%22name%22:3}"])
async def test_a_wrong_query_is_an_error(home: Home, node: FakeNode, query: str) -> None:
    assert (await request(home, "GET", f"{PREFIX}/wait?{query}"))[0] == 400
    assert node.calls == []


@pytest.mark.parametrize("path", ["/", "/api/v1", "/api/v2/status", "/api/v1/status/../x"])
async def test_unknown_paths_are_404_in_json(home: Home, node: FakeNode, path: str) -> None:
    code, content = await request(home, "GET", path)

    assert code == 404
    assert json.loads(content)["exit_code"] == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [(DizzyError("a", "b", hint="c"), 409), (UsageError("a", "b", hint="c"), 400)],
)
async def test_errors_of_the_node_travel_whole(
    home: Home, node: FakeNode, error: DizzyError, status: int
) -> None:
    node.fails["leave"] = error

    code, content = await request(home, "POST", f"{PREFIX}/leave", JSON, body=b'{"name": "x"}')

    assert code == status
    assert json.loads(content) == {
        "what": "a", "why": "b", "hint": "c", "exit_code": error.exit_code,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (NotADirectoryError(20, "Not a directory", "/a/b"), ("/a/b", "Not a directory")),
        (ZeroDivisionError("by zero"), ("internal error", "ZeroDivisionError: by zero")),
        (sqlite3.OperationalError("disk I/O error"), ("dizzyd", "disk I/O error")),
    ],
)
async def test_what_nobody_foresaw_is_told_as_json_too(
    home: Home, node: FakeNode, failure: Exception, says: tuple[str, str]
) -> None:
    node.fails["leave"] = failure

    code, content = await request(home, "POST", f"{PREFIX}/leave", JSON, body=b'{"name": "x"}')

    told = json.loads(content)
    assert code == 500
    assert (told["what"], told["exit_code"]) == (says[0], 1)
    assert says[1] in told["why"]


@pytest.mark.parametrize("cursor", ["x", "-1", "%C2%B2", "9" * 19, "1%00"])
async def test_a_cursor_that_is_none_is_refused_as_usage(home: Home, cursor: str) -> None:
    async with served(FakeNode(), home):
        code, content = await request(home, "GET", f"{PREFIX}/events?after={cursor}")

    assert (code, json.loads(content)["exit_code"]) == (400, 2)


async def test_events_stream_from_a_cursor_until_the_asker_goes(home: Home, node: FakeNode) -> None:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_unix_connection(str(home.control_socket))
        writer.write(f"GET {PREFIX}/events?after=41 HTTP/1.0\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        line = json.loads(await reader.readline())
        assert line["cursor"] == "1"
        assert node.calls == [("changes", ("41",))]

        writer.close()
        await node.was_cancelled.wait()


async def test_stop_ends_an_endless_answer_quickly(home: Home) -> None:
    fake = FakeNode()
    async with asyncio.timeout(5):
        async with served(fake, home):
            _, writer = await asyncio.open_unix_connection(str(home.control_socket))
            writer.write(f"GET {PREFIX}/events HTTP/1.0\r\n\r\n".encode())
            await fake.waiting.wait()
        await fake.was_cancelled.wait()
        writer.close()
