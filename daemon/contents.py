"""Get contents for apply: from this disk where they are, else from peers.

What is here is used first: another file of the same bytes, or a version in history. Everything
that comes from a peer was checked by peers.fetch. Nothing is put in place here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from daemon.core import Runner
from daemon.disk import Buffer, Disk, DiskError, FileKind, Stage, Stat
from daemon.places import Earlier, Place, Places
from peers.cancelling import to_its_end
from peers.fetch import Fetcher
from store.ids import BlobHash, FolderId, Kind, blob_hash
from store.records import BlobRef, SyncedRow

_COPY_BYTES = 4 * 1024 * 1024


class _LocalFile:
    """A file of this folder as a source of chunks; the final hash decides, so it may change.

    Where it is the very file that synced speaks of, its content is known, and it is read only
    while it is that file.
    """

    def __init__(self, disk: Disk, path: bytes, stat: Stat, row: SyncedRow) -> None:
        is_known = row.kind is Kind.FILE and (
            (stat.inode, stat.size, stat.mtime_ns) == (row.inode, row.size, row.mtime_ns)
        )
        self.blob = BlobHash(row.value) if is_known else None
        self._disk = disk
        self._path = path
        self._size = stat.size
        self._expected = stat if is_known else None

    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> Buffer:
        try:
            return self._disk.read_once(self._path, offset, length, self._expected)
        except DiskError:
            return b""


class FolderContents:
    """The contents of one folder, as daemon.apply wants them."""

    def __init__(
        self,
        *,
        places: Places,
        pool: Runner,
        disk: Disk,
        folder_no: int,
        folder: FolderId,
        fetcher: Fetcher,
    ) -> None:
        """Look on this disk, then ask peers through `fetcher`."""
        self._places = places
        self._pool = pool
        self._disk = disk
        self._folder_no = folder_no
        self._folder = folder
        self._fetcher = fetcher

    async def small(self, refs: Sequence[BlobRef]) -> dict[BlobHash, bytes]:
        """Give contents of at most 1 MiB each; those that nobody at hand has are left out."""
        places = await self._places.find(self._folder_no, [ref.hash for ref in refs])
        found: dict[BlobHash, bytes] = {}
        if places:
            found = await self._pool.run(_read_all, self._disk, refs, places)
        missing = [ref for ref in refs if ref.hash not in found]
        if missing:
            found.update(await self._fetcher.fetch_small(self._folder, missing))
        return found

    async def large(self, ref: BlobRef, stage: Stage, old: Earlier | None) -> bool:
        """Fill a stage; what it holds already stays. False if nobody at hand has the bytes.

        Of the `old` version, if it still stands there, what did not change is copied.
        """
        places = await self._places.find(self._folder_no, [ref.hash])
        if ref.hash in places and await to_its_end(
            self._pool.run(_copy, self._disk, ref, places[ref.hash], stage)
        ):
            return True
        pieces: list[_LocalFile] = []
        if old is not None:
            stat = await self._pool.run(self._disk.stat, old.path)
            if stat is not None and stat.kind is FileKind.FILE:
                pieces.append(_LocalFile(self._disk, old.path, stat, old.row))
        return await self._fetcher.fetch_large(self._folder, ref, stage, pieces)


def _read_all(
    disk: Disk,
    refs: Sequence[BlobRef],
    places: Mapping[BlobHash, Sequence[Place]],
) -> dict[BlobHash, bytes]:
    found: dict[BlobHash, bytes] = {}
    for ref in refs:
        for place in places.get(ref.hash, ()):
            try:
                content = place.read(disk, 0, ref.size)
            except DiskError:
                continue
            if blob_hash(content) == ref.hash:
                found[ref.hash] = content
                break
    return found


def _copy(disk: Disk, ref: BlobRef, places: Sequence[Place], stage: Stage) -> bool:
    """Copy a local content into a stage; False if no place has it any more."""
    for place in places:
        try:
            offset = 0
            while offset < ref.size:
                piece = place.read(disk, offset, _COPY_BYTES)
                if not piece:
                    break
                stage.write(offset, piece)
                offset += len(piece)
        except DiskError:
            continue
        if offset == ref.size and stage.hash() == ref.hash:
            return True
    return False
