"""Open a node that is stopped, for the commands that work without its daemon.

Imported only then: a running daemon is asked over its socket instead. It calls nobody, and what
is suspicious in its home is left for a daemon to see to.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from daemon import report
from daemon.core import InlineRunner
from daemon.disk import DiskError
from daemon.home import Home
from daemon.instance import Instance
from daemon.key_file import read_key
from daemon.machine import close_disk, load_config, make_operations, make_world, open_disk
from daemon.node import Node
from daemon.operations import NodeOperations
from peers.address import Address, parse_all
from peers.handshake import HelloFailed
from peers.invite import Invite
from peers.link import Link, Purpose
from store.db import Database, open_database
from store.errors import DatabaseDamaged, DizzyError
from store.ids import AgentId


class _NoNetwork:
    """For a node that is stopped."""

    async def dial(
        self,
        addresses: Sequence[Address],
        agent: AgentId,
        purpose: Purpose,
        *,
        invite: Invite | None = None,
    ) -> Link:
        raise HelloFailed("call", "the daemon is not running")


@contextmanager
def open_node(home: Home) -> Iterator[NodeOperations]:
    """Open the node of a home while no daemon runs. Raises AlreadyRunning, DizzyError."""
    with home.locked():
        key = read_key(home.key)
        config = load_config(home)
        instance = Instance(home, secrets.token_bytes)
        is_whole = not instance.lost_wal()
        database = open_database(home.database)
        try:
            runner = InlineRunner()
            node = Node(
                world=make_world(runner, runner, _NoNetwork()),
                database=database,
                key=key,
                config=config,
            )
            _load(node, home)
            for work in node.works.values():
                with contextlib.suppress(DiskError):  # a lost root is told by status and verify
                    work.disk = open_disk(work.path, work.folder, None)
            listen = parse_all(config.node.listen)
            reporter = report.Reporter(
                node,
                home,
                listen=lambda: config.node.listen,
                rejected=lambda: node.links.rejected,
                config_problem=lambda: None,
                pid=None,
            )
            yield make_operations(node, home, reporter, lambda: listen)
        finally:
            for work in node.works.values():
                if work.disk is not None:
                    close_disk(work.disk)
            if is_whole:
                _renew_mark(instance, database)
            database.close()


def _load(node: Node, home: Home) -> None:
    try:
        asyncio.run(node.load())
    except sqlite3.DatabaseError as cause:
        raise DatabaseDamaged(
            f"read the database {home.database}",
            str(cause),
            hint="`dizzyd run` replaces it by what can be proven; this one is kept",
        ) from cause


def _renew_mark(instance: Instance, database: Database) -> None:
    """Draw the home's next mark; what is suspicious stays so, for `run`."""
    with contextlib.suppress(DizzyError, OSError, ValueError, sqlite3.Error):
        if instance.exists and not instance.suspicion(database):
            instance.renew(database, is_closing=True)  # for closing takes the WAL away
