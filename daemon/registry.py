"""Keep who hears what, in the order of subscription.

The registry is data: `lines` is what a diagram is drawn from. It runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daemon.subscription import (
    BadListener,
    Listener,
    ListenerKind,
    Subscription,
    listener_name,
    read_signature,
)


@dataclass(slots=True, eq=False)
class Registered:
    """A line of the registry and the listener behind it."""

    line: Subscription
    call: Listener[Any]
    allowed: frozenset[type]


@dataclass(slots=True, eq=False)
class Plan:
    """Who hears one class of events, each in the order of subscription."""

    projections: tuple[Registered, ...]
    policies: tuple[Registered, ...]
    persistent: tuple[Registered, ...]  # those of the policies that are owed


class Registry:
    """All subscriptions of one engine."""

    __slots__ = ("_plans", "_registered")

    def __init__(self) -> None:
        """Begin empty."""
        self._registered: list[Registered] = []
        self._plans: dict[type, Plan] = {}

    def __len__(self) -> int:
        """Count the subscriptions."""
        return len(self._registered)

    def add(
        self,
        listener: Listener[Any],
        hears: type | None,
        *,
        kind: ListenerKind,
        emits: type | tuple[type, ...] | None,
        name: str | None,
        persistent: bool,
        in_transaction: bool,
    ) -> Subscription:
        """Add one, or raise BadListener and add nothing."""
        signature = read_signature(listener, hears=hears, emits=emits)
        found_name = listener_name(listener)
        if not signature.hears:
            raise BadListener(f"{found_name} hears nothing", "name a class of events")
        if persistent and (kind is ListenerKind.PROJECTION or not in_transaction):
            raise BadListener(
                f"{found_name} cannot be persistent", "only a policy in a transaction can"
            )
        line = Subscription(
            name=self._free_name(name or found_name, is_fixed=persistent or name is not None),
            kind=kind,
            order=len(self._registered),
            hears=signature.hears,
            emits=signature.emits,
            persistent=persistent,
            in_transaction=in_transaction or kind is ListenerKind.PROJECTION,
        )
        self._registered.append(Registered(line, listener, frozenset(signature.emits)))
        self._plans.clear()
        return line

    def lines(self) -> tuple[Subscription, ...]:
        """Give all subscriptions in their order."""
        return tuple(registered.line for registered in self._registered)

    def persistent(self) -> dict[str, Registered]:
        """Give the persistent policies by name."""
        return {one.line.name: one for one in self._registered if one.line.persistent}

    def plan_for(self, kind: type) -> Plan:
        """Tell who hears events of exactly this class, subscribed to it or to a base of it."""
        plan = self._plans.get(kind)
        if plan is None:
            heard = [one for one in self._registered if issubclass(kind, one.line.hears)]
            policies = tuple(one for one in heard if one.line.kind is ListenerKind.POLICY)
            plan = self._plans[kind] = Plan(
                tuple(one for one in heard if one.line.kind is ListenerKind.PROJECTION),
                policies,
                tuple(one for one in policies if one.line.persistent),
            )
        return plan

    def _free_name(self, wanted: str, *, is_fixed: bool) -> str:
        taken = {registered.line.name for registered in self._registered}
        if wanted not in taken:
            return wanted
        if is_fixed:
            raise BadListener(f"{wanted} is subscribed already", "give it a name of its own")
        number = 2
        while f"{wanted}#{number}" in taken:
            number += 1
        return f"{wanted}#{number}"
