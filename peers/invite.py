"""Turn an invite into one pasteable line, and such a line back into an invite.

Pure. It decides nothing: whether an invite is still open is known to its inviter alone, and
its secret never travels but in this line (the hello proves it without sending it).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final, NewType

from blake3 import blake3

from peers.address import Address
from store.errors import UsageError
from store.ids import ID_BYTES, AgentId, FolderId

InviteId = NewType("InviteId", bytes)  # 32 bytes
InviteKey = NewType("InviteKey", bytes)  # 32 bytes: proves knowledge of the secret

SECRET_BYTES: Final = 16
NAME_LIMIT_BYTES: Final = 255
ADDRESSES_LIMIT: Final = 16
ROLES: Final = {"admin": 1, "write": 2, "read": 3}  # the numbers of Granted

_PREFIX = "dizzyd1."
_CHECK_BYTES = 6
_KEY_CONTEXT = "dizzyd 2026-11 invite proof key v1"
_VERSION = 1
# What mail and chat put into a long line: white space, quote marks, invisible characters.
_PASTE_NOISE = re.compile(r"[\s\u200b-\u200f\u2060\ufeff\u00ad'\"`<>\u2018-\u201f]+")
_LINE = re.compile(r"dizzyd1\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{8})")
_HINT = "copy the whole line that `dizzyd invite` printed, once"


class InviteDamaged(UsageError):
    """A pasted line is no whole invite: mistyped, cut, doubled, or something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """Everything a joiner needs; who holds it can join once, until it expires.

    `expires_ms` is wall clock of the inviter, milliseconds since 1970; the inviter alone
    judges by it. `role` is a number of Granted: 1 admin, 2 write, 3 read.
    """

    inviter: AgentId
    folder: FolderId
    folder_name: bytes
    addresses: tuple[Address, ...]
    secret: bytes = field(repr=False)
    expires_ms: int
    role: int

    def __post_init__(self) -> None:
        """Refuse what no line could carry."""
        if len(self.inviter) != ID_BYTES or len(self.folder) != ID_BYTES:
            raise ValueError("an invite needs the ids of its inviter and folder")
        if len(self.secret) != SECRET_BYTES or self.role not in ROLES.values():
            raise ValueError(f"an invite needs {SECRET_BYTES} secret bytes and a role from 1 to 3")
        if not 1 <= len(self.folder_name) <= NAME_LIMIT_BYTES:
            raise ValueError(f"a folder's name has 1 to {NAME_LIMIT_BYTES} bytes")
        if len(self.addresses) > ADDRESSES_LIMIT or not 0 <= self.expires_ms < 1 << 63:
            raise ValueError(f"an invite has at most {ADDRESSES_LIMIT} addresses, and an expiry")

    @property
    def id(self) -> InviteId:
        """Name the invite without telling its secret; bound to inviter and folder."""
        return InviteId(blake3(b"dizzyd/invite/1" + self._bound()).digest())

    @property
    def key(self) -> InviteKey:
        """Derive what both sides prove to know; the inviter keeps this, not the secret."""
        return InviteKey(blake3(self._bound(), derive_key_context=_KEY_CONTEXT).digest())

    def _bound(self) -> bytes:
        return self.inviter + self.folder + self.secret  # 32 + 32 + 16 = 80

    def encode(self) -> str:
        """Write the one line; letters, digits, `-`, `_` and two dots."""
        # 1 version + 32 inviter + 32 folder + 16 secret + 8 expiry + 1 role + 1 name length
        # + 1 count of addresses = 92, + name + each address with 1 byte of length
        texts = [str(address).encode("ascii") for address in self.addresses]
        fields = b"".join(
            (
                bytes((_VERSION,)),
                self.inviter,
                self.folder,
                self.secret,
                self.expires_ms.to_bytes(8, "big"),
                bytes((self.role, len(self.folder_name))),
                self.folder_name,
                bytes((len(texts),)),
                *(bytes((len(text),)) + text for text in texts),
            )
        )
        line = _PREFIX + _base64(fields)
        return f"{line}.{_check(line)}"

    @classmethod
    def parse(cls, text: str) -> Invite:
        """Read a pasted line, forgiving white space, line breaks and quote marks around it.

        Raises InviteDamaged that says whether it is cut, doubled, mistyped or no invite.
        """
        pasted = _PASTE_NOISE.sub("", text)
        if not pasted.startswith(_PREFIX):
            raise _no_invite(pasted)
        if pasted.count(_PREFIX) > 1:
            raise InviteDamaged("join", "the invite was pasted more than once", hint=_HINT)
        match = _LINE.fullmatch(pasted)
        if match is None or _check(_PREFIX + match[1]) != match[2]:
            raise InviteDamaged("join", "the invite is mistyped or cut", hint=_HINT)
        try:
            return _read(base64.urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4)))
        except (ValueError, IndexError, UsageError, binascii.Error) as cause:
            raise InviteDamaged("join", "the invite cannot be read", hint=_HINT) from cause


def _no_invite(pasted: str) -> InviteDamaged:
    if pasted.startswith("dizzyd") and re.match(r"dizzyd[0-9]+\.", pasted):
        return InviteDamaged(
            "join", "the invite is from a newer dizzyd", hint="install the newer dizzyd here too"
        )
    if _PREFIX in pasted or re.search(r"\.[A-Za-z0-9_-]{8}$", pasted):
        why = "the beginning of the invite is missing or mistyped"
    else:
        why = "this is no invite"
    return InviteDamaged("join", why, hint=_HINT)


def _read(fields: bytes) -> Invite:
    reader = _Reader(fields)
    if reader.take(1)[0] != _VERSION:
        raise ValueError("another version")
    inviter, folder, secret = reader.take(32), reader.take(32), reader.take(SECRET_BYTES)
    expires_ms = int.from_bytes(reader.take(8), "big")
    role = reader.take(1)[0]
    name = reader.take_counted()
    addresses = tuple(
        Address.parse(reader.take_counted().decode("ascii")) for _ in range(reader.take(1)[0])
    )
    if reader.rest:
        raise ValueError("bytes are left over")
    return Invite(
        inviter=AgentId(inviter),
        folder=FolderId(folder),
        folder_name=name,
        addresses=addresses,
        secret=secret,
        expires_ms=expires_ms,
        role=role,
    )


class _Reader:
    def __init__(self, fields: bytes) -> None:
        self.rest = fields

    def take(self, count: int) -> bytes:
        taken, self.rest = self.rest[:count], self.rest[count:]
        if len(taken) != count:
            raise ValueError("bytes are missing")
        return taken

    def take_counted(self) -> bytes:
        return self.take(self.take(1)[0])


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def _check(line: str) -> str:
    # 6 bytes, 8 characters: a slip of the hand passes once in 2^48
    return _base64(blake3(b"dizzyd/invite/check/1" + line.encode("ascii")).digest()[:_CHECK_BYTES])
