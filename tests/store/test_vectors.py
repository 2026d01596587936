"""Hold the golden vectors, the code and the second reader together.

The file of vectors never changes for a given version: a change here means another format.
"""

from __future__ import annotations

import ast
import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from store import codec, events, signing
from store.errors import Malformed
from store.ids import LogId, event_id
from store.signing import WireBatch
from tests.vectors import make, reader

DOCUMENT: dict[str, Any] = json.loads(make.VECTORS.read_text("ascii"))
CASES = [
    pytest.param(check, vector, id=f"{'.'.join(place)}-{number}")
    for place, check in reader.CHECKS.items()
    for number, vector in enumerate(reader.vectors_under(DOCUMENT, place))
]
Check = Callable[[dict[str, Any]], None]


def test_vectors_are_what_the_code_makes() -> None:
    assert make.VECTORS.read_text("ascii") == make.render()


def test_every_event_type_has_a_vector() -> None:
    with_vector = {vector["type"] for vector in DOCUMENT["events"]}

    assert with_vector == {
        kind.__name__ for kind in (events.ObjectEvent | events.FolderEvent).__args__
    }


def test_reader_imports_nothing_of_dizzyd() -> None:
    tree = ast.parse(Path(reader.__file__).read_text("utf-8"))
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }

    assert imported == {"__future__", "blake3", "json", "nacl", "pathlib", "sys", "typing"}


def test_reader_accepts_all_vectors() -> None:
    assert reader.check_document(DOCUMENT) == len(CASES)


@pytest.mark.parametrize(("check", "vector"), CASES)
def test_reader_refuses_each_mutated_vector(check: Check, vector: dict[str, Any]) -> None:
    rng = random.Random(1)  # one bit of each value, always the same
    mutations = 0

    for mutated in _mutations(vector, rng):
        mutations += 1
        with pytest.raises(reader.Refused):
            check(mutated)

    assert mutations > 0


def _mutations(vector: dict[str, Any], rng: random.Random) -> Iterator[dict[str, Any]]:
    """Give copies of the vector, each with one bit of one byte string or integer turned."""
    for place in _places(vector, ()):
        mutated = copy.deepcopy(vector)
        holder: Any = mutated
        for key in place[:-1]:
            holder = holder[key]
        value = holder[place[-1]]
        if isinstance(value, bool):
            holder[place[-1]] = int(not value) + 2
        elif isinstance(value, int):
            holder[place[-1]] = value ^ 1
        elif value:
            flipped = bytearray.fromhex(value)
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            holder[place[-1]] = flipped.hex()
        else:
            holder[place[-1]] = "00"
        yield mutated


def _places(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "type":
                yield from _places(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _places(item, (*place, index))
    elif value is not None:
        yield place


@pytest.mark.parametrize("vector", DOCUMENT["events"], ids=lambda vector: vector["type"])
def test_reader_and_code_agree_on_every_mutated_byte(vector: dict[str, Any]) -> None:
    original = bytes.fromhex(vector["event"])
    rng = random.Random(2)
    places = range(len(original)) if len(original) < 300 else rng.sample(range(len(original)), 300)

    for place in places:
        for value in {
            0,
            1,
            0x7F,
            0x80,
            0x90,
            0xC0,
            0xC4,
            0xC5,
            0xCC,
            0xD0,
            0xDC,
            0xFF,
            rng.randrange(256),
        }:
            event = original[:place] + bytes([value]) + original[place + 1 :]
            assert _code_reads(event) == _reader_reads(event), event.hex()
    for end in places:
        assert not _code_reads(original[:end])
        assert not _reader_reads(original[:end])
    assert not _code_reads(original + b"\xc0")
    assert not _reader_reads(original + b"\xc0")


def _code_reads(event: bytes) -> bool:
    try:
        found = events.decode(event)
    except Malformed:
        return False
    return not isinstance(found, events.FolderShared) or signing.verify_folder_shared(found)


def _reader_reads(event: bytes) -> bool:
    try:
        reader.read_event(event)
    except reader.Refused:
        return False
    return True


@pytest.mark.parametrize("vector", DOCUMENT["batches"], ids=lambda vector: vector["id"][:8])
def test_code_accepts_batch_vectors_and_proves_each_event(vector: dict[str, Any]) -> None:
    wire = WireBatch(*(bytes.fromhex(vector[part]) for part in ("header", "signature", "body")))

    signed = signing.verify(wire)

    assert signed.id.hex() == vector["id"]
    assert signed.log.hex() == vector["log"]
    assert [identity.hex() for identity in signed.event_ids] == vector["event_ids"]
    for index, event in enumerate(signed.events):
        leaf = event_id(LogId(signed.log), signed.header.seq, index, event)
        path = codec.merkle_path(signed.event_ids, index)
        root = codec.root_from_path(leaf, index, signed.header.count, path)
        assert root == signed.header.events_root


@pytest.mark.parametrize(
    "vector", DOCUMENT["merkle"], ids=lambda vector: str(len(vector["leaves"]))
)
def test_code_accepts_merkle_vectors_and_refuses_other_paths(vector: dict[str, Any]) -> None:
    leaves = [bytes.fromhex(leaf) for leaf in vector["leaves"]]
    root = bytes.fromhex(vector["root"])

    assert codec.merkle_root(leaves) == root
    for index, texts in enumerate(vector["paths"]):
        path = [bytes.fromhex(node) for node in texts]
        assert codec.merkle_path(leaves, index) == path
        assert codec.root_from_path(leaves[index], index, len(leaves), path) == root
        with pytest.raises(Malformed):
            codec.root_from_path(leaves[index], index, len(leaves), [*path, root])
        if path:
            with pytest.raises(Malformed):
                codec.root_from_path(leaves[index], index, len(leaves), path[:-1])
            assert codec.root_from_path(b"\xee" * 32, index, len(leaves), path) != root
