"""Skip what only root can check, and say so."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `root` for everybody else; -ra lists them at the end."""
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="root would check this")
    for item in items:
        if item.get_closest_marker("root") is not None:
            item.add_marker(skip)
