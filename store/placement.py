"""Keep the directories of a folder: where each stands, decided without cycles.

Files cannot make cycles: their placement is the move with the greatest key (store.fold). Only
explicit moves of directories go through here, by ordered undo and redo: Kleppmann, Mulligan,
Gomes, Beresford, "A highly-available move operation for replicated trees" (2021). A move that
would put a directory below itself is skipped. Creating is not a move: the base placement is
part of the object's id, older than any move, and cannot form a cycle.

Memory only; store.state reads and writes the rows.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from msgspec import Struct

from store.ids import ObjectId


class Directory(Struct, gc=False):
    """One directory; `place_event` is the move in effect, None at its base."""

    no: int
    id: ObjectId
    parent_no: int
    name: bytes
    place_event: bytes | None
    place_key: bytes | None
    is_alive: bool
    visible_children: int = 0
    counted_in: int = 0  # the parent whose visible_children counts this one; 0: none

    @property
    def is_visible(self) -> bool:
        """Whether the view has it: it lives, or something visible is in it."""
        return self.is_alive or self.visible_children > 0


class DirectoryMove(Struct, order=False, gc=False):
    """An explicit move of a directory and, while it is done, what it replaced."""

    key: bytes
    object_no: int
    parent_no: int
    name: bytes
    event_id: bytes
    is_done: bool = False
    old: tuple[int, bytes, bytes | None, bytes | None] | None = None


Slot = tuple[int, bytes]  # (parent directory's number, name)


class Directories:
    """All directories of one folder, with an index of who stands where."""

    def __init__(self, root_no: int, root: ObjectId) -> None:
        """Begin with the root alone, which is always there."""
        self.root_no = root_no
        self._by_no: dict[int, Directory] = {
            root_no: Directory(root_no, root, 0, b"", None, None, is_alive=True)
        }
        self._places: dict[Slot, list[int]] = {}
        self._moves: list[DirectoryMove] = []
        self._move_keys: list[bytes] = []

    def __contains__(self, no: int) -> bool:
        """Whether an object number is a known directory."""
        return no in self._by_no

    def __getitem__(self, no: int) -> Directory:
        """Give a directory by its number. Raises KeyError."""
        return self._by_no[no]

    def __iter__(self) -> Iterator[Directory]:
        """Give all directories, the root too."""
        return iter(self._by_no.values())

    def __len__(self) -> int:
        """Count the directories, the root included."""
        return len(self._by_no)

    def get(self, no: int) -> Directory | None:
        """Give a directory by its number, or None."""
        return self._by_no.get(no)

    def at(self, slot: Slot) -> list[int]:
        """List the directories placed at one parent and name, visible or not."""
        return self._places.get(slot, [])

    def add(self, directory: Directory) -> None:
        """Add a directory at its base placement, or as loaded."""
        self._by_no[directory.no] = directory
        self._places.setdefault((directory.parent_no, directory.name), []).append(directory.no)

    def load_move(self, move: DirectoryMove) -> None:
        """Take over a stored move; call replay() after the last."""
        self._moves.append(move)

    def replay(self) -> None:
        """Do all loaded moves from the base placements, in order."""
        self._moves.sort(key=lambda move: move.key)
        self._move_keys = [move.key for move in self._moves]
        for move in self._moves:
            self._do(move)

    def merge(self, moves: Iterable[DirectoryMove]) -> dict[int, Slot]:
        """Bring moves in at their place in the order, in one sweep.

        Gives the directories whose placement changed, each with its former slot.
        """
        moves = sorted(moves, key=lambda move: move.key)
        if not moves:
            return {}
        start = bisect_left(self._move_keys, moves[0].key)
        later = self._moves[start:]
        touched = {move.object_no for move in (*moves, *later)}
        before = {no: self._placement(no) for no in touched}
        for move in reversed(later):
            self._undo(move)
        for move in moves:
            insort(self._moves, move, key=lambda one: one.key)
            insort(self._move_keys, move.key)
        for move in self._moves[start:]:
            self._do(move)
        return {no: was[0] for no, was in before.items() if self._placement(no) != was}

    def ancestors(self, no: int) -> Iterator[int]:
        """Give the directories above one, nearest first, the root last."""
        directory = self._by_no.get(no)
        while directory is not None and directory.no != self.root_no:
            yield directory.parent_no
            directory = self._by_no.get(directory.parent_no)

    def _placement(self, no: int) -> tuple[Slot, bytes | None]:
        directory = self._by_no[no]
        return (directory.parent_no, directory.name), directory.place_event

    def _do(self, move: DirectoryMove) -> None:
        directory = self._by_no[move.object_no]
        if move.parent_no == directory.no or directory.no in self.ancestors(move.parent_no):
            move.is_done, move.old = False, None
            return
        move.is_done = True
        move.old = (
            directory.parent_no,
            directory.name,
            directory.place_event,
            directory.place_key,
        )
        self._place(directory, move.parent_no, move.name, move.event_id, move.key)

    def _undo(self, move: DirectoryMove) -> None:
        if move.is_done and move.old is not None:
            self._place(self._by_no[move.object_no], *move.old)
            move.is_done, move.old = False, None

    def _place(
        self,
        directory: Directory,
        parent_no: int,
        name: bytes,
        event_id: bytes | None,
        key: bytes | None,
    ) -> None:
        old = (directory.parent_no, directory.name)
        self._places[old].remove(directory.no)
        if not self._places[old]:
            del self._places[old]
        directory.parent_no, directory.name = parent_no, name
        directory.place_event, directory.place_key = event_id, key
        self._places.setdefault((parent_no, name), []).append(directory.no)
