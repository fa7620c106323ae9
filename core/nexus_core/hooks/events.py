"""What hooks of the event hub see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Event:
    """A CloudEvent. attributes: all other context attributes by name. data: the payload's bytes, None for none."""

    id: str
    source: str
    type: str
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)
    data: bytes | None = None

    def with_attribute(self, name: str, value: str | int | bool) -> Event:
        """Return a copy with one attribute set."""
        return replace(self, attributes={**self.attributes, name: value})

    def with_data(self, data: bytes | None) -> Event:
        """Return a copy with other data."""
        return replace(self, data=data)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How an event went to a subscriber.

    subscription: its id. sink: the subscriber's address. attempts: made so far. status: the last answer's, 0 for none.
    error: why it failed, empty when it did not. seconds: that the last attempt took.
    """

    subscription: str
    sink: str
    attempts: int = 1
    status: int = 0
    error: str = ""
    seconds: float = 0.0
