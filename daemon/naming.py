"""Find the folder that a user means by a name or the beginning of an id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from daemon.terminal import escape
from store.errors import DizzyError

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN_CANDIDATES = 5
SHORT_ID_DIGITS = 8


class NamedFolder(Protocol):
    """Anything with a folder's name and its id in hex."""

    @property
    def name(self) -> str:
        """The name here."""

    @property
    def id(self) -> str:
        """The id, 64 hex digits."""


Folder = TypeVar("Folder", bound=NamedFolder)


class NoSuchFolder(DizzyError):
    """No folder has this name, or several ids begin so; the hint has the candidates."""


def find_folder(wanted: str, folders: Sequence[Folder]) -> Folder:
    """Resolve a name, or a unique prefix of an id; a name goes before a prefix.

    Raises NoSuchFolder with the candidates in the hint.
    """
    named = [folder for folder in folders if folder.name == wanted]
    found = named or [
        folder for folder in folders if wanted and folder.id.startswith(wanted.lower())
    ]
    if len(found) == 1:
        return found[0]
    what = f"folder {escape(wanted)}" if wanted else "folder"
    if found:
        raise NoSuchFolder(
            what, f"{len(found)} folders are meant by that", hint=f"one of {_candidates(found)}"
        )
    if not folders:
        raise NoSuchFolder(
            what, "no folder is shared here", hint="`dizzyd share PATH` or `dizzyd join INVITE`"
        )
    why = "there is no folder of that name" if wanted else "the name is empty"
    raise NoSuchFolder(what, why, hint=f"folders here: {_candidates(folders)}")


def _candidates(folders: Sequence[NamedFolder]) -> str:
    shown = [
        f"{escape(folder.name)} ({folder.id[:SHORT_ID_DIGITS]})"
        for folder in folders[:SHOWN_CANDIDATES]
    ]
    more = len(folders) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
