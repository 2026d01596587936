"""Keep the questions for contents that are under way over one link, and route their answers.

A lane knows nothing of files or folders. It is owned by the loop; answers are handed on by
plain calls, so that thousands of contents cost no task and no future each.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from peers.wire import Cancel, Chunks, Data, Difference, NotHave, Small

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers import wire
    from store.ids import AgentId

Answer = Data | Small | NotHave | Chunks | Difference


class Request(Protocol):
    """A question whose answer comes in parts."""

    def message(self, number: int) -> wire.Message:
        """Give what is sent to ask it."""

    def take(self, answer: Answer) -> bool:
        """Take a part of the answer; tell whether nothing more is awaited."""

    def lose(self) -> None:
        """Be told that no answer will come."""


class Lane:
    """One way to ask one peer for contents."""

    def __init__(
        self, agent: AgentId, put: Callable[[wire.Message], None], now_s: Callable[[], float]
    ) -> None:
        """Ask `agent` by `put`."""
        self.agent = agent
        self.is_open = True
        self.last_arrival_s = now_s()
        self._put = put
        self._now_s = now_s
        self._requests: dict[int, Request] = {}
        self._last_number = 0

    @property
    def waiting(self) -> int:
        """How many questions are under way."""
        return len(self._requests)

    def ask(self, request: Request) -> int:
        """Put a question; on a closed lane it is lost at once."""
        self._last_number = self._last_number % 0xFFFFFFFF + 1  # never 0: that is unasked
        number = self._last_number
        if not self.is_open:
            request.lose()
            return number
        if not self._requests:
            self.last_arrival_s = self._now_s()
        self._requests[number] = request
        self._put(request.message(number))
        return number

    def arrived(self, answer: Answer) -> None:
        """Hand an answer to its question; one to no question is passed over."""
        self.last_arrival_s = self._now_s()
        request = self._requests.get(answer.request)
        if request is not None and request.take(answer):
            self._requests.pop(answer.request, None)

    def cancel(self, number: int) -> None:
        """Take a question back."""
        if self._requests.pop(number, None) is not None and self.is_open:
            self._put(Cancel(number))

    def close(self) -> None:
        """Lose all questions; no other can be put. Idempotent."""
        self.is_open = False
        requests, self._requests = self._requests, {}
        for request in requests.values():
            request.lose()


def loop_time_s() -> float:
    """Read the running loop's clock, virtual in the simulator."""
    return asyncio.get_running_loop().time()
