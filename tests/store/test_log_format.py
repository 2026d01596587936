"""Hold the sums of docs/log-format.md against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from store import codec, events
from store.codec import Header
from store.ids import AgentId, BatchId, Epoch, FolderId

TEXT = (Path(__file__).parents[2] / "docs" / "log-format.md").read_text("utf-8")
HASH = b"h" * 32
NOW_NS = 1_790_000_000_000_000_000


def header(  # noqa: PLR0917 - in the order of the format
    seq: int, prev: BatchId | None, deps: int, lamport: int, wall_ms: int, count: int, size: int
) -> int:
    return len(
        codec.encode_header(
            Header(
                version=1,
                folder=FolderId(HASH),
                agent=AgentId(HASH),
                epoch=Epoch(HASH[:16]),
                seq=seq,
                prev=prev,
                deps=(BatchId(HASH),) * deps,
                lamport=lamport,
                wall_ms=wall_ms,
                count=count,
                body_size=size,
                events_root=HASH,
            )
        )
    )


def test_sums_of_headers_are_true() -> None:
    sums = re.findall(r"([\d,]+(?:\+[\d,]+){11,13}) =\s+\*\*([\d,]+)\*\*", TEXT)
    top = 2**63 - 1
    prev = BatchId(HASH)

    assert [int(total.replace(",", "")) for _, total in sums] == [
        header(0, None, 0, 1, 0, 1, 3),
        header(top, prev, 1024, top, top, 4096, 2**20),
        header(200, prev, 1, 3000, NOW_NS // 10**6, 4000, 600_000),
    ]
    for addends, total in sums:
        assert sum(map(int, addends.replace(",", "").split("+"))) == int(total.replace(",", ""))


def test_sums_of_usual_events_are_true() -> None:
    content = events.Content(HASH, 5)

    assert len(events.encode(events.ObjectCreated(HASH, 0, 0, b"", content, 0, NOW_NS, ()))) == 87
    assert len(events.encode(events.ContentChanged(HASH, content, NOW_NS, ()))) == 82
    assert len(events.encode(events.ObjectMoved(HASH, HASH, b"", ()))) == 73
    for said in ("87 + n with", "82 with a size", "73 + n, 34 each"):
        assert said in TEXT


@pytest.mark.parametrize(
    ("said", "domain"),
    [
        ("12", "dizzyd/log/1"),
        ("14", "dizzyd/batch/1"),
        ("14", "dizzyd/event/1"),
        ("15", "dizzyd/object/1"),
        ("19", "dizzyd/sign/batch/1"),
        ("20", "dizzyd/sign/folder/1"),
    ],
)
def test_lengths_of_domains_are_true(said: str, domain: str) -> None:
    assert f'{said}  "{domain}"' in TEXT
    assert len(domain) == int(said)


def test_every_tag_stands_in_the_text() -> None:
    for kind in (events.ObjectEvent | events.FolderEvent).__args__:
        assert f"| {kind.__struct_config__.tag} | {kind.__name__} |" in TEXT


def test_limits_stand_in_the_text() -> None:
    for limit in (
        codec.HEADER_LIMIT_BYTES,
        codec.BODY_LIMIT_BYTES,
        codec.EVENTS_LIMIT,
        codec.DEPS_LIMIT,
        events.EVENT_LIMIT_BYTES,
    ):
        assert f"{limit:,}" in TEXT
