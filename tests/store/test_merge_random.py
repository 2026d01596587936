"""Let nodes do wild things to directories, hear of each other in any order, and compare all.

What a node plans is checked after every step: what `take_changes` names is enough to keep up
with the whole view, and what `drop_agreed` leaves out had nothing to do. A failing seed is in
the name of its test.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

import msgspec
import pytest

from daemon.acts import Act, Created, Deleted, Edited, Moved, Touched
from daemon.disk import FileKind, Looked, Stat
from store.ids import Kind
from store.records import Entry, SyncedRow
from store.synced import Key
from tests.store.histories import check_tree
from tests.store.nodes import Node, deliver, looked, make_nodes, unchanged

SEEDS = range(40)
STEPS = 45
NAMES = (b"a", b"b", b"c", b"d.txt")

Rows = dict[bytes, list[SyncedRow]]


@dataclass(slots=True)
class Player:
    """A node, what it would have been told to plan so far, and what its user saw."""

    node: Node
    planned: dict[Key, Entry] = field(default_factory=dict)
    is_joining: bool = False


class Game:
    """One random history of a few nodes; equal for equal seeds."""

    def __init__(self, seed: int, players: int) -> None:
        self.rng = random.Random(seed)
        *nodes, self.observer = make_nodes(players + 1)
        self.players = [Player(node) for node in nodes]
        self.contents = count()
        self.written: set[bytes] = set()  # contents that no one else ever wrote
        self.replaced: set[bytes] = set()  # such that a user who had them replaced or deleted
        for player in self.players:
            self.plan(player)

    # -- steps --------------------------------------------------------------------------------

    def step(self) -> None:
        player = self.rng.choice(self.players)
        what = self.rng.random()
        if what < 0.55:
            self.act(player)
        elif what < 0.8:
            other = self.rng.choice([p for p in self.players if p is not player])
            deliver(other.node, player.node, self.rng, self.rng.choice([0.4, 0.8, 1]))
        elif what < 0.97:
            self.apply(player)
        else:
            self.join_again(player)
        self.plan(player)
        check_tree(player.node)

    def act(self, player: Player) -> None:
        acts = self.acts(player.node.rows())
        for act in acts:
            if isinstance(act, Edited | Deleted):
                self.replaced.update(row.value for row in act.rows)
            if not isinstance(act, Deleted):
                self.written.add(act.looked.value)
        player.node.record(*acts)
        self.drop_agreed(player)

    def apply(self, player: Player) -> None:
        """Make the disk what was planned so far: by what changed alone."""
        node, planned = player.node, player.planned
        rows = [row_of(entry) for entry in planned.values()]
        old = node.stored.synced._select("folder_no", [node.stored.no])
        with node.stored.change():
            node.stored.synced.remove([(row.object_no, row.copy) for row in old])
            node.stored.synced.put(rows)

    def join_again(self, player: Player) -> None:
        """Forget what was agreed and bring the files that are there anew."""
        node = player.node
        rows = node.rows()
        at = node.stored.synced._select("folder_no", [node.stored.no])
        with node.stored.change():
            node.stored.synced.remove([(row.object_no, row.copy) for row in at])
        node.stored.is_joining = True
        node.record(
            *(
                Created(path, again(rows[path][0]))
                for path in sorted(rows, key=lambda p: (p.count(b"/"), p))
            )
        )
        node.stored.is_joining = False
        player.planned.clear()
        node.stored.state.changes.objects.update(node.stored.state.object_nos())

    # -- what is checked at every step ----------------------------------------------------------

    def plan(self, player: Player) -> None:
        """What `take_changes` names is enough: by it alone the view is known as it is."""
        view = player.node.stored.view()
        considered, entries = view.entries(player.node.stored.take_changes())
        planned = player.planned
        for key in [key for key in planned if key[0] in considered]:
            del planned[key]
        for entry in entries:
            if entry.object_no in considered:
                planned[entry.object_no, entry.copy] = entry
        assert planned == whole(player.node)
        if self.rng.random() < 0.3:
            assert_found_again(player.node)

    def drop_agreed(self, player: Player) -> None:
        """What is left out has nothing to do: synced says what the view says."""
        stored = player.node.stored
        before = set(stored.state.changes.objects)
        stored.unsynced.drop_agreed()
        dropped = before - stored.state.changes.objects
        wanted = {key: entry for key, entry in whole(player.node).items() if key[0] in dropped}
        assert_agreed(player.node, wanted, dropped)
        for key in [key for key in player.planned if key[0] in dropped]:
            del player.planned[key]
        player.planned.update(wanted)

    # -- what a user does -----------------------------------------------------------------------

    def acts(self, rows: Rows) -> list[Act]:
        rng = self.rng
        what = rng.choices(
            (
                "create",
                "directory",
                "edit",
                "move",
                "swap",
                "delete",
                "touch",
                "onto",
                "kind",
                "resolve",
                "copy",
            ),
            (5, 4, 3, 8, 3, 4, 1, 2, 1, 2, 1),
        )[0]
        paths = sorted(rows)
        files = [p for p in paths if rows[p][0].kind != Kind.DIRECTORY]
        target = self.free_path(rows)
        if what == "create" and target not in rows:
            return [Created(target, self.content(rows))]
        if what == "directory" and target not in rows:
            return [Created(target, looked(b"", kind=FileKind.DIRECTORY))]
        if what == "copy" and target not in rows and files:
            return [Created(target, again(rows[rng.choice(files)][0]))]
        if not paths:
            return []
        path = rng.choice(paths)
        if what == "move" and target not in rows and not is_below(target, path):
            return [moved(rows, path, target, self.edits(rows, path))]
        if what == "swap":
            other = rng.choice(paths)
            if not is_below(path, other) and not is_below(other, path):
                return [moved(rows, path, other), moved(rows, other, path)]
        if what == "delete":
            return deleted(rows, path)
        if what == "onto" and not is_below(target, path) and target in rows:
            if is_below(path, target):
                return []
            return [*deleted(rows, target), moved(rows, path, target)]
        if what == "kind":
            kind = FileKind.FILE if rows[path][0].kind == Kind.DIRECTORY else FileKind.DIRECTORY
            return [*deleted(rows, path), Created(path, self.content(rows, kind))]
        if not files:
            return []
        path = rng.choice(files)
        if what == "edit" and rows[path][0].kind == Kind.FILE:
            return [Edited(path, tuple(rows[path]), self.content(rows, FileKind.FILE))]
        if what == "touch":
            seen = unchanged(
                rows[path][0], mode=rng.choice([0o644, 0o755]), mtime_ns=rng.randrange(9)
            )
            return [Touched(path, tuple(rows[path]), seen)]
        if what == "resolve":
            return self.resolve(rows, path)
        return []

    def resolve(self, rows: Rows, path: bytes) -> list[Act]:
        """Take the bytes of one conflict copy for the file, and perhaps remove the copy."""
        copies = [p for p in rows if any(row.copy for row in rows[p])]
        for copy in sorted(copies):
            for other, at in sorted(rows.items()):
                if any(not r.copy and r.object_no == rows[copy][0].object_no for r in at):
                    if at[0].kind != rows[copy][0].kind:
                        continue
                    acts: list[Act] = [Edited(other, tuple(at), again(rows[copy][0]))]
                    if self.rng.random() < 0.7:
                        acts.append(Deleted(copy, tuple(rows[copy])))
                        self.replaced.discard(rows[copy][0].value)
                    return acts
        return deleted(rows, path)

    def edits(self, rows: Rows, path: bytes) -> Looked | None:
        """A move may come with other bytes."""
        if rows[path][0].kind == Kind.FILE and self.rng.random() < 0.2:
            self.replaced.update(row.value for row in rows[path])
            return self.content(rows, FileKind.FILE)
        return None

    def content(self, rows: Rows, kind: FileKind | None = None) -> Looked:
        if kind is FileKind.DIRECTORY:
            return looked(b"", kind=kind)
        if kind is None:
            kind = self.rng.choice([FileKind.FILE] * 4 + [FileKind.SYMLINK])
        if self.rng.random() < 0.5:
            return looked(b"unique %d" % next(self.contents), kind=kind)
        common = looked(b"common %d" % self.rng.randrange(3), kind=kind)
        self.replaced.add(common.value)
        return common

    def free_path(self, rows: Rows) -> bytes:
        directories = [b"", *(p for p in sorted(rows) if rows[p][0].kind == Kind.DIRECTORY)]
        parent = self.rng.choice(directories)
        name = self.rng.choice(NAMES)
        return parent + b"/" + name if parent else name

    # -- the end --------------------------------------------------------------------------------

    def settle(self) -> None:
        nodes = [player.node for player in self.players]
        for _ in range(2):
            for source in nodes:
                for target in nodes:
                    if source is not target:
                        deliver(source, target, self.rng)
        for source in nodes:
            for target in nodes:
                if source is not target:
                    deliver(source, target)
        for player in self.players:
            self.plan(player)
            self.apply(player)


def whole(node: Node) -> dict[Key, Entry]:
    return {(e.object_no, e.copy): e for e in node.stored.view().all_entries()}


def row_of(entry: Entry) -> SyncedRow:
    return SyncedRow(
        object_no=entry.object_no,
        copy=entry.copy,
        parent_no=entry.parent_no,
        name=entry.name,
        kind=entry.kind,
        value=entry.value,
        inode=1,
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        ctime_ns=5,
        mode=entry.mode,
        looked_at_ns=10**9,
        shared_mtime_ns=entry.mtime_ns,
        events=entry.events,
        placement=entry.placement,
    )


def is_below(path: bytes, above: bytes) -> bool:
    return path == above or path.startswith(above + b"/")


def deleted(rows: Rows, path: bytes) -> list[Act]:
    below = sorted((p for p in rows if is_below(p, path)), key=lambda p: (p.count(b"/"), p))
    return [Deleted(p, tuple(rows[p])) for p in below]


def moved(rows: Rows, source: bytes, target: bytes, seen: Looked | None = None) -> Moved:
    return Moved(source, target, tuple(rows[source]), seen or unchanged(rows[source][0]))


def again(row: SyncedRow) -> Looked:
    """What a look at a file of the same bytes gives."""
    kind = FileKind(int(row.kind))
    return Looked(Stat(kind, 77, row.size, row.mtime_ns, 5, 0o644, 1), row.value, 9)


def assert_agreed(node: Node, wanted: dict[Key, Entry], nos: Iterable[int]) -> None:
    rows = {(r.object_no, r.copy): r for r in node.stored.synced.rows_of(sorted(nos))}
    assert rows.keys() == wanted.keys()
    for key, row in rows.items():
        entry = wanted[key]
        for name in ("parent_no", "name", "kind", "value", "events", "placement", "mode"):
            assert getattr(row, name) == getattr(entry, name), (name, entry, row)
        if entry.kind != Kind.DIRECTORY:
            assert row.shared_mtime_ns == entry.mtime_ns


def assert_found_again(node: Node) -> None:
    """What a restart finds to do is everything that stands otherwise than the view says."""
    stored = node.stored
    considered, _ = stored.view().entries(stored.unsynced.find())
    wanted = {key: entry for key, entry in whole(node).items() if key[0] not in considered}
    others = [no for no in stored.state.object_nos() if no not in considered]
    assert_agreed(node, wanted, others)


def shown(node: Node) -> set[tuple[object, ...]]:
    """Everything that the view says, in words that mean the same on every node."""
    stored = node.stored
    entries = stored.view().all_entries()
    directories = {e.object_no: e for e in entries if e.kind == Kind.DIRECTORY}
    found = set()
    for entry in entries:
        path, above = [entry.name], entry.parent_no
        while above != stored.root_no:
            path.append(directories[above].name)
            above = directories[above].parent_no
        values = msgspec.structs.asdict(entry)
        del values["object_no"], values["parent_no"]
        found.add((stored.id_of(entry.object_no), *path, *values.values()))
    return found


def memory_of(node: Node) -> dict[bytes, tuple[object, ...]]:
    """What is counted of each directory, by names that a rebuild keeps."""
    return {
        d.id: (d.parent_no, d.name, d.place_event, d.is_alive, d.visible_children, d.counted_in)
        for d in node.stored.state.directories
    }


TABLES = {
    "object": (
        "SELECT no, id, kind, parent_no, name, place_event, place_key, last_move,"
        " coalesce(base_parent_no, parent_no), coalesce(base_name, name), latest_lamport,"
        " head_event, head_key, value, size, mtime_ns, mode, flags FROM object ORDER BY no"
    ),
    "head": "SELECT * FROM head ORDER BY object_no, event_id",
    "object_tag": "SELECT * FROM object_tag ORDER BY object_no, tag",
    "void_deletion": "SELECT * FROM void_deletion ORDER BY event_id",
    "along_deletion": "SELECT * FROM along_deletion ORDER BY directory_event, object_no",
    "directory_move": "SELECT * FROM directory_move ORDER BY key",
    "event": "SELECT * FROM event ORDER BY object_no, batch_no, position",
}


def tables_of(node: Node) -> dict[str, list[tuple[object, ...]]]:
    return {name: node.stored.db.execute(query).fetchall() for name, query in TABLES.items()}


def play(seed: int, steps: int = STEPS) -> None:
    """Play one history and check everything at its end."""
    game = Game(seed, 3 + seed % 2)
    for _ in range(steps):
        game.step()
    game.settle()
    nodes = [player.node for player in game.players]
    first = nodes[0]
    root, view = first.stored.state.root(), shown(first)
    first.view()  # every path once
    assert sorted(map(str, (len(n.stored.log.heads()) for n in nodes))) == [
        str(len(first.stored.log.heads()))
    ] * len(nodes)
    for node in nodes[1:]:
        assert node.stored.state.root() == root
        assert shown(node) == view
    for node in nodes:
        _nothing_is_left_to_do(node)
        _rebuild_gives_the_same(node, root)
    _one_by_one_is_all_at_once(game, root, view)
    _nothing_is_lost(game, view)


def _nothing_is_left_to_do(node: Node) -> None:
    stored = node.stored
    assert not stored.take_changes()
    found = stored.unsynced.find()
    considered, entries = stored.view().entries(found)
    wanted = {(e.object_no, e.copy): e for e in entries if e.object_no in considered}
    assert_agreed(node, wanted, considered)
    for no in found.objects:
        names = {e.name for key, e in wanted.items() if key[0] == no}
        row = stored.state.rows([no])[no]
        is_kept = row.kind == Kind.DIRECTORY and not row.flags & 1
        in_union = any(
            stored.state.rows([no])[no].parent_no != e.parent_no
            for e in entries
            if e.object_no == no
        )
        assert len(names) > 1 or names != {row.name} or is_kept or in_union or row.flags & 2


def _rebuild_gives_the_same(node: Node, root: bytes) -> None:
    memory, tables = memory_of(node), tables_of(node)
    void = set(node.stored.state.void)
    assert node.stored.rebuild() == root
    assert tables_of(node) == tables
    assert memory_of(node) == memory
    assert node.stored.state.void == void
    node.stored.reload()
    assert memory_of(node) == memory
    assert node.stored.state.root() == root
    node.stored.take_changes()


def _one_by_one_is_all_at_once(game: Game, root: bytes, view: set[tuple[object, ...]]) -> None:
    observer = game.observer
    deliver(game.players[0].node, observer, game.rng)
    deliver(game.players[0].node, observer)
    assert observer.stored.state.root() == root
    assert shown(observer) == view


def _nothing_is_lost(game: Game, view: set[tuple[object, ...]]) -> None:
    visible = {e.value for e in game.players[0].node.stored.view().all_entries()}
    lost = game.written - game.replaced - visible - {b""}
    assert not lost
    assert view is not None


@pytest.mark.parametrize("seed", SEEDS)
def test_P13_P14_P16_P17_P19_wild_histories_end_equal(seed: int) -> None:
    play(seed)
