"""Wire a real node: clock, threads, disks, watcher, network, control socket, signals.

The one place that knows all the parts; what it shares with a node that is stopped
(daemon.offline) is in daemon.machine. It holds no logic of its own: what can be tested without a
process stands in daemon.node and below.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import secrets
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import TextIO

from daemon import report, syscalls
from daemon.config import Config
from daemon.control import ControlServer
from daemon.core import ThreadRunner, WatchedRunner
from daemon.greeting import greeting
from daemon.healing import OpenedHome, is_whole, open_home, replace_database
from daemon.home import Home
from daemon.key_file import read_key
from daemon.machine import MACHINE, load_config, make_operations, make_world
from daemon.node import Node
from daemon.places import Reading
from daemon.scrub import Scrub
from daemon.service import Notifier
from daemon.status import Problem
from peers import certificate
from peers.address import parse_all
from peers.addresses import own_addresses
from peers.beat import until_beat_s
from peers.dialer import Dialer
from peers.identity import Identity
from peers.interfaces import interface_addresses
from peers.listener import Listener
from store.db import is_damage, open_database
from store.errors import BadSignature, DatabaseDamaged, DizzyError, Malformed
from store.signing import AgentKey

logger = logging.getLogger(__name__)

# Hot paths make rows that cannot be in a circle: a few thousand of other things may come and go.
_GC_THRESHOLDS = (5_000, 20, 10)
_ARENAS = 2  # of the C library: with one for each thread an import keeps 15 MB more

SUSPENDED_S = 5.0  # so much more wall clock than loop time: the machine slept
POOL_THREADS = 4
MARK_S = 60.0
REPLACED_LIMIT = 4  # lives of one process, each with a database of its own


class Application:
    """A running daemon, from start to stop."""

    def __init__(
        self, home: Home, key: AgentKey, config: Config, opened: OpenedHome, out: TextIO
    ) -> None:
        """Wire the parts around an open database; nothing else is opened yet."""
        self._home = home
        self._out = out
        self._config_problem: Problem | None = None
        self.damage = ""  # of the database, found while running
        self.is_doubtful = False  # SQLite said so of one read: it is read again
        self._opened = opened
        self._core = WatchedRunner(
            ThreadRunner("dizzyd-core", 1), sqlite3.DatabaseError, self._database_failed
        )
        self._pool = ThreadRunner("dizzyd-pool", POOL_THREADS)
        self._database = opened.database
        self._reader = WatchedRunner(
            ThreadRunner("dizzyd-read", 1), sqlite3.DatabaseError, self._database_failed
        )
        self._reading = open_database(home.database, read_only=True)
        identity = Identity(
            key=key, label=config.node.name.encode()[:255], instance=secrets.token_bytes(16)
        )
        dialer = Dialer(identity, random_bytes=secrets.token_bytes)
        self.node = Node(
            world=make_world(self._core, self._pool, dialer),
            database=self._database,
            key=key,
            config=config,
            reading=Reading(database=self._reading, runner=self._reader),
        )
        self._listener = Listener(
            identity,
            certificate.issue(key),
            door=self.node.door,
            on_link=self.node.links.take,
            random_bytes=secrets.token_bytes,
        )
        self._listener.open(parse_all(config.node.listen))
        reporter = report.Reporter(
            self.node,
            home,
            listen=lambda: tuple(str(a) for a in self._listener.addresses),
            rejected=lambda: self._listener.rejected,
            config_problem=lambda: self._config_problem,
            pid=os.getpid(),
        )
        self.operations = make_operations(
            self.node, home, reporter, lambda: self._listener.addresses
        )
        self._control = ControlServer(self.operations, home)
        self._notifier = Notifier(os.environ, os.getpid())
        self._stop = asyncio.Event()

    async def run(self, first_folder: str | None) -> None:
        """Serve until a signal says stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        await self._load()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._mark_instance())
                tasks.create_task(self._scrub())
                tasks.create_task(
                    self.node.snapshots.run(
                        lambda: open_database(self._home.database, read_only=True)
                    )
                )
                tasks.create_task(self.node.run())
                tasks.create_task(self._listener.serve())
                tasks.create_task(self._watch_network())
                loop.add_signal_handler(signal.SIGHUP, lambda: tasks.create_task(self._reload()))
                tasks.create_task(self._feed_watchdog())
                await self._share_written()
                if first_folder is not None:
                    await self._share_first(first_folder)
                await self._control.start()
                self._greet()
                self._notifier.ready()
                await self._stop.wait()
                if not self.damage:
                    self._notifier.stopping()
                raise _Stopped  # noqa: TRY301 - this is how a task group is ended
        except* _Stopped:
            pass
        finally:
            await self._control.stop()

    async def _load(self) -> None:
        """Load the node; what cannot be read although SQLite reads it is damage too."""
        self.node.damage = self._opened.damage
        self.node.on_damage = self._note_damage
        try:
            await self.node.load(is_suspicious=bool(self._opened.suspicion))
        except (Malformed, BadSignature, LookupError, ValueError, TypeError) as damaged:
            self._note_damage(f"what it holds cannot be read: {damaged}")
            raise
        with contextlib.suppress(DizzyError, sqlite3.OperationalError):  # a full disk
            await self._core.run(self._opened.instance.renew, self._database)
        with contextlib.suppress(sqlite3.OperationalError):  # named in status; owed still
            await self._core.run(self._database.settle)

    async def _mark_instance(self) -> None:
        """Draw another mark now and then, so that an older copy is known by it."""
        connection = self._database.connection
        changes = connection.total_changes
        while True:
            await asyncio.sleep(MARK_S)
            if connection.total_changes != changes:
                with contextlib.suppress(DizzyError, sqlite3.OperationalError):  # a full disk
                    await self._core.run(self._opened.instance.renew, self._database)
                changes = connection.total_changes

    async def _scrub(self) -> None:
        """Read everything back slowly; a round that fails is begun again later."""
        while True:
            try:
                await Scrub(self.node).run()
            except Exception:  # whatever is wrong with one file, the node goes on
                logger.exception("scrub failed")

    def _database_failed(self, failure: Exception) -> None:
        if is_damage(failure):
            self.is_doubtful = True
            self._note_damage(str(failure))

    def _note_damage(self, damage: str) -> None:
        """End this run: the database is to be replaced."""
        self.damage = self.damage or damage
        self._stop.set()

    def close(self) -> None:
        """Let go of threads and database."""
        self._pool.close()
        self._reader.close()
        self._reading.connection.close()
        self._core.close()
        if self.damage:
            self._database.connection.close()  # what is damaged is not written any more
            return
        with contextlib.suppress(DizzyError, OSError, sqlite3.Error):  # a full disk
            self._opened.instance.renew(self._database, is_closing=True)
        self._database.close()

    async def _share_written(self) -> None:
        try:
            await self.operations.share_written()
        except DizzyError as bad:
            self._config_problem = Problem(problem=str(bad), hint=bad.hint)

    async def _share_first(self, path: str) -> None:
        if self.node.works:
            return
        Path(path).mkdir(parents=True, exist_ok=True)
        await self.operations.share(path, None)

    def _greet(self) -> None:
        """Say what runs and what to do next, to whoever listens."""
        works = self.node.works.values()
        folders = [(self.node.shelf[work.folder_no].name, os.fsdecode(work.path)) for work in works]
        listen = [str(address) for address in self._listener.addresses]
        try:
            self._out.write(greeting(folders, listen, os.environ))
            self._out.flush()
        except OSError:  # nobody reads it; what is left of it goes nowhere
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._out.fileno())
            os.close(null)

    async def _reload(self) -> None:
        self._notifier.reloading(time.monotonic_ns() // 1000)
        try:
            await self.operations.reload()
            self._config_problem = None
        except DizzyError as bad:
            self._config_problem = Problem(problem=str(bad), hint=bad.hint)
            logger.warning("configuration not taken why=%s", bad)
        self._notifier.ready()

    async def _watch_network(self) -> None:
        """Sign where we can be reached when that changes; call everybody then, and after sleep."""
        loop = asyncio.get_running_loop()
        while True:
            announce = parse_all(self.node.config.node.announce)
            places = own_addresses(self._listener.addresses, announce, interface_addresses())
            await self.node.reachable_at(places)
            wall_s, loop_s = time.time(), loop.time()
            await asyncio.sleep(until_beat_s(loop_s))
            if time.time() - wall_s - (loop.time() - loop_s) > SUSPENDED_S:
                self.node.calling.network_changed()

    async def _feed_watchdog(self) -> None:
        interval_s = self._notifier.watchdog_s
        if interval_s is None:
            return
        while True:
            await self._core.run(int)  # the database thread answers
            self._notifier.alive()
            await asyncio.sleep(interval_s / 2)


class _Stopped(Exception):  # not an error: it ends the task group
    pass


def _raise_descriptor_limit() -> None:
    """Allow as many open files as the system lets us: rounds of new files are open at once."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(home: Home, first_folder: str | None) -> int:
    """Run the daemon of a home whose lock the caller holds; gives the exit code."""
    logging.basicConfig(
        level=os.environ.get("DIZZYD_LOG", "INFO"),
        format="%(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    config = load_config(home)
    key = read_key(home.key)
    _raise_descriptor_limit()
    syscalls.share_arenas(_ARENAS)
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run_healed(home, config, key, first_folder))
    return 0


async def _run_healed(home: Home, config: Config, key: AgentKey, first_folder: str | None) -> None:
    """Run, and begin again with a database built anew where the present one is damaged."""
    opened = open_home(home, config, key, MACHINE)
    for _ in range(REPLACED_LIMIT):
        application = Application(home, key, config, opened, sys.stdout)
        try:
            await application.run(first_folder)
        except Exception:  # SQLite's errors come from anywhere; what is no damage goes on up
            if not application.damage:
                raise
            logger.exception("ended by a damaged database")
        finally:
            application.close()
        if not application.damage:
            return
        config = load_config(home)
        if application.is_doubtful and is_whole(home):
            logger.warning("database read anew, and it is whole why=%s", application.damage)
            opened = open_home(home, config, key, MACHINE)
        else:
            opened = replace_database(home, config, key, MACHINE, application.damage)
    opened.database.close()
    raise DatabaseDamaged(
        f"database {home.database}", opened.damage, hint="check the disk; nothing was lost"
    )
