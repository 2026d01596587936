"""Serve what one may ask of a running node: HTTP and JSON on a unix socket of its own user.

Decides nothing: every request is checked for its form and handed to `Operations`. GET never
changes state, a request body is JSON or refused, and no other user is served (their uid is asked
of the kernel). No TCP port is opened here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import sqlite3
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import web

from daemon.answers import CatRequest, Change
from daemon.plain import NotPlain, from_plain, to_plain
from daemon.route import PREFIX, Route
from daemon.routes import CAT, ROUTES
from daemon.troubles import told
from store.errors import EXIT_TRY_LATER, EXIT_USAGE, DizzyError, UsageError

if TYPE_CHECKING:
    from daemon.answers import (
        FolderPeers,
        History,
        Identity,
        InviteMade,
        Joined,
        Rebuilt,
        RestoreLine,
        VerifyLine,
    )
    from daemon.home import Home
    from daemon.status import Status

logger = logging.getLogger(__name__)

BODY_LIMIT_BYTES: Final = 1 << 20
CONNECTION_LIMIT: Final = 128
GRACE_S: Final = 0.5  # for answers under way at a stop, twice: to end, then to be cancelled
STOP_TIMEOUT_S: Final = 5.0
_CURSOR: Final = re.compile(r"[0-9]{1,18}")
_UCRED = struct.Struct("3i")  # struct ucred: pid 4 + uid 4 + gid 4 = 12 bytes

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Operations(Protocol):
    """What a node can be asked. Every method raises DizzyError for what a person should know.

    Names of folders come as the user wrote them; `daemon.naming.find_folder` resolves them.
    """

    async def status(self) -> Status:
        """Say how everything is; reads only, at once."""

    async def share(self, path: str, name: str | None) -> str:
        """Share the directory at an absolute path; returns the folder's id in hex."""

    async def invite(
        self, name: str, role: str, expires_s: float, addresses: tuple[str, ...]
    ) -> InviteMade:
        """Make an invite that admits one peer, once."""

    async def join(self, invite: str, path: str | None, name: str | None) -> Joined:
        """Join a folder; returns when the inviter has admitted us. Raises TryLater."""

    async def leave(self, name: str) -> None:
        """Stop here; others go on."""

    async def unshare(self, name: str) -> None:
        """End the folder for all; the owner's."""

    async def identity(self) -> Identity:
        """Say who this node is."""

    async def peers(self) -> list[FolderPeers]:
        """List the members of every folder."""

    def repair(self, name: str | None) -> AsyncIterator[VerifyLine]:
        """Heal what verify finds; the last line is the summary."""

    def verify(self, name: str | None) -> AsyncIterator[VerifyLine]:
        """Read everything back; the last line is the summary."""

    async def rebuild(self, name: str | None) -> list[Rebuilt]:
        """Fold state anew from the log; raises where the root is another one."""

    async def scan(self, name: str | None) -> None:
        """Look at the disk now; returns when that is done."""

    async def wait(self, name: str | None, timeout_s: float) -> None:
        """Return when in sync with every connected peer. Raises TryLater at the timeout."""

    def cat(self, path_or_hash: str, cwd: str) -> AsyncIterator[bytes]:
        """Read one content in pieces."""

    async def history(self, path: str) -> History:
        """Tell what became of an absolute path, and where its contents can be had."""

    def restore(
        self, path: str, at_ms: int | None, digits: str | None, to: str | None
    ) -> AsyncIterator[RestoreLine]:
        """Bring a path back as it was, in place or to another one; ends with the summary."""

    async def confirm(self, name: str) -> None:
        """Let held deletions go on."""

    async def undo_deletions(self, name: str) -> None:
        """Put the files of held deletions back."""

    async def revert(self, name: str) -> None:
        """Move a reader's local changes to history and bring the shared state back."""

    async def reload(self) -> None:
        """Read the configuration again; a bad one changes nothing and raises."""

    def changes(self, after: str | None) -> AsyncIterator[Change]:
        """Follow what happens, from a cursor on, without end."""


class ControlServer:
    """The control socket of one node, from start to stop."""

    def __init__(self, operations: Operations, home: Home) -> None:
        """Serve these operations at this home; nothing is opened yet."""
        self._operations = operations
        self._home = home
        self._allowed_uids = {os.geteuid(), 0}
        self._runner: web.AppRunner | None = None
        self._inode: tuple[int, int] | None = None

    async def start(self) -> None:
        """Open the socket, 0600. The caller holds the home's lock, so a leftover is nobody's.

        Raises DizzyError where the socket cannot be made.
        """
        # handler_cancellation: who stops asking (Ctrl-C in `wait`, a closed `events`) frees the
        # answer at once. Operations are cancellable at every await, as at shutdown.
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            shutdown_timeout=GRACE_S,
            handler_cancellation=True,
        )
        await self._runner.setup()
        try:
            listening = self._bind()
        except OSError as cause:
            await self._runner.cleanup()
            raise DizzyError(
                f"control socket {self._home.control_socket}", cause.strerror or str(cause)
            ) from cause
        await web.SockSite(self._runner, listening, backlog=CONNECTION_LIMIT).start()

    def _bind(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The socket's own mode, less the umask, becomes that of its name: private from the
            # first moment, without touching the umask of the process.
            os.fchmod(listening.fileno(), 0o600)
            with suppress(FileNotFoundError):
                self._home.control_socket.unlink()
            with self._home.short_socket_path() as path:
                listening.bind(path)
            self._home.control_socket.chmod(0o600)
            found = self._home.control_socket.lstat()
        except OSError:
            listening.close()
            raise
        self._inode = found.st_dev, found.st_ino
        listening.setblocking(False)  # noqa: FBT003 - its only parameter
        return listening

    async def stop(self) -> None:
        """End all answers and remove the socket; idempotent. A socket of another stays."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        with suppress(OSError):
            found = self._home.control_socket.lstat()
            if (found.st_dev, found.st_ino) == self._inode:
                self._home.control_socket.unlink()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(
            client_max_size=BODY_LIMIT_BYTES, middlewares=[self._only_own_user, _errors_as_json]
        )
        for route in ROUTES:
            answer = self._streaming(route) if route.is_stream else self._answering(route)
            if route is CAT:
                answer = self._cat
            application.router.add_route(route.method, route.path, answer)
        application.router.add_route("GET", f"{PREFIX}/events", self._events)
        return application

    @web.middleware
    async def _only_own_user(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse every uid but our own and root, whatever the modes of socket and home are."""
        uid = _peer_uid(request)
        if uid not in self._allowed_uids:
            logger.warning("control request refused uid=%s", uid)
            refusal = DizzyError("control socket", "belongs to another user")
            return web.json_response(_plain_error(refusal), status=403)
        return await handler(request)

    def _answering(self, route: Route[Any, Any]) -> Handler:
        operation = getattr(self._operations, route.operation)

        async def answer(request: web.Request) -> web.StreamResponse:
            asked = await _read_request(request, route)
            return web.json_response(to_plain(await operation(**_fields(asked))))

        return answer

    def _streaming(self, route: Route[Any, Any]) -> Handler:
        operation = getattr(self._operations, route.operation)

        async def answer(request: web.Request) -> web.StreamResponse:
            asked = await _read_request(request, route)
            return await _stream_lines(request, operation(**_fields(asked)))

        return answer

    async def _events(self, request: web.Request) -> web.StreamResponse:
        after = request.query.get("after")
        if after and not _CURSOR.fullmatch(after):
            raise UsageError("after", "expected the cursor of an event")
        return await _stream_lines(request, self._operations.changes(after))

    async def _cat(self, request: web.Request) -> web.StreamResponse:
        asked = _parse(CatRequest, _read_query(request))
        pieces = self._operations.cat(**_fields(asked))
        first = await anext(pieces, b"")  # an error before the first byte is still JSON
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        await response.write(first)
        # An error from here on cuts the chunked body, which the other end notices.
        async for piece in pieces:
            await response.write(piece)
        await response.write_eof()
        return response


async def _stream_lines(request: web.Request, lines: AsyncIterator[Any]) -> web.StreamResponse:
    """Answer with one JSON object a line; an error in the middle is the last line."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    try:
        async for line in lines:
            await response.write(json.dumps(to_plain(line)).encode() + b"\n")
    except ConnectionError:  # the caller has gone
        raise
    except Exception as failure:  # noqa: BLE001 - the last line says it, whatever it was
        error = _told(request, failure)
        await response.write(json.dumps({"error": _plain_error(error)}).encode() + b"\n")
    finally:
        if isinstance(lines, AsyncGenerator):  # where the caller has gone, it ends here
            await lines.aclose()
    await response.write_eof()
    return response


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every refusal with {what, why, hint, exit_code}."""
    try:
        return await handler(request)
    except DizzyError as error:
        return web.json_response(_plain_error(error), status=_http_status(error))
    except web.HTTPException as error:
        refusal = DizzyError(f"{request.method} {request.path}", error.reason)
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return web.json_response(_plain_error(refusal), status=error.status, headers=headers)
    except ConnectionError:  # the caller has gone
        raise
    except Exception as failure:  # noqa: BLE001 - a fault of one answer, told to who asked for it
        return web.json_response(_plain_error(_told(request, failure)), status=500)


def _told(request: web.Request, failure: Exception) -> DizzyError:
    """Say what went wrong; what nobody foresaw stands whole in the log."""
    if isinstance(failure, DizzyError):
        return failure
    if isinstance(failure, OSError) and failure.strerror:
        place = failure.filename
        what = os.fsdecode(place) if isinstance(place, str | bytes) else "operating system"
        return DizzyError(what, failure.strerror)
    logger.error("answer failed path=%s", request.path, exc_info=failure)
    if isinstance(failure, sqlite3.Error):
        what, remedy = told(failure)
        return DizzyError("dizzyd", what, hint=remedy)
    name = type(failure).__name__
    hint = "please report it, with what the daemon's log says"
    return DizzyError("internal error", f"{name}: {failure}" if str(failure) else name, hint=hint)


def _plain_error(error: DizzyError) -> dict[str, Any]:
    return {
        "what": error.what,
        "why": error.why,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }


def _http_status(error: DizzyError) -> int:
    return {EXIT_USAGE: 400, EXIT_TRY_LATER: 503}.get(error.exit_code, 409)


async def _read_request(request: web.Request, route: Route[Any, Any]) -> object:
    if route.method == "GET":
        return _parse(route.asked, _read_query(request))
    if request.headers.get("Content-Encoding"):
        raise web.HTTPUnsupportedMediaType(reason="a compressed body")
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(reason="expected application/json")
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as cause:
        raise UsageError("request body", "expected JSON") from cause
    return _parse(route.asked, body)


def _read_query(request: web.Request) -> dict[str, Any]:
    """Read ?q={…}: a query's fields are JSON too, so that any name's bytes fit."""
    text = request.query.get("q", "{}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise UsageError("query", "expected JSON in q") from cause
    if not isinstance(value, dict):
        raise UsageError("query", "expected an object in q")
    return value


def _parse(kind: type[Any], value: object) -> object:
    try:
        return from_plain(kind, value)
    except NotPlain as cause:
        raise UsageError("request", str(cause)) from cause


def _fields(request: Any) -> dict[str, Any]:
    return asdict(request)


def _peer_uid(request: web.Request) -> int | None:
    """Ask the kernel who opened the connection; None where it is gone already."""
    transport = request.transport
    connection = None if transport is None else transport.get_extra_info("socket")
    if connection is None:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[1])
