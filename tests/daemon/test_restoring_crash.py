"""A restore ends at any of its calls: no name is missing afterwards, and no byte is lost."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from daemon.disk import DiskError
from daemon.fs import LinuxDisk
from daemon.journal import FolderJournal
from daemon.restoring import Restoring
from tests.crash.judge import said_in
from tests.daemon.test_restoring import next_ms, restore
from tests.daemon.working import Working, alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CHANGING: Final = (
    "place_new", "place_over", "take_away", "make_directory", "make_symlink", "keep_stage",
    "restore_stage", "remove_stage", "set_attributes", "sync",
)  # fmt: skip
_MANY: Final = 130  # more than are shared unasked where they are what they were before


class _Crashed(BaseException):
    pass


class _Calls:
    """Counts the calls that change a disk or the journal, and ends the process at one of them."""

    def __init__(self, patched: pytest.MonkeyPatch, at: int, error: int) -> None:
        self.count = 0
        self.names: list[str] = []
        self._at = at
        self._error = error
        for name in _CHANGING:
            patched.setattr(LinuxDisk, name, self._wrapped(name, getattr(LinuxDisk, name)))
        for name in ("_begin", "_commit"):
            wrapped = self._wrapped(name, getattr(FolderJournal, name))
            patched.setattr(FolderJournal, name, wrapped)

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            self.names.append(name)
            if self._error and self.count == self._at and not name.startswith("_"):
                raise DiskError(name, "the disk says no", errno=self._error)
            if self._error:
                return call(*arguments, **named)
            if 0 < self._at <= self.count * 2 - 1:  # odd: before the call, even: behind it
                raise _Crashed
            result = call(*arguments, **named)
            if 0 < self._at <= self.count * 2:
                raise _Crashed
            return result

        return wrapped


@contextmanager
def _calls(at: int = 0, error: int = 0) -> Iterator[_Calls]:
    with pytest.MonkeyPatch.context() as patched:
        yield _Calls(patched, at, error)


def _first(node: Working) -> None:
    node.write("file", b"first file")
    (node.root / "link").symlink_to("first link")
    node.write("was a file", b"first, a file")
    (node.root / "was a link").symlink_to("first, a link")
    node.write("was a directory/in it", b"first, in it")
    for number, content in enumerate((b"first file", b"first, a file", b"first, in it")):
        node.write(f"copies/{number}", content)  # where a restore has them from


def _second(node: Working) -> None:
    for name in ("link", "was a link", "was a file"):
        (node.root / name).unlink()
    (node.root / "was a directory/in it").unlink()
    (node.root / "was a directory").rmdir()
    node.write("file", b"second file", mtime_ns=1_600_000_001_000_000_000)
    (node.root / "link").symlink_to("second link")
    (node.root / "was a file").symlink_to("second, a link")
    node.write("was a link", b"second, a file")
    node.write("was a directory", b"second, a file for a directory")


_CONTENTS: Final = {
    "file": {"first file", "second file"},
    "link": {"first link", "second link"},
    "was a file": {"first, a file", "second, a link"},
    "was a link": {"first, a link", "second, a file"},
    "was a directory": {"first, in it", "second, a file for a directory", ""},
}


def _read(node: Working) -> dict[str, str]:
    found = {}
    for name in _CONTENTS:
        path = node.root / name
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            inner = path / "in it"
            found[name] = inner.read_text() if inner.exists() else ""
        elif path.exists():
            found[name] = path.read_text()
    return found


def _assert_all_is_there(node: Working) -> None:
    found = _read(node)
    assert found.keys() == _CONTENTS.keys(), f"gone: {_CONTENTS.keys() - found.keys()}"
    for name, content in found.items():
        assert content in _CONTENTS[name], (name, content)


async def _prepared(node: Working) -> int:
    _first(node)
    await node.look()
    at_ms = await next_ms()
    _second(node)
    await node.look()
    return at_ms


def _without(ability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if ability == "exchange":
        monkeypatch.setattr("daemon.fs_abilities._rename", _refused)


def _refused(*_arguments: object) -> None:
    raise OSError(22, "no")


async def _count(base: Path) -> int:
    base.mkdir()
    async with alone(base) as node:
        at_ms = await _prepared(node)
        with _calls() as calls:
            await restore(node, "", at_ms=at_ms)
        assert _read(node)["link"] == "first link"
        assert {"_begin", "_commit", "take_away", "make_symlink"} <= set(calls.names)
        return calls.count


@pytest.mark.parametrize("lacks", ["nothing", "exchange"])
async def test_F1_no_name_is_missing_after_a_restore_was_killed_at_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    _without(lacks, monkeypatch)
    count = await _count(tmp_path / "counted")
    for at in range(1, count * 2 + 1):
        base = tmp_path / str(at)
        base.mkdir()
        async with alone(base) as node:
            at_ms = await _prepared(node)
            with _calls(at), pytest.raises(_Crashed):
                await restore(node, "", at_ms=at_ms)
            await node.stop()

            node.open()
            await node.start()

            _assert_all_is_there(node)
            assert not node.db.execute("SELECT * FROM intent").fetchall()
            assert not list((node.root / ".dizzyd/tmp").iterdir())
            await restore(node, "", at_ms=at_ms)
            assert _read(node)["link"] == "first link"
            assert _read(node)["was a directory"] == "first, in it"
            history = (node.root / ".dizzyd/history").iterdir()
            kept = {path.read_bytes() for path in history if not path.is_symlink()}
            assert {b"second file", b"second, a file", b"second, a file for a directory"} <= kept


@pytest.mark.parametrize("lacks", ["nothing", "exchange"])
async def test_E2_no_name_is_missing_after_a_restore_failed_at_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    _without(lacks, monkeypatch)
    count = await _count(tmp_path / "counted")
    for at in range(1, count + 1):
        base = tmp_path / str(at)
        base.mkdir()
        async with alone(base) as node:
            at_ms = await _prepared(node)
            with _calls(at, error=28):
                await restore(node, "", at_ms=at_ms)

            _assert_all_is_there(node)
            await node.look()
            _assert_all_is_there(node)
            await restore(node, "", at_ms=at_ms)
            assert _read(node)["link"] == "first link"


async def _save_many_twice(node: Working) -> int:
    """Save many files, give the time, and save them once more."""
    for number in range(_MANY):
        node.write(f"d/{number}", b"first %d" % number)
        node.write(f"copies/{number}", b"first %d" % number)
    await node.look()
    at_ms = await next_ms()
    for number in range(_MANY):
        node.write(f"d/{number}", b"second %d" % number, mtime_ns=1_600_000_001_000_000_000)
    await node.look()
    return at_ms


async def test_F1_a_killed_restore_of_many_files_is_no_return_of_a_backup(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        at_ms = await _save_many_twice(node)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Restoring, "_summary", _raise_crashed)
            patched.setattr("daemon.restoring._where", _raise_crashed)
            with pytest.raises(_Crashed):
                await restore(node, "d", at_ms=at_ms)
        await node.stop()
        node.open()
        await node.start()

        assert (await node.folder_status()).held_reversions == 0
        assert all(node.read(f"d/{number}") == b"first %d" % number for number in range(_MANY))
        said = [one for one in said_in(node.home.state) if hasattr(one.event, "prev")]
        assert len(said) == 2 + 4 * _MANY


async def test_A12_a_backup_that_comes_back_after_a_restore_is_held_all_the_same(
    tmp_path: Path,
) -> None:
    async with alone(tmp_path) as node:
        at_ms = await _save_many_twice(node)
        await restore(node, "d", at_ms=at_ms)
        for number in range(_MANY):
            node.write(f"d/{number}", b"second %d" % number, mtime_ns=1_600_000_001_000_000_000)
        await node.look()
        await node.stop()

        for number in range(_MANY):
            node.write(f"d/{number}", b"first %d" % number)
        node.open()
        await node.start()

        assert (await node.folder_status()).held_reversions == _MANY


def _raise_crashed(*_arguments: object, **_named: object) -> None:
    raise _Crashed
