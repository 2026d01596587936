"""Turn what people did to files into events of our own log: the procedure of the local side.

Runs in the database thread, in one transaction with the log, the state and synced. `prev` is
always what was materialised on this disk (synced), never what the log happens to contain: this
rule prevents silent lost updates (docs/design.md, section 4). What is on disk and equals a head
binds and is no event. It decides nothing about when to look or what moved: daemon.matching did.

Here acts are checked and taken in their order; what each comes to is daemon.creations' and
daemon.alterations' to say, and daemon.draft holds it.
"""

from __future__ import annotations

from collections.abc import Sequence

from daemon.acts import Act, Created, Deleted, Edited, Moved, Touched
from daemon.alterations import Alterations
from daemon.creations import Creations
from daemon.disk import FileKind
from daemon.draft import Draft, Recorded
from store.folder import StoredFolder
from store.ids import Kind
from store.objects import Changes
from store.records import PRIMARY, Entry, SyncedRow


class Recorder:
    """Records one bunch of acts. Made anew for each bunch; use record()."""

    def __init__(self, folder: StoredFolder, wall_ms: int, covered_seq: int) -> None:
        """Look at the folder as it is now, inside a transaction.

        `covered_seq` is the greatest seq of our own log that any peer is known to have (-1: none).
        """
        self._draft = Draft(folder, wall_ms, covered_seq)
        self._creations = Creations(self._draft)
        self._alterations = Alterations(self._draft, self._creations)

    def record(self, acts: Sequence[Act]) -> Recorded:
        """Record acts in their order and bring log, state and synced in line."""
        draft = self._draft
        acts = self._fresh(acts)
        nos = {row.object_no for act in acts if not isinstance(act, Created) for row in act.rows}
        draft.known = draft.state.rows(sorted(nos))  # state stays as it is until finish()
        draft.entries = self._view_of(
            {
                row.object_no
                for act in acts
                if not isinstance(act, Created)
                for row in act.rows
                if row.copy != PRIMARY or not isinstance(act, Deleted)  # see _is_gone()
            }
        )
        creates: list[Created] = []
        for act in acts:
            if isinstance(act, Created) and act.looked.stat.kind != FileKind.DIRECTORY:
                creates.append(act)
                continue
            if creates and isinstance(act, Created):
                self._creations.files(creates)
                creates = []
            self._take(act)
        self._creations.files(creates)
        draft.finish()
        return draft.result

    def _fresh(self, acts: Sequence[Act]) -> list[Act]:
        """Leave out acts whose synced rows changed since the look: they are looked at again."""
        rows = [row for act in acts if not isinstance(act, Created) for row in act.rows]
        deleted = {
            row.object_no
            for act in acts
            if isinstance(act, Deleted)
            for row in act.rows
            if row.kind is Kind.DIRECTORY
        }
        below = self._draft.synced.rows_below(sorted(deleted))
        nos = {row.object_no for row in rows}.difference([row.object_no for row in below])
        current = {(r.object_no, r.copy): r for r in self._draft.synced.rows_of(sorted(nos))}
        current.update([((row.object_no, row.copy), row) for row in below])
        changed = {
            (row.object_no, row.copy)
            for row in rows
            if current.get((row.object_no, row.copy)) != row
        }
        if not changed:
            return self._without_orphans(list(acts), below)
        found: list[Act] = []
        for act in acts:
            if isinstance(act, Created) or not any(
                (row.object_no, row.copy) in changed for row in act.rows
            ):
                found.append(act)
            elif isinstance(act, Moved):
                self._draft.result.moves_again.append((act.source, act.target))
            else:
                self._draft.result.look_again.append(act.path)
        return self._without_orphans(found, below)

    def _without_orphans(self, acts: list[Act], below: Sequence[SyncedRow]) -> list[Act]:
        """Leave out the deletion of a directory that would leave rows below it behind.

        Something in it was not judged, since apply was at work there: both are looked at again.
        `below` are the rows below all directories that acts delete.
        """
        if not below:
            return acts
        deleted = [act for act in acts if isinstance(act, Deleted)]
        leaving = {
            (row.object_no, row.copy)
            for act in acts
            if isinstance(act, Deleted | Moved)
            for row in act.rows
        }
        staying = {row.parent_no for row in below if (row.object_no, row.copy) not in leaving}
        kept: set[bytes] = set()
        for act in sorted(deleted, key=lambda each: each.path, reverse=True):
            if any(row.object_no in staying for row in act.rows):
                kept.add(act.path)
                staying.update(row.parent_no for row in act.rows)
                self._draft.result.look_again.append(act.path)
        return [act for act in acts if not (isinstance(act, Deleted) and act.path in kept)]

    def _view_of(self, nos: set[int]) -> dict[int, dict[bytes, Entry]]:
        entries: dict[int, dict[bytes, Entry]] = {}
        if nos:
            view = self._draft.folder.view()
            for entry in view.entries(Changes(nos, set()), self._draft.known)[1]:
                entries.setdefault(entry.object_no, {})[entry.copy] = entry
        return entries

    def _take(self, act: Act) -> None:
        match act:
            case Created():
                self._creations.directory(act)
            case Edited():
                self._alterations.edit(act)
            case Moved():
                self._alterations.move(act)
            case Deleted():
                self._alterations.delete(act)
            case Touched():
                self._alterations.touch(act)
