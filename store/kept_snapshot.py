"""Keep the snapshot of one folder, for those who join, in pieces of a database.

Who made it, or joined by it, keeps it whole; who fetches one keeps what came of it, so that a
transfer goes on where it was. It judges nothing: bytes are proven where they are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from blake3 import blake3

from store.db import Database
from store.errors import Malformed
from store.events import Checkpointed, Content, decode
from store.ids import FolderId, short
from store.signing import SignedBatch, WireBatch, verify
from store.snapshot import PIECE_LIMIT_BYTES

CHECKPOINTED_TAG: Final = 20
_decoder = msgspec.msgpack.Decoder(WireBatch)


class KeptSnapshot:
    """The snapshot of a folder that this node can give, and one that is on its way to it.

    Where the log here begins with one, that stays, although a later one may be given.

    Owned by the database thread; reading alone may use a connection of its own.
    """

    def __init__(self, database: Database, folder_no: int, folder: FolderId) -> None:
        """Read nothing yet."""
        self._db = database
        self._folder_no = folder_no
        self._folder = folder
        self._key = f"checkpoint/{folder_no}"
        self._base_key = f"base/{folder_no}"  # where it is another one

    def checkpoint(self) -> SignedBatch | None:
        """Give the batch that names the kept snapshot; None if there is none that can be given."""
        return self._read(self._db.meta(self._key))

    def base(self) -> SignedBatch | None:
        """Give the batch that names the snapshot with which the log here begins."""
        noted = self._db.meta(self._base_key)
        return self.checkpoint() if noted is None else self._read(noted)

    @staticmethod
    def _read(noted: bytes | None) -> SignedBatch | None:
        if noted is None:
            return None
        try:
            signed = verify(_decoder.decode(noted))
        except (msgspec.DecodeError, Malformed):
            return None
        return signed if checkpoint_in(signed) is not None else None

    def content(self) -> Content | None:
        """Give hash and size of the kept snapshot."""
        signed = self.checkpoint()
        told = None if signed is None else checkpoint_in(signed)
        return None if told is None else told.snapshot

    def note(self, signed: SignedBatch) -> None:
        """Keep the snapshot that a checkpoint names, which is whole here, to give it.

        No other stays but the one with which the log here begins.
        """
        told = checkpoint_in(signed)
        if told is None:
            raise Malformed(f"batch {short(signed.id)}", "is no checkpoint")
        former = self._db.meta(self._key)
        is_begun = self._db.meta(f"restored/{self._folder_no}") is not None
        if is_begun and former is not None and self._db.meta(self._base_key) is None:
            self._db.set_meta(self._base_key, former)
        self._db.set_meta(self._key, msgspec.msgpack.encode(signed.wire))
        self.drop_others(told.snapshot.hash)

    def note_base(self, signed: SignedBatch) -> None:
        """Keep the snapshot with which the log here begins now, to give it too, and no other."""
        told = checkpoint_in(signed)
        if told is None:
            raise Malformed(f"batch {short(signed.id)}", "is no checkpoint")
        self._db.execute("DELETE FROM meta WHERE key = ?", (self._base_key,))
        self._db.set_meta(self._key, msgspec.msgpack.encode(signed.wire))
        self.drop_others(told.snapshot.hash)

    def drop_others(self, hash_: bytes) -> None:
        """Let go of all pieces but those of one content, and of what was noted."""
        noted = [checkpoint_in(one) for one in (self.checkpoint(), self.base()) if one is not None]
        hashes = [hash_, *(told.snapshot.hash for told in noted if told is not None)]
        self._db.execute(
            "DELETE FROM snapshot_piece WHERE folder_no = ?"
            f" AND hash NOT IN ({','.join('?' * len(hashes))})",
            (self._folder_no, *hashes),
        )

    def forget(self) -> None:
        """Keep no snapshot of this folder any more."""
        self._db.execute("DELETE FROM meta WHERE key IN (?, ?)", (self._key, self._base_key))
        self.drop_others(b"")

    def rename(self, former: bytes, hash_: bytes) -> None:
        """Give pieces that were kept under another name the name of their content."""
        self._db.execute(
            "DELETE FROM snapshot_piece WHERE hash = ? AND folder_no = ?", (hash_, self._folder_no)
        )
        self._db.execute(
            "UPDATE snapshot_piece SET hash = ? WHERE hash = ? AND folder_no = ?",
            (hash_, former, self._folder_no),
        )

    def keep(self, hash_: bytes, no: int, piece: bytes) -> None:
        """Keep one piece of a content; all but the last have PIECE_LIMIT_BYTES."""
        self._db.execute(
            "INSERT OR REPLACE INTO snapshot_piece (hash, no, folder_no, piece)"
            " VALUES (?, ?, ?, ?)",
            (hash_, no, self._folder_no, piece),
        )

    def count(self, hash_: bytes) -> int:
        """Count the pieces of a content that are here, from the first on without a gap."""
        number = 0
        for (no,) in self._db.execute(
            "SELECT no FROM snapshot_piece WHERE hash = ? ORDER BY no", (hash_,)
        ):
            if no != number:
                break
            number += 1
        return number

    def pieces(self, hash_: bytes) -> Iterator[bytes]:
        """Give the pieces of a content in order."""
        no = 0
        while (piece := self.piece(hash_, no)) is not None:
            yield piece
            no += 1

    def piece(self, hash_: bytes, no: int) -> bytes | None:
        """Give one piece."""
        row = self._db.execute(
            "SELECT piece FROM snapshot_piece WHERE hash = ? AND no = ?", (hash_, no)
        ).fetchone()
        return None if row is None else row[0]

    def is_whole(self, content: Content) -> bool:
        """Whether the pieces are the content, by reading all of them."""
        hasher, size = blake3(), 0
        for piece in self.pieces(content.hash):
            hasher.update(piece)
            size += len(piece)
        return size == content.size and hasher.digest() == content.hash


def read_at(kept: KeptSnapshot, content: Content, offset: int, length: int) -> bytes:
    """Read a part of a kept content, shorter only at its end."""
    parts: list[bytes] = []
    end = min(offset + length, content.size)
    while offset < end:
        piece = kept.piece(content.hash, offset // PIECE_LIMIT_BYTES)
        start = offset % PIECE_LIMIT_BYTES
        part = b"" if piece is None else piece[start : start + end - offset]
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def checkpoint_in(signed: SignedBatch) -> Checkpointed | None:
    """Read the checkpoint that a batch holds, and nothing else."""
    if signed.tags != {CHECKPOINTED_TAG} or len(signed.events) != 1:
        return None
    event = decode(signed.events[0])
    return event if isinstance(event, Checkpointed) else None
