"""Name what is being written without a rest, and only that."""

from __future__ import annotations

from daemon.look_set import Again, AgainReason, LookSet
from daemon.restless import RESTLESS_S, Restless


def changing(path: bytes) -> Again:
    return Again(path, AgainReason.CHANGING, 0.1)


def look(restless: Restless, where: LookSet, now_s: float, *found: Again) -> None:
    restless.begin(where)
    restless.note(found, now_s)
    restless.end()


def test_a_file_is_named_once_it_has_been_changing_for_long() -> None:
    restless = Restless()
    for now_s in (0.0, 1.0, RESTLESS_S - 0.1):
        look(restless, LookSet(paths=(b"d/vm.img",)), now_s, changing(b"d/vm.img"))
        assert restless.named(now_s) == []

    assert restless.named(RESTLESS_S) == [b"d/vm.img"]
    look(restless, LookSet(paths=(b"other",)), RESTLESS_S)
    assert restless.named(RESTLESS_S) == [b"d/vm.img"]


def test_a_look_that_finds_it_at_rest_or_gone_ends_that() -> None:
    for where in (
        LookSet(paths=(b"d/vm.img",)),
        LookSet(directories=(b"d",)),
        LookSet(trees=(b"d",)),
        LookSet(is_full=True),
    ):
        restless = Restless()
        look(restless, where, 0.0, changing(b"d/vm.img"), changing(b"d/b"))

        look(restless, where, 9.0, changing(b"d/b"))

        still = [b"d/vm.img", b"d/b"] if where.paths else [b"d/b"]
        expected = [path for path in still if path not in where.paths]
        assert restless.named(9.0) == expected


def test_what_is_looked_at_again_for_other_reasons_is_not_named() -> None:
    restless = Restless()
    look(restless, LookSet(paths=(b"a",)), 0.0, Again(b"a", AgainReason.RACY, 0.1))

    assert restless.named(99.0) == []
