"""Make the rows of a folder that this node has not had, and the first event of one of its own.

Who may do so, and what the disk and the configuration say of it, is for the caller.
"""

from __future__ import annotations

from store.db import Database
from store.events import encode
from store.folder import StoredFolder
from store.ids import Epoch, FolderId, Kind
from store.objects import OBJECT_COLUMNS
from store.signing import AgentKey, sign_folder_shared


def add_folder(
    database: Database, *, folder: FolderId, name: str, path: bytes, epoch: Epoch
) -> int:
    """Make the rows of a folder (its own, and the root object); give its number."""
    with database.transaction():
        row = database.execute("SELECT no FROM folder WHERE id = ?", (folder,)).fetchone()
        if row is not None:
            database.execute(
                "UPDATE folder SET is_active = 1, name = ?, path = ? WHERE no = ?",
                (name, path, row[0]),
            )
            return int(row[0])
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
        return int(no)


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
) -> StoredFolder:
    """Make a new folder of our own: its rows and its first event.

    `folder_key` signs that event and must be discarded then.
    """
    folder = FolderId(folder_key.agent)
    with database.transaction():
        no = add_folder(database, folder=folder, name=name, path=path, epoch=epoch)
        stored = StoredFolder(database, no, folder, key)
        event = sign_folder_shared(
            folder_key, owner=key.agent, name=name.encode(), label=label, nonce=nonce
        )
        stored.log.append(key, epoch, [encode(event)], wall_ms, stored.fold)
    return stored
