"""Hold one thing of a plan: what it is on disk, what it is to be, and where it stands meanwhile.

Values that daemon.pairing makes and daemon.ordering plays with; nothing is decided here.
"""

from __future__ import annotations

from enum import IntEnum

from daemon.steps import Claim, Place
from store.ids import Kind
from store.records import Entry, SyncedRow


class Action(IntEnum):
    """What still has to happen to a node."""

    NONE = 0
    MAKE = 1
    MOVE = 2
    REMOVE = 3
    BIND = 4


class Node:
    """One thing: what it is on disk (`rows`), what it is to be (`claim`), or both."""

    __slots__ = (
        "action",
        "carries",
        "children",
        "claim",
        "directory_no",
        "exists",
        "goal_parent",
        "index",
        "is_blocked",
        "is_carried",
        "is_parked",
        "is_stuck",
        "name",
        "parent",
        "rows",
        "was_in_place",
    )

    def __init__(self, rows: tuple[SyncedRow, ...] = (), outside_no: int | None = None) -> None:
        """Begin with what synced says; `outside_no` is a directory that does not change."""
        self.rows = rows
        self.claim: Claim | None = None
        self.parent: Node | None = None  # where it stands now, as the steps are played
        self.name = rows[0].name if rows else b""
        self.goal_parent: Node | None = None
        self.index = -1
        self.exists = bool(rows) or outside_no is not None
        self.directory_no = rows[0].object_no if rows else (outside_no or 0)
        self.children = 0  # known ones, standing in it now
        self.action = Action.NONE
        self.carries: Node | None = None
        self.is_carried = False
        self.is_parked = False
        self.is_blocked = False
        self.is_stuck = False
        self.was_in_place = False

    @property
    def entry(self) -> Entry | None:
        """What is wanted of it first of all."""
        return None if self.claim is None else self.claim.entry

    @property
    def kind(self) -> Kind:
        """What it is; an outside node is a directory."""
        if self.rows:
            return self.rows[0].kind
        return Kind.DIRECTORY if self.claim is None else self.claim.entry.kind

    @property
    def is_in_place(self) -> bool:
        """Whether it stands where it is wanted, once its parents are."""
        return (
            self.claim is not None
            and self.exists
            and self.parent is self.goal_parent
            and self.name == self.claim.entry.name
        )

    @property
    def is_open(self) -> bool:
        """Whether names can be put into it by the number that their entries give."""
        return self.exists and (
            self.claim is None or self.directory_no == self.claim.entry.object_no
        )

    @property
    def place(self) -> Place:
        """Where it stands now, by the number that its directory has now."""
        return Place(0 if self.parent is None else self.parent.directory_no, self.name)
