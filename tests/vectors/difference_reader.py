"""Read a Difference message by docs/wire.md alone, with nothing of dizzyd, and hold it to bytes.

It is given both contents, so that each field can be shown to be right or wrong.
"""

from __future__ import annotations

from typing import Any

import msgspec
from blake3 import blake3

HEADER_BYTES = 7
FINE_LINE_BYTES = 18


class Refused(Exception):
    """The message says what is not so."""


def _hold(is_so: bool, what: str) -> None:
    if not is_so:
        raise Refused(what)


def _number(value: Any) -> int:
    _hold(type(value) is int and value >= 0, "a number")
    return int(value)


def check(frame: bytes, request: int, old: bytes, old_lengths: list[int], new: bytes) -> int:
    """Refuse all but the one frame that says how `new` differs from `old`; give its chunks."""
    _hold(frame[:HEADER_BYTES] == bytes((65, 0, 0, 0, 1, 0, 0)), "frame header")
    try:
        decoded = msgspec.msgpack.decode(frame[HEADER_BYTES:])
    except msgspec.DecodeError as cause:
        raise Refused("msgpack") from cause
    _hold(isinstance(decoded, list) and len(decoded) == 4, "four fields")
    _hold(_number(decoded[0]) == request and _number(decoded[1]) == 0, "request, first")
    _hold(isinstance(decoded[3], list), "stretches")
    starts = [sum(old_lengths[:number]) for number in range(len(old_lengths) + 1)]
    offset = chunks = 0
    for stretch in decoded[3]:
        _hold(isinstance(stretch, list) and len(stretch) == 6, "six fields")
        fresh, fine, first, count, source, length = stretch
        _hold(isinstance(fresh, list), "chunks")
        begin = offset
        for line in fresh:
            _hold(isinstance(line, list) and len(line) == 2, "a chunk")
            end = offset + _number(line[1])
            _hold(blake3(new[offset:end]).digest() == line[0] and end <= len(new), "chunk")
            offset = end
        _check_fine(fine, new[begin:offset])
        _hold(_number(first) + _number(count) <= len(old_lengths), "equal chunks")
        if count:
            _hold(_number(source) == starts[first], "offset of the equal ones")
            _hold(_number(length) == starts[first + count] - source, "their length")
            same = old[source : source + length]
            _hold(new[offset : offset + length] == same, "their bytes")
            offset += length
        else:
            _hold([first, source, length] == [0, 0, 0], "no equal ones")
        chunks += len(fresh) + count
    _hold(offset == len(new), "all of it")
    _hold(_number(decoded[2]) == chunks, "total")
    return chunks


def _check_fine(fine: Any, span: bytes) -> None:
    _hold(isinstance(fine, bytes) and len(fine) % FINE_LINE_BYTES == 0, "fine chunks")
    offset = 0
    for start in range(0, len(fine), FINE_LINE_BYTES):
        length = int.from_bytes(fine[start + 16 : start + 18], "big") + 1
        piece = span[offset : offset + length]
        _hold(blake3(piece).digest()[:16] == fine[start : start + 16], "fine chunk")
        _hold(len(piece) == length, "fine chunk")
        offset += length
    _hold(offset == len(span), "fine chunks refine all of it")
