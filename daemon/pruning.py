"""Let old versions go from history where `[history] keep` limits it, the oldest first.

Nothing goes while everything is kept, which is the default. What is in history for another reason
than age never goes: versions of what was ever in conflict, bytes that were never shared, and what
somebody may still be writing to.
Names are taken out of the database first, with a note of them, and the files after it: whatever
a crash leaves is finished at the next start, and no row tells of a file that is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from daemon.disk import DiskError, RootLost
from daemon.displaced import parse_history_name
from daemon.journal import names_watched
from store.codec import decode_header
from store.events import Content
from store.fold import Fact

if TYPE_CHECKING:
    from daemon.config import HistoryConfig
    from daemon.disk import Disk
    from daemon.folder_tools import Tools
    from store.folder import StoredFolder

logger = logging.getLogger(__name__)

LOOK_S: Final = 600.0
_AT_ONCE: Final = 256
_SETTLING_S: Final = 1.0
_NS: Final = 1_000_000_000
_WATCHED_NS: Final = 3600 * _NS  # what was displaced so lately may be wanted by an undo
_AHEAD_NS: Final = 30 * 86400 * _NS  # no clock is believed so far beyond the newest change


class Slice(Struct, frozen=True):
    """Names that may go, and where to go on; None at the end."""

    names: tuple[bytes, ...]
    after: bytes | None


class Pruner:
    """Prunes one folder's history for as long as it runs."""

    def __init__(
        self,
        tools: Tools,
        folder_no: int,
        is_settled: Callable[[], bool],
    ) -> None:
        """Prepare; run() does it. Nothing goes unless the folder `is_settled`."""
        self._tools = tools
        self._folder_no = folder_no
        self._is_settled = is_settled
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look now: the configuration may be another one."""
        self._woken.set()

    async def run(self, disk: Disk) -> None:
        """Prune now and every ten minutes until cancelled. Raises RootLost."""
        while True:
            self._woken.clear()
            pause_s = LOOK_S
            try:
                pause_s = LOOK_S if await self.prune(disk) else _SETTLING_S
            except RootLost:
                raise
            except DiskError as failure:  # what was noted is removed at the next look
                logger.warning("history not pruned folder_no=%d why=%s", self._folder_no, failure)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()

    async def prune(self, disk: Disk) -> bool:
        """Prune what the configuration lets go, in slices; False if it is to be gone on with.

        What history holds may be wanted while the folder is not settled. Raises DiskError.
        """
        await self._remove(disk, await self._tools.core.run(_open_names, self._stored))
        after: bytes | None = b""
        while after is not None and is_limited(self._tools.history()):
            if not self._is_settled():
                return False
            config, now_ns = self._tools.history(), self._tools.clock.now_ns()
            found = await self._tools.core.run(take_slice, self._stored, config, now_ns, after)
            await self._remove(disk, found.names)
            after = found.after
        return True

    @property
    def _stored(self) -> StoredFolder:
        return self._tools.shelf[self._folder_no]

    async def _remove(self, disk: Disk, names: Sequence[bytes]) -> None:
        if names:
            logger.info("history pruned folder_no=%d versions=%d", self._folder_no, len(names))
            await self._tools.pool.run(_remove_all, disk, names)
            await self._tools.core.run(_close_names, self._stored)


def is_limited(config: HistoryConfig) -> bool:
    """Whether anything may ever go."""
    return config.keep_s is not None or config.keep_bytes is not None


def take_slice(stored: StoredFolder, config: HistoryConfig, now_ns: int, after: bytes) -> Slice:
    """Choose what goes of the next oldest versions, and take it out of the database.

    In one transaction, on the database thread; the caller removes the files of those names.
    """
    db = stored.db
    (total,) = db.execute(
        "SELECT coalesce(sum(size), 0) FROM kept WHERE folder_no = ?", (stored.no,)
    ).fetchone()
    excess = None if config.keep_bytes is None else total - config.keep_bytes
    oldest_ns = None
    if config.keep_s is not None:
        oldest_ns = min(now_ns, _newest_ns(stored) + _AHEAD_NS) - int(config.keep_s * _NS)
    rows = db.execute(
        "SELECT name, object_no, value, size FROM kept WHERE folder_no = ? AND name > ?"
        f" ORDER BY name LIMIT {_AT_ONCE}",
        (stored.no, after),
    ).fetchall()
    judged: dict[int, frozenset[bytes]] = {}
    watched = names_watched(db, stored.no) if rows else frozenset()
    names: list[bytes] = []
    is_done = len(rows) < _AT_ONCE
    for name, object_no, value, size in rows:
        parsed = parse_history_name(name)
        if parsed is None:
            continue
        if (excess is not None and excess <= 0) or (
            oldest_ns is not None and parsed.at_ns >= oldest_ns
        ):
            is_done = True
            break
        if parsed.at_ns >= now_ns - _WATCHED_NS or name in watched:
            continue
        if value in _prunable(stored, object_no, judged):
            names.append(name)
            excess = None if excess is None else excess - size
    if names:
        _take_out(stored, names)
    return Slice(tuple(names), None if is_done else rows[-1][0])


def _take_out(stored: StoredFolder, names: Sequence[bytes]) -> None:
    with stored.db.transaction():
        stored.db.executemany(
            "DELETE FROM kept WHERE folder_no = ? AND name = ?",
            [(stored.no, name) for name in names],
        )
        stored.db.set_meta(_note(stored), msgspec.msgpack.encode(list(names)))


def _open_names(stored: StoredFolder) -> list[bytes]:
    """Give what was taken out and perhaps not removed: a crash came between."""
    noted = stored.db.meta(_note(stored))
    return [] if noted is None else msgspec.msgpack.decode(noted, type=list[bytes])


def _close_names(stored: StoredFolder) -> None:
    with stored.db.transaction():
        stored.db.execute("DELETE FROM meta WHERE key = ?", (_note(stored),))


def _note(stored: StoredFolder) -> str:
    return f"pruning/{stored.no}"


def _remove_all(disk: Disk, names: Sequence[bytes]) -> None:
    for name in names:
        disk.remove_history(name)


def _prunable(
    stored: StoredFolder, object_no: int, judged: dict[int, frozenset[bytes]]
) -> frozenset[bytes]:
    """Give the contents of an object that may go: all that were shared, if none was in conflict."""
    if object_no <= 0:
        return frozenset()
    if object_no not in judged:
        facts = stored.state.facts(object_no)
        # Of what a snapshot left out nobody here knows whether it was in conflict.
        is_safe = not stored.state.buried(object_no).events and not was_in_conflict(facts)
        judged[object_no] = _contents(facts) if is_safe else frozenset()
    return judged[object_no]


def _contents(facts: Sequence[Fact]) -> frozenset[bytes]:
    contents = {getattr(fact.event, "content", None) for fact in facts}
    return frozenset(
        bytes(one.hash) if isinstance(one, Content) else bytes(one)
        for one in contents
        if one is not None
    )


def was_in_conflict(facts: Sequence[Fact]) -> bool:
    """Whether an object ever had two contents at once, of which neither replaced the other."""
    heads: dict[bytes, object] = {}
    for fact in sorted(facts, key=lambda one: one.key):
        content = getattr(fact.event, "content", None)
        if content is None:
            continue
        for replaced in getattr(fact.event, "prev", ()):
            heads.pop(replaced, None)
        heads[fact.event_id] = content
        if len(set(heads.values())) > 1:
            return True
    return False


def _newest_ns(stored: StoredFolder) -> int:
    """Give the latest moment that any log says of its newest batch."""
    newest_ms = 0
    for head in stored.log.heads():
        row = stored.db.execute("SELECT header FROM batch WHERE id = ?", (head.batch,)).fetchone()
        if row is not None:
            newest_ms = max(newest_ms, decode_header(row[0]).wall_ms)
    return newest_ms * 1_000_000
