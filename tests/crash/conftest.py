"""Give tests of crashes the nodes of tests/e2e."""

from __future__ import annotations

from tests.e2e.conftest import nodes

__all__ = ["nodes"]
