"""Answer `history`: what became of a path, and where each of its contents can be had.

The log tells what happened; this disk, history here and the connected peers say who has what.
Nothing is fetched and nothing is changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from daemon import versions
from daemon.answers import History, HistoryEvent, HistoryInside, HistoryObject
from daemon.report import rfc3339
from peers.whereabouts import who_has
from store.errors import DizzyError
from store.ids import AgentId, BlobHash, Kind
from store.records import BlobRef

if TYPE_CHECKING:
    from daemon.folder_work import FolderWork
    from daemon.node import Node
    from daemon.versions import BatchSummary, ObjectVersions, Version
    from store.folder import StoredFolder

HERE = "here"  # a file of the folder holds it
HISTORY = "history"  # kept in .dizzyd/history
LOG = "log"  # a symlink's target stands in the log itself
_INSIDE_LIMIT = 1000  # batches told of a directory, the newest


class _Names:
    """What agents are called by people."""

    def __init__(self, node: Node, work: FolderWork) -> None:
        self._own = node.key.agent
        self._own_name = node.config.node.name
        self._members = work.members

    def of(self, agent: AgentId) -> str:
        if agent == self._own:
            return self._own_name
        member = self._members.get(agent)
        return agent.hex()[:8] if member is None else member.label.decode("utf-8", "replace")


async def history(node: Node, work: FolderWork, path: bytes) -> History:
    """Tell what became of all objects that stand or stood at a path of a folder.

    Raises DizzyError where nothing ever had that name.
    """
    stored = node.shelf[work.folder_no]
    await work.refresh_members()
    names = _Names(node, work)
    found = await find_objects(node, work, path) if path else []
    here = {row.object_no for [rows] in [await work.rows_at([path])] for row in rows}
    if not found and path:
        raise DizzyError(
            f"history {os.fsdecode(path)}",
            "nothing of that name was ever recorded",
            hint="`dizzyd scan` looks now; names are those in the folder, not ignored ones",
        )
    refs = _refs(found)
    local = await _local_places(node, work, list(refs))
    lanes = node.fetcher.lanes(work.folder)
    remote = await who_has(lanes, work.folder, list(refs.values())) if lanes else {}
    places = {blob: (*local.get(blob, ()), *map(names.of, remote.get(blob, ()))) for blob in refs}
    directories = [one.no for one in found if one.kind is Kind.DIRECTORY]
    inside: list[BatchSummary] = []
    for no in directories if path else [stored.root_no]:
        inside += await _inside(node, stored, no)
    inside.sort(key=lambda batch: batch.wall_ms)
    return History(
        folder=stored.name,
        path=os.fsdecode(path),
        objects=tuple(_told(one, names, places, is_here=one.no in here) for one in found),
        inside=tuple(_told_batch(batch, names) for batch in inside[-_INSIDE_LIMIT:]),
        asked=tuple(names.of(lane.agent) for lane in lanes),
    )


async def find_objects(node: Node, work: FolderWork, path: bytes) -> list[ObjectVersions]:
    """Find the objects that stand or stood at a path, the present one first."""
    core, stored = node.world.core, node.shelf[work.folder_no]
    nos = await core.run(versions.objects_at, stored, path)
    after: int | None = 0
    while after is not None:
        moved, after = await core.run(versions.objects_moved_to, stored, path, after)
        nos += sorted(moved)
    read = [await core.run(versions.read_versions, stored, no) for no in dict.fromkeys(nos)]
    return [one for one in read if one is not None and one.versions]


def _refs(found: Iterable[ObjectVersions]) -> dict[BlobHash, BlobRef]:
    return {
        BlobHash(one.value): BlobRef(hash=BlobHash(one.value), size=one.size)
        for object_versions in found
        if object_versions.kind is Kind.FILE
        for one in object_versions.contents
        if one.value is not None
    }


async def _local_places(
    node: Node, work: FolderWork, blobs: Sequence[BlobHash]
) -> dict[BlobHash, tuple[str, ...]]:
    """Say which contents this disk has, as a file or in history, by what was last seen."""
    places = await node.places.find(work.folder_no, blobs)
    return {
        blob: tuple(dict.fromkeys(HISTORY if place.stat is None else HERE for place in at))
        for blob, at in places.items()
    }


async def _inside(node: Node, stored: StoredFolder, directory_no: int) -> list[BatchSummary]:
    """Read what the newest batches did below a directory, one after the other."""
    core = node.world.core
    nos = await core.run(versions.below, stored, directory_no)
    about: dict[int, list[int]] = {}
    for start in range(0, len(nos), 4096):
        part = await core.run(versions.batches_about, stored, nos[start : start + 4096])
        for batch_no, positions in part.items():
            about.setdefault(batch_no, []).extend(positions)
    newest = sorted(about)[-_INSIDE_LIMIT:]
    return [await core.run(versions.summarise, stored, no, about[no]) for no in newest]


def _told(
    one: ObjectVersions,
    names: _Names,
    places: dict[BlobHash, tuple[str, ...]],
    *,
    is_here: bool,
) -> HistoryObject:
    shown = _shown(one)
    return HistoryObject(
        id=one.id.hex(),
        kind=one.kind.name.lower(),
        path=os.fsdecode(one.path),
        is_alive=one.is_alive,
        is_here=is_here,
        events=tuple(
            _told_version(one.kind, version, names, places, is_shown=version is shown)
            for version in one.versions
        ),
        left_out=one.left_out,
    )


def _shown(one: ObjectVersions) -> Version | None:
    """Find the version that the object shows now: the newest that brought its bytes."""
    if not one.is_alive:
        return None
    return next((version for version in one.contents if version.value == one.value), None)


def _told_version(
    kind: Kind,
    version: Version,
    names: _Names,
    places: dict[BlobHash, tuple[str, ...]],
    *,
    is_shown: bool,
) -> HistoryEvent:
    blob = None if version.value is None else versions.name_of(kind, version.value)
    where: tuple[str, ...] = ()
    if blob is not None:
        where = (LOG,) if kind is Kind.SYMLINK or not version.size else places.get(blob, ())
    return HistoryEvent(
        at=rfc3339(version.wall_ms) or "",
        agent=version.agent.hex(),
        name=names.of(version.agent),
        what=version.what,
        path=os.fsdecode(version.path),
        source=None if version.source is None else os.fsdecode(version.source),
        hash=None if blob is None else blob.hex(),
        size=None if blob is None else version.size,
        target=os.fsdecode(version.value)
        if kind is Kind.SYMLINK and version.value is not None
        else None,
        places=where,
        is_shown=is_shown,
        is_void=version.is_void,
    )


def _told_batch(batch: BatchSummary, names: _Names) -> HistoryInside:
    return HistoryInside(
        at=rfc3339(batch.wall_ms) or "",
        agent=batch.agent.hex(),
        name=names.of(batch.agent),
        counts=batch.counts,
    )
