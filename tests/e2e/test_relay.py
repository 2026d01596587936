"""Hold the relay that tests of processes stand on to leaving nothing behind."""

from __future__ import annotations

import gc
import socket
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.e2e.relay import LOOPBACK, Exchange, free_port

if TYPE_CHECKING:
    import pytest


def test_relays_that_end_while_calls_come_leave_no_socket_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left_open: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda seen: left_open.append(f"{seen.exc_value}"))
    for calls in range(40):
        exchange = Exchange()
        relay = exchange.relay(free_port())
        with ExitStack() as callers:
            for _ in range(calls % 5 + 1):
                callers.enter_context(socket.create_connection((LOOPBACK, relay.port)))
            if calls % 2:
                relay.close()
            exchange.end()
    del relay, exchange
    gc.collect()

    assert not left_open
