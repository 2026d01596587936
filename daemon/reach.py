"""Carry out an operation wherever the node is: in its daemon, or here while none runs.

Decides only between the two; what an operation does is the node's business.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar, cast

from daemon import client
from store.errors import DizzyError, NotRunning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from daemon.home import Home
    from daemon.route import Route

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def ask(home: Home, route: Route[Asked, Answer], asked: Asked) -> Answer:
    """Get one answer from the daemon, or from the stopped node where the operation allows it."""
    try:
        connection = client.connect(home)
    except NotRunning as reason:
        _need_stopped_node(home, route, reason)
        return _ask_stopped(home, route, asked)
    return client.ask(connection, route, asked)


def follow(home: Home, route: Route[Asked, Answer], asked: Asked) -> Iterator[Answer]:
    """Get a stream of lines, as `ask`."""
    try:
        connection = client.connect(home)
    except NotRunning as reason:
        _need_stopped_node(home, route, reason)
        return _follow_stopped(home, route, asked)
    if cast("Any", route.answer) is bytes:
        return cast("Iterator[Answer]", client.read_pieces(connection, cast("Any", route), asked))
    return client.follow(connection, route, asked)


def _need_stopped_node(home: Home, route: Route[Any, Any], reason: NotRunning) -> None:
    if not home.exists:
        hint = "`dizzyd init` makes one, `dizzyd run` makes and starts one"
        if route.works_stopped:
            raise DizzyError(f"home {home.state}", "there is no node here", hint=hint) from reason
        raise NotRunning("daemon", "is not running, and there is no node yet", hint=hint)
    if not route.works_stopped or home.is_locked():
        raise reason


def _ask_stopped(home: Home, route: Route[Any, Answer], asked: Any) -> Answer:
    import asyncio

    from daemon.offline import open_node

    with open_node(home) as node:
        operation = getattr(node, route.operation)
        answer: Answer = asyncio.run(operation(**asdict(asked)))
        return answer


def _follow_stopped(home: Home, route: Route[Any, Answer], asked: Any) -> Iterator[Answer]:
    import asyncio

    from daemon.offline import open_node

    with open_node(home) as node, asyncio.Runner() as runner:
        lines: AsyncIterator[Answer] = getattr(node, route.operation)(**asdict(asked))
        ended = object()
        while True:
            line = runner.run(_next(lines, ended))
            if line is ended:
                return
            yield cast("Answer", line)


async def _next(lines: AsyncIterator[Any], ended: object) -> object:
    return await anext(lines, ended)
