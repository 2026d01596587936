"""Keep the agent's secret key in one private file, made once and never replaced."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from store.errors import DizzyError, Malformed
from store.signing import AgentKey

if TYPE_CHECKING:
    from pathlib import Path

_HEADER = "# dizzyd agent key, version 1. Whoever has it is this node. Agent: "
_LIMIT_BYTES = 4096


class KeyDamaged(DizzyError):
    """The key file is not what it should be. It is never replaced: a node is its key."""


def read_key(path: Path) -> AgentKey:
    """Read the key. Raises KeyDamaged, also where others could read it, DizzyError if missing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError as cause:
        raise DizzyError(f"key {path}", "does not exist", hint="`dizzyd init` makes it") from cause
    except OSError as cause:
        raise DizzyError(f"key {path}", cause.strerror or str(cause)) from cause
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - the descriptor was opened with care
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            raise KeyDamaged(f"key {path}", "others may read it", hint=f"chmod 600 {path}")
        return _parse(path, stream.read(_LIMIT_BYTES))


def make_key(path: Path, key: AgentKey) -> None:
    """Write a new key durably. Raises DizzyError where a file is there: it is never replaced."""
    content = f"{_HEADER}{key.agent.hex()}\n{key.seed.hex()}\n".encode()
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()
        descriptor = os.open(temporary, flags, 0o600)
        with open(descriptor, "wb") as stream:  # noqa: PTH123
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        os.link(temporary, path)  # unlike a rename, this never replaces
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(directory)
        os.close(directory)
    except FileExistsError as cause:
        raise DizzyError(f"key {path}", "exists already, and is never replaced") from cause
    except OSError as cause:
        raise DizzyError(f"write {path}", cause.strerror or str(cause)) from cause
    finally:
        with suppress(OSError):
            temporary.unlink()


def _parse(path: Path, content: bytes) -> AgentKey:
    try:
        header, seed, rest = content.decode("ascii").split("\n")
        key = AgentKey.from_seed(bytes.fromhex(seed))
    except (ValueError, Malformed) as cause:
        raise KeyDamaged(f"key {path}", "is damaged", hint="bring it back from a backup") from cause
    if rest or header != f"{_HEADER}{key.agent.hex()}":
        raise KeyDamaged(f"key {path}", "is damaged", hint="bring it back from a backup")
    return key
