"""Judge who may do what in a folder, from membership events alone.

Pure: the same set of membership batches gives the same verdict on every node and in any order
of delivery. A batch counts if its author had the role in the batch's causal past; what its
author could know there is the set of membership batches among its ancestors (store.log keeps
that set for each batch). Expiry is no part of the verdict: it only ends serving. What an owner
cuts off by ending the folder is judged on top of this, in store.ending.

Of Revoked only the owner's about itself counts: it ends the folder. All others are reserved: they
have no effect, whoever signs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

from store.events import FIRST_FOLDER_TAG, Event, FolderShared, Granted, Revoked, tag_of
from store.ids import AgentId


class Role(IntEnum):
    """What an agent may do; a smaller number may do more."""

    OWNER = 0
    ADMIN = 1
    WRITE = 2
    READ = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An agent with a role in a folder, as its latest grant says."""

    agent: AgentId
    role: Role
    may_delegate: bool
    expires_ms: int | None
    label: bytes  # of the earliest grant: it names conflict copies, so it never changes
    granted_by: AgentId


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One membership event that counts, with its author and its order key."""

    key: bytes
    author: AgentId
    event: FolderShared | Granted


def members(grants: Iterable[Grant]) -> dict[AgentId, Member]:
    """Fold the membership events that count into each agent's role.

    The grant with the greatest key gives the role, the one with the least key the label.
    """
    found: dict[AgentId, Member] = {}
    for grant in sorted(grants, key=lambda grant: grant.key):
        event = grant.event
        if isinstance(event, FolderShared):
            agent, role, may_delegate, expires = AgentId(event.owner), Role.OWNER, True, None
        else:
            agent, role = AgentId(event.agent), Role(event.role)
            may_delegate, expires = event.may_delegate, event.expires_ms
        before = found.get(agent)
        if before is not None and before.role == Role.OWNER:
            continue  # nobody outranks the owner
        found[agent] = Member(
            agent=agent,
            role=role,
            may_delegate=may_delegate,
            expires_ms=expires,
            label=event.label if before is None else before.label,
            granted_by=grant.author,
        )
    return found


def may_write(member: Member | None) -> bool:
    """Whether events about objects by this agent count."""
    return member is not None and member.role <= Role.WRITE


def is_owner(member: Member | None) -> bool:
    """Whether this agent may end the folder."""
    return member is not None and member.role == Role.OWNER


def read_only(known: Mapping[AgentId, Member]) -> dict[AgentId, Member]:
    """Give the members of a folder that was ended: nobody writes or grants any more."""
    return {agent: replace(member, role=Role.READ) for agent, member in known.items()}


def may_grant(member: Member | None, role: Role) -> bool:
    """Whether this agent may give somebody that role."""
    if member is None or member.role > Role.ADMIN:
        return False
    if member.role == Role.OWNER:
        return True
    return role > Role.ADMIN or member.may_delegate


def counts(author: AgentId, seq: int, event: Event, known: Mapping[AgentId, Member]) -> bool:
    """Judge one membership event by what its author could know.

    The signature of FolderShared by the folder's own key is checked by the caller.
    """
    if isinstance(event, FolderShared):
        return event.owner == author and seq == 0 and not known
    if isinstance(event, Granted):
        return may_grant(known.get(author), Role(event.role))
    if isinstance(event, Revoked):
        return event.agent == author and is_owner(known.get(author))
    return may_write(known.get(author))


def is_membership(event: bytes) -> bool:
    """Whether an encoded event changes who is a member (FolderShared, Granted, Revoked)."""
    return FIRST_FOLDER_TAG <= tag_of(event) <= FIRST_FOLDER_TAG + 2
