"""Say for a person, and for the log, what stopped a folder or a session."""

from __future__ import annotations

import sqlite3


def innermost(failure: BaseException) -> BaseException:
    """Give the first cause in a group of failures."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def told(failure: BaseException) -> tuple[str, str]:
    """Say for a person what stopped us, and what to do."""
    cause = innermost(failure)
    if isinstance(cause, sqlite3.Error):
        return (
            f"the database in the home cannot be used: {cause}",
            "see that the disk of the home is well and has space; it goes on by itself",
        )
    return f"stopped by {type(cause).__name__}: {cause}", "it is tried again"
