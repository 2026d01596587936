"""Write what is brought back to a place outside of every folder, contents in rounds.

What no node at hand has is a line, and the rest is written. How a tree is made whole and never
over anything is daemon.outside's.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

from daemon.answers import RestoreLine
from daemon.outside import OutsideFile, OutsideTree
from daemon.reinstating import SMALL_BYTES, missing, rounds
from daemon.returning import join_paths
from store.errors import DizzyError
from store.ids import BlobHash, Kind
from store.records import BlobRef

if TYPE_CHECKING:
    from daemon.contents import FolderContents
    from daemon.core import Runner
    from daemon.wanted import Choice, Wanted

_NAMES_AT_ONCE: Final = 1024


class Exporting:
    """One choice on its way to an absolute path."""

    def __init__(
        self, choice: Choice, shown: bytes, contents: FolderContents, pool: Runner
    ) -> None:
        """Write what was chosen; lines call it `shown`."""
        self._shown = shown
        self._choice = choice
        self._contents = contents
        self._pool = pool
        self._total = sum(one.size for one in choice.wanted if one.kind is Kind.FILE)
        self._done = 0
        self.restored = 0

    async def run(self, target: bytes) -> AsyncIterator[RestoreLine]:
        """Write all of it and put it in place. Raises DizzyError."""
        try:
            with await self._pool.run(OutsideTree, target) as tree:
                async for line in self._write(tree):
                    yield line
                await self._pool.run(tree.put_in_place)
        except OSError as cause:
            raise DizzyError(
                f"restore to {os.fsdecode(target)}",
                cause.strerror or str(cause),
                hint="dizzyd writes it as its own user; give --to where that one may write",
            ) from cause

    async def _write(self, tree: OutsideTree) -> AsyncIterator[RestoreLine]:
        wanted = self._choice.wanted
        if self._choice.is_tree and not (wanted and not wanted[0].path):
            await self._pool.run(tree.make_directory, b"")  # the folder itself
        names = [one for one in wanted if one.kind is not Kind.FILE]
        for start in range(0, len(names), _NAMES_AT_ONCE):
            part = names[start : start + _NAMES_AT_ONCE]
            await self._pool.run(_make_names, tree, part)
            self.restored += len(part)
        files = [one for one in wanted if one.kind is Kind.FILE]
        for part in rounds([one for one in files if one.size <= SMALL_BYTES]):
            for one in await self._write_small(tree, part):
                yield missing(join_paths(self._shown, one.path), one.value)
            yield RestoreLine(kind="progress", done=self._done, total=self._total)
        for one in files:
            if one.size > SMALL_BYTES:
                if not await self._write_large(tree, one):
                    yield missing(join_paths(self._shown, one.path), one.value)
                yield RestoreLine(kind="progress", done=self._done, total=self._total)

    async def _write_small(self, tree: OutsideTree, part: Sequence[Wanted]) -> list[Wanted]:
        """Write a round; gives what is not to be had."""
        refs = {one.value: BlobRef(hash=BlobHash(one.value), size=one.size) for one in part}
        found = await self._contents.small(list(refs.values()))
        there = [one for one in part if one.value in found]
        await self._pool.run(_write_files, tree, there, found)
        self.restored += len(there)
        self._done += sum(one.size for one in part)
        return [one for one in part if one.value not in found]

    async def _write_large(self, tree: OutsideTree, one: Wanted) -> bool:
        file: OutsideFile = await self._pool.run(tree.open_file, one.path)
        try:
            ref = BlobRef(hash=BlobHash(one.value), size=one.size)
            is_whole = await self._contents.large(ref, file, None)
            if is_whole:
                await self._pool.run(_dress, file, one)
        finally:
            file.close()
        if not is_whole:
            await self._pool.run(tree.remove_file, one.path)
        self.restored += is_whole
        self._done += one.size
        return is_whole


def _make_names(tree: OutsideTree, names: Sequence[Wanted]) -> None:
    for one in names:
        if one.kind is Kind.DIRECTORY:
            tree.make_directory(one.path)
        else:
            tree.make_symlink(one.path, one.value, one.mtime_ns)


def _write_files(
    tree: OutsideTree, files: Sequence[Wanted], contents: dict[BlobHash, bytes]
) -> None:
    for one in files:
        file = tree.open_file(one.path)
        try:
            file.write(0, contents[BlobHash(one.value)])
            _dress(file, one)
        finally:
            file.close()


def _dress(file: OutsideFile, one: Wanted) -> None:
    file.finish(is_executable=bool(one.mode), mtime_ns=one.mtime_ns, like=None)
