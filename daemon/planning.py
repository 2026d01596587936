"""Plan what a folder's disk lacks of the view, from what changed since the last time.

Runs on the database thread. The queue is the difference of state and synced, held by the state
(store.objects.Changes) and rebuilt from both; which steps follow is daemon.planner's to say.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from daemon.misfits import PLAIN, DiskNames, stay
from daemon.planner import places, plan
from daemon.portions import SMALL_BYTES
from daemon.steps import Plan, Step, WriteFile, numbers_of
from store.folder import StoredFolder
from store.ids import Kind
from store.objects import Changes
from store.records import PRIMARY, Entry, SyncedRow

FEW_OBJECTS = 64  # from so many on it pays to leave out what agrees already
PLAN_LIMIT = 8192  # objects in one plan, so that applying begins before all is known
TREE_LIMIT = 65_536  # more of them, so that a directory can leave whole


class UnderWay:
    """The objects of plans that were made and are not done; several may be about one."""

    def __init__(self) -> None:
        """Begin with none."""
        self._counts: Counter[int] = Counter()
        self._crossed: set[int] = set()  # planned while a plan about them was under way
        self._lock = threading.Lock()  # made on the database thread, done on the loop

    def begin(self, object_nos: Collection[int]) -> None:
        """Note a plan."""
        with self._lock:
            self._crossed.update(no for no in object_nos if no in self._counts)
            self._counts.update(object_nos)

    def end(self, object_nos: Iterable[int]) -> list[int]:
        """Note that it is done; give the objects that are to be planned once more.

        Of two plans about one object the later one may have been made before it could know what
        the earlier one put in place, and have been begun behind that: what then stands at a
        second name nobody would look at again.
        """
        with self._lock:
            self._counts.subtract(object_nos)
            self._counts = +self._counts
            ended = sorted(no for no in self._crossed if no not in self._counts)
            self._crossed.difference_update(ended)
        return ended

    def objects(self) -> frozenset[int]:
        """Give the objects at this moment."""
        with self._lock:
            return frozenset(self._counts)


def queue_unsynced(stored: StoredFolder) -> None:
    """Rebuild the queue of what is to be applied from state and synced."""
    stored.state.changes.objects |= stored.unsynced.find().objects


def plan_changes(
    stored: StoredFolder,
    due: Sequence[int],
    excluded: frozenset[int],
    under_way: UnderWay,
    names: DiskNames = PLAIN,
) -> tuple[Plan | None, bool]:
    """Plan what changed and what is `due` again; the rest stays for the next time.

    `excluded` objects are left as they are on this disk; what is planned joins `under_way`. Of
    `names` the misfits are planned to stay where they are (daemon.misfits). Gives None where
    nothing changed, and whether more is to be planned.
    """
    changes = stored.take_changes()
    changes.objects.update(due)
    if not changes:
        return None, False
    if len(changes.objects) > FEW_OBJECTS:
        stored.state.changes = changes
        stored.unsynced.drop_agreed(under_way.objects())
        changes = stored.take_changes()
    has_more = len(changes.objects) > PLAN_LIMIT
    if has_more:
        later = set(sorted(changes.objects)[PLAN_LIMIT:])
        changes.objects -= later
        stored.state.changes.objects |= later
    if has_more:
        _take_along(stored, changes, _hidden(stored, changes.objects))
    considered, wanted, rows = _compared(stored, changes, excluded)
    if has_more and _take_along(stored, changes, _leaving(wanted, rows)):
        considered, wanted, rows = _compared(stored, changes, excluded)
    if names.misfits & considered:
        wanted = stay(wanted, rows, names.misfits)
    occupants = stored.synced.others_at_places(places(wanted, rows), considered)
    if in_the_way := names.misfits.intersection(row.object_no for row in occupants):
        # It stayed where another is to stand by now: only planned with that one it leaves.
        changes.objects |= in_the_way
        considered, wanted, rows = _compared(stored, changes, excluded)
        wanted = stay(wanted, rows, names.misfits)
        occupants = stored.synced.others_at_places(places(wanted, rows), considered)
    made = plan(
        wanted,
        rows,
        occupants=[*occupants, *_sharing(stored, wanted, rows, considered, occupants)],
        parent_of=stored.synced.parent_of,
        objects=considered,
        fold=names.fold,
    )
    under_way.begin(made.objects)
    return made, has_more


def _compared(
    stored: StoredFolder, changes: Changes, excluded: frozenset[int]
) -> tuple[set[int], list[Entry], list[SyncedRow]]:
    """Give the objects to be planned, what the view wants of them, and what synced has."""
    considered, entries = stored.view().entries(changes)
    considered -= excluded
    wanted = [entry for entry in entries if entry.object_no in considered]
    return considered, wanted, stored.synced.rows_of(sorted(considered))


def _sharing(
    stored: StoredFolder,
    wanted: Sequence[Entry],
    rows: Sequence[SyncedRow],
    considered: Collection[int],
    occupants: Sequence[SyncedRow],
) -> list[SyncedRow]:
    """Read the union directories between which something changes its number and not its path.

    Unless the planner sees that they are one on this disk, it has what stands there renamed to its
    own name, and that is taken for ever. Their rows may agree while that of a child does not: a
    crash can come between the two.
    """
    parents: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        parents[row.object_no].add(row.parent_no)
    for entry in wanted:
        if entry.object_no in parents:
            parents[entry.object_no].add(entry.parent_no)
    shared: set[int] = set()
    for no in set[int]().union(*(nos for nos in parents.values() if len(nos) > 1)):
        path = stored.synced.path_of(no)
        while path and len(nos := stored.synced.directories_at(path)) > 1:
            shared.update(nos)  # a union can lie in a union
            path = path.rpartition(b"/")[0]
    shared.difference_update(considered, (row.object_no for row in occupants))
    return [row for row in stored.synced.rows_of(sorted(shared)) if row.copy == PRIMARY]


def _hidden(stored: StoredFolder, object_nos: Iterable[int]) -> list[int]:
    """Name the directories among these that state shows no more, without reading a row."""
    known = [stored.state.directories.get(no) for no in object_nos]
    return [each.no for each in known if each is not None and not each.is_visible]


def _leaving(wanted: Sequence[Entry], rows: Sequence[SyncedRow]) -> list[int]:
    """Name the directories on this disk that nothing is wanted of."""
    stay = {entry.object_no for entry in wanted}
    return [
        row.object_no for row in rows if row.kind is Kind.DIRECTORY and row.object_no not in stay
    ]


def _take_along(stored: StoredFolder, changes: Changes, leaving: Sequence[int]) -> bool:
    """Plan with a directory what is inside of it, if it was left for the next plan.

    A directory goes whole, with all that is in it, or else name by name.
    """
    later = stored.state.changes.objects
    inside = stored.synced.objects_inside(leaving) & later if leaving and later else set[int]()
    if not inside or len(inside) > TREE_LIMIT:
        return False
    changes.objects |= inside
    later -= inside
    return True


def split_slow(made: Plan) -> tuple[Plan, list[Plan]]:
    """Part large contents from the rest, so that a long transfer holds nothing up."""
    slow = [
        step
        for step in made.steps
        if isinstance(step, WriteFile) and step.claim.entry.size > SMALL_BYTES
    ]
    if not slow:
        return made, []
    parts = list(_by_objects(slow))
    own = set(map(id, slow))
    quick = Plan(
        steps=tuple(step for step in made.steps if id(step) not in own),
        blocked=made.blocked,
        objects=made.objects.difference(*(part.objects for part in parts)),
    )
    return quick, parts


def _by_objects(steps: Iterable[Step]) -> Iterable[Plan]:
    """Make a plan of the steps that share objects: of two plans, the later one decides."""
    home: dict[int, list[Step]] = {}  # by object
    for step in steps:
        together: list[Step] = []
        for part in {id(home[no]): home[no] for no in numbers_of(step) if no in home}.values():
            together += part
        together.append(step)
        for each in together:
            home.update((no, together) for no in numbers_of(each))
    objects: dict[int, set[int]] = defaultdict(set)
    for no, part in home.items():
        objects[id(part)].add(no)
    for part in {id(part): part for part in home.values()}.values():
        yield Plan(steps=tuple(part), objects=frozenset(objects[id(part)]))
