"""Say what one operation of a node is, as the control socket spells it, for both of its ends.

Imports neither the server nor the client, so that the command line stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

PREFIX: Final = "/api/v1"

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route(Generic[Asked, Answer]):
    """One operation. The fields of `asked` are the parameters of the method of Operations.

    `answer` is the type of the answer, of each line (`is_stream`), or of each piece of bytes.
    `works_stopped`: the command line may do it itself while no daemon runs.
    """

    method: str
    operation: str
    asked: type[Asked]
    answer: type[Answer]
    is_stream: bool = False
    works_stopped: bool = False

    @property
    def path(self) -> str:
        """The way to it: `undo_deletions` is /api/v1/undo-deletions."""
        return f"{PREFIX}/{self.operation.replace('_', '-')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoRequest:
    """Nothing needs to be said."""


NOTHING: Final = type(None)
