"""Group names that went by the topmost directory touched, so that `rm -r` is judged as one act."""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.look_set import parent_of


@dataclass(slots=True, kw_only=True)
class Gone:
    """Names that went below one directory, judged together."""

    due_s: float
    first_s: float
    names: set[bytes] = field(default_factory=set)


class Going:
    """The groups of names that went and wait to be judged, by directory."""

    def __init__(self) -> None:
        """Begin with none."""
        self.groups: dict[bytes, Gone] = {}

    def has(self, path: bytes) -> bool:
        """Whether the name went, and is judged with what went and came around it."""
        key = self.group_above(parent_of(path))
        return key is not None and path in self.groups[key].names

    def group_above(self, directory: bytes) -> bytes | None:
        """Name the group that a directory belongs to."""
        while True:
            if directory in self.groups:
                return directory
            if not directory:
                return None
            directory = parent_of(directory)

    def merge_below(self, directory: bytes, now_s: float) -> Gone:
        """Join the groups below a directory into a new one that starts when the first did."""
        prefix = directory + b"/" if directory else b""
        merged = Gone(due_s=now_s, first_s=now_s)
        for key in [key for key in self.groups if key.startswith(prefix)]:
            group = self.groups.pop(key)
            merged.names |= group.names
            merged.first_s = min(merged.first_s, group.first_s)
        return merged
