"""Say who this node is towards its peers.

One value for everything that a hello says about us. It holds the agent key, so it stays in
memory: this module reads no file and writes none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from store.errors import UsageError

if TYPE_CHECKING:
    from store.ids import AgentId
    from store.signing import AgentKey

INSTANCE_BYTES: Final = 16
LABEL_LIMIT_BYTES: Final = 255
STATE_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An agent, as it runs now.

    `label` is the node's name for people, shown by peers after escaping. `instance` is random
    and new with each start of the daemon: two instances of one agent that answer by turns are
    a cloned key. `state_version` names the rules by which this node folds a log into state.
    """

    key: AgentKey = field(repr=False)
    label: bytes
    instance: bytes
    state_version: int = STATE_VERSION

    def __post_init__(self) -> None:
        """Refuse what no hello could carry."""
        if len(self.label) > LABEL_LIMIT_BYTES:
            raise UsageError(
                "node name",
                f"has {len(self.label)} bytes",
                hint=f"use at most {LABEL_LIMIT_BYTES} bytes",
            )
        if len(self.instance) != INSTANCE_BYTES:
            raise ValueError(f"an instance has {INSTANCE_BYTES} bytes")

    @property
    def agent(self) -> AgentId:
        """The public half of the key."""
        return self.key.agent
