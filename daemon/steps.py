"""Define the steps that make a disk equal to the view, as values.

A step says what is to be done and which synced rows are true afterwards. Directories are named
by object number, never by path: a path is found when the step is executed, since the steps
before it may have moved the directory. Nothing here knows a disk.
"""

from __future__ import annotations

from msgspec import Struct

from store.ids import Kind
from store.records import Entry, SyncedRow

Key = tuple[int, bytes]  # object_no and copy: what a synced row is stored under

# Names that things have for a moment while a circle of moves is broken. Synced knows them there,
# so that a crash leaves nothing unknown: the next plan moves them on.
PARKING_PREFIX = b".dizzyd-tmp-"


class Place(Struct, frozen=True, array_like=True, gc=False):
    """A name in a directory."""

    parent_no: int
    name: bytes


class Claim(Struct, frozen=True, array_like=True, gc=False):
    """What a step makes true: the entry, those collapsed into it, and the keys that end."""

    entry: Entry
    also: tuple[Entry, ...] = ()
    gone: tuple[Key, ...] = ()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries that stand at this one path, the representative first."""
        return (self.entry, *self.also)

    @property
    def place(self) -> Place:
        """Where it is to stand."""
        return Place(self.entry.parent_no, self.entry.name)


class MakeDirectory(Struct, frozen=True, tag=1, gc=False):
    """Make a directory."""

    claim: Claim


class MoveName(Struct, frozen=True, tag=2, gc=False):
    """Rename a file or directory; without a claim it is only put aside for later steps."""

    rows: tuple[SyncedRow, ...]
    source: Place
    target: Place
    claim: Claim | None


class SwapNames(Struct, frozen=True, tag=3, gc=False):
    """Exchange two names; a side without a claim moves on in a later step."""

    one: MoveName
    other: MoveName


class WriteFile(Struct, frozen=True, tag=4, gc=False):
    """Put a content in place, as a new file or (`before`) instead of what stands there.

    The bytes replaced are wanted at `displaced_to` if that is given, else they go to history.
    """

    claim: Claim
    before: tuple[SyncedRow, ...] = ()
    displaced_to: Claim | None = None


class MakeLink(Struct, frozen=True, tag=5, gc=False):
    """Make a symlink, new or instead of the one that stands there."""

    claim: Claim
    before: tuple[SyncedRow, ...] = ()


class SetAttributes(Struct, frozen=True, tag=6, gc=False):
    """Set the executable bit, and the time where `sets_mtime`."""

    claim: Claim
    rows: tuple[SyncedRow, ...]
    sets_mtime: bool


class RemoveFile(Struct, frozen=True, tag=7, gc=False):
    """Move a file or symlink to history."""

    rows: tuple[SyncedRow, ...]
    source: Place


class RemoveDirectory(Struct, frozen=True, tag=8, gc=False):
    """Remove a directory that is empty, but for ignored names perhaps."""

    rows: tuple[SyncedRow, ...]
    source: Place


class Bind(Struct, frozen=True, tag=9, gc=False):
    """Change synced alone: the disk is already as wanted.

    `rows` are what synced says of the path; without any, the path is looked at first. Without a
    claim only the keys `gone` end, while others still hold the path.
    """

    claim: Claim | None
    rows: tuple[SyncedRow, ...] = ()
    gone: tuple[Key, ...] = ()


class Renumber(Struct, frozen=True, tag=10, gc=False):
    """Have rows name their directory by another of its numbers, before one of them parts."""

    rows: tuple[SyncedRow, ...]


Removal = RemoveFile | RemoveDirectory


class RemoveTree(Struct, frozen=True, tag=11, gc=False):
    """Remove a directory with all that synced knows in it, by one rename.

    `inside` are the removals that it stands for, each directory's after those of its contents.
    """

    rows: tuple[SyncedRow, ...]
    source: Place
    inside: tuple[Removal, ...]

    @property
    def singly(self) -> tuple[Removal, ...]:
        """The same, one name after the other."""
        return (*self.inside, RemoveDirectory(self.rows, self.source))

    @property
    def all_rows(self) -> tuple[SyncedRow, ...]:
        """The rows of everything that goes."""
        return (*self.rows, *(row for removal in self.inside for row in removal.rows))


class NewNames(Struct, frozen=True, tag=13, gc=False):
    """Files and links that come where nothing stood, together: what one intent tells of a round.

    No step of a plan; each of them is one there.
    """

    claims: tuple[Claim, ...]


Step = (
    MakeDirectory
    | MoveName
    | SwapNames
    | WriteFile
    | MakeLink
    | SetAttributes
    | RemoveFile
    | RemoveDirectory
    | RemoveTree
    | Bind
    | Renumber
)


class Blocked(Struct, frozen=True, gc=False):
    """An entry or removal that must wait: `by` are the objects to be planned together with it."""

    place: Place
    object_nos: tuple[int, ...]
    by: tuple[int, ...]


class Plan(Struct, frozen=True):
    """Steps in the order in which they can be done.

    Plan.objects are all objects that were looked at; a plan supersedes what an earlier one, still
    running, wanted for any of them.
    """

    steps: tuple[Step, ...]
    blocked: tuple[Blocked, ...] = ()
    objects: frozenset[int] = frozenset()


def key_of(about: Entry | SyncedRow) -> Key:
    """Give the key under which a synced row of this is stored."""
    return about.object_no, about.copy


def row_for(key: Key, rows: tuple[SyncedRow, ...]) -> SyncedRow:
    """Pick the row of a key, else the first: all rows of one path tell of one file."""
    for row in rows:
        if (row.object_no, row.copy) == key:
            return row
    return rows[0]


def agrees(entry: Entry, row: SyncedRow) -> bool:
    """Whether synced already holds all that the entry says."""
    return (
        entry.events == row.events
        and entry.name == row.name
        and entry.parent_no == row.parent_no
        and entry.placement == row.placement
        and entry.value == row.value
        and entry.object_no == row.object_no
        and entry.copy == row.copy
        and not row.leftover
        and not changes_attributes(entry, row)
    )


def is_agreed(claim: Claim, rows: tuple[SyncedRow, ...]) -> bool:
    """Whether synced already holds all that the claim says."""
    return not claim.gone and all(
        agrees(entry, row_for(key_of(entry), rows)) for entry in claim.entries
    )


def changes_attributes(entry: Entry, row: SyncedRow) -> bool:
    """Whether the shared executable bit or time are not those that synced holds."""
    return entry.kind is Kind.FILE and (
        entry.mode != row.mode or entry.mtime_ns != row.shared_mtime_ns
    )


def place_of(step: Step) -> Place:
    """Give the place that a step is about."""
    match step:
        case MoveName(_, _, target, _):
            return target
        case SwapNames(one, _):
            return one.target
        case RemoveFile(_, source) | RemoveDirectory(_, source) | RemoveTree(_, source, _):
            return source
        case Bind(None, rows, _) | Renumber(rows):
            return Place(rows[0].parent_no, rows[0].name)
        case Bind(claim, _, _) if claim is not None:
            return claim.place
        case MakeDirectory(claim) | WriteFile(claim, _, _) | MakeLink(claim, _):
            return claim.place
        case SetAttributes(claim, _, _):
            return claim.place
    raise TypeError(step)


def places_before(step: Step) -> set[Place]:
    """Give where synced has what a step was to move or remove."""
    match step:
        case SwapNames(one, other):
            return places_before(one) | places_before(other)
        case RemoveTree():
            rows = step.all_rows
            return {Place(row.parent_no, row.name) for row in rows}
        case MoveName(rows, _, _, _) | RemoveFile(rows, _) | RemoveDirectory(rows, _):
            return {Place(row.parent_no, row.name) for row in rows}
    return set()


def numbers_of(step: Step) -> tuple[int, ...]:
    """List the objects that a step is about."""
    found: set[int] = set()
    match step:
        case SwapNames(one, other):
            found.update(numbers_of(one), numbers_of(other))
            return tuple(sorted(found))
        case WriteFile(claim, rows, carried):
            found.update(entry.object_no for entry in claim.entries)
            if carried is not None:
                found.update(entry.object_no for entry in carried.entries)
        case MakeDirectory(claim):
            rows = ()
            found.update(entry.object_no for entry in claim.entries)
        case MakeLink(claim, rows) | SetAttributes(claim, rows, _):
            found.update(entry.object_no for entry in claim.entries)
        case MoveName(rows, _, _, target) | Bind(target, rows, _):
            if target is not None:
                found.update(entry.object_no for entry in target.entries)
        case RemoveTree():
            rows = step.all_rows
        case RemoveFile(rows, _) | RemoveDirectory(rows, _) | Renumber(rows):
            pass
    found.update(row.object_no for row in rows)
    return tuple(sorted(found))
