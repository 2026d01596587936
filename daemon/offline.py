"""Open a node that is stopped, for the commands that work without its daemon.

Imported only then: a running daemon is asked over its socket instead.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from daemon.app import stopped_node

if TYPE_CHECKING:
    from daemon.home import Home
    from daemon.operations import NodeOperations


def open_node(home: Home) -> AbstractContextManager[NodeOperations]:
    """Open the node of a home while no daemon runs. Raises AlreadyRunning, DizzyError."""
    return stopped_node(home)
