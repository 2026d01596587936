"""Read contents for peers, from wherever they stand here.

A file may be renamed, by its user or by us, between the moment at which it is found and that at
which it is read; then it is found once more. Who may read what is decided before, and what is
read is checked by who gets it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

from daemon.core import Runner
from daemon.disk import Disk, DiskError
from daemon.places import Place, Places
from store.ids import BlobHash, FolderId, short

logger = logging.getLogger(__name__)

SMALL_LIMIT_BYTES = 1024 * 1024
FINDS = 2  # of one content, before it counts as not here
_PLACES_LIMIT = 256


class Folder(Protocol):
    """A folder at work."""

    @property
    def folder_no(self) -> int:
        """Its local number."""

    @property
    def disk(self) -> Disk | None:
        """Its files, None while the root is lost."""


class Serving:
    """Reads contents of all folders."""

    def __init__(self, finder: Places, pool: Runner) -> None:
        """Find by `finder`, read in `pool`."""
        self._finder = finder
        self._pool = pool
        self._places: OrderedDict[tuple[FolderId, BlobHash], Place] = OrderedDict()

    async def read_blob(
        self, work: Folder, folder: FolderId, blob: BlobHash, offset: int, length: int
    ) -> bytes | None:
        """Read a piece of a content, shorter only at its end; None if it is not here."""
        place = self._places.get((folder, blob))
        if place is not None:
            found = await self._read_at(work, place, offset, length)
            if found is not None:
                return found
            self._places.pop((folder, blob), None)  # changed, or it stands elsewhere now
        tried: set[Place] = set()
        for _ in range(FINDS):
            places = (await self._finder.find(work.folder_no, [blob])).get(blob, ())
            for place in [place for place in places if place not in tried]:
                tried.add(place)
                found = await self._read_at(work, place, offset, length)
                if found is not None:
                    self._remember(folder, blob, place)
                    return found
        if tried:
            logger.debug("content not readable where it was blob=%s", short(blob))
        return None

    def _remember(self, folder: FolderId, blob: BlobHash, place: Place) -> None:
        self._places[folder, blob] = place
        while len(self._places) > _PLACES_LIMIT:
            self._places.popitem(last=False)

    async def _read_at(self, work: Folder, place: Place, offset: int, length: int) -> bytes | None:
        disk = work.disk
        if disk is None:  # let go of meanwhile
            return None
        try:
            return await self._pool.run(place.read, disk, offset, length)
        except DiskError:
            return None

    async def read_small(
        self, work: Folder, blobs: Sequence[BlobHash], limit_bytes: int
    ) -> list[bytes | None]:
        """Read many contents of at most 1 MiB whole, in order, as far as the limit reaches.

        None for each that is not here or is larger; at least one answer is given.
        """
        disk = work.disk
        places = await self._finder.find(work.folder_no, blobs)
        if disk is None or work.disk is not disk:
            return [None] * len(blobs)
        found = await self._pool.run(_read_places, disk, blobs, places, limit_bytes)
        moved = [
            blob
            for blob, content in zip(blobs, found, strict=False)
            if content is None and blob in places
        ]
        if moved:
            late = await self._read_anew(work, moved, places, limit_bytes)
            for number, blob in enumerate(blobs[: len(found)]):
                if found[number] is None:
                    found[number] = late.get(blob)
        return found

    async def _read_anew(
        self,
        work: Folder,
        blobs: Sequence[BlobHash],
        before: Mapping[BlobHash, Sequence[Place]],
        limit_bytes: int,
    ) -> dict[BlobHash, bytes | None]:
        """Read what stands at other places by now than it did `before`."""
        disk = work.disk
        places = await self._finder.find(work.folder_no, blobs)
        moved = [blob for blob in blobs if places.get(blob, ()) != before[blob]]
        if not moved or disk is None or work.disk is not disk:
            return {}
        found = await self._pool.run(_read_places, disk, moved, places, limit_bytes)
        return dict(zip(moved, found, strict=False))

    async def which_are_here(self, work: Folder, blobs: Sequence[BlobHash]) -> list[BlobHash]:
        """List those contents that stand here as far as is known; a read may still fail."""
        places = await self._finder.find(work.folder_no, blobs)
        return [blob for blob in blobs if blob in places]


def _read_places(
    disk: Disk,
    blobs: Sequence[BlobHash],
    places: Mapping[BlobHash, Sequence[Place]],
    limit_bytes: int,
) -> list[bytes | None]:
    """Read contents in order as far as the limit reaches; None for what cannot be read."""
    found: list[bytes | None] = []
    total = 0
    with disk.together():  # what was made together is asked for together: in one directory
        for blob in blobs:
            here = places.get(blob)
            size = here[0].size if here else 0
            if size > SMALL_LIMIT_BYTES or not here:
                found.append(None)
                continue
            if found and total + size > limit_bytes:
                break
            content = next(
                (c for place in here if (c := _read_small(disk, place)) is not None), None
            )
            found.append(content)
            total += len(content or b"")
    return found


def _read_small(disk: Disk, place: Place) -> bytes | None:
    try:
        content = place.read(disk, 0, SMALL_LIMIT_BYTES + 1)
    except DiskError:
        return None
    return content if len(content) <= SMALL_LIMIT_BYTES else None
