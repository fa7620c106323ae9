"""What plugins do to events: hooks are asked with values of the contract, and what they return is checked as if a client had sent it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from nexus_core.hooks import Delivery, Event, Refusal
from nexus_sdk import HttpProblem
from nexus_sdk.plugins import Unavailable

from nexus_events import protocol
from nexus_events.protocol import CloudEvent

T = TypeVar("T")


class Plugins(Protocol):
    """What is needed of `nexus_sdk.plugins.ServicePlugins`."""

    def hears(self, hook: str) -> bool: ...

    async def change(self, hook: str, value: T, make: Callable[[Any, T], Any]) -> T | Refusal: ...

    async def tell(self, hook: str, make: Callable[[Any], Any]) -> None: ...


class EventHooks:
    """The hooks of the event hub."""

    def __init__(self, plugins: Plugins, limits: protocol.Limits) -> None:
        self._plugins = plugins
        self._limits = limits

    async def accepted(self, events: Sequence[CloudEvent]) -> tuple[CloudEvent, ...]:
        """Return what is stored of a request's events: all of them, or HttpProblem, 422 for a refusal and 503 for a plugin that is away."""
        if not self._plugins.hears("on_event_accepted"):
            return tuple(events)
        return tuple([await self._accept(event, f"[{number}]") for number, event in enumerate(events)])

    async def _accept(self, event: CloudEvent, where: str) -> CloudEvent:
        given = to_event(event)
        try:
            result = await self._plugins.change("on_event_accepted", given, lambda hook, so_far: hook(so_far))
        except Unavailable as error:
            raise HttpProblem(503, "PluginUnavailable", f"{where}: {error}", headers={"retry-after": "5"}) from error
        if isinstance(result, Refusal):
            raise HttpProblem(422, result.reason, f"{where}: {result.message}")
        if result == given:
            return event
        made = replace(
            event,
            id=result.id,
            source=result.source,
            type=result.type,
            attributes=dict(result.attributes),
            data=result.data,
        )
        try:
            # As strict as with clients: what is stored is read again for years.
            protocol.parse([("content-type", protocol.STRUCTURED)], protocol.to_json(made), self._limits)
        except (protocol.Refused, TypeError, ValueError) as error:
            text = f"{where}: a plugin made an event of it that is none: {error}. Its author has to mend that."
            raise HttpProblem(503, "PluginUnavailable", text, headers={"retry-after": "5"}) from error
        return made

    async def delivered(self, event: CloudEvent, delivery: Delivery) -> None:
        """Tell of an event that a subscriber took."""
        await self._tell("on_event_delivered", event, delivery)

    async def dead_lettered(self, event: CloudEvent, delivery: Delivery) -> None:
        """Tell of an event that a subscriber did not take in all its attempts."""
        await self._tell("on_event_dead_lettered", event, delivery)

    async def _tell(self, hook: str, event: CloudEvent, delivery: Delivery) -> None:
        if self._plugins.hears(hook):
            given = to_event(event)
            await self._plugins.tell(hook, lambda bound: bound(given, delivery))


def to_event(event: CloudEvent) -> Event:
    """Return the event as plugins see it."""
    return Event(event.id, event.source, event.type, dict(event.attributes), event.data)
