"""Hold the ids of activities: UUIDv7, in order, never twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import uuid
from pathlib import Path

from daemon.activity import ActivityIds


class Hands:
    """A clock whose hands are set by the test."""

    def __init__(self) -> None:
        self.ns = 1_790_000_000_123_456_789

    def now_ns(self) -> int:
        return self.ns

    def monotonic_s(self) -> float:
        return 0.0


def test_an_id_is_a_uuid_version_7_of_its_millisecond() -> None:
    found = uuid.UUID(bytes=bytes(ActivityIds(Hands(), random.Random(1).randbytes).make()))

    assert found.version == 7
    assert found.variant == uuid.RFC_4122
    assert found.int >> 80 == 1_790_000_000_123


def test_ids_rise_also_when_the_clock_goes_back() -> None:
    hands = Hands()
    ids = ActivityIds(hands, random.Random(1).randbytes)
    rng = random.Random(2)
    made = []

    for _ in range(5_000):
        hands.ns += rng.randrange(-3_000_000, 3_000_000)
        made.append(ids.make())

    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_rise_past_the_end_of_the_random_bits() -> None:
    ids = ActivityIds(Hands(), lambda count: b"\xff" * count)

    made = [ids.make() for _ in range(3)]

    assert made == sorted(set(made))
    assert uuid.UUID(bytes=bytes(made[1])).int >> 80 == 1_790_000_000_124


def test_row8_a_hundred_thousand_ids_of_four_processes_are_all_different() -> None:
    program = (
        "import os, sys, time\n"
        "from daemon.activity import ActivityIds\n"
        "class C:\n"
        "    now_ns = staticmethod(time.time_ns)\n"
        "    monotonic_s = staticmethod(time.monotonic)\n"
        "ids = ActivityIds(C(), os.urandom)\n"
        "sys.stdout.buffer.write(b''.join(ids.make() for _ in range(25_000)))\n"
    )
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        for _ in range(4)
    ]

    outputs = [process.communicate(timeout=60)[0] for process in processes]

    made = {output[at : at + 16] for output in outputs for at in range(0, len(output), 16)}
    assert len(made) == 100_000


def test_ids_are_made_of_the_clock_and_randomness_given() -> None:
    one = ActivityIds(Hands(), random.Random(1).randbytes)
    other = ActivityIds(Hands(), random.Random(1).randbytes)

    assert [one.make() for _ in range(10)] == [other.make() for _ in range(10)]
    assert time.time_ns() != Hands().now_ns()
