"""Read a snapshot by docs/log-format.md alone, with nothing of dizzyd, and hold it to its event.

It proves all that can be proven without folding: which events are there, not the state root.
"""

from __future__ import annotations

from tests.vectors.reader import (
    Refused,
    check_batch,
    check_signature,
    digest,
    read_event,
    read_header,
    read_tag,
    require,
)

MAGIC = b"dizzyd/snapshot/1"


class Bytes:
    """Takes exact lengths from the front."""

    def __init__(self, source: bytes) -> None:
        """Begin at the first byte."""
        self.source = source
        self.at = 0

    def take(self, length: int) -> bytes:
        """Take the next bytes, all of them."""
        part = self.source[self.at : self.at + length]
        require(len(part) == length, "the bytes end too early")
        self.at += length
        return part

    def counted(self, limit: int) -> bytes:
        """Take a length of four bytes and so many bytes."""
        length = int.from_bytes(self.take(4), "big")
        require(length <= limit, "a length beyond its limit")
        return self.take(length)


def check(folder: bytes, checkpointed: bytes, snapshot: bytes) -> list[tuple[bytes, int]]:
    """Refuse all but what the event names; give (batch id, index) of each event left out."""
    kind, (frontier, state_version, _, content) = read_event(checkpointed)
    require(kind == "Checkpointed" and state_version == 1, "no checkpoint of this version")
    require(content == [digest(snapshot), len(snapshot)], "another content")
    source = Bytes(snapshot)
    require(source.take(len(MAGIC)) == MAGIC and source.take(32) == folder, "another head")
    number = int.from_bytes(source.take(8), "big")
    known: set[bytes] = set()
    named: set[bytes] = set()
    before = (0, b"")
    left_out: list[tuple[bytes, int]] = []
    for _ in range(number):
        header, signature, body = source.counted(65_536), source.take(64), source.counted(1 << 20)
        fields = read_header(header)
        identity, absent = check_record(header, signature, body)
        parents = set(fields[6]) | ({fields[5]} - {None})
        require(fields[1] == folder and parents <= known, "a batch of elsewhere")
        require(before < (fields[7], identity), "batches out of order")
        before = (fields[7], identity)
        known.add(identity)
        named |= parents
        left_out += [(identity, index) for index in absent]
    require(source.at == len(snapshot), "bytes are left over")
    require(sorted(known - named) == frontier, "another frontier")
    return left_out


def check_record(header: bytes, signature: bytes, body: bytes) -> tuple[bytes, list[int]]:
    """Check one batch, whole or thinned; give its id and the indices of what was left out."""
    fields = read_header(header)
    if fields[10] == len(body):
        return check_batch(header, signature, body)[0], []
    identity = digest(b"dizzyd/batch/1", header)
    check_signature(fields[2], b"dizzyd/sign/batch/1" + identity, signature)
    source = Bytes(body)
    events = [source.take(int.from_bytes(source.take(2), "big")) for _ in range(fields[9])]
    require(source.at == len(body), "bytes are left over")
    absent = [index for index, event in enumerate(events) if not event]
    room = fields[10] - len(body)
    require(len(absent) <= room <= len(absent) * 65_535, "another size than was left out")
    for event in filter(None, events):
        require(not 16 <= read_tag(event) < 128, "thinned, and about the folder")
    return identity, absent


__all__ = ["Refused", "check"]
