"""Read one content back, for `cat`: from this disk, history, or a peer that has it.

Nothing is given that was not checked by its BLAKE3 first, so a damaged file is passed over and
never shown for what it was. It decides nothing about what a path was at another time.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from daemon.disk import Disk, DiskError
from daemon.leftovers import FETCH_PREFIX
from daemon.versions import find_size
from store.errors import DizzyError, TryLater
from store.ids import BlobHash, Kind
from store.records import BlobRef

if TYPE_CHECKING:
    from daemon.folder_work import FolderWork
    from daemon.node import Node
    from daemon.places import Place

_PIECE_BYTES: Final = 1024 * 1024
_SMALL_BYTES: Final = 1024 * 1024  # what a peer sends whole


async def cat_path(node: Node, work: FolderWork, path: bytes) -> AsyncIterator[bytes]:
    """Read what stood at a path when it was last looked at; of a symlink its target."""
    [rows] = await work.rows_at([path])
    if not rows or rows[0].kind == Kind.DIRECTORY:
        raise DizzyError(
            f"cat {os.fsdecode(work.path + b'/' + path if path else work.path)}",
            "is no file that dizzyd knows",
            hint="`dizzyd history PATH` tells what it was, `dizzyd restore` brings it back",
        )
    if rows[0].kind == Kind.SYMLINK:
        yield rows[0].value
        return
    async for piece in cat_hash(node, BlobHash(rows[0].value)):
        yield piece


async def cat_hash(node: Node, blob: BlobHash) -> AsyncIterator[bytes]:
    """Read a content from whichever place has it. Raises TryLater where none at hand does."""
    for work in list(node.works.values()):
        disk = work.disk
        places = await node.places.find(work.folder_no, [blob])
        for place in places.get(blob, ()):
            if disk is not None and await node.world.pool.run(_is_true, disk, place, blob):
                async for piece in _read(node, disk, place):
                    yield piece
                return
    for work in list(node.works.values()):
        async with aclosing(_fetch(node, work, blob)) as pieces:
            async for piece in pieces:
                yield piece
                if not piece:
                    return
    raise TryLater(
        f"cat {blob.hex()}",
        "is neither here nor at a connected peer",
        hint="`dizzyd status` shows who is connected",
    )


def _is_true(disk: Disk, place: Place, blob: BlobHash) -> bool:
    hashed = blake3()
    offset = 0
    try:
        while piece := place.read(disk, offset, _PIECE_BYTES):
            hashed.update(piece)
            offset += len(piece)
    except DiskError:
        return False
    return hashed.digest() == blob


async def _read(node: Node, disk: Disk, place: Place) -> AsyncIterator[bytes]:
    offset = 0
    while piece := await node.world.pool.run(place.read, disk, offset, _PIECE_BYTES):
        yield piece
        offset += len(piece)


async def _fetch(node: Node, work: FolderWork, blob: BlobHash) -> AsyncGenerator[bytes, None]:
    """Fetch from the peers of a folder; an empty piece says that it was whole."""
    size = await _size(node, work, blob)
    if size is None:
        return
    ref = BlobRef(hash=blob, size=size)
    if size <= _SMALL_BYTES:
        found = await node.fetcher.fetch_small(work.folder, [ref])
        if blob in found:
            yield found[blob]
            yield b""
        return
    disk, applier, pool = work.disk, work.applier, node.world.pool
    if disk is None or applier is None:
        return
    salt = node.world.random_bytes(8).hex().encode()
    name = FETCH_PREFIX + b"%b-cat-%b" % (blob.hex().encode(), salt)
    with applier.holding(name):  # else a folder at rest takes it for one that came to nothing
        stage = await pool.run(disk.open_stage, name)
        try:
            if await node.fetcher.fetch_large(work.folder, ref, stage):
                for offset in range(0, size, _PIECE_BYTES):
                    yield await pool.run(stage.read, offset, _PIECE_BYTES)
                yield b""
        finally:
            stage.close()
            await pool.run(disk.remove_stage, name)


async def _size(node: Node, work: FolderWork, blob: BlobHash) -> int | None:
    """Find in the log how long a content is; None if no version has that hash."""
    after: int | None = 0
    while after is not None:
        size, after = await node.world.core.run(find_size, node.shelf[work.folder_no], blob, after)
        if size is not None:
            return size
    return None
