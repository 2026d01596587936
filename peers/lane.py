"""Keep the questions for contents that are under way over one link, and route their answers.

A lane knows nothing of files or folders. It is owned by the loop; answers are handed on by
plain calls, so that thousands of contents cost no task and no future each. It says how long a
peer has been silent; what follows from that is for who asked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from peers.wire import Cancel, Chunks, Data, Difference, NotHave, Small

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers import wire
    from store.ids import AgentId

Answer = Data | Small | NotHave | Chunks | Difference

# Where somebody else can be asked, and where nobody can.
STALL_S: Final = 5.0  # not one byte came
IDLE_S: Final = 20.0
SLOW_S: Final = 30.0  # bytes come, but no answer is whole
ANSWER_S: Final = 180.0  # 1 MiB at 6 kB/s
CHECK_EVERY_S: Final = 1.25  # how often to look at how long a lane is silent


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
        self,
        agent: AgentId,
        put: Callable[[wire.Message], object],
        now_s: Callable[[], float],
        heard_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        """Ask `agent` by `put`; `heard_bytes` counts what the link brought, signs of life apart."""
        self.agent = agent
        self.is_open = True
        self.lapses = 0  # how often it was given up since it answered last
        self.on_stray: Callable[[Small], None] = lambda _: None
        self._put = put
        self._now_s = now_s
        self._heard_bytes = heard_bytes
        self._answered_at_s = self._heard_at_s = now_s()
        self._heard_before = 0
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
            self._answered_at_s = self._heard_at_s = self._now_s()
            self._heard_before = self._heard_bytes()
        self._requests[number] = request
        self._put(request.message(number))
        return number

    def arrived(self, answer: Answer) -> None:
        """Hand an answer to its question; contents that nobody asks for any more are strays."""
        self._answered_at_s = self._now_s()
        self.lapses = 0
        request = self._requests.get(answer.request)
        if request is not None:
            if request.take(answer):
                self._requests.pop(answer.request, None)
        elif isinstance(answer, Small):
            self.on_stray(answer)

    def has_lapsed(self, *, has_other: bool) -> bool:
        """Whether who asks here should not wait on; sooner where another can be asked.

        Silence is measured from one call to the next: ask each CHECK_EVERY_S.
        """
        now_s, heard = self._now_s(), self._heard_bytes()
        if heard != self._heard_before:
            self._heard_before, self._heard_at_s = heard, now_s
        unanswered_s = now_s - self._answered_at_s
        silent_s = min(unanswered_s, now_s - self._heard_at_s)
        if has_other:
            return silent_s >= STALL_S or unanswered_s >= SLOW_S
        return silent_s >= IDLE_S or unanswered_s >= ANSWER_S

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
