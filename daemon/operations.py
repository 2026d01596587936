"""Do what a person asks of a node: the commands and queries behind the control socket.

The same code serves a running node and, by daemon.offline, a stopped one. It decides what is
allowed and writes config.toml; the work itself is done by daemon.node and what is below it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from daemon import config_edit, report, verifying
from daemon.answers import (
    Change,
    FolderPeers,
    Identity,
    InviteMade,
    Joined,
    Member,
    Rebuilt,
    VerifyLine,
)
from daemon.config import Config, read_config
from daemon.folder_work import FolderWork
from daemon.home import Home
from daemon.naming import find_folder
from daemon.node import Node
from daemon.reverting import put_back_deleted, revert_local_changes
from daemon.status import Status
from peers.address import Address, parse_all
from peers.invite import ROLES, SECRET_BYTES, Invite
from peers.link import Purpose
from store.access import Role, may_grant
from store.errors import DizzyError, TryLater, UsageError
from store.folder import StoredFolder, add_folder, share_folder
from store.ids import EPOCH_BYTES, AgentId, BlobHash, Epoch, FolderId, Kind
from store.signing import AgentKey

_CAT_PIECE_BYTES = 1024 * 1024
_WAIT_LOOK_S = 0.02
_HASH_DIGITS = 64
_NONCE_BYTES = 16


class NodeOperations:
    """The Operations (daemon.control) of a node."""

    def __init__(
        self,
        node: Node,
        home: Home,
        *,
        user_home: str,
        prepare_disk: Callable[[bytes, FolderId], None],
        find_marker: Callable[[bytes], bytes | None],
        own_addresses: Callable[[], Sequence[Address]],
        reporter: report.Reporter,
    ) -> None:
        """Serve this node; `prepare_disk` marks a root, `find_marker` reads its folder id."""
        self._node = node
        self._home = home
        self._user_home = user_home
        self._prepare_disk = prepare_disk
        self._find_marker = find_marker
        self._own_addresses = own_addresses
        self._reporter = reporter
        node.on_admitted = self._write_admitted

    # -- queries --------------------------------------------------------------------------------

    async def status(self) -> Status:
        """Say how everything is; reads only, at once."""
        return await self._reporter.status()

    async def identity(self) -> Identity:
        """Say who this node is."""
        return Identity(name=self._node.config.node.name, agent=self._node.key.agent.hex())

    async def peers(self) -> list[FolderPeers]:
        """List the members of every folder."""
        node = self._node
        found = []
        for work in node.works.values():
            await work.refresh_members()
            members = []
            for agent, member in work.members.items():
                peer = node.book.get(agent)
                is_self = agent == node.key.agent
                members.append(
                    Member(
                        agent=agent.hex(),
                        name=node.config.node.name
                        if is_self
                        else peer.name or member.label.decode("utf-8", "replace"),
                        role=member.role.name.lower(),
                        is_self=is_self,
                        connected=node.sessions.session(agent) is not None,
                        addresses=tuple(str(place) for place in peer.places()),
                        last_seen_at=report.rfc3339(peer.last_seen_ms),
                    )
                )
            found.append(
                FolderPeers(
                    name=self._name_of(work), id=work.folder.hex(), members=tuple(members)
                )
            )
        return found

    def verify(self, name: str | None) -> AsyncIterator[VerifyLine]:
        """Read everything back; the last line is the summary."""
        return verifying.verify(self._node, self._works(name))

    async def cat(self, path_or_hash: str, cwd: str) -> AsyncIterator[bytes]:
        """Read one content in pieces, from disk, history or a peer."""
        if len(path_or_hash) == _HASH_DIGITS and _is_hex(path_or_hash):
            async for piece in self._cat_hash(BlobHash(bytes.fromhex(path_or_hash))):
                yield piece
            return
        path = os.fsencode(os.path.join(cwd, path_or_hash))  # noqa: PTH118 - bytes
        path = os.path.normpath(path)
        for work in self._node.works.values():
            if path.startswith(work.path + b"/"):
                relative = path[len(work.path) + 1 :]
                async for piece in self._cat_path(work, relative):
                    yield piece
                return
        raise DizzyError(
            f"cat {path_or_hash}", "is in no shared folder", hint="`dizzyd status` lists them"
        )

    async def _cat_path(self, work: FolderWork, path: bytes) -> AsyncIterator[bytes]:
        rows = await work.rows_at([path])
        shown = os.fsdecode(path)
        if not rows[0] or rows[0][0].kind == Kind.DIRECTORY:
            raise DizzyError(f"cat {shown}", "is no file that dizzyd knows")
        row = rows[0][0]
        if row.kind == Kind.SYMLINK:
            yield row.value
            return
        async for piece in self._cat_hash(BlobHash(row.value)):
            yield piece

    async def _cat_hash(self, blob: BlobHash) -> AsyncIterator[bytes]:
        node = self._node
        for work in node.works.values():
            offset = 0
            while True:
                piece = await node.replica.read_own(work, blob, offset, _CAT_PIECE_BYTES)
                if piece is None:
                    break
                if not piece:
                    return
                yield piece
                offset += len(piece)
                if len(piece) < _CAT_PIECE_BYTES:
                    return
            if offset:
                raise DizzyError(f"cat {blob.hex()}", "changed while it was read", hint="again")
        content = await node.fetch_anywhere(blob)
        if content is None:
            raise TryLater(
                f"cat {blob.hex()}",
                "is neither here nor at a connected peer",
                hint="`dizzyd status` shows who is connected",
            )
        yield content

    async def changes(self, after: str | None) -> AsyncIterator[Change]:
        """Follow what happens, from a cursor on, without end: the batches of all folders."""
        cursor = int(after) if after and after.isdigit() else 0
        while True:
            rows = await self._node.world.core.run(self._changes_after, cursor)
            for change in rows:
                cursor = int(change.cursor)
                yield change
            if not rows:
                await asyncio.sleep(0.5)

    def _changes_after(self, cursor: int) -> list[Change]:
        rows = self._node.shelf.db.execute(
            "SELECT b.no, f.name, b.header, l.agent, b.seq, b.id FROM batch b"
            " JOIN folder f ON f.no = b.folder_no JOIN log l ON l.no = b.log_no"
            " WHERE b.no > ? ORDER BY b.no LIMIT 100",
            (cursor,),
        ).fetchall()
        return [report.change(*row) for row in rows]

    # -- folders --------------------------------------------------------------------------------

    async def share(self, path: str, name: str | None) -> str:
        """Share the directory at an absolute path; returns the folder's id in hex."""
        node = self._node
        root = self._checked_root(path)
        chosen = name if name is not None else Path(root).name or "folder"
        _check_folder_name(chosen)
        if any(self._name_of(work) == chosen for work in node.works.values()):
            raise DizzyError(
                f"share {path}", f"a folder named {chosen} is shared already", hint="give --name"
            )
        self._refuse_overlap(f"share {path}", root)
        known = self._find_marker(os.fsencode(root))
        stored = await node.world.core.run(self._reopen, known, chosen, root)
        if stored is None:
            stored = await self._share_new(root, chosen)
        else:
            self._prepare_disk(os.fsencode(root), stored.id)
        node.shelf.put(stored)
        self._write_folder(chosen, root, stored.id)
        await node.add_folder(stored)
        return stored.id.hex()

    async def _share_new(self, root: str, name: str) -> StoredFolder:
        node = self._node
        random_bytes = node.world.random_bytes
        folder_key = AgentKey.generate(random_bytes(32))
        self._prepare_disk(os.fsencode(root), FolderId(folder_key.agent))

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
            )

        return await node.world.core.run(make)

    def _reopen(self, known: bytes | None, name: str, root: str) -> StoredFolder | None:
        """Go on with a folder that this node held before at that path."""
        db = self._node.shelf.db
        if known is None:
            return None
        row = db.execute("SELECT no FROM folder WHERE id = ?", (known,)).fetchone()
        if row is None:
            return None
        with db.transaction():
            db.execute(
                "UPDATE folder SET is_active = 1, name = ?, path = ? WHERE no = ?",
                (name, os.fsencode(root), row[0]),
            )
        return StoredFolder(db, row[0], FolderId(known), self._node.key)

    async def leave(self, name: str) -> None:
        """Stop here; others go on."""
        [work] = self._works(name)
        await self._end(work)

    async def unshare(self, name: str) -> None:
        """End the folder for all; the owner's."""
        [work] = self._works(name)
        await work.refresh_members()
        member = work.own_member
        if member is None or member.role != Role.OWNER:
            raise DizzyError(
                f"unshare {name}", "only its owner can", hint=f"`dizzyd leave {name}` stops here"
            )
        await self._end(work)

    async def _end(self, work: FolderWork) -> None:
        folder_name = self._name_of(work)
        await self._node.drop_folder(work.folder)
        config_edit.remove_folder(
            self._home.config, state=self._home.state, name=folder_name, user_home=self._user_home
        )
        self._read_config()

    # -- invites and joining ----------------------------------------------------------------------

    async def invite(
        self, name: str, role: str, expires_s: float, addresses: tuple[str, ...]
    ) -> InviteMade:
        """Make an invite that admits one peer, once."""
        node = self._node
        [work] = self._works(name)
        await work.refresh_members()
        if not may_grant(work.own_member, Role(ROLES[role])):
            raise DizzyError(
                f"invite {name}",
                f"this node may not give the role {role}",
                hint="an admin or the owner can invite",
            )
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
            folder_name=self._name_of(work).encode(),
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
        _check_folder_name(wanted)
        if asked.inviter == node.key.agent:
            raise DizzyError("join", "this invite was made here", hint="use it on another machine")
        present = node.works.get(asked.folder)
        if present is not None:
            return await self._join_again(asked, present)
        root, given_up = await self._join_place(path, wanted)
        self._refuse_overlap(f"join {wanted}", root, besides=given_up)
        if given_up is None and any(self._name_of(w) == wanted for w in node.works.values()):
            raise DizzyError(
                f"join {wanted}", f"a folder named {wanted} is here already", hint="give --name"
            )
        link = await node.world.network.dial(
            asked.addresses, asked.inviter, Purpose.JOIN, invite=asked
        )
        try:
            os.makedirs(root, exist_ok=True)  # noqa: PTH103
            if given_up is not None:
                await node.drop_folder(given_up.folder)
            self._prepare_disk(os.fsencode(root), asked.folder)
            stored = await node.world.core.run(self._admitted, asked, wanted, root, given_up)
        except BaseException:
            await link.close()
            raise
        node.shelf.put(stored)
        node.book.get(asked.inviter).hints[:0] = list(asked.addresses)
        await node.book.note_inviter(stored.no, asked.inviter)
        if given_up is not None:
            self._remove_config(given_up)
        self._write_folder(wanted, root, asked.folder)
        self._write_peer(link.label.decode("utf-8", "replace"), asked.inviter, asked.addresses)
        await node.add_folder(stored)
        node.take_link(link)
        await node.call_members()
        return Joined(name=wanted, path=root, folder_id=asked.folder.hex())

    async def _join_again(self, asked: Invite, present: FolderWork) -> Joined:
        """Join with an invite once more: a no-op for the same agent."""
        link = await self._node.world.network.dial(
            asked.addresses, asked.inviter, Purpose.JOIN, invite=asked
        )
        self._node.take_link(link)
        return Joined(
            name=self._name_of(present),
            path=os.fsdecode(present.path),
            folder_id=present.folder.hex(),
        )

    async def _join_place(self, path: str | None, name: str) -> tuple[str, FolderWork | None]:
        """Choose where the joined folder lies, and which folder of ours is given up for it."""
        node = self._node
        alone = [work for work in node.works.values() if await self._never_had_members(work)]
        if path is None:
            for work in alone:
                if self._name_of(work) == name:
                    return os.fsdecode(work.path), work
            return os.path.join(self._user_home, name), None  # noqa: PTH118
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
        self, asked: Invite, name: str, root: str, given_up: FolderWork | None
    ) -> StoredFolder:
        """Record our admission; a folder given up for it ends in the same transaction."""
        db = self._node.shelf.db
        epoch = Epoch(self._node.world.random_bytes(EPOCH_BYTES))
        with db.transaction():
            if given_up is not None:
                db.execute("UPDATE folder SET is_active = 0 WHERE no = ?", (given_up.folder_no,))
                db.execute("DELETE FROM synced WHERE folder_no = ?", (given_up.folder_no,))
            no = add_folder(
                db, folder=asked.folder, name=name, path=os.fsencode(root), epoch=epoch
            )
            db.execute("UPDATE folder SET had_members = 1 WHERE no = ?", (no,))
            stored = StoredFolder(db, no, asked.folder, self._node.key)
            if not stored.log.heads():
                stored.set_joining(is_joining=True)
        return stored

    # -- what to do now ------------------------------------------------------------------------

    async def rebuild(self, name: str | None) -> list[Rebuilt]:
        """Fold state anew from the log; raises where the root is another one."""
        done = []
        for work in self._works(name):
            stored = self._node.shelf[work.folder_no]
            before = await self._node.world.core.run(stored.state.root)
            after = await self._node.world.core.run(stored.rebuild)
            if before != after:
                raise DizzyError(
                    f"rebuild {self._name_of(work)}",
                    f"the state was {before.hex()[:16]}, the log says {after.hex()[:16]}",
                    hint="the state is now what the log says; `dizzyd verify` shows the rest",
                )
            work.changed()
            done.append(
                Rebuilt(
                    name=self._name_of(work),
                    id=work.folder.hex(),
                    state_root=after.hex(),
                    events=await self._node.world.core.run(stored.log.count_events),
                )
            )
        return done

    async def scan(self, name: str | None) -> None:
        """Look at the disk now; returns when that is done."""
        for work in self._works(name):
            self._refuse_faulty(f"scan {self._name_of(work)}", work)
            await work.scan_now()

    async def wait(self, name: str | None, timeout_s: float) -> None:
        """Return when in sync with every connected peer. Raises TryLater at the timeout."""
        works = self._works(name)
        why = await self._what_is_missing(works)
        try:
            async with asyncio.timeout(timeout_s):
                while why:
                    await asyncio.sleep(_WAIT_LOOK_S)
                    why = await self._what_is_missing(works)
        except TimeoutError:
            raise TryLater("wait", why, hint="`dizzyd status` shows what is under way") from None

    async def _what_is_missing(self, works: Sequence[FolderWork]) -> str:
        if not works:
            return "no folder is shared"
        for work in works:
            folder_name = self._name_of(work)
            if work.trouble.root is not None:
                return f"{folder_name} is faulty: {work.trouble.root[0]}"
            if not work.is_settled:
                return f"{folder_name} has work to do"
            connected = [
                session.agent
                for session in self._node.sessions.all()
                if session.shares(work.folder)
            ]
            if not connected:
                return f"no peer of {folder_name} is connected"
            ours = await self._node.replica.heads(work.folder)
            for agent in connected:
                if not work.in_sync_with(agent, ours):
                    return f"{folder_name} is not in sync with {agent.hex()[:8]}"
        return ""

    async def confirm(self, name: str) -> None:
        """Let held deletions go on."""
        [work] = self._works(name)
        work.confirm()
        await work.scan_now()

    async def undo_deletions(self, name: str) -> None:
        """Put the files of held deletions back."""
        [work] = self._works(name)
        self._refuse_faulty(f"undo-deletions {name}", work)
        await put_back_deleted(self._node, work)

    async def revert(self, name: str) -> None:
        """Move a reader's local changes to history and bring the shared state back."""
        [work] = self._works(name)
        self._refuse_faulty(f"revert {name}", work)
        await revert_local_changes(self._node, work)

    async def reload(self) -> None:
        """Read the configuration again; a bad one changes nothing and raises."""
        self._read_config()
        limits = self._node.config.limits
        self._node.fetcher.download.change(limits.download_bytes_per_s)
        self._node.sessions.upload.change(limits.upload_bytes_per_s)
        await self.share_written()

    async def share_written(self) -> None:
        """Share the folders that somebody wrote into the configuration by hand."""
        for name, folder in list(self._node.config.folders.items()):
            if folder.id is None:
                await self.share(str(folder.path), name)

    # -- small things ---------------------------------------------------------------------------

    def _works(self, name: str | None) -> list[FolderWork]:
        works = list(self._node.works.values())
        if name is None:
            return works
        named = [_Named(name=self._name_of(w), id=w.folder.hex(), work=w) for w in works]
        return [find_folder(name, named).work]

    def _name_of(self, work: FolderWork) -> str:
        return self._node.shelf[work.folder_no].name

    def _refuse_faulty(self, what: str, work: FolderWork) -> None:
        if work.trouble.root is not None:
            raise DizzyError(what, work.trouble.root[0], hint=work.trouble.root[1])

    def _checked_root(self, path: str) -> str:
        root = os.path.realpath(path)
        if not os.path.lexists(root):
            raise DizzyError(f"share {path}", "does not exist", hint="make it first")
        if not os.path.isdir(root):  # noqa: PTH112
            raise DizzyError(f"share {path}", "is no directory")
        return root

    def _refuse_overlap(
        self, what: str, root: str, *, besides: FolderWork | None = None
    ) -> None:
        if root == "/":
            raise DizzyError(what, "the root of the file system cannot be shared")
        taken = [("the home", os.path.realpath(self._home.state))]
        taken.extend(
            (f"the folder {self._name_of(work)}", os.fsdecode(work.path))
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

    def _write_folder(self, name: str, root: str, folder: FolderId) -> None:
        config_edit.add_folder(
            self._home.config,
            state=self._home.state,
            name=name,
            path=Path(root),
            folder=folder,
            user_home=self._user_home,
        )
        self._read_config()

    def _remove_config(self, work: FolderWork) -> None:
        for name, folder in self._node.config.folders.items():
            if folder.id == work.folder:
                config_edit.remove_folder(
                    self._home.config,
                    state=self._home.state,
                    name=name,
                    user_home=self._user_home,
                )

    def _write_admitted(self, agent: AgentId, label: str, folder: FolderId) -> None:
        self._write_peer(label, agent, self._node.book.get(agent).places())

    def _write_peer(self, label: str, agent: AgentId, places: Sequence[Address]) -> None:
        config_edit.write_peer(
            self._home.config,
            state=self._home.state,
            name=label,
            agent=agent,
            addresses=[str(place) for place in places],
            user_home=self._user_home,
        )

    def _read_config(self) -> None:
        config: Config = read_config(
            self._home.config, state=self._home.state, user_home=self._user_home
        )
        self._node.config = config


class _Named:
    """A folder at work, as naming wants it."""

    def __init__(self, *, name: str, id: str, work: FolderWork) -> None:  # noqa: A002
        self.name = name
        self.id = id
        self.work = work


def _check_folder_name(name: str) -> None:
    if not name or not name.strip():
        raise UsageError("folder name", "is empty", hint="give --name")
    if not name.isprintable():
        raise UsageError("folder name", "has control characters")
    if len(name.encode("utf-8", "replace")) > 255:  # noqa: PLR2004 - as a name in an event
        raise UsageError("folder name", "has more than 255 bytes")


def _is_hex(text: str) -> bool:
    try:
        bytes.fromhex(text)
    except ValueError:
        return False
    return True


