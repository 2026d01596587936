"""Cut messages into frames, and put the frames of one link together into messages again.

Pure: no socket, no clock. It knows no kind of message: what a payload says, and whether it may,
is for the parser that it is given. Every length is checked before memory is taken for it. The
layout is that of docs/wire.md, "Frames and messages".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from store.errors import Malformed

Buffer = bytes | bytearray | memoryview
T = TypeVar("T")

FRAME_LIMIT_BYTES: Final = 256 * 1024
MESSAGE_LIMIT_BYTES: Final = 1024 * 1024 + 64 * 1024
# frame = kind u8 ‖ stream u32 ‖ index u8 ‖ more u8 ‖ piece: 1 + 4 + 1 + 1 = 7 bytes before it
FRAME_HEADER_BYTES: Final = 7
PIECE_LIMIT_BYTES: Final = FRAME_LIMIT_BYTES - FRAME_HEADER_BYTES
FRAMES_LIMIT: Final = 5  # 5 * 262,137 ≥ 1,114,112
STREAMS_LIMIT: Final = 8  # messages that may be under way at once; at most 8.5 MiB a link


def cut(kind: int, stream: int, payload: bytes) -> list[bytes]:
    """Cut the payload of one message into frames. Raises Malformed if it is too large."""
    size = len(payload)
    if size > MESSAGE_LIMIT_BYTES:
        raise Malformed("message", f"has {size} bytes, at most {MESSAGE_LIMIT_BYTES} are allowed")
    if size <= PIECE_LIMIT_BYTES:
        return [frame_header(kind, stream, 0, 0) + payload]
    view = memoryview(payload)
    starts = range(0, size, PIECE_LIMIT_BYTES)
    last = len(starts) - 1
    return [
        b"".join(
            (
                frame_header(kind, stream, index, last - index),
                view[start : start + PIECE_LIMIT_BYTES],
            )
        )
        for index, start in enumerate(starts)
    ]


def frame_header(kind: int, stream: int, index: int, more: int) -> bytes:
    """Give the bytes before a piece: `more` frames of its message follow it."""
    return bytes((kind,)) + (stream & 0xFFFFFFFF).to_bytes(4, "big") + bytes((index, more))


class Assembler(Generic[T]):
    """Puts the frames of one link together into messages.

    Holds at most STREAMS_LIMIT unfinished messages; where a frame was lost the oldest of them
    makes room in the end, and what it was about is asked for again by those who miss it.
    """

    def __init__(self, parse: Callable[[int, Buffer], T]) -> None:
        """Begin with nothing under way; `parse(kind, payload)` makes the messages."""
        self._parse = parse
        self._open: OrderedDict[tuple[int, int], list[Buffer | None]] = OrderedDict()
        self.lost = 0

    @property
    def open_streams(self) -> int:
        """The number of messages of which some frames are here."""
        return len(self._open)

    def accept(self, frame: Buffer) -> T | None:
        """Take one frame; give the message that it completes, if it does.

        Raises Malformed for a frame or a message that is too large, or not well formed.
        """
        size = len(frame)
        if not FRAME_HEADER_BYTES <= size <= FRAME_LIMIT_BYTES:
            raise Malformed("frame", f"has {size} bytes")
        kind, index, more = frame[0], frame[5], frame[6]
        if index + more >= FRAMES_LIMIT:
            raise Malformed("frame", f"belongs to a message of {index + more + 1} frames")
        piece = memoryview(frame)[FRAME_HEADER_BYTES:]
        if index + more == 0:
            return self._parse(kind, piece)
        if more and len(piece) != PIECE_LIMIT_BYTES:
            raise Malformed("frame", "is not full but is not the last")
        return self._keep((kind, int.from_bytes(frame[1:5], "big")), index, more, piece)

    def _keep(self, stream: tuple[int, int], index: int, more: int, piece: memoryview) -> T | None:
        pieces = self._open.get(stream)
        if pieces is None or len(pieces) != index + more + 1:
            pieces = self._open[stream] = [None] * (index + more + 1)
            if len(self._open) > STREAMS_LIMIT:
                self._open.popitem(last=False)
                self.lost += 1
        pieces[index] = piece
        whole = [one for one in pieces if one is not None]
        if len(whole) < len(pieces):
            return None
        del self._open[stream]
        if sum(map(len, whole)) > MESSAGE_LIMIT_BYTES:
            raise Malformed("message", "is larger than a message may be")
        return self._parse(stream[0], b"".join(whole))
