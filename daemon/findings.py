"""Make the lines in which verify tells what it found.

Values only; what is damaged, and how it is told from a user's work, is daemon.inspection's and
daemon.file_inspection's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from daemon.answers import VerifyLine

NAMED_LIMIT = 20  # findings of one kind that are told one by one

Lines = AsyncGenerator[VerifyLine, None]


def finding(where: str, text: str) -> VerifyLine:
    """Say what is damaged, and where."""
    return VerifyLine(kind="finding", text=f"{where}: {text}")


def pending(where: str, text: str) -> VerifyLine:
    """Say what is no damage, and not as it should be."""
    return VerifyLine(kind="pending", text=f"{where}: {text}")


def progress(done_bytes: int) -> VerifyLine:
    """Say that so many more bytes were read."""
    return VerifyLine(kind="progress", done_bytes=done_bytes)
