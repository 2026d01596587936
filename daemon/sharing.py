"""Share, leave and unshare folders, and keep config.toml in step with what is shared.

Says what may be shared and where; what a folder at work does is daemon.folder_work's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from daemon import config_edit
from daemon.config import Config, FolderConfig, read_config
from daemon.ended import EndedFolder
from daemon.folder_work import FolderWork
from daemon.home import Home
from daemon.naming import NoSuchFolder, find_folder
from daemon.node import Node
from peers.address import Address
from store.access import is_owner
from store.errors import DizzyError, TryLater, UsageError
from store.folder import StoredFolder
from store.founding import add_folder, share_folder
from store.ids import EPOCH_BYTES, AgentId, Epoch, FolderId
from store.signing import AgentKey

logger = logging.getLogger(__name__)

_NONCE_BYTES = 16
_NAME_LIMIT_BYTES = 255  # as a name in an event


class Sharing:
    """The folders that a node shares, as a person sees them: by name and path."""

    def __init__(
        self,
        node: Node,
        home: Home,
        *,
        user_home: str,
        prepare_disk: Callable[[bytes, FolderId], bytes],
        find_marker: Callable[[bytes], bytes | None],
        refusal: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """Work on this node; `prepare_disk` marks a root, `find_marker` reads its folder id.

        What `prepare_disk` gives names the very tree: the instance in its mark. `refusal` gives
        what a person has to do before the service unit can write at a path.
        """
        self._node = node
        self._home = home
        self.user_home = user_home
        self.prepare_disk = prepare_disk
        self._find_marker = find_marker
        self._refusal = refusal
        node.folders.on_ended = self._forget_in_config

    # -- finding --------------------------------------------------------------------------------

    def works(self, name: str | None) -> list[FolderWork]:
        """Find a folder by name or prefix of its id, or give all. Raises NoSuchFolder."""
        works = list(self._node.works.values())
        if name is None:
            return works
        named = [_Named(self.name_of(work), work) for work in works]
        return [find_folder(name, named).folder]

    def ended(self, name: str) -> EndedFolder | None:
        """Find a folder that its owner ended; one at work goes before it."""
        named = [_Named(ended.name, ended) for ended in self._node.ended.values()]
        try:
            self.works(name)
        except NoSuchFolder:
            try:
                return find_folder(name, named).folder
            except NoSuchFolder:
                return None
        return None

    def name_of(self, work: FolderWork) -> str:
        """Say what a folder is called here."""
        return self._node.shelf[work.folder_no].name

    def make_root(self, root: str) -> None:
        """Make the directory of a folder that is to be joined, where it is missing."""
        os.makedirs(root, exist_ok=True)  # noqa: PTH103

    # -- sharing --------------------------------------------------------------------------------

    async def share(self, path: str, name: str | None) -> str:
        """Share the directory at an absolute path; returns the folder's id in hex."""
        node = self._node
        root = self._checked_root(path)
        chosen = name if name is not None else Path(root).name or "folder"
        check_folder_name(chosen)
        self.refuse_overlap(f"share {path}", root)
        if any(self.name_of(work) == chosen for work in node.works.values()):
            raise DizzyError(
                f"share {path}", f"a folder named {chosen} is shared already", hint="give --name"
            )
        known = await node.world.core.run(self._held_before, self._find_marker(os.fsencode(root)))
        if known is None:
            stored = await self._share_new(root, chosen)
        else:
            tree = self.prepare_disk(os.fsencode(root), known)
            stored = await node.world.core.run(self._reopen, known, chosen, root, tree)
        node.shelf.put(stored)
        self.write_folder(chosen, root, stored.id)
        await node.folders.begin(stored)
        return stored.id.hex()

    async def _share_new(self, root: str, name: str) -> StoredFolder:
        node = self._node
        random_bytes = node.world.random_bytes
        folder_key = AgentKey.generate(random_bytes(32))
        tree = self.prepare_disk(os.fsencode(root), FolderId(folder_key.agent))

        def make() -> StoredFolder:
            return share_folder(
                node.shelf.db,
                node.key,
                folder_key=folder_key,
                name=name,
                label=node.config.node.name.encode(),
                path=os.fsencode(root),
                epoch=Epoch(random_bytes(EPOCH_BYTES)),
                nonce=random_bytes(_NONCE_BYTES),
                wall_ms=node.world.clock.now_ns() // 1_000_000,
                tree=tree,
            )

        return await node.world.core.run(make)

    def _held_before(self, known: bytes | None) -> FolderId | None:
        """Find the folder of a mark, if this node held it before and it has not ended."""
        if known is None or self._node.shelf.has_ended(FolderId(known)):
            return None
        query = "SELECT 1 FROM folder WHERE id = ?"
        row = self._node.shelf.db.execute(query, (known,)).fetchone()
        return None if row is None else FolderId(known)

    def _reopen(self, known: FolderId, name: str, root: str, tree: bytes) -> StoredFolder:
        """Go on with a folder that this node held before."""
        db, epoch = self._node.shelf.db, Epoch(self._node.world.random_bytes(EPOCH_BYTES))
        path = os.fsencode(root)
        no = add_folder(db, folder=known, name=name, path=path, epoch=epoch, tree=tree)
        return StoredFolder(db, no, known, self._node.key)

    async def leave(self, name: str) -> None:
        """Stop here; others go on. A folder that has ended is not told of any more."""
        ended = self.ended(name)
        if ended is None:
            [work] = self.works(name)
            await self._node.folders.drop(work.folder)
            self.remove_config(work.folder)
        else:
            await self._node.folders.drop(ended.folder)
            self.remove_config(ended.folder)
        self.read_config()

    async def unshare(self, name: str) -> None:
        """End it for all; the owner's alone (docs/decisions/0017)."""
        if self.ended(name) is not None:
            raise DizzyError(
                f"unshare {name}", "has ended already", hint=f"`dizzyd leave {name}` forgets it"
            )
        [work] = self.works(name)
        await work.refresh_members()
        if not is_owner(work.standing.own_member):
            raise DizzyError(
                f"unshare {name}", "only its owner can", hint=f"`dizzyd leave {name}` stops here"
            )
        if work.tail.is_lagging:
            raise TryLater(
                f"unshare {name}",
                "this home was set back, and its peers still give it what it lacks",
                hint="`dizzyd status` says when that is done",
            )
        await self._node.folders.end(work)

    def _forget_in_config(self, ended: EndedFolder) -> None:
        """Take an ended folder out of config.toml; if that fails a line too many stays."""
        try:
            self.remove_config(ended.folder)
            self.read_config()
        except (DizzyError, OSError) as failure:
            logger.warning("configuration not changed why=%s", failure)

    # -- hand-written folders ---------------------------------------------------------------------

    async def share_written(self) -> None:
        """Share the folders that somebody wrote into the configuration by hand."""
        for name, folder in list(self._node.config.folders.items()):
            if folder.id is None:
                await self.share(str(folder.path), name)

    async def begin_changed(self, before: Config) -> None:
        """Let folders that are to write or ignore otherwise than before begin to work anew."""
        was = {folder.id: _manner(folder) for folder in before.folders.values()}
        for folder in list(self._node.config.folders.values()):
            if folder.id not in self._node.works or was.get(folder.id) == _manner(folder):
                continue
            stored = self._node.shelf[self._node.works[folder.id].folder_no]
            await self._node.folders.stop(stored.id)
            self._node.shelf.put(stored)
            await self._node.folders.begin(stored)

    # -- what is refused --------------------------------------------------------------------------

    def _checked_root(self, path: str) -> str:
        root = os.path.realpath(path)
        self.refuse_unwritable(f"share {path}", root)
        if not os.path.lexists(root):
            raise DizzyError(f"share {path}", "does not exist", hint="make it first")
        if not os.path.isdir(root):  # noqa: PTH112
            raise DizzyError(f"share {path}", "is no directory")
        return root

    def refuse_unwritable(self, what: str, root: str) -> None:
        """Refuse a place that the unit's sandbox hides or forbids. Raises DizzyError."""
        hint = self._refusal(root)
        if hint is not None:
            raise DizzyError(what, "the service unit may not write there", hint=hint)

    def refuse_unmakeable(self, what: str, root: str) -> None:
        """Refuse a root that is not there and cannot be made there. Raises DizzyError."""
        above = root
        while not os.path.lexists(above):
            above = os.path.dirname(above)  # noqa: PTH120 - a str
        if not os.path.isdir(above):  # noqa: PTH112
            raise DizzyError(what, f"{above} is no directory", hint="choose another path")
        if not os.access(above, os.W_OK | os.X_OK):
            raise DizzyError(what, f"nothing can be made in {above}", hint="choose another path")

    def refuse_overlap(self, what: str, root: str, *, besides: FolderWork | None = None) -> None:
        """Refuse a root that holds or lies in the home or another folder. Raises DizzyError."""
        if root == "/":
            raise DizzyError(what, "the root of the file system cannot be shared")
        taken = [("the home", os.path.realpath(self._home.state))]
        taken.extend(
            (f"the folder {self.name_of(work)}", os.fsdecode(work.path))
            for work in self._node.works.values()
            if work is not besides
        )
        for owner, other in taken:
            if root == other:
                raise DizzyError(what, f"is {owner} already")
            if root.startswith(other.rstrip("/") + "/"):
                raise DizzyError(what, f"lies in {owner}", hint="choose a path beside it")
            if other.startswith(root.rstrip("/") + "/"):
                raise DizzyError(what, f"holds {owner}", hint="choose a path beside it")

    # -- config.toml ------------------------------------------------------------------------------

    def write_folder(self, name: str, root: str, folder: FolderId) -> None:
        """Write a folder into config.toml."""
        config_edit.add_folder(
            self._home.config,
            state=self._home.state,
            name=name,
            path=Path(root),
            folder=folder,
            user_home=self.user_home,
        )
        self.read_config()

    def remove_config(self, gone: FolderId) -> None:
        """Take a folder out of config.toml."""
        for name, folder in self._node.config.folders.items():
            if folder.id == gone:
                config_edit.remove_folder(
                    self._home.config,
                    state=self._home.state,
                    name=name,
                    user_home=self.user_home,
                )

    def write_admitted(self, agent: AgentId, label: str) -> None:
        """Write a peer that an invite of ours has just let in."""
        self.write_peer(label, agent, self._node.book.get(agent).places())

    def write_peer(self, label: str, agent: AgentId, places: Sequence[Address]) -> None:
        """Write a peer, so that a home without its database can still find it."""
        config_edit.write_peer(
            self._home.config,
            state=self._home.state,
            name=label,
            agent=agent,
            addresses=[str(place) for place in places],
            user_home=self.user_home,
        )

    def read_config(self) -> None:
        """Take the configuration as it is written now. Raises ConfigError."""
        config: Config = read_config(
            self._home.config, state=self._home.state, user_home=self.user_home
        )
        self._node.config = config


F = TypeVar("F", FolderWork, EndedFolder)


class _Named(Generic[F]):
    """A folder, as naming wants it."""

    def __init__(self, name: str, folder: F) -> None:
        self.name = name
        self.id = folder.folder.hex()
        self.folder: F = folder


def _manner(folder: FolderConfig) -> tuple[int | None, bool]:
    return folder.umask, folder.ignore_editor_files


def check_folder_name(name: str) -> None:
    """Refuse a name that no folder may have. Raises UsageError."""
    if not name or not name.strip():
        raise UsageError("folder name", "is empty", hint="give --name")
    if not name.isprintable():
        raise UsageError("folder name", "has control characters")
    if len(name.encode("utf-8", "replace")) > _NAME_LIMIT_BYTES:
        raise UsageError("folder name", "has more than 255 bytes")
