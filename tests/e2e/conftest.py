"""Give tests running nodes, shared by the tests of a module for as long as they stay healthy."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.nodes import Nodes, Pair

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether a test failed, for the fixtures that end after it."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


class _Keeper:
    """Keeps one pair alive between the tests of a module."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._pair: Pair | None = None

    def get(self) -> Pair:
        if self._pair is None:
            pair = Pair(self._factory.mktemp("pair"))
            try:
                pair.meet()
            except BaseException:
                pair.end()
                raise
            self._pair = pair
        return self._pair

    def end(self) -> str:
        if self._pair is None:
            return ""
        pair, self._pair = self._pair, None
        pair.end()
        return pair.complaints()


@pytest.fixture(scope="module")
def _keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Keeper]:
    keeper = _Keeper(tmp_path_factory)
    yield keeper
    complaints = keeper.end()
    assert not complaints, complaints


@pytest.fixture
def pair(_keeper: _Keeper, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two nodes that share a folder and agree; those that failed a test see no other one."""
    yield _keeper.get()
    if request.node.stash.get(_FAILED, False):
        complaints = _keeper.end()
        if complaints:
            request.node.add_report_section("teardown", "log", complaints)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """Nodes of one test alone."""
    made = Nodes(tmp_path)
    yield made
    made.end()
    assert not made.complaints(), made.complaints()
