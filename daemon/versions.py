"""Read from the log what became of an object: its versions, through its renames.

Called on the database thread, in pieces that are short whatever the size of the log. It knows
what was recorded; where a content can be had is not asked here. Paths of directories that moved
since are those of today: only an object's own moves are its history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from store.codec import decode_header, split_thinned
from store.db import chunked
from store.events import (
    AttributesChanged,
    Content,
    ContentChanged,
    Event,
    ObjectCreated,
    ObjectDeleted,
    ObjectMoved,
    decode,
    tag_of,
)
from store.fold import Buried, Fact
from store.folder import StoredFolder
from store.ids import AgentId, BlobHash, Kind, ObjectId, blob_hash, object_id
from store.objects import ALIVE, ObjectRow

CREATED: Final = "created"
CHANGED: Final = "changed"
MOVED: Final = "moved"
DELETED: Final = "deleted"
ATTRIBUTES: Final = "attributes"

_BATCHES_AT_ONCE: Final = 64  # 64 MiB at most
_WHAT_BY_TAG: Final = {1: CREATED, 2: CHANGED, 3: MOVED, 4: DELETED, 5: ATTRIBUTES}


class Version(Struct, frozen=True, kw_only=True, gc=False):
    """One thing that became of an object; `value` is None where it brought no content.

    `batch` is the batch of it, `source` and `path` say where it stood before and since;
    `is_along` marks a deletion with its directory, `is_void` one that a move undid.
    """

    key: bytes
    batch: bytes
    agent: AgentId
    wall_ms: int
    what: str
    path: bytes
    source: bytes | None = None
    value: bytes | None = None
    size: int = 0
    mtime_ns: int = 0
    mode: int = 0
    is_along: bool = False
    is_void: bool = False


class ObjectVersions(Struct, frozen=True, kw_only=True):
    """An object and all that became of it, oldest first. `value` is what it shows now.

    `left_out` versions were replaced below the checkpoint with which the log here begins.
    """

    no: int
    id: bytes
    kind: Kind
    path: bytes
    is_alive: bool
    value: bytes
    versions: tuple[Version, ...]
    left_out: int = 0

    @property
    def contents(self) -> list[Version]:
        """The versions that brought a content, newest first."""
        return [one for one in reversed(self.versions) if one.value is not None]


class BatchSummary(Struct, frozen=True, kw_only=True):
    """What one batch did below a directory: how many objects, by what happened to them."""

    agent: AgentId
    wall_ms: int
    counts: dict[str, int]


def name_of(kind: Kind, value: bytes) -> BlobHash:
    """Give the hash by which a version is called; of a symlink that of its target."""
    return blob_hash(value) if kind is Kind.SYMLINK else BlobHash(value)


# -- which objects ------------------------------------------------------------------------------


def objects_at(stored: StoredFolder, path: bytes) -> list[int]:
    """Find the objects that stand at a path now or stood there, the present one first.

    Files that were only moved there and on again are not found: see objects_moved_to.
    """
    here = [row.object_no for row in stored.synced.rows_at(path)]
    parents = directories_at(stored, path.rpartition(b"/")[0])
    named = _named(stored, parents, path.rpartition(b"/")[2])
    rows = stored.state.rows(sorted(named))
    alive = [no for no in sorted(named) if no in rows and rows[no].flags & ALIVE]
    now = [no for no in alive if rows[no].parent_no in parents and path.endswith(rows[no].name)]
    return list(dict.fromkeys([*here, *now, *alive, *sorted(named, reverse=True)]))


def directories_at(stored: StoredFolder, path: bytes) -> set[int]:
    """Find the directories that stand at a path or stood there."""
    found = {stored.root_no}
    for name in path.split(b"/") if path else ():
        found = {no for no in _named(stored, found, name) if no in stored.state.directories}
    if path:
        found.update(stored.synced.directories_at(path))
    return found


def _named(stored: StoredFolder, parents: Iterable[int], name: bytes) -> set[int]:
    """Find what is or was called by a name in one of these directories."""
    db = stored.db
    found: set[int] = set()
    for parent_no in parents:
        for query in (
            "SELECT no FROM object WHERE parent_no = ? AND name = ?",
            "SELECT object_no FROM directory_move WHERE parent_no = ? AND name = ?",
        ):
            found.update(row[0] for row in db.execute(query, (parent_no, name)))
        parent = ObjectId(stored.id_of(parent_no))
        for kind in Kind:
            generation = 0
            while ids := stored.numbers([object_id(stored.id, parent, kind, generation, name)]):
                found.update(ids.values())
                generation += 1
    return found


def objects_moved_to(
    stored: StoredFolder, path: bytes, after_no: int
) -> tuple[set[int], int | None]:
    """Find objects that a part of the log moves to a path; gives where to go on, or None."""
    name = path.rpartition(b"/")[2]
    parents = {stored.id_of(no) for no in directories_at(stored, path.rpartition(b"/")[0])}
    rows = stored.db.execute(
        "SELECT no, header, CASE WHEN instr(body, ?) > 0 THEN body END FROM batch"
        " WHERE folder_no = ? AND is_applied = 1 AND no > ? ORDER BY no LIMIT ?",
        (name, stored.no, after_no, _BATCHES_AT_ONCE),
    ).fetchall()
    ids: set[bytes] = set()
    for _, header, body in rows:
        for raw in _events_of(header, body):
            if name in raw:
                event = decode(raw)
                if isinstance(event, ObjectMoved) and event.name == name:
                    ids.update([event.object] if event.parent in parents else [])
    following = rows[-1][0] if len(rows) == _BATCHES_AT_ONCE else None
    return set(stored.numbers(sorted(ids)).values()), following


def _events_of(header: bytes, body: bytes | None) -> list[bytes]:
    """Split a body that was found to hold something; what a snapshot left out is empty."""
    return [] if body is None else split_thinned(body, decode_header(header).count)


def path_of(stored: StoredFolder, parent_no: int, name: bytes) -> bytes:
    """Give the path of a placement by the present names of the directories above it."""
    names = [name]
    directory = stored.state.directories.get(parent_no)
    while directory is not None and directory.no != stored.root_no:
        names.append(directory.name)
        directory = stored.state.directories.get(directory.parent_no)
    return b"/".join(reversed(names))


# -- what became of them --------------------------------------------------------------------------


def read_versions(stored: StoredFolder, object_no: int) -> ObjectVersions | None:
    """Read all that became of an object; None for a number that no object has."""
    row = stored.state.rows([object_no]).get(object_no)
    if row is None:
        return None
    facts = sorted(stored.state.facts(object_no), key=lambda fact: fact.key)
    return ObjectVersions(
        no=row.no,
        id=row.id,
        kind=Kind(row.kind),
        path=path_of(stored, row.parent_no, row.name),
        is_alive=bool(row.flags & ALIVE),
        value=row.value,
        versions=tuple(_Reading(stored, row).read(facts)),
        left_out=_left_out(stored.state.buried(object_no), facts),
    )


def _left_out(buried: Buried, facts: Sequence[Fact]) -> int:
    """Count the versions that a snapshot left out; creates stay although they are buried."""
    here = sum(buried.has_event(fact.event_id) for fact in facts)
    return len(buried.events) - here


class _Reading:
    """One object's facts in their order; remembers where it stood and its executable bit."""

    def __init__(self, stored: StoredFolder, row: ObjectRow) -> None:
        self._stored = stored
        self._kind = Kind(row.kind)
        self._place = b""
        self._mode = 0
        self._void = {
            event
            for (event,) in stored.db.execute(
                "SELECT event_id FROM void_deletion WHERE object_no = ?", (row.no,)
            )
        }

    def read(self, facts: Sequence[Fact]) -> list[Version]:
        return [version for fact in facts if (version := self._read(fact)) is not None]

    def _read(self, fact: Fact) -> Version | None:
        source: bytes | None = None
        event = fact.event
        match event:
            case ObjectCreated():
                what = CREATED
                self._place = self._place or self._path(event.parent, event.name)
                self._mode = event.mode
            case ContentChanged():
                what = CHANGED
            case ObjectMoved():
                what = MOVED
                source, self._place = self._place, self._path(event.parent, event.name)
            case ObjectDeleted():
                what = DELETED
            case AttributesChanged():
                what = ATTRIBUTES
                self._mode = self._mode if event.mode is None else event.mode
            case _:
                return None
        agent, wall_ms = self._stored.state.author_of(fact.key)
        value, size = _content(self._kind, event)
        return Version(
            key=fact.key,
            batch=fact.key[8:40],
            agent=AgentId(agent),
            wall_ms=wall_ms,
            what=what,
            path=self._place,
            source=source,
            value=value,
            size=size,
            mtime_ns=getattr(event, "mtime_ns", None) or 0,
            mode=self._mode,
            is_along=isinstance(event, ObjectDeleted) and event.along_with is not None,
            is_void=fact.event_id in self._void,
        )

    def _path(self, parent: bytes, name: bytes) -> bytes:
        no = self._stored.state.directory_nos.get(parent)
        return name if no is None else path_of(self._stored, no, name)


def _content(kind: Kind, event: Event) -> tuple[bytes | None, int]:
    content = getattr(event, "content", None)
    if kind is Kind.FILE and isinstance(content, Content):
        return content.hash, content.size
    if kind is Kind.SYMLINK and isinstance(content, bytes):
        return content, len(content)
    return None, 0


# -- directories ----------------------------------------------------------------------------------


def below(stored: StoredFolder, directory_no: int) -> list[int]:
    """List the objects that are or were last placed below a directory."""
    return [
        row[0]
        for row in stored.db.execute(
            "WITH RECURSIVE below(no) AS (SELECT no FROM object WHERE parent_no = ? UNION"
            " SELECT o.no FROM object o JOIN below b ON o.parent_no = b.no)"
            " SELECT no FROM below",
            (directory_no,),
        )
    ]


def batches_about(stored: StoredFolder, object_nos: Sequence[int]) -> dict[int, list[int]]:
    """Give the batches that hold events of these objects, each with their positions in it."""
    found: dict[int, list[int]] = {}
    for marks, part in chunked(list(object_nos)):
        for batch_no, position in stored.db.execute(
            f"SELECT batch_no, position FROM event WHERE object_no IN ({marks})", part
        ):
            found.setdefault(batch_no, []).append(position)
    return found


def summarise(stored: StoredFolder, batch_no: int, positions: Sequence[int]) -> BatchSummary:
    """Count what some events of one batch did."""
    header_bytes, body = stored.db.execute(
        "SELECT header, body FROM batch WHERE no = ?", (batch_no,)
    ).fetchone()
    header = decode_header(header_bytes)
    events = split_thinned(body, header.count)
    counts: dict[str, int] = {}
    for position in positions:
        what = _WHAT_BY_TAG.get(tag_of(events[position]))
        if what is not None:
            counts[what] = counts.get(what, 0) + 1
    return BatchSummary(agent=header.agent, wall_ms=header.wall_ms, counts=counts)


def find_size(stored: StoredFolder, blob: BlobHash, after_no: int) -> tuple[int | None, int | None]:
    """Look for a content in a part of the log: its size if found, and where to go on, or None."""
    rows = stored.db.execute(
        "SELECT no, header, CASE WHEN instr(body, ?) > 0 THEN body END FROM batch"
        " WHERE folder_no = ? AND no > ? ORDER BY no LIMIT ?",
        (blob, stored.no, after_no, _BATCHES_AT_ONCE),
    ).fetchall()
    wanted = bytes(blob)
    for _, header, body in rows:
        for raw in _events_of(header, body):
            content = getattr(decode(raw), "content", None) if wanted in raw else None
            if isinstance(content, Content) and content.hash == blob:
                return content.size, None
    return None, rows[-1][0] if len(rows) == _BATCHES_AT_ONCE else None
