"""Invite peers into a folder, and join one by an invite.

The secret of an invite is proven by the hello (peers.handshake), never sent; what is kept of an
invite that we made is its key. Admission is recorded in one transaction, before anything of the
folder is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from daemon.answers import InviteMade, Joined
from daemon.folder_work import FolderWork
from daemon.node import Node
from daemon.sharing import Sharing, check_folder_name
from peers.address import Address, parse_all
from peers.invite import ADDRESSES_LIMIT, ROLES, SECRET_BYTES, Invite
from peers.link import Purpose
from store.access import Role, may_grant
from store.errors import DizzyError, UsageError
from store.folder import StoredFolder
from store.founding import add_folder
from store.ids import EPOCH_BYTES, Epoch


class Joining:
    """Invites made here, and those that others gave us."""

    def __init__(
        self, node: Node, sharing: Sharing, own_addresses: Callable[[], Sequence[Address]]
    ) -> None:
        """Work on this node; `own_addresses` are put into invites."""
        self._node = node
        self._sharing = sharing
        self._own_addresses = own_addresses
        node.on_admitted = sharing.write_admitted

    async def invite(
        self, name: str, role: str, expires_s: float, addresses: tuple[str, ...]
    ) -> InviteMade:
        """Make an invite that admits one peer, once."""
        node = self._node
        [work] = self._sharing.works(name)
        await work.refresh_members()
        if not may_grant(work.standing.own_member, Role(ROLES[role])):
            raise DizzyError(
                f"invite {name}",
                f"this node may not give the role {role}",
                hint="an admin or the owner can invite",
            )
        if len(addresses) > ADDRESSES_LIMIT:
            raise UsageError(f"invite {name}", f"takes at most {ADDRESSES_LIMIT} addresses")
        places = parse_all(addresses) if addresses else tuple(self._own_addresses())
        if not places:
            raise DizzyError(
                f"invite {name}",
                "no peer could reach this node: it does not listen",
                hint="set [node] listen, or give --address HOST:PORT",
            )
        made = Invite(
            inviter=node.key.agent,
            folder=work.folder,
            folder_name=self._sharing.name_of(work).encode(),
            addresses=tuple(places),
            secret=node.world.random_bytes(SECRET_BYTES),
            expires_ms=node.world.clock.now_ns() // 1_000_000 + int(expires_s * 1000),
            role=ROLES[role],
        )
        await node.world.core.run(self._keep_invite, made, work.folder_no)
        return InviteMade(text=made.encode(), addresses=tuple(str(p) for p in places))

    def _keep_invite(self, made: Invite, folder_no: int) -> None:
        db = self._node.shelf.db
        with db.transaction():
            db.execute(
                "INSERT INTO invite (id, folder_no, secret, role, expires_ms) VALUES (?,?,?,?,?)",
                (made.id, folder_no, made.key, made.role, made.expires_ms),
            )

    async def join(self, invite: str, path: str | None, name: str | None) -> Joined:
        """Join a folder; returns when the inviter has admitted us. Raises TryLater."""
        node = self._node
        asked = Invite.parse(invite)
        wanted = name if name is not None else asked.folder_name.decode("utf-8", "replace")
        check_folder_name(wanted)
        if asked.inviter == node.key.agent:
            raise DizzyError("join", "this invite was made here", hint="use it on another machine")
        if await node.world.core.run(node.shelf.has_ended, asked.folder):
            raise DizzyError(
                f"join {wanted}", "its owner has ended this folder", hint="ask for a new invite"
            )
        present = node.works.get(asked.folder)
        if present is not None:
            return await self._join_again(asked, present)
        root, given_up = await self._join_place(path, wanted)
        others = [work for work in node.works.values() if work is not given_up]
        if wanted in map(self._sharing.name_of, others):
            raise DizzyError(
                f"join {wanted}", f"a folder named {wanted} is here already", hint="give --name"
            )
        self._sharing.refuse_overlap(f"join {wanted}", root, besides=given_up)
        self._sharing.refuse_unwritable(f"join {wanted}", root)
        self._sharing.refuse_unmakeable(f"join {wanted}", root)
        link = await node.world.network.dial(
            asked.addresses, asked.inviter, Purpose.JOIN, invite=asked
        )
        try:
            self._sharing.make_root(root)
            if given_up is not None:
                await node.folders.stop(given_up.folder)
            tree = self._sharing.prepare_disk(os.fsencode(root), asked.folder)
            # Before we are in: a crash behind that must not leave a folder that calls nobody.
            label = link.label.decode("utf-8", "replace")
            self._sharing.write_peer(label, asked.inviter, asked.addresses)
            stored = await node.world.core.run(
                self._admitted, asked, wanted, root, given_up, tree
            )
        except BaseException:
            await link.close()
            raise
        node.shelf.put(stored)
        node.book.get(asked.inviter).hints[:0] = list(asked.addresses)
        if given_up is not None:
            self._sharing.remove_config(given_up.folder)
        self._sharing.write_folder(wanted, root, asked.folder)
        await node.folders.begin(stored)
        node.links.take(link)
        await node.calling.call_members()
        return Joined(name=wanted, path=root, folder_id=asked.folder.hex())

    async def _join_again(self, asked: Invite, present: FolderWork) -> Joined:
        """Join with an invite once more: a no-op for the same agent."""
        link = await self._node.world.network.dial(
            asked.addresses, asked.inviter, Purpose.JOIN, invite=asked
        )
        self._node.links.take(link)
        return Joined(
            name=self._sharing.name_of(present),
            path=os.fsdecode(present.path),
            folder_id=present.folder.hex(),
        )

    async def _join_place(self, path: str | None, name: str) -> tuple[str, FolderWork | None]:
        """Choose where the joined folder lies, and which folder of ours is given up for it."""
        node = self._node
        alone = [work for work in node.works.values() if await self._never_had_members(work)]
        if path is None:
            for work in alone:
                if self._sharing.name_of(work) == name:
                    return os.fsdecode(work.path), work
            return os.path.join(self._sharing.user_home, name), None  # noqa: PTH118
        root = os.path.realpath(path)
        if os.path.exists(root) and not os.path.isdir(root):  # noqa: PTH110, PTH112
            raise DizzyError(f"join {path}", "is no directory")
        for work in alone:
            if os.fsdecode(work.path) == root:
                return root, work
        return root, None

    async def _never_had_members(self, work: FolderWork) -> bool:
        await work.refresh_members()
        others = set(work.members) - {self._node.key.agent}
        return not others and not self._node.shelf[work.folder_no].had_members

    def _admitted(
        self, asked: Invite, name: str, root: str, given_up: FolderWork | None, tree: bytes
    ) -> StoredFolder:
        """Record our admission; a folder given up for it ends in the same transaction."""
        db = self._node.shelf.db
        epoch = Epoch(self._node.world.random_bytes(EPOCH_BYTES))
        with db.transaction():
            if given_up is not None:
                db.execute("UPDATE folder SET is_active = 0 WHERE no = ?", (given_up.folder_no,))
                db.execute("DELETE FROM synced WHERE folder_no = ?", (given_up.folder_no,))
            path = os.fsencode(root)
            no = add_folder(db, folder=asked.folder, name=name, path=path, epoch=epoch, tree=tree)
            db.execute("UPDATE folder SET had_members = 1 WHERE no = ?", (no,))
            self._node.book.note_inviter(no, asked.inviter)
            stored = StoredFolder(db, no, asked.folder, self._node.key)
            if not stored.log.heads():
                stored.set_joining(is_joining=True)
        return stored
