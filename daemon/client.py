"""Ask a running node over its control socket.

Blocking and small: http.client on a unix socket, no asyncio, so that a command answers at once.
Starts no daemon and opens no database.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from daemon.plain import NotPlain, from_plain
from store.errors import DizzyError, NotRunning

# http.client makes its HTTPS classes where it finds ssl. A unix socket has no use for them, and
# reading ssl takes a seventh of the time in which a command answers.
_has_no_ssl = "ssl" not in sys.modules
if _has_no_ssl:
    sys.modules["ssl"] = None  # type: ignore[assignment]  # what the import system takes for "not here"
try:
    import http.client
finally:
    if _has_no_ssl:
        del sys.modules["ssl"]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.home import Home
    from daemon.route import Route

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

STARTING_PATIENCE_S = 5.0  # the lock is taken before the socket is open
_RETRY_S = 0.02
_PIECE_BYTES = 1 << 18


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to the control socket of a home."""

    def __init__(self, home: Home, timeout_s: float | None) -> None:
        super().__init__("dizzyd", timeout=timeout_s)
        self._home = home

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with self._home.short_socket_path() as path:
            self.sock.connect(path)


def connect(
    home: Home, *, patience_s: float = STARTING_PATIENCE_S, timeout_s: float | None = None
) -> http.client.HTTPConnection:
    """Connect to the daemon of a home; wait a moment for one that is just starting.

    Raises NotRunning where no process owns the home, or it does not answer in time.
    """
    deadline_s = time.monotonic() + patience_s
    while True:
        connection = _UnixConnection(home, timeout_s)
        try:
            connection.connect()
        except PermissionError as cause:
            connection.close()
            raise DizzyError(
                f"control socket {home.control_socket}", "belongs to another user"
            ) from cause
        except OSError as cause:
            connection.close()
            if time.monotonic() >= deadline_s or not home.is_locked():
                raise _not_running(home) from cause
            time.sleep(_RETRY_S)  # nothing says when a socket appears, and a command has no loop
        else:
            return connection


def _not_running(home: Home) -> NotRunning:
    if home.is_locked():
        return NotRunning(
            "dizzyd",
            "has the home's lock and does not answer",
            hint="it may be starting: ask again",
        )
    return NotRunning("daemon", "is not running", hint="`dizzyd run` starts it")


def ask(
    connection: http.client.HTTPConnection, route: Route[Asked, Answer], asked: Asked
) -> Answer:
    """Ask for one answer. Raises the DizzyError that the node raised."""
    with _response(connection, route, asked) as response:
        return _read_answer(route, json.loads(response.read()))


def follow(
    connection: http.client.HTTPConnection, route: Route[Asked, Answer], asked: Asked
) -> Iterator[Answer]:
    """Ask for a stream of lines. An error of the node is raised where it happened."""
    with _response(connection, route, asked) as response:
        for line in response:
            value = json.loads(line)
            if "error" in value:
                raise _error(value["error"])
            yield _read_answer(route, value)


def read_pieces(
    connection: http.client.HTTPConnection, route: Route[Asked, bytes], asked: Asked
) -> Iterator[bytes]:
    """Ask for bytes. Raises where they end early."""
    with _response(connection, route, asked) as response:
        while piece := response.read1(_PIECE_BYTES):
            yield piece


@contextmanager
def _response(
    connection: http.client.HTTPConnection, route: Route[Any, Any], asked: Any
) -> Iterator[http.client.HTTPResponse]:
    try:
        _send(connection, route, asdict(asked))
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise _error(json.loads(response.read()))
        yield response
    except (OSError, http.client.HTTPException, ValueError) as cause:
        raise DizzyError(
            f"ask dizzyd for {route.operation.replace('_', ' ')}",
            "the daemon stopped before it had answered" if _is_cut(cause) else str(cause),
            hint="`dizzyd status` says whether it runs",
        ) from cause
    finally:
        connection.close()


def _is_cut(cause: Exception) -> bool:
    return isinstance(cause, ConnectionError | http.client.HTTPException)


def _send(
    connection: http.client.HTTPConnection, route: Route[Any, Any], fields: dict[str, Any]
) -> None:
    text = json.dumps(fields)
    if route.method == "GET":
        connection.request("GET", f"{route.path}?q={quote(text)}" if fields else route.path)
    else:
        connection.request(
            route.method, route.path, text.encode(), {"Content-Type": "application/json"}
        )


def _read_answer(route: Route[Any, Answer], value: object) -> Answer:
    try:
        return from_plain(route.answer, value, is_open=True)
    except NotPlain as cause:
        raise DizzyError(
            "answer of the daemon", str(cause), hint="is the daemon of another version running?"
        ) from cause


def _error(plain: Any) -> DizzyError:
    """Make the error that the node raised, with its exit code."""
    if not isinstance(plain, dict):
        return DizzyError("answer of the daemon", "is not understood")
    error = DizzyError(
        str(plain.get("what", "dizzyd")), str(plain.get("why", "")), hint=str(plain.get("hint", ""))
    )
    code = plain.get("exit_code")
    if isinstance(code, int) and 0 < code < 256:  # noqa: PLR2004 - what a process can say
        error.exit_code = code
    return error
