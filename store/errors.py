"""Say what failed, where, and what a person can do about it.

Every error of dizzyd is a DizzyError. It carries the sentence for stderr, a hint and the exit
code of docs/contract.md, so that no command needs to know what went wrong underneath.
"""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_PROBLEM = 4
EXIT_TRY_LATER = 75


class DizzyError(Exception):
    """A failure with an operation and place (`what`), a reason (`why`) and a hint."""

    exit_code = EXIT_FAILED

    def __init__(self, what: str, why: str = "", *, hint: str = "") -> None:
        """Keep the parts; str() gives `WHAT: WHY`."""
        super().__init__(f"{what}: {why}" if why else what)
        self.what = what
        self.why = why
        self.hint = hint


class Malformed(DizzyError):
    """Bytes from a peer or a disk that are not what they claim to be."""


class BadSignature(DizzyError):
    """A batch that its author did not sign."""


class UnsafePath(DizzyError):
    """A name that could leave its folder or that no disk can hold."""


class UsageError(DizzyError):
    """The command line or the configuration is wrong."""

    exit_code = EXIT_USAGE


class NotRunning(DizzyError):
    """A command needs the daemon and none answers."""

    exit_code = EXIT_NOT_RUNNING


class TryLater(DizzyError):
    """No peer answers, or the time ran out."""

    exit_code = EXIT_TRY_LATER


class DatabaseDamaged(DizzyError):
    """The database is missing or malformed."""


class DatabaseNewer(DatabaseDamaged):
    """The database was written by a newer dizzyd. It is left alone."""
