"""Do what a person asks of a node: the commands and queries behind the control socket.

The same code serves a running node and, by daemon.offline, a stopped one. Folders and members
are the matter of daemon.sharing and daemon.joining; the work itself is done by daemon.node.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence

from daemon import repairing, report, verifying
from daemon.answers import (
    Change,
    FolderPeers,
    History,
    Identity,
    InviteMade,
    Joined,
    Member,
    Rebuilt,
    RestoreLine,
    VerifyLine,
)
from daemon.cat import cat_hash, cat_path
from daemon.folder_work import FolderWork
from daemon.history import history
from daemon.joining import Joining
from daemon.node import Node
from daemon.restoring import Restoring
from daemon.reverting import put_back_deleted, refuse_unheld, revert_local_changes
from daemon.sharing import Sharing
from daemon.status import Status
from store.errors import DizzyError, TryLater
from store.ids import BlobHash

_WAIT_LOOK_S = 0.02
_HASH_DIGITS = 64


class NodeOperations:
    """The Operations (daemon.control) of a node."""

    def __init__(
        self, node: Node, sharing: Sharing, joining: Joining, reporter: report.Reporter
    ) -> None:
        """Serve this node."""
        self._node = node
        self._sharing = sharing
        self._joining = joining
        self._reporter = reporter
        self._listen = node.config.node.listen  # opened once

    # -- folders and members ----------------------------------------------------------------------

    async def share(self, path: str, name: str | None) -> str:
        """Share the directory at an absolute path; returns the folder's id in hex."""
        return await self._sharing.share(path, name)

    async def share_written(self) -> None:
        """Share the folders that somebody wrote into the configuration by hand."""
        await self._sharing.share_written()

    async def leave(self, name: str) -> None:
        """Stop here; others go on."""
        await self._sharing.leave(name)

    async def unshare(self, name: str) -> None:
        """End it for all; the owner's alone."""
        await self._sharing.unshare(name)

    async def invite(
        self, name: str, role: str, expires_s: float, addresses: tuple[str, ...]
    ) -> InviteMade:
        """Make an invite that admits one peer, once."""
        return await self._joining.invite(name, role, expires_s, addresses)

    async def join(self, invite: str, path: str | None, name: str | None) -> Joined:
        """Join a folder; returns when the inviter has admitted us. Raises TryLater."""
        return await self._joining.join(invite, path, name)

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
                    name=self._sharing.name_of(work), id=work.folder.hex(), members=tuple(members)
                )
            )
        return found

    def verify(self, name: str | None) -> AsyncIterator[VerifyLine]:
        """Read everything back; the last line is the summary."""
        return verifying.verify(self._node, self._sharing.works(name))

    def repair(self, name: str | None) -> AsyncIterator[VerifyLine]:
        """Heal what verify finds; the last line is the summary."""
        return repairing.repair(self._node, self._sharing.works(name))

    async def cat(self, path_or_hash: str, cwd: str) -> AsyncIterator[bytes]:
        """Read one content in pieces, from disk, history or a peer."""
        if len(path_or_hash) == _HASH_DIGITS and _is_hex(path_or_hash):
            async for piece in cat_hash(self._node, BlobHash(bytes.fromhex(path_or_hash))):
                yield piece
            return
        path = os.path.join(cwd, path_or_hash)  # noqa: PTH118 - a path as the user wrote it
        work, relative = self._locate(f"cat {path_or_hash}", path)
        async for piece in cat_path(self._node, work, relative):
            yield piece

    async def history(self, path: str) -> History:
        """Tell what became of an absolute path, and where its contents can be had."""
        work, relative = self._locate(f"history {path}", path)
        return await history(self._node, work, relative)

    async def restore(
        self, path: str, at_ms: int | None, digits: str | None, to: str | None
    ) -> AsyncIterator[RestoreLine]:
        """Bring a path back as it was, as a new change; the last line is the summary."""
        work, relative = self._locate(f"restore {path}", path)
        target: tuple[FolderWork | None, bytes] | None = None
        if to is not None:
            inside = self._find(to)
            target = (None, os.fsencode(to)) if inside is None else inside
        async for line in Restoring(self._node, work, relative).run(at_ms, digits, target):
            yield line

    def _locate(self, what: str, path: str) -> tuple[FolderWork, bytes]:
        """Find the folder that an absolute path lies in, and the path in it."""
        found = self._find(path)
        if found is None:
            raise DizzyError(what, "is in no shared folder", hint="`dizzyd status` lists those")
        return found

    def _find(self, path: str) -> tuple[FolderWork, bytes] | None:
        absolute = os.path.normpath(os.fsencode(path))
        for work in self._node.works.values():
            if absolute == work.path:
                return work, b""
            if absolute.startswith(work.path + b"/"):
                return work, absolute[len(work.path) + 1 :]
        return None

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
            " WHERE b.no > ? AND b.header != x'' ORDER BY b.no LIMIT 100",
            (cursor,),
        ).fetchall()
        return [report.change(*row) for row in rows]

    # -- what to do now ------------------------------------------------------------------------

    async def rebuild(self, name: str | None) -> list[Rebuilt]:
        """Fold state anew from the log; raises where the root is another one."""
        done = []
        for work in self._sharing.works(name):
            stored = self._node.shelf[work.folder_no]
            before = await self._node.world.core.run(stored.state.root)
            after = await self._node.world.core.run(stored.rebuild)
            if before != after:
                raise DizzyError(
                    f"rebuild {self._sharing.name_of(work)}",
                    f"the state was {before.hex()[:16]}, the log says {after.hex()[:16]}",
                    hint="the state is now what the log says; `dizzyd verify` shows the rest",
                )
            work.changed()
            done.append(
                Rebuilt(
                    name=self._sharing.name_of(work),
                    id=work.folder.hex(),
                    state_root=after.hex(),
                    events=await self._node.world.core.run(stored.log.count_events),
                )
            )
        return done

    async def scan(self, name: str | None) -> None:
        """Look at the disk now; returns when that is done."""
        for work in self._sharing.works(name):
            self._refuse_faulty(f"scan {self._sharing.name_of(work)}", work)
            await work.scan_now()

    async def wait(self, name: str | None, timeout_s: float) -> None:
        """Return when in sync with every connected peer. Raises TryLater at the timeout."""
        works = self._sharing.works(name)
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
            folder_name = self._sharing.name_of(work)
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
                if not work.standing.in_sync_with(agent, ours):
                    return f"{folder_name} is not in sync with {agent.hex()[:8]}"
        return ""

    async def confirm(self, name: str) -> None:
        """Let held deletions go on. Raises DizzyError where nothing is held."""
        [work] = self._sharing.works(name)
        what = f"confirm {name}"
        self._refuse_faulty(what, work)
        refuse_unheld(what, work)
        work.confirm()
        await work.scan_now()

    async def undo_deletions(self, name: str) -> None:
        """Put the files of held deletions back."""
        [work] = self._sharing.works(name)
        self._refuse_faulty(f"undo-deletions {name}", work)
        await put_back_deleted(self._node, work)

    async def revert(self, name: str) -> None:
        """Move a reader's local changes to history and bring the shared state back."""
        [work] = self._sharing.works(name)
        self._refuse_faulty(f"revert {name}", work)
        await revert_local_changes(self._node, work)

    async def reload(self) -> None:
        """Read the configuration again; a bad one changes nothing and raises.

        Raises DizzyError too where the rest is taken and `listen` waits for the next start.
        """
        before = self._node.config
        self._sharing.read_config()
        await self._sharing.begin_changed(before)
        limits = self._node.config.limits
        self._node.fetcher.download.change(limits.download_bytes_per_s)
        self._node.sessions.upload.change(limits.upload_bytes_per_s)
        await self._sharing.share_written()
        for work in self._node.works.values():
            work.history_limits_changed()
        if self._node.config.node.listen != self._listen:
            raise DizzyError("listen", "takes effect at the next start", hint="restart dizzyd")

    # -- small things ---------------------------------------------------------------------------

    def _refuse_faulty(self, what: str, work: FolderWork) -> None:
        if work.trouble.root is not None:
            raise DizzyError(what, work.trouble.root[0], hint=work.trouble.root[1])


def _is_hex(text: str) -> bool:
    try:
        bytes.fromhex(text)
    except ValueError:
        return False
    return True
