"""Write what a log folds to at a frontier as one content, and read such a content back.

A snapshot is the log itself, thinned: what is buried of each file (store.burial), then every
applied batch in order, with its header and signature and of its body the events that can still
have an effect (store.thinning); of a batch of which nothing is left only its place. Folding it
gives the state, and whatever comes later finds its prev, its deps, their lamports and roles.
Equal logs give equal bytes on every node (docs/log-format.md).

Both directions go piece by piece, at most 1 MiB each. The reader believes nothing: sizes are
checked before bytes are kept, each header is proven, order and number are exact. Whether the
events are the right ones is for store.checkpoint to say. No files here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from store.codec import BODY_LIMIT_BYTES, HEADER_LIMIT_BYTES, decode_header, thin_body
from store.db import Database
from store.errors import Malformed
from store.fold import MARK_BYTES
from store.ids import EPOCH_BYTES, ID_BYTES, AgentId, BatchId, Epoch, FolderId, ObjectId
from store.records import Stub
from store.signing import SIGNATURE_BYTES, SignedBatch, WireBatch, verify_thinned
from store.thinning import SET_LIMIT, TABLE_LIMIT, Thinned, thinned

PIECE_LIMIT_BYTES: Final = 1024 * 1024
MAGIC: Final = b"dizzyd/snapshot/2"
_NUMBER_BYTES = 8  # of batches, and of files with something buried
_COUNT_BYTES = 4
_LENGTH_BYTES = 4
_MARKS_AT_ONCE = 4096  # of one file, given together
_BATCH, _STUB = b"\0", b"\1"
_PLACE = struct.Struct(">HIIH")  # of a stub: log, seq, lamport, set of members: 12 bytes


class Grave(Struct, frozen=True, gc=False):
    """What is buried of one file, or a part of it: the marks of events and of their bytes."""

    object: ObjectId
    marks: tuple[tuple[bytes, bytes], ...]


class _Pieces:
    """Joins small parts into pieces, and cuts large ones."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def add(self, part: bytes) -> Iterator[bytes]:
        self._waiting += part
        while len(self._waiting) >= PIECE_LIMIT_BYTES:
            yield bytes(self._waiting[:PIECE_LIMIT_BYTES])
            del self._waiting[:PIECE_LIMIT_BYTES]

    def rest(self) -> Iterator[bytes]:
        if self._waiting:
            yield bytes(self._waiting)


def write(database: Database, folder_no: int, folder: FolderId) -> Iterator[bytes]:
    """Give the snapshot of all batches of a folder that are applied, piece by piece.

    The database must not change meanwhile; call it inside a transaction, or on a copy. An empty
    piece says that time was spent and nothing came of it yet.
    """
    pieces = _Pieces()
    with thinned(database, folder_no) as thin:
        for _ in thin.work():
            yield b""
        yield from pieces.add(MAGIC + folder)
        for part in _tables(thin):
            yield from pieces.add(part)
        yield from pieces.add(thin.graves.to_bytes(_NUMBER_BYTES, "big"))
        for identity, marks in thin.buried():
            yield from pieces.add(identity + len(marks).to_bytes(_COUNT_BYTES, "big"))
            for mark in marks:
                yield from pieces.add(mark)
        yield from pieces.add(thin.batches.to_bytes(_NUMBER_BYTES, "big"))
        for part in _records(database, thin):
            yield from pieces.add(part)
    yield from pieces.rest()


def _tables(thin: Thinned) -> Iterator[bytes]:
    """Give the logs of stubs, and their sets of members."""
    yield len(thin.logs).to_bytes(_COUNT_BYTES, "big")
    for agent, epoch in thin.logs:
        yield agent + epoch
    yield len(thin.sets).to_bytes(_COUNT_BYTES, "big")
    for members in thin.sets:
        yield len(members).to_bytes(_COUNT_BYTES, "big")
        yield b"".join(one.to_bytes(_COUNT_BYTES, "big") for one in members)


def _records(database: Database, thin: Thinned) -> Iterator[bytes]:
    for one in thin.records():
        if one.stub is not None:
            yield _STUB + one.id + _PLACE.pack(*one.stub)
            continue
        header, signature, body = database.execute(
            "SELECT header, signature, body FROM batch WHERE no = ?", (one.no,)
        ).fetchone()
        if one.lost:
            body = thin_body(body, decode_header(header).count, one.lost)
        yield b"".join(
            (
                _BATCH,
                len(header).to_bytes(_LENGTH_BYTES, "big"),
                header,
                signature,
                len(body).to_bytes(_LENGTH_BYTES, "big"),
                body,
            )
        )


def read(pieces: Iterable[bytes], folder: FolderId) -> Iterator[Grave | Stub | SignedBatch]:
    """Give what a snapshot holds, in order, while its pieces come in: graves, then batches.

    Raises Malformed or BadSignature at the first thing that is not as it should be; what was
    given before that is to be thrown away.
    """
    source = _Source(pieces)
    if source.take(len(MAGIC)) != MAGIC:
        raise Malformed("snapshot", "does not begin like one, or is of another version")
    if source.take(ID_BYTES) != folder:
        raise Malformed("snapshot", "is of another folder")
    logs = [
        (AgentId(source.take(ID_BYTES)), Epoch(source.take(EPOCH_BYTES)))
        for _ in range(source.number(_COUNT_BYTES, TABLE_LIMIT))
    ]
    sets = [
        [source.number(_COUNT_BYTES) for _ in range(source.number(_COUNT_BYTES, SET_LIMIT))]
        for _ in range(source.number(_COUNT_BYTES, TABLE_LIMIT))
    ]
    yield from _read_graves(source)
    yield from _read_batches(source, folder, logs, sets)
    source.finish()


def _read_graves(source: _Source) -> Iterator[Grave]:
    before = b""
    for _ in range(source.number(_NUMBER_BYTES)):
        identity = ObjectId(source.take(ID_BYTES))
        left = source.number(_COUNT_BYTES)
        if identity <= before or not left:
            raise Malformed("snapshot", "has a grave that does not belong where it stands")
        before = identity
        while left:
            part = min(left, _MARKS_AT_ONCE)
            yield Grave(
                identity,
                tuple((source.take(MARK_BYTES), source.take(MARK_BYTES)) for _ in range(part)),
            )
            left -= part


def _read_batches(
    source: _Source,
    folder: FolderId,
    logs: Sequence[tuple[AgentId, Epoch]],
    sets: Sequence[Sequence[int]],
) -> Iterator[Stub | SignedBatch]:
    about_folder: list[BatchId] = []
    before: tuple[int, bytes] = (0, b"")
    for _ in range(source.number(_NUMBER_BYTES)):
        kind = source.take(1)
        one: Stub | SignedBatch
        if kind == _STUB:
            one = _read_stub(source, logs, sets, about_folder)
            place = (one.lamport, one.id)
        elif kind == _BATCH:
            one = _read_batch(source, folder)
            place = (one.header.lamport, one.id)
            if one.is_about_folder:
                about_folder.append(one.id)
        else:
            raise Malformed("snapshot", "has a record of no known kind")
        if place <= before:
            raise Malformed("snapshot", "has a batch that does not belong where it stands")
        before = place
        yield one


def _read_batch(source: _Source, folder: FolderId) -> SignedBatch:
    header = source.take_counted(HEADER_LIMIT_BYTES)
    signature = source.take(SIGNATURE_BYTES)
    body = source.take_counted(BODY_LIMIT_BYTES)
    signed = verify_thinned(WireBatch(header, signature, body))
    if signed.header.folder != folder:
        raise Malformed("snapshot", "has a batch that does not belong where it stands")
    return signed


def _read_stub(
    source: _Source,
    logs: Sequence[tuple[AgentId, Epoch]],
    sets: Sequence[Sequence[int]],
    about_folder: Sequence[BatchId],
) -> Stub:
    identity = BatchId(source.take(ID_BYTES))
    log, seq, lamport, members = _PLACE.unpack(source.take(_PLACE.size))
    try:
        agent, epoch = logs[log]
        known = tuple(about_folder[one] for one in sets[members])
    except IndexError as cause:
        raise Malformed("snapshot", "has a stub that names what is not there") from cause
    return Stub(identity, agent, epoch, seq, lamport, known)


class _Source:
    """Takes exact lengths from pieces of any length."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._waiting = bytearray()
        self._at = 0

    def take(self, length: int) -> bytes:
        while len(self._waiting) - self._at < length:
            piece = next(self._pieces, None)
            if piece is None:
                raise Malformed("snapshot", "ends too early")
            del self._waiting[: self._at]
            self._at = 0
            self._waiting += piece
        self._at += length
        return bytes(self._waiting[self._at - length : self._at])

    def number(self, length: int, limit: int | None = None) -> int:
        found = int.from_bytes(self.take(length), "big")
        if limit is not None and found > limit:
            raise Malformed("snapshot", f"says {found} where {limit} are allowed")
        return found

    def take_counted(self, limit: int) -> bytes:
        return self.take(self.number(_LENGTH_BYTES, limit))

    def finish(self) -> None:
        if len(self._waiting) > self._at or any(self._pieces):
            raise Malformed("snapshot", "has bytes left over")
