"""Open a home's database, and replace one that is damaged or gone by what can be proven.

The damaged files are moved aside and kept. The new database holds what the wreck proves and the
folders that config.toml names; every folder opens a new epoch and binds its files as a joiner
does, so that no file changes and no content is sent. What is missing of the log peers bring.

A database of a newer dizzyd, a full disk and somebody's lock are no damage: those are refused.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daemon.instance import Instance
from daemon.salvage import FoundFolder, Wreck, take_in
from store.db import Database, check_structure, is_damage, open_database
from store.errors import DatabaseDamaged, DatabaseNewer, DizzyError
from store.folder import StoredFolder
from store.founding import add_folder
from store.ids import EPOCH_BYTES, Epoch, FolderId

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.config import Config
    from daemon.home import Home
    from store.signing import AgentKey

logger = logging.getLogger(__name__)

CHECK_S: Final = 0.25  # at a start that is not suspicious; the scrub reads the rest later
_ASIDE: Final = "damaged-"
_HEALING: Final = "database.tmp-healing"
_SUFFIXES: Final = ("", "-wal", "-shm")
_TOLD: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What healing needs of the machine."""

    random_bytes: Callable[[int], bytes]
    monotonic_s: Callable[[], float]
    stamp: Callable[[], str]  # now, as part of a file name


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedHome:
    """A database that can be worked with, and what was found on the way."""

    database: Database
    instance: Instance
    suspicion: str  # why every folder opens a new epoch; empty where all is as it was
    damage: str  # what was wrong with the database that was replaced; empty


def open_home(  # noqa: C901 - a branch for each state in which a home can be found
    home: Home, config: Config, key: AgentKey, machine: Machine
) -> OpenedHome:
    """Open the database of a home whose lock the caller holds, healed if need be.

    Raises DatabaseNewer, and DizzyError where neither opening nor healing is possible now.
    """
    instance = Instance(home, machine.random_bytes)
    is_missing = not home.database.exists() or home.database.stat().st_size == 0
    names_folders = any(folder.id is not None for folder in config.folders.values())
    if is_missing and not (instance.exists or names_folders or _wreck_of(home)):
        return _opened(open_database(home.database), instance, suspicion="", damage="")
    if is_missing:
        return replace_database(home, config, key, machine, "the database is missing")
    has_lost_wal = instance.lost_wal()
    try:
        database = open_database(home.database)
    except DatabaseNewer:
        raise
    except DatabaseDamaged as damaged:
        if not is_whole(home):
            return replace_database(home, config, key, machine, damaged.why)
        database = open_database(home.database)
    try:
        why, damage = _examine(database, instance, machine, has_lost_wal=has_lost_wal)
        if names_folders and not why and not damage and not _knows_folders(database):
            why = "the database knows no folder, and config.toml does"
        if why and not damage:
            logger.warning("home is not as it was why=%s", why)
            _add_configured(database, config, machine)
    except (sqlite3.DatabaseError, ValueError) as failure:
        why, damage = "", str(failure)
        if isinstance(failure, sqlite3.DatabaseError) and not is_damage(failure):
            database.connection.close()
            raise DizzyError(
                f"read the database {home.database}",
                str(failure),
                hint="free space, or let go of its lock; nothing is wrong with it",
            ) from failure
    if damage:
        database.connection.close()
        if not is_whole(home):
            return replace_database(home, config, key, machine, damage)
        logger.warning("database read anew, and it is whole why=%s", damage)
        database, why = open_database(home.database), why or "the database was hard to read"
    return _opened(database, instance, suspicion=why, damage="")


def is_whole(home: Home) -> bool:
    """Whether SQLite, asked to read all of it anew, finds nothing wrong with the database.

    It calls a database malformed where the disk failed a single read, too
    (SQLITE_IOERR_CORRUPTFS): only what is damaged when it is read again may be replaced.
    """
    try:
        database = open_database(home.database)
    except DizzyError:
        return False
    try:
        Instance(home, bytes).suspicion(database)  # the mark is legible
        return not check_structure(database, _TOLD, is_quick=False)
    except (sqlite3.DatabaseError, ValueError):
        return False
    finally:
        database.connection.close()


def _knows_folders(database: Database) -> bool:
    return bool(database.execute("SELECT count(*) FROM folder").fetchone()[0])


def _examine(
    database: Database, instance: Instance, machine: Machine, *, has_lost_wal: bool
) -> tuple[str, str]:
    """Say why the home is suspicious, and what is damaged; what is suspicious is read whole.

    Raises sqlite3.DatabaseError and ValueError where the mark cannot be read.
    """
    why = instance.suspicion(database)
    if not why and has_lost_wal:
        why = "the write-ahead log of the database is missing"
    deadline_s = machine.monotonic_s() + CHECK_S
    told = check_structure(
        database,
        _TOLD,
        is_quick=not why,
        is_over=lambda: not why and machine.monotonic_s() > deadline_s,
    )
    return why, "; ".join(told)


def _opened(database: Database, instance: Instance, *, suspicion: str, damage: str) -> OpenedHome:
    return OpenedHome(database=database, instance=instance, suspicion=suspicion, damage=damage)


def replace_database(
    home: Home, config: Config, key: AgentKey, machine: Machine, damage: str
) -> OpenedHome:
    """Move the database aside and build a new one; it is there whole, or not at all.

    A crash on the way leaves no database, and the next start begins again from the wreck.
    """
    logger.warning("database replaced why=%s", damage)
    try:
        _move_aside(home, machine)
        made = home.state / _HEALING
        for suffix in _SUFFIXES:
            made.with_name(made.name + suffix).unlink(missing_ok=True)
        _build(made, _wreck_of(home), config, key, machine)
        made.rename(home.database)
        _make_durable(home.state)
    except OSError as cause:
        raise DizzyError(f"heal {home.database}", cause.strerror or str(cause)) from cause
    return _opened(
        open_database(home.database),
        Instance(home, machine.random_bytes),
        suspicion="the database was replaced",
        damage=damage,
    )


def _move_aside(home: Home, machine: Machine) -> None:
    """Keep what is left: the database last, since a wreck is known by it."""
    left = [home.database.with_name(home.database.name + suffix) for suffix in _SUFFIXES]
    left = [path for path in left if path.exists()]
    if not left:
        return
    aside = home.state / f"{_ASIDE}{machine.stamp()}"
    aside.mkdir(mode=0o700, exist_ok=True)
    for path in reversed(left):
        path.rename(aside / path.name)
    _make_durable(aside)
    _make_durable(home.state)


def _wreck_of(home: Home) -> Path | None:
    """Find the damaged database that was moved aside last."""
    found = sorted(home.state.glob(f"{_ASIDE}*/database"), key=lambda path: path.parent.name)
    return found[-1] if found else None


def _make_durable(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _build(
    path: Path, wreck_path: Path | None, config: Config, key: AgentKey, machine: Machine
) -> None:
    database = open_database(path)
    wreck = Wreck(wreck_path)
    try:
        folders = wreck.folders()
        for folder in folders.values():
            if folder.is_active or folder.id in _configured(config):
                _add(database, folder, machine)
        _add_configured(database, config, machine)
        for no, identity in database.execute("SELECT no, id FROM folder").fetchall():
            stored = StoredFolder(database, no, FolderId(identity), key)
            take_in(wreck, stored)
            if stored.log.members().keys() - {key.agent}:
                database.execute("UPDATE folder SET had_members = 1 WHERE no = ?", (no,))
        with database.transaction():
            wreck.copy_notes(database)
    finally:
        wreck.close()
        database.close()


def _configured(config: Config) -> dict[FolderId, FoundFolder]:
    return {
        folder.id: FoundFolder(
            folder.id, name, os.fsencode(os.path.realpath(folder.path)), is_active=True
        )
        for name, folder in config.folders.items()
        if folder.id is not None
    }


def _add_configured(database: Database, config: Config, machine: Machine) -> None:
    """Add the folders that config.toml names and the database does not know."""
    known = {row[0] for row in database.execute("SELECT id FROM folder")}
    for folder in _configured(config).values():
        if folder.id not in known:
            _add(database, folder, machine)


def _add(database: Database, folder: FoundFolder, machine: Machine) -> None:
    epoch = Epoch(machine.random_bytes(EPOCH_BYTES))
    with database.transaction():
        no = add_folder(database, folder=folder.id, name=folder.name, path=folder.path, epoch=epoch)
        for key in ("joining", "rebuilt"):
            database.set_meta(f"{key}/{no}", b"1")
