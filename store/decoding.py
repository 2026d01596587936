"""Decode the events of a batch, each once, and name the rule that one of them breaks.

Names and links are proven here for all that follows. Roles, order and meaning are others' to judge.
"""

from __future__ import annotations

from collections.abc import Sequence

from store.codec import decode_header
from store.errors import Malformed, UnsafePath
from store.events import (
    FIRST_OPTIONAL_TAG,
    ContentChanged,
    Event,
    FolderShared,
    ObjectCreated,
    ObjectMoved,
    decode,
    tag_of,
)
from store.paths import is_reserved, safe_name
from store.signing import SignedBatch, verify_folder_shared

KNOWN_TAGS = frozenset((1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21))


def needs_newer(signed: SignedBatch) -> bool:
    """Whether a batch has an event that this dizzyd neither understands nor may skip."""
    return any(tag < FIRST_OPTIONAL_TAG for tag in signed.tags - KNOWN_TAGS)


def decoded_events(signed: SignedBatch) -> tuple[Sequence[Event | None], str]:
    """Decode every event once, and name the rule that one breaks.

    None stands for what is of an unknown kind, and for what a snapshot left out (it is empty).
    The schema is the rule, and names and links are proven here, for all that follows.
    """
    is_known = signed.tags <= KNOWN_TAGS
    folder = signed.header.folder
    found: list[Event | None] = []
    try:
        for raw in signed.events:
            if not raw or (not is_known and tag_of(raw) not in KNOWN_TAGS):
                found.append(None)
                continue
            event = decode(raw)
            found.append(event)
            if isinstance(event, ObjectCreated | ObjectMoved):
                name = safe_name(event.name)
                if is_reserved(event.parent == folder, name):
                    return (), "unsafe-name"
            if isinstance(event, ObjectCreated | ContentChanged):
                content = event.content
                if isinstance(content, bytes) and b"\0" in content:
                    return (), "unsafe-link"
            elif isinstance(event, FolderShared) and (
                event.folder != folder or not verify_folder_shared(event)
            ):
                return (), "bad-signature"
    except Malformed:
        return (), "malformed"
    except UnsafePath:
        return (), "unsafe-name"
    return found, ""


def is_whole(header: bytes, body: bytes) -> bool:
    """Whether a stored batch has all its events, as its header says."""
    return bool(header) and decode_header(header).body_size == len(body)
