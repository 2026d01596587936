"""Say what verify found in one folder, so that repair need not read it out of sentences.

Values only; nothing here heals.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.disk import Looked, LookFailure
from store.records import SyncedRow


@dataclass(frozen=True, slots=True, kw_only=True)
class RottenFile:
    """A file whose bytes are not those recorded, and nothing else about it changed."""

    path: bytes
    rows: list[SyncedRow]
    looked: Looked


@dataclass(frozen=True, slots=True, kw_only=True)
class LostVersion:
    """A version in history that is gone, or holds other bytes than were kept."""

    name: bytes
    value: bytes
    size: int
    look: Looked | LookFailure


@dataclass(slots=True, kw_only=True)
class Damages:
    """What was found in one folder, for whoever heals it."""

    log: list[str] = field(default_factory=list)
    records: list[SyncedRow] = field(default_factory=list)  # of synced, that no event explains
    state: list[str] = field(default_factory=list)
    files: list[RottenFile] = field(default_factory=list)
    history: list[LostVersion] = field(default_factory=list)
    other: list[str] = field(default_factory=list)  # only a person can help
