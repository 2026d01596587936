"""Remember which directories share their path, and so are shown as one (unions).

What stands below such directories is named for all of them together: where one appears, goes or
moves, everything below is to be named anew. This module finds where that is; it names nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from store.placement import Directories


class Unions:
    """The directories of one folder that share their path with others."""

    def __init__(self, directories: Directories) -> None:
        """Find them, and all below them that do; the directories change later."""
        self._directories = directories
        self._members: dict[int, frozenset[int]] = {}
        shared = [d.no for d in directories if len(directories.at((d.parent_no, d.name))) > 1]
        children: dict[int, list[int]] = {}
        if shared:
            for directory in directories:
                children.setdefault(directory.parent_no, []).append(directory.no)
        while shared:
            no = shared.pop()
            self.note(no)
            shared.extend(children.pop(no, ()))

    def all(self) -> list[tuple[int, int]]:
        """List the directories that share their path, each with the one that represents all."""
        return [(no, class_of(self._directories, no)[0]) for no in self._members]

    def note(self, no: int) -> None:
        """Remember with whom a directory shares its path now."""
        members = class_of(self._directories, no)
        if len(members) > 1:
            self._members[no] = frozenset(members)
        else:
            self._members.pop(no, None)

    def parted_or_met(self, nos: Iterable[int]) -> set[int]:
        """Find below which directories all may be named anew, since these ones changed.

        That is wherever directories share a path, or did before: tell note() of each, and
        of each directory below.
        """
        directories, unions = self._directories, self._members
        found: set[int] = set()
        for no in nos:
            directory = directories[no]
            before = unions.get(no)
            if before is not None:
                found |= before
            elif (
                directory.parent_no not in unions
                and len(directories.at((directory.parent_no, directory.name))) == 1
            ):
                continue
            now = class_of(directories, no)
            if len(now) > 1:
                found.update(now)
        return found


def class_of(directories: Directories, no: int) -> list[int]:
    """List the visible directories whose path is that of this one (union), itself among them.

    A directory that is not visible is alone.
    """
    path = []
    while no != directories.root_no:
        directory = directories.get(no)
        if directory is None:
            return []
        path.append(directory)
        no = directory.parent_no
    members = [directories.root_no]
    for directory in reversed(path):
        found = [
            no
            for member in members
            for no in directories.at((member, directory.name))
            if directories[no].is_visible
        ]
        members = found if directory.no in found else [directory.no]
    if len(members) > 1:
        members.sort(key=lambda no: (directories[no].place_key or b"", directories[no].id))
    return members
