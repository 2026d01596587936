"""Read a snapshot by docs/log-format.md alone, with nothing of dizzyd, and hold it to its event.

It proves all that can be proven without folding: which events are there, not the state root.
"""

from __future__ import annotations

from typing import Any

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

MAGIC = b"dizzyd/snapshot/2"


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

    def number(self, length: int) -> int:
        """Take a big-endian number."""
        return int.from_bytes(self.take(length), "big")

    def counted(self, limit: int) -> bytes:
        """Take a length of four bytes and so many bytes."""
        length = self.number(4)
        require(length <= limit, "a length beyond its limit")
        return self.take(length)


class Found:
    """What a snapshot holds besides whole batches."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.left_out: list[tuple[bytes, int]] = []  # batch id and index of each event
        self.stubs: list[bytes] = []  # batch ids
        self.buried: list[bytes] = []  # the first halves of event ids


def check(folder: bytes, checkpointed: bytes, snapshot: bytes) -> Found:
    """Refuse all but what the event names; give what is not whole in it."""
    kind, (frontier, state_version, _, content) = read_event(checkpointed)
    require(kind == "Checkpointed" and state_version == 1, "no checkpoint of this version")
    require(content == [digest(snapshot), len(snapshot)], "another content")
    source = Bytes(snapshot)
    require(source.take(len(MAGIC)) == MAGIC and source.take(32) == folder, "another head")
    found = Found()
    logs = [source.take(48) for _ in range(source.number(4))]
    sets = [[source.number(4) for _ in range(source.number(4))] for _ in range(source.number(4))]
    require(logs == sorted(set(logs)) and sets == sorted(sets), "tables out of order")
    read_graves(source, found)
    known: set[bytes] = set()
    named: set[bytes] = set()
    about_folder: list[bytes] = []
    before = (0, b"")
    for _ in range(source.number(8)):
        if source.take(1) == b"\1":
            identity, log, seq = source.take(32), source.number(2), source.number(4)
            lamport, members = source.number(4), source.number(2)
            require(log < len(logs) and members < len(sets), "a stub of nothing")
            require(all(one < len(about_folder) for one in sets[members]), "members unknown")
            require(seq < lamport, "a stub of no place")
            found.stubs.append(identity)
        else:
            header, signature = source.counted(65_536), source.take(64)
            fields = read_header(header)
            identity, absent = check_record(header, signature, source.counted(1 << 20))
            parents = set(fields[6]) | ({fields[5]} - {None})
            require(fields[1] == folder and parents <= known, "a batch of elsewhere")
            lamport = fields[7]
            named |= parents
            found.left_out += [(identity, index) for index in absent]
            if not absent and is_about_folder(snapshot[: source.at], fields):
                about_folder.append(identity)
        require(before < (lamport, identity), "batches out of order")
        before = (lamport, identity)
        known.add(identity)
    require(source.at == len(snapshot), "bytes are left over")
    # What stubs rest on is not told: so some that they name seem open.
    require(set(frontier) <= known - named - set(found.stubs), "another frontier")
    return found


def read_graves(source: Bytes, found: Found) -> None:
    """Take what is buried of each file."""
    last = b""
    for _ in range(source.number(8)):
        identity, number = source.take(32), source.number(4)
        require(identity > last and number > 0, "graves out of order")
        last = identity
        marks = [(source.take(16), source.take(16)) for _ in range(number)]
        require(marks == sorted(marks), "marks out of order")
        found.buried += [event for event, _ in marks]


def is_about_folder(read: bytes, fields: list[Any]) -> bool:
    """Whether the batch whose body was read last holds events of tags 16 to 127."""
    body = read[len(read) - fields[10] :]
    return 16 <= read_tag(body[2 : 2 + int.from_bytes(body[:2], "big")]) < 128


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
