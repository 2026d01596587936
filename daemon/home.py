"""Know where a node keeps what is its own, and let one process at a time own it.

This module makes no keys, reads no configuration and opens no database; it names their places,
keeps them private (0700 and 0600, whatever the umask) and holds the lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from store.errors import DizzyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SYSTEM_STATE = Path("/var/lib/dizzyd")
SOCKET_NAME = "control.sock"
DATABASE_PATH_LIMIT_BYTES = 504  # SQLite's own: 512, less what it appends


class AlreadyRunning(DizzyError):
    """Another process holds the lock of this home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """The places of one node: its config file and its state directory.

    A config file that was named by --config lies in a directory that is not ours: neither is
    tightened.
    """

    config: Path
    state: Path
    has_foreign_config: bool = False

    @property
    def key(self) -> Path:
        """The agent's secret key."""
        return self.state / "key"

    @property
    def database(self) -> Path:
        """The SQLite database; its -wal and -shm lie beside it."""
        return self.state / "database"

    @property
    def control_socket(self) -> Path:
        """The socket of the control API; use `open_directory` where its path may be long."""
        return self.state / SOCKET_NAME

    @property
    def lock(self) -> Path:
        """The file whose flock says that a process owns this home."""
        return self.state / "lock"

    @property
    def exists(self) -> bool:
        """Whether a node was made here, wholly or half."""
        return self.key.exists() or self.config.exists()

    def prepare(self) -> None:
        """Make the directories, 0700, and take every right of others from what lies in them.

        Raises DizzyError where that cannot be done, and for a home that is `/` or the user's
        whole home directory, whose files are not ours to tighten.
        """
        _refuse_long_path(self.database)
        ours = {self.state} if self.has_foreign_config else {self.state, self.config.parent}
        for directory in ours:
            _refuse_shared_directory(directory)
        try:
            for directory in ours:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                _tighten_directory(directory)
        except OSError as cause:
            raise DizzyError(f"home {self.state}", cause.strerror or str(cause)) from cause

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the home until the block ends; never waits.

        The kernel drops the lock with the process, so a crash leaves nothing to clean.
        Raises AlreadyRunning while another process owns it, DizzyError where it cannot be taken.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.lock, flags, 0o600)
        except OSError as cause:
            raise DizzyError(f"lock {self.lock}", cause.strerror or str(cause)) from cause
        try:
            self._take(descriptor)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, b"%d\n" % os.getpid())
            yield
        finally:
            os.close(descriptor)

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise AlreadyRunning(
                f"home {self.state}",
                f"dizzyd is already running here (process {owner or 'unknown'})",
                hint="`dizzyd status` asks it; DIZZYD_HOME=DIR runs another node",
            ) from cause

    def is_locked(self) -> bool:
        """Whether another process owns the home at this moment."""
        try:
            descriptor = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            # A shared lock asks without ever standing in the way of another that asks.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @contextmanager
    def short_socket_path(self) -> Iterator[str]:
        """Give a path of the control socket that fits in sockaddr_un, however long the home's.

        A socket's address holds 107 bytes; the way through /proc/self/fd is always shorter, and
        unlike chdir it is no business of other threads.
        """
        descriptor = os.open(self.state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
        finally:
            os.close(descriptor)


def find_home(environment: Mapping[str, str], config: str | None = None) -> Home:
    """Choose the home: DIZZYD_HOME, the user's own, then that of a system unit it may read.

    `config` is the value of --config and replaces only the config file's place. Without any
    existing node the user's own place is the answer, since there one would be made.
    """
    chosen = environment.get("DIZZYD_HOME")
    if chosen is not None:
        home = _home_at(_absolute(chosen, "DIZZYD_HOME", environment))
    else:
        home = _own_home(environment)
        if not home.exists:
            home = _system_home(environment) or home
    if config is not None:
        return Home(
            config=_absolute(config, "--config", environment),
            state=home.state,
            has_foreign_config=True,
        )
    return home


def _home_at(directory: Path) -> Home:
    return Home(config=directory / "config.toml", state=directory)


def _absolute(text: str, source: str, environment: Mapping[str, str]) -> Path:
    if not text or "\0" in text:
        raise UsageError(source, "is empty", hint="give the path of a directory, or unset it")
    if text == "~" or text.startswith("~/"):
        text = user_directory(environment) + text[1:]
    return Path(os.path.abspath(text))  # noqa: PTH100 - lexical: a home may not exist yet


def user_directory(environment: Mapping[str, str]) -> str:
    """Give the user's home directory, also where HOME is unset or empty (cron, units)."""
    home = environment.get("HOME")
    if home:
        return home
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError as cause:
        raise UsageError(
            "HOME",
            "is unset, and this user has no entry in the password file",
            hint="set DIZZYD_HOME to the directory of the node",
        ) from cause


def _own_home(environment: Mapping[str, str]) -> Home:
    import platformdirs

    if not environment.get("HOME"):
        # platformdirs expands "~" by itself, but falls back to a literal "~" without an entry.
        user_directory(environment)
    return Home(
        config=Path(platformdirs.user_config_dir("dizzyd", appauthor=False)) / "config.toml",
        state=Path(platformdirs.user_data_dir("dizzyd", appauthor=False)),
    )


def _system_home(environment: Mapping[str, str]) -> Home | None:
    """Find the one instance of the system unit that this user may read, its own name first."""
    user = environment.get("USER", "")
    try:
        instances = sorted(SYSTEM_STATE.iterdir(), key=lambda path: (path.name != user, path))
    except OSError:
        return None
    for instance in instances:
        home = _home_at(instance)
        with suppress(OSError):
            if home.exists and os.access(home.state, os.R_OK | os.X_OK):
                return home
    return None


def _refuse_shared_directory(directory: Path) -> None:
    with suppress(UsageError):
        if str(directory) in {"/", os.path.realpath(user_directory(os.environ))}:
            raise DizzyError(
                f"home {directory}",
                "is not a directory of its own",
                hint="a node makes its home private; give it an empty directory",
            )


def _refuse_long_path(database: Path) -> None:
    """Refuse a home whose database SQLite cannot open, before anything is made in it."""
    spare = DATABASE_PATH_LIMIT_BYTES - len(os.fsencode(os.path.realpath(database)))
    if spare < 0:
        raise DizzyError(
            f"home {database.parent}",
            f"its path is {-spare} bytes longer than SQLite takes",
            hint="choose a shorter one with DIZZYD_HOME",
        )


def _tighten_directory(directory: Path) -> None:
    """Take all rights of group and others, in this directory and just below it."""
    _tighten(directory, 0o700)
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _tighten(Path(entry.path), 0o700)
            elif entry.is_file(follow_symlinks=False):
                _tighten_file(Path(entry.path))


def _tighten_file(path: Path) -> None:
    _tighten(path, 0o600)


def _tighten(path: Path, mode: int) -> None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or stat.S_IMODE(found.st_mode) == mode:
        return
    try:
        path.chmod(mode)
    except OSError as cause:
        if cause.errno != errno.EROFS:  # a read-only disk is told where something is written
            raise
