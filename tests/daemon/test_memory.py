from __future__ import annotations

from daemon import syscalls
from daemon.memory import GROWTH_BYTES, Memory

MIB = 1024 * 1024


class Heap:
    """A process whose memory the test sets."""

    def __init__(self) -> None:
        self.bytes = 90 * MIB
        self.kept = 90 * MIB
        self.calls = 0

    def resident_bytes(self) -> int:
        return self.bytes

    def give_back(self) -> None:
        self.calls += 1
        self.bytes = self.kept


def test_memory_that_an_import_left_is_given_back_once() -> None:
    heap = Heap()
    memory = Memory(heap.resident_bytes, heap.give_back)
    heap.bytes, heap.kept = 120 * MIB, 100 * MIB

    for _ in range(3):
        memory.rested()

    assert heap.calls == 1


def test_small_changes_give_nothing_back() -> None:
    heap = Heap()
    memory = Memory(heap.resident_bytes, heap.give_back)

    for _ in range(1000):
        heap.bytes += (GROWTH_BYTES - 1) // 1000
        memory.rested()

    assert heap.calls == 0


def test_memory_that_is_in_use_is_not_asked_for_again_and_again() -> None:
    heap = Heap()
    memory = Memory(heap.resident_bytes, heap.give_back)
    heap.bytes = heap.kept = 200 * MIB

    for _ in range(3):
        memory.rested()

    assert heap.calls == 1


def test_this_process_has_memory_and_can_give_some_back() -> None:
    syscalls.give_memory_back()

    assert syscalls.resident_bytes() > MIB
