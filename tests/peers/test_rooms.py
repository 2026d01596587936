from __future__ import annotations

from peers.rooms import FREE_LIMIT, LENT_LIMIT, Rooms

SIZE_BYTES = 1000


def room_of(view: memoryview) -> int:
    return id(view.obj)


def test_what_somebody_looks_at_is_never_lent_again() -> None:
    rooms = Rooms(SIZE_BYTES)
    held = []
    for number in range(3 * LENT_LIMIT):
        room = rooms.take()
        room[:] = bytes((number % 251,)) * SIZE_BYTES
        held.append(room[10:20])  # a piece of it is enough
        del room

    assert [bytes(piece) for piece in held] == [
        bytes((number % 251,)) * 10 for number in range(3 * LENT_LIMIT)
    ]


def test_what_nobody_looks_at_is_lent_again_though_an_older_one_is_held() -> None:
    rooms = Rooms(SIZE_BYTES)
    held = rooms.take()

    used = {room_of(rooms.take()) for _ in range(100)}

    assert room_of(held) not in used
    assert len(used) <= 2


def test_no_more_is_kept_than_a_window_and_a_few() -> None:
    rooms = Rooms(SIZE_BYTES)
    held = [rooms.take() for _ in range(10 * LENT_LIMIT)]
    held.clear()
    for _ in range(10 * LENT_LIMIT):
        rooms.take()

    assert len(rooms._lent) <= LENT_LIMIT
    assert len(rooms._free) <= FREE_LIMIT


def test_all_that_is_not_in_use_can_be_forgotten() -> None:
    rooms = Rooms(SIZE_BYTES)
    held = rooms.take()
    held[:3] = b"abc"
    rooms.take()

    rooms.forget()

    assert not rooms._lent
    assert not rooms._free
    assert bytes(held[:3]) == b"abc"
    assert room_of(rooms.take()) != room_of(held)
