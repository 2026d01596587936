"""Pair what synced has on this disk with what the view wants there.

Whatever can be renamed is paired, so that it is; what is left over is made, or leaves. Which steps
follow, and in which order, is not decided here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from daemon.plan_nodes import Node
from daemon.steps import (
    Bind,
    Blocked,
    Claim,
    Key,
    Place,
    Renumber,
    Step,
    key_of,
)
from store.ids import Kind
from store.records import PRIMARY, Entry, SyncedRow


class Pairing:
    """Pairs things on disk with things wanted; each pair is a Node."""

    def __init__(
        self,
        wanted: Sequence[Entry],
        synced: Sequence[SyncedRow],
        occupants: Sequence[SyncedRow],
        parent_of: Callable[[int], int | None],
        changed: frozenset[int],
    ) -> None:
        """Group what shares a place; `changed` are the objects that are planned."""
        self._parent_of = parent_of
        self._directories: dict[int, Node] = {}  # by number, where they stand now
        self._goals: dict[int, Node] = {}  # by number, where they are wanted
        self.nodes: list[Node] = []
        self.binds: list[Step] = []
        self.late_binds: list[Step] = []
        self.blocked: list[Blocked] = []
        self._wanted_keys = {key_of(entry) for entry in wanted}
        others = [row for row in occupants if row.object_no not in changed]
        self._canonical = _canonical_directories([*synced, *others])
        self._held: dict[Place, list[SyncedRow]] = defaultdict(list)
        for row in others:
            self._held[self._place_of(row)].append(row)
        self._blocked_keys: set[Key] = set()
        self._owners = {row.object_no for row in synced}
        self._found = self._group_found(synced)
        self._targets = self._group_wanted(wanted)
        self._own = {key_of(row): node for node in self._found for row in node.rows}
        for node in self._found:
            # What cannot reach its new place yet stays where it is; it is not one that leaves.
            node.is_stuck = any(key_of(row) in self._blocked_keys for row in node.rows)

    # -- grouping ------------------------------------------------------------------------------

    def _place_of(self, row: SyncedRow) -> Place:
        return Place(self._canonical.get(row.parent_no, row.parent_no), row.name)

    def _group_found(self, synced: Sequence[SyncedRow]) -> list[Node]:
        grouped: dict[Place, list[SyncedRow]] = defaultdict(list)
        for row in synced:
            grouped[self._place_of(row)].append(row)
        found = []
        for place, rows in grouped.items():
            held = self._held.get(place)
            if held is not None:
                held.extend(rows)  # others stand there too: it stays, whatever becomes of ours
                gone = tuple(key_of(row) for row in rows if key_of(row) not in self._wanted_keys)
                if gone:
                    self.late_binds.append(Bind(None, tuple(rows), gone))
                continue
            found.append(self._node(Node(rows=tuple(rows))))
        return found

    def _group_wanted(self, wanted: Sequence[Entry]) -> list[tuple[Entry, ...]]:
        grouped: dict[tuple[int, bytes], list[Entry]] = defaultdict(list)
        for entry in wanted:
            grouped[entry.parent_no, entry.name].append(entry)
        targets = []
        for (parent_no, name), entries in grouped.items():
            place = Place(self._canonical.get(parent_no, parent_no), name)
            entries.sort(key=_representative_first)
            held = self._held.get(place)
            if held is None and entries[0].collapsed:
                self.late_binds.append(Bind(Claim(entries[0], tuple(entries[1:]))))
            elif held is None:
                targets.append(tuple(entries))
            else:
                self._join_held(place, entries, tuple(held))
        return targets

    def _join_held(self, place: Place, entries: list[Entry], held: tuple[SyncedRow, ...]) -> None:
        """Stand with what is there already, or wait until it has left."""
        first, there = entries[0], held[0]
        has_own = any(entry.object_no in self._owners for entry in entries)
        same = first.kind is there.kind and (
            (first.collapsed and (first.kind is Kind.DIRECTORY or first.value == there.value))
            or (there.leftover and not has_own)
        )
        if not same:
            own = tuple(entry.object_no for entry in entries)
            self.blocked.append(Blocked(place, own, tuple(row.object_no for row in held)))
            self._blocked_keys.update(key_of(entry) for entry in entries)
            return
        gone = tuple(key_of(row) for row in held if row.leftover)
        bind = Bind(Claim(first, tuple(entries[1:]), gone), held)
        # New children of a directory that takes over a leftover one need its number at once.
        (self.binds if there.leftover else self.late_binds).append(bind)

    # -- pairing -------------------------------------------------------------------------------

    def pair_directories(self) -> None:
        """Give each directory wanted the one on disk that it is, or may become."""
        found = [node for node in self._found if node.kind is Kind.DIRECTORY]
        for node in found:
            for row in node.rows:
                self._directories[row.object_no] = node
        for node in self._found:
            node.parent = self.directory(node.rows[0].parent_no)
        targets = [entries for entries in self._targets if entries[0].kind is Kind.DIRECTORY]
        # The directory on disk follows the number that its children name, so that no number
        # ever means two directories; of union directories that part, the one that stays keeps it.
        targets = self._pair(targets, self._of_representative, needs_place=True)
        targets = self._pair(targets, self._of_representative, needs_place=False)
        targets = self._pair(targets, self._of_any, needs_place=True)
        targets = self._pair(targets, self._of_any, needs_place=False)
        for entries in targets:
            self._claim(self._node(Node()), entries)
        free = {
            (node.parent, node.rows[0].name): node
            for node in found
            if node.entry is None and not node.is_stuck
        }
        if free:
            self._adopt_directories(targets, free)

    def _of_representative(self, entries: tuple[Entry, ...]) -> Iterable[Node]:
        return self._of_any(entries[:1])

    def _of_any(self, entries: tuple[Entry, ...]) -> Iterable[Node]:
        if len(entries) > 1 and list(self._of_any(entries[:1])):
            return ()  # the representative's own is taken by another: it gets a new one
        found = (self._directories.get(entry.object_no) for entry in entries)
        return [node for node in found if node is not None and node.rows]

    def _pair(
        self,
        targets: list[tuple[Entry, ...]],
        candidates: Callable[[tuple[Entry, ...]], Iterable[Node]],
        *,
        needs_place: bool,
    ) -> list[tuple[Entry, ...]]:
        """Pair what can be paired and give the rest."""
        rest = []
        for entries in targets:
            for node in candidates(entries):
                if node.entry is None and (not needs_place or _stands_at(node, entries[0])):
                    self._claim(node, entries)
                    break
            else:
                rest.append(entries)
        return rest

    def _adopt_directories(
        self, targets: list[tuple[Entry, ...]], free: dict[tuple[Node | None, bytes], Node]
    ) -> None:
        """Let a new directory take over the one that leaves its very place."""
        # From the top: adopting a directory makes its place that of its children.
        for entries in sorted(targets, key=lambda entries: self._depth(entries[0])):
            node = self._goals[entries[0].object_no]
            place = (self.goal(entries[0].parent_no), entries[0].name)
            standing = free.pop(place, None)
            if standing is None:
                continue
            self.nodes.remove(node)
            self._claim(standing, entries)

    def _depth(self, entry: Entry) -> int:
        depth, node = 0, self._goals.get(entry.parent_no)
        while node is not None and node.entry is not None and depth < len(self.nodes):
            depth, node = depth + 1, self._goals.get(node.entry.parent_no)
        return depth

    def pair_files(self) -> None:
        """Give each file and link wanted the one on disk that it is, or that has its bytes."""
        targets = [entries for entries in self._targets if entries[0].kind is not Kind.DIRECTORY]
        if not targets:
            return
        by_object: dict[tuple[int, bytes], Node] = {}
        for node in self._found:
            if node.kind is not Kind.DIRECTORY:
                for row in node.rows:
                    by_object.setdefault((row.object_no, row.value), node)

        def same_key(entries: tuple[Entry, ...]) -> list[Node]:
            # As with directories: a key that tells of a file is not given to another one.
            if key_of(entries[0]) in self._own:
                entries = entries[:1]
            found = (self._own.get(key_of(entry)) for entry in entries)
            return [node for node in found if node is not None]

        def same_key_and_value(entries: tuple[Entry, ...]) -> list[Node]:
            value = entries[0].value
            return [node for node in same_key(entries) if node.rows[0].value == value]

        def same_object_and_value(entries: tuple[Entry, ...]) -> list[Node]:
            node = by_object.get((entries[0].object_no, entries[0].value))
            return [] if node is None else [node]

        targets = self._pair(targets, same_key_and_value, needs_place=True)
        targets = self._pair(targets, same_key_and_value, needs_place=False)
        targets = self._pair(targets, same_object_and_value, needs_place=False)
        targets = self._pair(targets, same_key, needs_place=False)
        self._reuse_leaving(targets)

    def _reuse_leaving(self, targets: list[tuple[Entry, ...]]) -> None:
        """Pair new files with such as leave their place, or leave with the same bytes."""
        by_place: dict[tuple[Node | None, bytes], Node] = {}
        by_value: dict[bytes, list[Node]] = defaultdict(list)
        for node in self._found:
            if node.entry is None and node.kind is Kind.FILE and not node.is_stuck:
                by_place[node.parent, node.rows[0].name] = node
                if node.rows[0].size:
                    by_value[node.rows[0].value].append(node)
        rest = []
        for entries in targets:
            standing = by_place.get((self.goal(entries[0].parent_no), entries[0].name))
            if standing is not None and entries[0].kind is Kind.FILE:
                self._claim(standing, entries)
            else:
                rest.append(entries)
        for entries in rest:
            # Not where the key still tells of another file: that one has to move on first.
            is_free = entries[0].kind is Kind.FILE and key_of(entries[0]) not in self._own
            same = [node for node in by_value.get(entries[0].value, ()) if node.entry is None]
            self._claim(same[0] if same and is_free else self._node(Node()), entries)

    # -- results -------------------------------------------------------------------------------

    def _node(self, node: Node) -> Node:
        node.index = len(self.nodes)
        self.nodes.append(node)
        return node

    def _claim(self, node: Node, entries: tuple[Entry, ...]) -> None:
        if entries[0].kind is Kind.DIRECTORY:
            for entry in entries:
                self._goals[entry.object_no] = node
            if any(row.object_no == entries[0].object_no for row in node.rows):
                node.directory_no = entries[0].object_no
        entries = self._without_merging(node, entries)
        kept = {key_of(entry) for entry in entries}
        gone = tuple(key_of(row) for row in node.rows if key_of(row) not in kept)
        if gone and entries[0].kind is Kind.DIRECTORY:
            # Rows of children may name the old number until the end.
            self.late_binds.append(Bind(None, node.rows, gone))
            gone = ()
        node.claim = Claim(entries[0], entries[1:], gone)

    def _without_merging(self, node: Node, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Leave for the end what is collapsed but has a thing of its own that goes first."""
        now = [entries[0]]
        for entry in entries[1:]:
            own = self._own.get(key_of(entry))
            if own is None or own is node:
                now.append(entry)
            else:
                self.late_binds.append(Bind(Claim(entry)))
        return tuple(now)

    def directory(self, directory_no: int) -> Node:
        """Find the directory of this number as it stands on disk now."""
        if directory_no not in self._directories:
            directory_no = self._canonical.get(directory_no, directory_no)
        node = self._directories.get(directory_no)
        if node is None:
            node = self._directories[directory_no] = Node(outside_no=directory_no)
            parent_no = self._parent_of(directory_no)
            node.parent = None if parent_no is None else self.directory(parent_no)
        return node

    def goal(self, directory_no: int) -> Node:
        """Find the directory of this number as it is wanted."""
        return self._goals.get(directory_no) or self.directory(directory_no)

    def finish(self) -> list[Node]:
        """Tie every node to its goal, and give those that are more than a change of synced."""
        self._renumber()
        for index, node in enumerate(self.nodes):
            node.index = index
            if node.claim is not None:
                node.goal_parent = self.goal(node.claim.entry.parent_no)
        _carry_displaced(self.nodes)
        return self.nodes

    def _renumber(self) -> None:
        """Where union directories part, children go on under the number that stays."""
        changed: list[SyncedRow] = []
        for node in self._found:
            parent = node.parent
            if parent is None or len(parent.rows) < 2:  # noqa: PLR2004 - one number cannot part
                continue
            number = parent.directory_no
            if any(row.parent_no != number for row in node.rows):
                node.rows = tuple(replace(row, parent_no=number) for row in node.rows)
                changed += node.rows
        if changed:
            self.binds.insert(0, Renumber(tuple(changed)))


def _representative_first(entry: Entry) -> tuple[bool, int, bytes]:
    return entry.collapsed, entry.object_no, entry.copy


def _stands_at(node: Node, entry: Entry) -> bool:
    return any(row.name == entry.name and row.parent_no == entry.parent_no for row in node.rows)


def _canonical_directories(rows: Sequence[SyncedRow]) -> dict[int, int]:
    """Map the numbers of directories that share one place to one of them.

    Repeated while it changes something: a union can lie in a union.
    """
    directories = [row for row in rows if row.kind is Kind.DIRECTORY and row.copy == PRIMARY]
    canonical: dict[int, int] = {}
    while True:
        first: dict[tuple[int, bytes], int] = {}
        before = len(canonical)
        for row in directories:
            place = (canonical.get(row.parent_no, row.parent_no), row.name)
            number = first.setdefault(place, row.object_no)
            if number != row.object_no:
                canonical[row.object_no] = number
        if len(canonical) == before:
            return canonical


def _carry_displaced(nodes: list[Node]) -> None:
    """Where an object's old bytes become its conflict copy, let the exchange carry them there.

    The new bytes take the name in one exchange and the old ones go from there to their new
    name, so that the name never is without a file.
    """
    new_at: dict[tuple[Node | None, bytes], Node] = {
        (node.goal_parent, node.entry.name): node
        for node in nodes
        if node.entry is not None and not node.rows and node.kind is Kind.FILE
    }
    if not new_at:
        return
    for node in nodes:
        if node.kind is Kind.FILE and node.rows and node.entry is not None:
            writer = new_at.get((node.parent, node.rows[0].name))
            if writer is None or writer.entry is None or node.is_in_place:
                continue
            is_same_object = writer.entry.object_no == node.entry.object_no
            if is_same_object and node.entry.value == node.rows[0].value:
                writer.carries = node
                node.is_carried = True
