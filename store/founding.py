"""Make the rows of a folder that this node takes up, and the first event of one of its own.

Who may do so, and what the disk and the configuration say of it, is for the caller.
"""

from __future__ import annotations

from store.db import Database
from store.events import encode
from store.folder import JOINING_AGAIN, StoredFolder
from store.ids import Epoch, FolderId, Kind
from store.objects import OBJECT_COLUMNS
from store.signing import AgentKey, sign_folder_shared


def add_folder(
    database: Database,
    *,
    folder: FolderId,
    name: str,
    path: bytes,
    epoch: Epoch,
    tree: bytes = b"",
) -> int:
    """Make the rows of a folder (its own, and the root object); give its number.

    One that was held before is taken up again. `tree` names the very tree that stands at the
    path (the instance in its mark): where it is another than before, or at another path, nothing
    that was last seen on a disk says anything of this one, so that what is not there was deleted
    by nobody, and its files are bound as a joiner's.
    """
    with database.transaction():
        row = database.execute("SELECT no, path FROM folder WHERE id = ?", (folder,)).fetchone()
        if row is not None:
            no = int(row[0])
            is_same = bool(tree) and database.meta(f"tree/{no}") == tree
            if not is_same or row[1] != path:
                _forget_disk(database, no, has_history=is_same)
            database.execute(
                "UPDATE folder SET is_active = 1, name = ?, path = ? WHERE no = ?",
                (name, path, no),
            )
            database.set_meta(f"tree/{no}", tree)
            return no
        no = database.execute(
            "INSERT INTO folder (id, name, path, is_active, root_no, epoch, had_members)"
            " VALUES (?, ?, ?, 1, 0, ?, 0) RETURNING no",
            (folder, name, path, epoch),
        ).fetchone()[0]
        root_no = database.new_object_no()
        database.execute(
            f"INSERT INTO object ({OBJECT_COLUMNS}, folder_no) VALUES"
            " (?, ?, ?, 0, x'', NULL, NULL, NULL, NULL, NULL, 0, x'', x'', x'', 0, 0, 0, 1, ?)",
            (root_no, folder, int(Kind.DIRECTORY), no),
        )
        database.execute("UPDATE folder SET root_no = ? WHERE no = ?", (root_no, no))
        database.set_meta(f"tree/{no}", tree)
        return int(no)


def _forget_disk(database: Database, no: int, *, has_history: bool) -> None:
    """Forget what was last seen and begun on a disk; all files there stay where they lie.

    `has_history`: the kept versions lie at the new path too, since the whole tree was moved.
    """
    tables = ("synced", "intent", "displaced", "held_deletion", *(() if has_history else ("kept",)))
    for table in tables:
        database.execute(f"DELETE FROM {table} WHERE folder_no = ?", (no,))
    database.set_meta(f"joining/{no}", JOINING_AGAIN)


def share_folder(
    database: Database,
    key: AgentKey,
    *,
    folder_key: AgentKey,
    name: str,
    label: bytes,
    path: bytes,
    epoch: Epoch,
    nonce: bytes,
    wall_ms: int,
    tree: bytes = b"",
) -> StoredFolder:
    """Make a new folder of our own: its rows and its first event.

    `folder_key` signs that event and must be discarded then; `tree` as for add_folder.
    """
    folder = FolderId(folder_key.agent)
    with database.transaction():
        no = add_folder(database, folder=folder, name=name, path=path, epoch=epoch, tree=tree)
        stored = StoredFolder(database, no, folder, key)
        event = sign_folder_shared(
            folder_key, owner=key.agent, name=name.encode(), label=label, nonce=nonce
        )
        stored.log.append(key, epoch, [encode(event)], wall_ms, stored.fold)
    return stored
