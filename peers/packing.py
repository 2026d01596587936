"""Make batches ready to be sent, compressed where that saves something, and take them out again.

Pure. No memory is taken on the word of a peer; whether a batch is true is for
`store.signing.verify` alone.
"""

from __future__ import annotations

from typing import Final

import zstandard

from peers.wire import PackedBatch
from store.codec import BODY_LIMIT_BYTES
from store.errors import Malformed
from store.signing import WireBatch

COMPRESS_FROM_BYTES: Final = 4 * 1024


def pack(batch: WireBatch, *, is_compressed: bool = True) -> PackedBatch:
    """Make a batch ready to be sent; the body is compressed where that saves a tenth."""
    size = len(batch.body)
    if is_compressed and size >= COMPRESS_FROM_BYTES:
        deflated = zstandard.ZstdCompressor(level=1).compress(batch.body)
        if len(deflated) * 10 < size * 9:
            return PackedBatch(batch.header, batch.signature, deflated, size)
    return PackedBatch(batch.header, batch.signature, batch.body, None)


def unpack(packed: PackedBatch) -> WireBatch:
    """Give the batch as its author signed it.

    Raises Malformed unless the body is one zstd frame that declares exactly `inflated_size`
    bytes (at most 1 MiB) and holds them: no memory is taken on the word of the frame alone.
    """
    if packed.inflated_size is None:
        return WireBatch(packed.header, packed.signature, packed.body)
    try:
        if zstandard.frame_content_size(packed.body) != packed.inflated_size:
            raise Malformed("batch", "is compressed but not of the size it says")
        body = zstandard.ZstdDecompressor(max_window_size=2 * BODY_LIMIT_BYTES).decompress(
            packed.body, max_output_size=packed.inflated_size, allow_extra_data=False
        )
    except zstandard.ZstdError as cause:
        raise Malformed("batch", "is not well compressed") from cause
    if len(body) != packed.inflated_size:
        raise Malformed("batch", "inflates to another size than it says")
    return WireBatch(packed.header, packed.signature, body)
