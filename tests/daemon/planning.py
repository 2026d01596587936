"""Random trees, and a tree in memory that executes steps as strictly as a kernel would."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from msgspec.structs import replace

from daemon.steps import (
    Bind,
    Claim,
    Key,
    MakeDirectory,
    MakeLink,
    MoveName,
    Place,
    RemoveDirectory,
    RemoveFile,
    RemoveTree,
    Renumber,
    SetAttributes,
    Step,
    SwapNames,
    WriteFile,
    key_of,
)
from store.ids import Kind, blob_hash
from store.records import PRIMARY, Entry, SyncedRow

ROOT = 0
NAMES = [b"a", b"b", b"c", b"d"]
CONTENTS = [b"", b"one", b"two", b"three"]
EVENT = b"e" * 32


def file_entry(
    no: int,
    parent: int,
    name: bytes,
    content: bytes = b"one",
    *,
    copy: bytes = PRIMARY,
    mode: int = 0,
    mtime_ns: int = 10**18,
    events: bytes = EVENT,
    placement: bytes = b"",
) -> Entry:
    return Entry(
        object_no=no,
        copy=copy,
        parent_no=parent,
        name=name,
        kind=Kind.FILE,
        value=blob_hash(content),
        size=len(content),
        mtime_ns=mtime_ns,
        mode=mode,
        events=events,
        placement=placement,
    )


def directory_entry(no: int, parent: int, name: bytes, events: bytes = EVENT) -> Entry:
    return Entry(
        object_no=no,
        copy=PRIMARY,
        parent_no=parent,
        name=name,
        kind=Kind.DIRECTORY,
        value=b"",
        size=0,
        mtime_ns=0,
        mode=0,
        events=events,
        placement=b"",
    )


def link_entry(no: int, parent: int, name: bytes, target: bytes) -> Entry:
    return Entry(
        object_no=no,
        copy=PRIMARY,
        parent_no=parent,
        name=name,
        kind=Kind.SYMLINK,
        value=target,
        size=len(target),
        mtime_ns=0,
        mode=0,
        events=EVENT,
        placement=b"",
    )


def synced_as(entry: Entry, inode: int = 0) -> SyncedRow:
    return SyncedRow(
        object_no=entry.object_no,
        copy=entry.copy,
        parent_no=entry.parent_no,
        name=entry.name,
        kind=entry.kind,
        value=entry.value,
        inode=inode or entry.object_no,
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        ctime_ns=0,
        mode=entry.mode,
        looked_at_ns=2 * 10**18,
        shared_mtime_ns=entry.mtime_ns,
        events=entry.events,
        placement=entry.placement,
    )


def parents(entries: list[Entry]) -> dict[int, int]:
    return {entry.object_no: entry.parent_no for entry in entries if entry.kind is Kind.DIRECTORY}


@dataclass(eq=False)
class Thing:
    """A directory, or a file with a value."""

    kind: Kind
    value: bytes = b""
    names: dict[bytes, Thing] = field(default_factory=dict)


class Tree:
    """Executes steps; any step that a kernel would refuse is an AssertionError."""

    def __init__(self, rows: list[SyncedRow]) -> None:
        self.root = Thing(Kind.DIRECTORY)
        self.directories: dict[int, Thing] = {ROOT: self.root}
        self.rows: dict[Key, SyncedRow] = {}
        self.renames = 0
        self.stored: set[Key] = set()
        left = list(rows)
        while left:
            row = left.pop(0)
            parent = self.directories.get(row.parent_no)
            if parent is None:
                left.append(row)
                continue
            thing = parent.names.setdefault(row.name, Thing(row.kind, row.value))
            if row.kind is Kind.DIRECTORY:
                self.directories[row.object_no] = thing
            self.rows[key_of(row)] = row

    def _count(self, directory_no: int) -> int:
        waiting = [self.directories[directory_no]]
        count = 0
        while waiting:
            names = waiting.pop().names
            count += len(names)
            waiting.extend(names.values())
        return count

    def execute(self, step: Step) -> None:
        match step:
            case RemoveTree():
                names = sum(self._count(row.object_no) for row in step.rows[:1])
                assert names == len(step.inside), "something else stands in it"
                for removal in step.singly:
                    self.execute(removal)
            case MakeDirectory(claim):
                self._put(claim.place, Thing(Kind.DIRECTORY))
                self._claim(claim)
            case MoveName(rows, source, target, _):
                self.renames += 1
                thing = self._take(source)
                self._is_same(thing, rows)
                assert not _is_inside(self.directories[target.parent_no], thing)
                self._put(target, thing)
                self._moved(step)
            case SwapNames(one, other):
                self.renames += 1
                assert one.source == other.target
                assert one.target == other.source
                first, second = self._take(one.source), self._take(other.source)
                self._is_same(first, one.rows)
                self._is_same(second, other.rows)
                assert not _is_inside(self.directories[one.target.parent_no], first)
                assert not _is_inside(self.directories[other.target.parent_no], second)
                self._put(one.target, first)
                self._put(other.target, second)
                self._moved(one)
                self._moved(other)
            case WriteFile(claim, before, displaced_to):
                old = self._replace(claim, before)
                if displaced_to is not None:
                    assert displaced_to.entry.value == old.value
                    self._put(displaced_to.place, old)
                    self._claim(displaced_to)
            case MakeLink(claim, before):
                self._replace(claim, before)
            case RemoveFile(rows, source):
                thing = self._take(source)
                assert thing.kind is not Kind.DIRECTORY
                self._is_same(thing, rows)
                self._forget(tuple(key_of(row) for row in rows))
            case RemoveDirectory(rows, source):
                thing = self._take(source)
                assert thing.kind is Kind.DIRECTORY
                assert not thing.names
                self._forget(tuple(key_of(row) for row in rows))
            case SetAttributes(claim, rows, _):
                self._is_same(self.directories[claim.place.parent_no].names[claim.place.name], rows)
                self._claim(claim)
            case Renumber(rows):
                for row in rows:
                    assert self.directories[row.parent_no].names[row.name].kind is row.kind
                    self.rows[key_of(row)] = row
            case Bind(claim, _, gone):
                self._forget(gone)
                if claim is not None:
                    thing = self.directories[claim.place.parent_no].names[claim.place.name]
                    assert thing.kind is claim.entry.kind
                    assert thing.value == claim.entry.value
                    self._claim(claim)

    def listing(self) -> dict[bytes, tuple[Kind, bytes]]:
        found: dict[bytes, tuple[Kind, bytes]] = {}
        left = [(b"", self.root)]
        while left:
            path, thing = left.pop()
            for name, inner in thing.names.items():
                found[path + b"/" + name] = inner.kind, inner.value
                left.append((path + b"/" + name, inner))
        return found

    def _moved(self, move: MoveName) -> None:
        if move.claim is not None:
            self._claim(move.claim)
            return
        for row in move.rows:
            if key_of(row) not in self.stored:
                place = move.target
                moved = replace(row, parent_no=place.parent_no, name=place.name)
                self.rows[key_of(row)] = moved

    def _replace(self, claim: Claim, before: tuple[SyncedRow, ...]) -> Thing:
        old = Thing(claim.entry.kind)
        if before:
            old = self._take(claim.place)
            self._is_same(old, before)
        self._put(claim.place, Thing(claim.entry.kind, claim.entry.value))
        self._claim(claim)
        return old

    def _put(self, place: Place, thing: Thing) -> None:
        names = self.directories[place.parent_no].names
        assert place.name not in names, f"{place.name!r} is taken"
        names[place.name] = thing

    def _take(self, place: Place) -> Thing:
        return self.directories[place.parent_no].names.pop(place.name)

    def _is_same(self, thing: Thing, rows: tuple[SyncedRow, ...]) -> None:
        assert thing.kind is rows[0].kind
        assert thing.value == rows[0].value

    def _claim(self, claim: Claim) -> None:
        self._forget(claim.gone)
        thing = self.directories[claim.place.parent_no].names[claim.place.name]
        for entry in claim.entries:
            if entry.kind is Kind.DIRECTORY:
                self.directories[entry.object_no] = thing
            row = synced_as(entry)
            self.rows[key_of(entry)] = replace(row, value=thing.value)
            self.stored.add(key_of(entry))

    def _forget(self, gone: tuple[Key, ...]) -> None:
        for key in gone:
            if key not in self.stored:
                self.rows.pop(key, None)


def _is_inside(inner: Thing, outer: Thing) -> bool:
    return inner is outer or any(_is_inside(inner, thing) for thing in outer.names.values())


def listing_of(entries: list[Entry]) -> dict[bytes, tuple[Kind, bytes]]:
    paths = {ROOT: b""}
    found: dict[bytes, tuple[Kind, bytes]] = {}
    left = list(entries)
    while left:
        entry = left.pop(0)
        parent = paths.get(entry.parent_no)
        if parent is None:
            left.append(entry)
            continue
        path = parent + b"/" + entry.name
        found[path] = entry.kind, entry.value
        if entry.kind is Kind.DIRECTORY:
            paths[entry.object_no] = path
    return found


@st.composite
def trees(draw: st.DrawFn, count: int = 8, *, is_mixed: bool = True) -> list[Entry]:
    """Views over a fixed set of objects: 1 to 4 directories, 5 to 8 files, 9 and 10 links.

    Kinds are fixed by number, as object ids are; places, values and presence differ. Some
    objects collapse into another of the same name, some have a conflict copy (is_mixed).
    """
    entries: list[Entry] = []
    taken: dict[tuple[int, bytes], Entry] = {}
    representative = {ROOT: ROOT}
    numbers = draw(st.permutations(range(1, 11)))
    placed = [ROOT]
    for no in sorted(numbers[:count], key=lambda no: (no > 4, numbers.index(no))):
        parent = representative[draw(st.sampled_from(placed))]
        name = draw(st.sampled_from(NAMES))
        entry = _draw_entry(draw, no, parent, name)
        there = taken.get((parent, name))
        if there is not None:
            if not is_mixed or there.kind is not entry.kind or there.value != entry.value:
                continue
            entry = replace(entry, collapsed=True)
        else:
            taken[parent, name] = entry
        entries.append(entry)
        if entry.kind is Kind.DIRECTORY:
            representative[no] = no if there is None else there.object_no
            placed.append(no)
        elif entry.kind is Kind.FILE and there is None and is_mixed and draw(st.booleans()):
            other = draw(st.sampled_from([c for c in CONTENTS if blob_hash(c) != entry.value]))
            copy = file_entry(no, parent, name + b" (conflict)", other, copy=b"c" * 32)
            if (parent, copy.name) not in taken:
                taken[parent, copy.name] = copy
                entries.append(copy)
    return draw(st.permutations(entries))


def _draw_entry(draw: st.DrawFn, no: int, parent: int, name: bytes) -> Entry:
    events = draw(st.sampled_from([EVENT, b"f" * 32]))
    if no <= 4:
        return directory_entry(no, parent, name, events)
    if no >= 9:
        return link_entry(no, parent, name, draw(st.sampled_from([b"x", b"y/z"])))
    return file_entry(
        no,
        parent,
        name,
        draw(st.sampled_from(CONTENTS)),
        events=events,
        mode=draw(st.integers(0, 1)),
        mtime_ns=draw(st.sampled_from([10**18, 10**18 + 5])),
    )
