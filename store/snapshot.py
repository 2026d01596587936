"""Write what a log folds to at a frontier as one content, and read such a content back.

A snapshot is the log itself, thinned: every applied batch in order with its header and its
signature, and of its body the events that can still have an effect (store.thinning). Folding it
gives the state; since every header is there, whatever comes later finds its prev, its deps,
their lamports and roles. Equal logs give equal bytes on every node (docs/log-format.md).

Both directions go piece by piece, at most 1 MiB each. The reader believes nothing: sizes are
checked before bytes are kept, each header is proven, order and number are exact. Whether the
events are the right ones is for store.checkpoint to say. No files here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from store.codec import (
    BODY_LIMIT_BYTES,
    HEADER_LIMIT_BYTES,
    decode_header,
    split_thinned,
    thin_body,
)
from store.db import Database, scratch_database
from store.errors import Malformed
from store.events import FIRST_FOLDER_TAG, FIRST_OPTIONAL_TAG, tag_of
from store.ids import ID_BYTES, AgentId, BatchId, FolderId
from store.signing import SIGNATURE_BYTES, SignedBatch, WireBatch, verify_thinned
from store.thinning import Thinning

PIECE_LIMIT_BYTES: Final = 1024 * 1024
MAGIC: Final = b"dizzyd/snapshot/1"
_NUMBER_BYTES = 8  # of the batches
_LENGTH_BYTES = 4
HEAD_BYTES: Final = len(MAGIC) + ID_BYTES + _NUMBER_BYTES  # 17 + 32 + 8 = 57


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


def write(
    database: Database, folder_no: int, folder: FolderId, owner: AgentId | None
) -> Iterator[bytes]:
    """Give the snapshot of all batches of a folder that are applied, piece by piece.

    The database must not change meanwhile; call it inside a transaction, or on a copy.
    """
    scratch = scratch_database()
    try:
        number = _thin(database, folder_no, owner, scratch)
        pieces = _Pieces()
        yield from pieces.add(MAGIC + folder + number.to_bytes(_NUMBER_BYTES, "big"))
        for (no,) in scratch.execute("SELECT batch_no FROM thinned ORDER BY place DESC"):
            header, signature, body = database.execute(
                "SELECT header, signature, body FROM batch WHERE no = ?", (no,)
            ).fetchone()
            lost = scratch.execute("SELECT lost FROM thinned WHERE batch_no = ?", (no,)).fetchone()
            yield from pieces.add(_record(header, signature, body, lost[0]))
        yield from pieces.rest()
    finally:
        scratch.connection.close()


def _thin(
    database: Database, folder_no: int, owner: AgentId | None, scratch: Database
) -> int:
    """Note which events of which batch are left out; gives the number of batches."""
    scratch.execute(
        "CREATE TABLE thinned (place INTEGER PRIMARY KEY, batch_no INTEGER UNIQUE, lost BLOB)"
    )
    thinning = Thinning(owner)
    newest_first = database.execute(
        "SELECT no FROM batch WHERE folder_no = ? AND is_applied = 1"
        " ORDER BY lamport DESC, id DESC",
        (folder_no,),
    )
    number = 0
    for (no,) in newest_first:
        batch, header_bytes, body, verdict = database.execute(
            "SELECT id, header, body, is_void FROM batch WHERE no = ?", (no,)
        ).fetchone()
        header = decode_header(header_bytes)
        events = split_thinned(body, header.count)  # a restored one is thinned already
        lost: frozenset[int] = frozenset()
        if events[0] and FIRST_FOLDER_TAG <= tag_of(events[0]) < FIRST_OPTIONAL_TAG:
            thinning.settles(BatchId(batch), header)
        else:
            lost = thinning.left_out(BatchId(batch), header, events, verdict)
        packed = b"".join(position.to_bytes(2, "big") for position in sorted(lost))
        scratch.execute("INSERT INTO thinned VALUES (?, ?, ?)", (number, no, packed))
        number += 1
    thinning.close()
    return number


def _record(header: bytes, signature: bytes, body: bytes, lost: bytes) -> bytes:
    if lost:
        positions = {
            int.from_bytes(lost[start : start + 2], "big") for start in range(0, len(lost), 2)
        }
        body = thin_body(body, decode_header(header).count, positions)
    return b"".join(
        (
            len(header).to_bytes(_LENGTH_BYTES, "big"),
            header,
            signature,
            len(body).to_bytes(_LENGTH_BYTES, "big"),
            body,
        )
    )


def read(pieces: Iterable[bytes], folder: FolderId) -> Iterator[SignedBatch]:
    """Give the proven batches of a snapshot, in order, while its pieces come in.

    Raises Malformed or BadSignature at the first thing that is not as it should be; what was
    given before that is to be thrown away.
    """
    source = _Source(pieces)
    if source.take(len(MAGIC)) != MAGIC:
        raise Malformed("snapshot", "does not begin like one, or is of another version")
    if source.take(ID_BYTES) != folder:
        raise Malformed("snapshot", "is of another folder")
    number = int.from_bytes(source.take(_NUMBER_BYTES), "big")
    before: tuple[int, bytes] = (0, b"")
    for _ in range(number):
        header = source.take_counted(HEADER_LIMIT_BYTES)
        signature = source.take(SIGNATURE_BYTES)
        body = source.take_counted(BODY_LIMIT_BYTES)
        signed = verify_thinned(WireBatch(header, signature, body))
        place = (signed.header.lamport, signed.id)
        if signed.header.folder != folder or place <= before:
            raise Malformed("snapshot", "has a batch that does not belong where it stands")
        before = place
        yield signed
    source.finish()


class _Source:
    """Takes exact lengths from pieces of any length."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._waiting = bytearray()

    def take(self, length: int) -> bytes:
        while len(self._waiting) < length:
            piece = next(self._pieces, None)
            if piece is None:
                raise Malformed("snapshot", "ends too early")
            self._waiting += piece
        taken = bytes(self._waiting[:length])
        del self._waiting[:length]
        return taken

    def take_counted(self, limit: int) -> bytes:
        length = int.from_bytes(self.take(_LENGTH_BYTES), "big")
        if length > limit:
            raise Malformed("snapshot", f"says {length} bytes where {limit} are allowed")
        return self.take(length)

    def finish(self) -> None:
        if self._waiting or any(self._pieces):
            raise Malformed("snapshot", "has bytes left over")
