"""Read the log format a second time, from docs/log-format.md alone.

Nothing of dizzyd is imported here, so that a mistake in its code cannot hide in both. It needs
BLAKE3 and Ed25519 and is slow on purpose: recursive where dizzyd iterates, and in plain steps.
It reads and refuses; it makes nothing.

Run as `python tests/vectors/reader.py FILE` to check a file of vectors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from blake3 import blake3
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey


class Refused(Exception):
    """These bytes are not what they claim to be."""


def require(holds: object, what: str) -> None:
    """Refuse unless it holds."""
    if not holds:
        raise Refused(what)


# --- msgpack, only what the format uses -------------------------------------------------------


class Unpacker:
    """Takes one value after another from the front of some bytes."""

    def __init__(self, source: bytes) -> None:
        """Begin at the first byte."""
        self.source = source
        self.at = 0

    def take(self, count: int) -> bytes:
        """Take the next bytes."""
        piece = self.source[self.at : self.at + count]
        require(len(piece) == count, "the bytes end too early")
        self.at += count
        return piece

    def number(self, width: int, *, signed: bool = False) -> int:
        """Take a big-endian integer."""
        return int.from_bytes(self.take(width), "big", signed=signed)

    def value(self) -> Any:
        """Take a nil, boolean, integer, byte string or array; nothing else is in the format."""
        first = self.number(1)
        if first <= 0x7F:
            return first
        if first >= 0xE0:
            return first - 0x100
        if 0x90 <= first <= 0x9F:
            return self.array(first & 0x0F)
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if 0xC4 <= first <= 0xC6:
            return self.take(self.number(1 << (first - 0xC4)))
        if 0xCC <= first <= 0xCF:
            return self.number(1 << (first - 0xCC))
        if 0xD0 <= first <= 0xD3:
            return self.number(1 << (first - 0xD0), signed=True)
        if first in (0xDC, 0xDD):
            return self.array(self.number(2 if first == 0xDC else 4))
        raise Refused(f"type byte {first:#x}")

    def array(self, length: int) -> list[Any]:
        """Take so many values."""
        require(length <= len(self.source), "an array longer than all bytes")
        return [self.value() for _ in range(length)]


def unpack(source: bytes) -> Any:
    """Read exactly one value."""
    unpacker = Unpacker(source)
    try:
        value = unpacker.value()
    except RecursionError:
        raise Refused("nested too deeply") from None
    require(unpacker.at == len(source), "bytes are left over")
    return value


# --- fields -----------------------------------------------------------------------------------


def is_int(value: Any, low: int, high: int) -> bool:
    """Tell an integer in its bounds, both included."""
    return type(value) is int and low <= value <= high


def is_bytes(value: Any, low: int, high: int) -> bool:
    """Tell a byte string with a length in its bounds, both included."""
    return type(value) is bytes and low <= len(value) <= high


def hash32(value: Any) -> bool:
    """32 bytes."""
    return is_bytes(value, 32, 32)


def hash32_or_nil(value: Any) -> bool:
    """32 bytes or nil."""
    return value is None or hash32(value)


def name(value: Any) -> bool:
    """1 to 255 bytes."""
    return is_bytes(value, 1, 255)


def label(value: Any) -> bool:
    """0 to 255 bytes."""
    return is_bytes(value, 0, 255)


def u32(value: Any) -> bool:
    """An unsigned integer of 32 bits."""
    return is_int(value, 0, 2**32 - 1)


def u63(value: Any) -> bool:
    """A signed integer of 64 bits that is not negative."""
    return is_int(value, 0, 2**63 - 1)


def u63_or_nil(value: Any) -> bool:
    """The same, or nil."""
    return value is None or u63(value)


def i64(value: Any) -> bool:
    """A signed integer of 64 bits."""
    return is_int(value, -(2**63), 2**63 - 1)


def i64_or_nil(value: Any) -> bool:
    """The same, or nil."""
    return value is None or i64(value)


def bit(value: Any) -> bool:
    """0 or 1."""
    return is_int(value, 0, 1)


def bit_or_nil(value: Any) -> bool:
    """0, 1 or nil."""
    return value is None or bit(value)


def nil(value: Any) -> bool:
    """Nil and nothing else."""
    return value is None


def boolean(value: Any) -> bool:
    """True or false."""
    return type(value) is bool


def kind(value: Any) -> bool:
    """0 file, 1 directory, 2 symlink."""
    return is_int(value, 0, 2)


def role(value: Any) -> bool:
    """1 admin, 2 write, 3 read."""
    return is_int(value, 1, 3)


def blob(value: Any) -> bool:
    """A hash and a size."""
    return type(value) is list and len(value) == 2 and hash32(value[0]) and u63(value[1])


def content(value: Any) -> bool:
    """A blob, or the target of a symlink."""
    return blob(value) or is_bytes(value, 1, 4095)


def content_or_nil(value: Any) -> bool:
    """The same, or nil."""
    return value is None or content(value)


def prev(value: Any) -> bool:
    """At most 256 event ids."""
    return type(value) is list and len(value) <= 256 and all(map(hash32, value))


def frontier(value: Any) -> bool:
    """At most 1024 batch ids."""
    return type(value) is list and len(value) <= 1024 and all(map(hash32, value))


def cut(value: Any) -> bool:
    """At most 1024 of [log, seq, batch]."""
    return (
        type(value) is list
        and len(value) <= 1024
        and all(
            type(point) is list
            and len(point) == 3
            and hash32(point[0])
            and u63(point[1])
            and hash32(point[2])
            for point in value
        )
    )


def bytes16(value: Any) -> bool:
    """16 bytes."""
    return is_bytes(value, 16, 16)


def bytes64(value: Any) -> bool:
    """64 bytes."""
    return is_bytes(value, 64, 64)


EVENTS = {
    1: ("ObjectCreated", [hash32, kind, u32, name, content_or_nil, bit, i64, prev]),
    2: ("ContentChanged", [hash32, content, i64, prev]),
    3: ("ObjectMoved", [hash32, hash32, name, prev]),
    4: ("ObjectDeleted", [hash32, prev, hash32_or_nil, hash32_or_nil]),
    5: ("AttributesChanged", [hash32, bit_or_nil, i64_or_nil, nil]),
    6: ("Tagged", [hash32, name]),
    7: ("Untagged", [hash32, name]),
    16: ("FolderShared", [hash32, hash32, name, label, bytes16, bytes64]),
    17: ("Granted", [hash32, role, boolean, u63_or_nil, label]),
    18: ("Revoked", [hash32, cut]),
    19: ("EpochOpened", [hash32, hash32_or_nil]),
    20: ("Checkpointed", [frontier, u32, hash32, blob]),
    21: ("Attested", [hash32, hash32]),
}

HEADER = [
    lambda value: is_int(value, 1, 1),
    hash32,
    hash32,
    bytes16,
    u63,
    hash32_or_nil,
    frontier,
    lambda value: is_int(value, 1, 2**63 - 1),
    u63,
    lambda value: is_int(value, 1, 4096),
    lambda value: is_int(value, 1, 2**20),
    hash32,
]


def read_event(event: bytes) -> tuple[str, list[Any]]:
    """Read one event of a known kind: its type and its fields."""
    items = unpack(event)
    require(type(items) is list and items and type(items[0]) is int, "no tagged array")
    require(items[0] in EVENTS, "an unknown tag")
    type_name, fields = EVENTS[items[0]]
    require(len(items) - 1 == len(fields), "another number of fields")
    for check, value in zip(fields, items[1:], strict=True):
        require(check(value), f"a field of {type_name} is out of bounds: {check.__name__}")
    if items[0] == 16:
        check_folder_shared(items)
    return type_name, items[1:]


def check_folder_shared(items: list[Any]) -> None:
    """Check the signature by the folder's own key."""
    _, folder, owner, folder_name, owner_label, nonce, signature = items
    message = b"dizzyd/sign/folder/1" + folder + owner
    for text in (folder_name, owner_label):
        message += len(text).to_bytes(2, "big") + text
    check_signature(folder, message + nonce, signature)


def read_tag(event: bytes) -> int:
    """Read the tag of any event, known or not: a short array that begins with a small integer."""
    require(len(event) >= 2 and 0x91 <= event[0] <= 0x9F, "no short array")
    if event[1] == 0xCC:
        require(len(event) >= 3, "the bytes end too early")
        return event[2]
    require(event[1] <= 0x7F, "no small tag")
    return event[1]


def read_header(header: bytes) -> list[Any]:
    """Read one header with all rules that need nothing else."""
    require(len(header) <= 65_536, "a header over 64 KiB")
    fields: list[Any] = unpack(header)
    require(type(fields) is list and len(fields) == len(HEADER), "no header")
    for check, value in zip(HEADER, fields, strict=True):
        require(check(value), "a field of the header is out of bounds")
    seq, before, deps, lamport = fields[4:8]
    require((seq == 0) == (before is None), "seq and prev do not fit")
    require(deps == sorted(set(deps)), "deps are not sorted")
    require(before not in deps, "prev is among deps")
    require((lamport == 1) == (before is None and not deps), "lamport and parents do not fit")
    return fields


def read_body(body: bytes, count: int) -> list[bytes]:
    """Cut a body into its events."""
    unpacker = Unpacker(body)
    events = []
    for _ in range(count):
        length = unpacker.number(2)
        require(length > 0, "an empty event")
        events.append(unpacker.take(length))
    require(unpacker.at == len(body), "bytes are left over")
    return events


# --- hashes and signatures --------------------------------------------------------------------


def digest(*parts: bytes) -> bytes:
    """BLAKE3 of the parts one after another."""
    return blake3(b"".join(parts)).digest()


def tree_root(leaves: list[bytes]) -> bytes:
    """Compute the root as RFC 6962 section 2.1 defines it."""
    if len(leaves) == 1:
        return digest(b"\0", leaves[0])
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return digest(b"\1", tree_root(leaves[:half]), tree_root(leaves[half:]))


def proven_root(leaf: bytes, index: int, count: int, path: list[bytes]) -> bytes:
    """Compute the root that a path proves, from the top down."""
    if count == 1:
        require(not path, "the path is too long")
        return digest(b"\0", leaf)
    require(path, "the path is too short")
    half = 1
    while half * 2 < count:
        half *= 2
    if index < half:
        return digest(b"\1", proven_root(leaf, index, half, path[:-1]), path[-1])
    return digest(b"\1", path[-1], proven_root(leaf, index - half, count - half, path[:-1]))


def check_signature(agent: bytes, message: bytes, signature: bytes) -> None:
    """Refuse unless the agent signed the message."""
    try:
        VerifyKey(agent).verify(message, signature)
    except (BadSignatureError, ValueError):
        raise Refused("the signature is not the agent's") from None


def check_batch(header: bytes, signature: bytes, body: bytes) -> tuple[bytes, bytes, list[bytes]]:
    """Check a whole batch; give its id, its log's id and the ids of its events."""
    fields = read_header(header)
    folder, agent, epoch, seq = fields[1:5]
    count, body_size, events_root = fields[9:12]
    require(body_size == len(body), "another size of body")
    identity = digest(b"dizzyd/batch/1", header)
    check_signature(agent, b"dizzyd/sign/batch/1" + identity, signature)
    events = read_body(body, count)
    require(len({16 <= read_tag(event) < 128 for event in events}) == 1, "two kinds of events")
    log = digest(b"dizzyd/log/1", folder, agent, epoch)
    event_ids = [event_id(log, seq, index, event) for index, event in enumerate(events)]
    require(tree_root(event_ids) == events_root, "another root")
    return identity, log, event_ids


def event_id(log: bytes, seq: int, index: int, event: bytes) -> bytes:
    """Name an event."""
    return digest(b"dizzyd/event/1", log, seq.to_bytes(8, "big"), index.to_bytes(4, "big"), event)


# --- vectors ----------------------------------------------------------------------------------


def _hex(text: Any) -> bytes:
    require(isinstance(text, str), "no hex string")
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise Refused("no hex string") from None


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(item) for item in value] if isinstance(value, list) else value


def check_event_vector(vector: dict[str, Any]) -> None:
    """Check one of `events`."""
    type_name, fields = read_event(_hex(vector["event"]))
    require(type_name == vector["type"], "another type")
    require(_plain(fields) == vector["fields"], "other fields")


def check_log_id_vector(vector: dict[str, Any]) -> None:
    """Check one of `ids.logs`."""
    parts = [_hex(vector[part]) for part in ("folder", "agent", "epoch")]
    require(list(map(len, parts)) == [32, 32, 16], "other lengths")
    require(digest(b"dizzyd/log/1", *parts) == _hex(vector["id"]), "another log id")


def check_event_id_vector(vector: dict[str, Any]) -> None:
    """Check one of `ids.events`."""
    log, event = _hex(vector["log"]), _hex(vector["event"])
    require(len(log) == 32, "another length")
    found = event_id(log, vector["seq"], vector["index"], event)
    require(found == _hex(vector["id"]), "another event id")


def check_object_id_vector(vector: dict[str, Any]) -> None:
    """Check one of `ids.objects`."""
    found = digest(
        b"dizzyd/object/1",
        _hex(vector["folder"]),
        _hex(vector["parent"]),
        bytes([vector["kind"]]),
        vector["generation"].to_bytes(4, "big"),
        _hex(vector["name"]),
    )
    require(found == _hex(vector["id"]), "another object id")


def check_blob_vector(vector: dict[str, Any]) -> None:
    """Check one of `ids.blobs`."""
    require(digest(_hex(vector["content"])) == _hex(vector["id"]), "another blob hash")


def check_merkle_vector(vector: dict[str, Any]) -> None:
    """Check one of `merkle`: the root, and the path of every leaf."""
    leaves = [_hex(leaf) for leaf in vector["leaves"]]
    root = _hex(vector["root"])
    require(leaves and tree_root(leaves) == root, "another root")
    require(len(vector["paths"]) == len(leaves), "another number of paths")
    for index, path in enumerate(vector["paths"]):
        proven = proven_root(leaves[index], index, len(leaves), [_hex(node) for node in path])
        require(proven == root, "a path that does not prove its leaf")


def check_signature_vector(vector: dict[str, Any]) -> None:
    """Check one of `signatures`, and that the agent's key comes from the seed."""
    agent = _hex(vector["agent"])
    require(bytes(SigningKey(_hex(vector["seed"])).verify_key) == agent, "another agent")
    check_signature(agent, _hex(vector["message"]), _hex(vector["signature"]))


def check_batch_vector(vector: dict[str, Any]) -> None:
    """Check one of `batches`, whole."""
    header = _hex(vector["header"])
    identity, log, event_ids = check_batch(header, _hex(vector["signature"]), _hex(vector["body"]))
    require(_plain(read_header(header)) == vector["header_fields"], "other fields")
    require(identity == _hex(vector["id"]), "another batch id")
    require(log == _hex(vector["log"]), "another log id")
    require(event_ids == [_hex(text) for text in vector["event_ids"]], "other event ids")


CHECKS = {
    ("events",): check_event_vector,
    ("ids", "logs"): check_log_id_vector,
    ("ids", "events"): check_event_id_vector,
    ("ids", "objects"): check_object_id_vector,
    ("ids", "blobs"): check_blob_vector,
    ("merkle",): check_merkle_vector,
    ("signatures",): check_signature_vector,
    ("batches",): check_batch_vector,
}


def vectors_under(document: dict[str, Any], place: tuple[str, ...]) -> list[dict[str, Any]]:
    """Find the list of vectors at a place of CHECKS."""
    found: Any = document
    for key in place:
        found = found[key]
    return list(found)


def check_document(document: dict[str, Any]) -> int:
    """Check every vector of a file; give their number. Raises Refused at the first bad one."""
    checked = 0
    for place, check in CHECKS.items():
        for vector in vectors_under(document, place):
            check(vector)
            checked += 1
    return checked


if __name__ == "__main__":
    total = check_document(json.loads(Path(sys.argv[1]).read_text("ascii")))
    sys.stdout.write(f"{total} vectors are right\n")
