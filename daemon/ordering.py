"""Order moves, creations and removals so that each can be done when its turn comes.

The tree is played through: an action waits for whatever stands in its way and is tried again
when that has gone. What waits in a circle is freed by exchanging two names or, where one of
them lies inside the other, by parking a name at the top for a moment; both happen at most once
for each thing, so the steps end. On a disk that takes several names for one, a name waits for the
other to leave too.

It does not decide what is to stand where, and it does not touch a disk.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator

from daemon.plan_nodes import Action, Node
from daemon.steps import (
    PARKING_PREFIX,
    Bind,
    Blocked,
    MakeDirectory,
    MoveName,
    Place,
    RemoveDirectory,
    RemoveFile,
    Step,
    SwapNames,
    is_agreed,
)
from store.ids import Kind


class Ordering:
    """Plays the tree and collects steps and what is blocked."""

    def __init__(
        self,
        nodes: list[Node],
        directory: Callable[[int], Node],
        fold: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """Take nodes whose goals are set; `directory` finds one by its number.

        `fold` gives the same for names that the disk takes for one.
        """
        self._nodes = nodes
        self._directory = directory
        self._fold = fold
        self._folded: dict[tuple[Node | None, bytes], Node] = {}
        self._steps: list[Step] = []
        self.blocked: list[Blocked] = []
        self._at: dict[tuple[Node | None, bytes], Node] = {}
        self._waiting: dict[Node, list[Node]] = defaultdict(list)
        self._queue: deque[Node] = deque()

    def order(self) -> list[Step]:
        """Give the steps that bring every name to its place."""
        for node in self._nodes:
            node.was_in_place = node.is_in_place
            node.action = _action_of(node)
            if node.rows:
                self._stand(node, node.parent, node.name)
        # Removals last: what a removal is not waited for by may as well be done at the end.
        acting = [node for node in self._nodes if node.action is not Action.NONE]
        self._queue.extend(node for node in acting if node.action is not Action.REMOVE)
        self._queue.extend(node for node in acting if node.action is Action.REMOVE)
        self._drain()
        stuck = deque(acting)
        while stuck:
            node = stuck.popleft()
            if node.action is Action.MOVE and self._free(node):
                stuck.append(node)
                self._drain()
        for node in acting:
            if node.action is not Action.NONE:
                self._block(node, node.parent)
        return self._steps

    def is_free(self, directory: Node, name: bytes) -> bool:
        """Whether a directory is there by its number, and nothing stands at a name in it."""
        return directory.is_open and (directory, name) not in self._at

    def is_ready(self, node: Node) -> bool:
        """Whether content can be put in place: its directory is there, its name is free."""
        if node.is_blocked or node.goal_parent is None or node.claim is None:
            return False
        standing = self._at.get((node.goal_parent, node.claim.entry.name))
        if node.goal_parent.is_open and standing in (None, node, node.carries):
            return True
        self._block(node, node.goal_parent if standing is None else standing)
        return False

    # -- playing -------------------------------------------------------------------------------

    def _drain(self) -> None:
        while self._queue:
            node = self._queue.popleft()
            if node.action is Action.REMOVE:
                self._try_remove(node)
            elif node.action is not Action.NONE:
                self._try_arrive(node)

    def _try_remove(self, node: Node) -> None:
        if node.kind is not Kind.DIRECTORY:
            self._steps.append(RemoveFile(node.rows, node.place))
        elif node.children == 0:
            self._steps.append(RemoveDirectory(node.rows, node.place))
        else:
            return  # tried again when its last child has left
        node.action = Action.NONE
        node.exists = False
        self._leave(node)
        self._wake(node)

    def _try_arrive(self, node: Node) -> None:
        obstacle = self._obstacle(node)
        if obstacle is None:
            self._arrive(node)
        elif obstacle.action is Action.NONE:
            self._block(node, obstacle)
        elif (
            node.action is Action.MOVE
            and obstacle.action is Action.REMOVE
            and Kind.DIRECTORY not in (node.kind, obstacle.kind)
            and self._at.get((node.goal_parent, self._goal_place(node).name)) is obstacle
        ):
            # As rename(2) over a file would: the name never is without one.
            self._swap(node, obstacle)
        else:
            self._waiting[obstacle].append(node)

    def _obstacle(self, node: Node) -> Node | None:
        """Find what has to act before this can: its directory, or what stands there."""
        goal, claim = node.goal_parent, node.claim
        if goal is None or claim is None:
            return node
        if not goal.is_open:
            return goal
        if node.is_in_place:
            return None
        if node.action is Action.MOVE and node.kind is Kind.DIRECTORY:
            inside = _path_inside(goal, node)
            if inside:
                return next((step for step in inside if step.action is Action.MOVE), goal)
        standing = self._at.get((goal, claim.entry.name))
        return self._folded_obstacle(node, goal) if standing is None else standing

    def _folded_obstacle(self, node: Node, goal: Node) -> Node | None:
        """Find what has another name, which the disk takes for the same, and is about to go.

        What stays is found out when the step is done: then the name cannot exist there.
        """
        if self._fold is None or node.claim is None:
            return None
        other = self._folded.get((goal, self._fold(node.claim.entry.name)))
        acts = other is not None and other.action in (Action.MOVE, Action.REMOVE)
        return other if other is not node and acts else None

    def _arrive(self, node: Node) -> None:
        claim = node.claim
        if claim is None or node.goal_parent is None:
            return
        if node.is_in_place:
            self._steps.append(Bind(claim, node.rows))
            self._leave(node)
        elif node.action is Action.MAKE:
            self._steps.append(MakeDirectory(claim))
        else:
            self._steps.append(MoveName(node.rows, node.place, self._goal_place(node), claim))
            self._leave(node)
        self._settle(node)
        self._wake(node)

    def _goal_place(self, node: Node) -> Place:
        parent, entry = node.goal_parent, node.entry
        return Place(
            0 if parent is None else parent.directory_no, b"" if entry is None else entry.name
        )

    def _settle(self, node: Node) -> None:
        """Have it stand at its goal from now on."""
        entry = node.entry
        if entry is None:
            return
        node.exists = True
        node.action = Action.NONE
        node.directory_no = entry.object_no
        self._stand(node, node.goal_parent, entry.name)

    def _stand(self, node: Node, parent: Node | None, name: bytes) -> None:
        node.parent, node.name = parent, name
        self._at[parent, name] = node
        if self._fold is not None:
            self._folded[parent, self._fold(name)] = node
        if parent is not None:
            parent.children += 1

    def _leave(self, node: Node) -> None:
        if self._at.get((node.parent, node.name)) is node:
            del self._at[node.parent, node.name]
        if self._fold is not None:
            folded = node.parent, self._fold(node.name)
            if self._folded.get(folded) is node:
                del self._folded[folded]
        if node.parent is not None:
            node.parent.children -= 1
            if node.parent.action is Action.REMOVE and node.parent.children == 0:
                self._queue.append(node.parent)

    def _wake(self, node: Node) -> None:
        self._queue.extend(self._waiting.pop(node, ()))

    # -- circles -------------------------------------------------------------------------------

    def _free(self, node: Node) -> bool:
        """Break a circle that this waits in; say whether anything could be done."""
        obstacle = self._obstacle(node)
        if obstacle is None:
            self._queue.append(node)
            return True
        if (
            obstacle.action is Action.MOVE
            and self._at.get((node.goal_parent, self._goal_place(node).name)) is obstacle
            and not _path_inside(obstacle, node)
            and not _path_inside(node, obstacle)
        ):
            self._swap(node, obstacle)
            return True
        if node.is_parked:
            return False
        node.is_parked = True
        self._park(node)
        return True

    def _swap(self, node: Node, other: Node) -> None:
        source, target = node.place, other.place
        parent, name = node.parent, node.name
        one = MoveName(node.rows, source, target, node.claim)
        is_home = other.goal_parent is parent and self._goal_place(other).name == name
        is_open = parent is not None and parent.is_open
        arrives = other.action is Action.MOVE and is_home and is_open
        claim = other.claim if arrives else None
        self._steps.append(SwapNames(one, MoveName(other.rows, target, source, claim)))
        self._leave(node)
        self._leave(other)
        self._settle(node)
        if arrives:
            self._settle(other)
        else:
            self._stand(other, parent, name)
            self._queue.append(other)
        self._wake(node)
        self._wake(other)

    def _park(self, node: Node) -> None:
        top = node.parent
        while top is not None and top.parent is not None:
            top = top.parent
        name = PARKING_PREFIX + b"%d-%d" % (node.directory_no, node.index)
        target = Place(0 if top is None else top.directory_no, name)
        self._steps.append(MoveName(node.rows, node.place, target, None))
        self._leave(node)
        self._stand(node, top, name)
        self._queue.append(node)
        self._wake(node)

    def _block(self, node: Node, by: Node | None) -> None:
        """Give up on it for this plan, and on whatever waits for it."""
        node.action = Action.NONE
        if node.is_blocked:
            return
        node.is_blocked = True
        place = node.place if node.claim is None else self._goal_place(node)
        self.blocked.append(Blocked(place, _numbers(node), () if by is None else _numbers(by)))
        self._wake(node)


def _action_of(node: Node) -> Action:
    if node.is_stuck or node.is_carried:
        return Action.NONE
    if node.claim is None:
        return Action.REMOVE if node.rows else Action.NONE
    if not node.exists:
        return Action.MAKE if node.kind is Kind.DIRECTORY else Action.NONE
    if not node.is_in_place:
        return Action.MOVE
    is_directory = node.kind is Kind.DIRECTORY
    return Action.BIND if is_directory and not is_agreed(node.claim, node.rows) else Action.NONE


def _path_inside(inner: Node, outer: Node) -> list[Node]:
    """Give the nodes from `inner` up to just below `outer`; nothing if it lies elsewhere.

    `inner` being `outer` itself counts as lying inside.
    """
    path = list(_upwards(inner, outer))
    return path if path[-1] is outer else []


def _upwards(node: Node, last: Node) -> Iterator[Node]:
    here: Node | None = node
    while here is not None:
        yield here
        if here is last:
            return
        here = here.parent


def _numbers(node: Node) -> tuple[int, ...]:
    numbers = {row.object_no for row in node.rows}
    if node.claim is not None:
        numbers.update(entry.object_no for entry in node.claim.entries)
    return tuple(sorted(numbers)) or (node.directory_no,)
