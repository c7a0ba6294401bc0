"""Events: what happened, told after it is durable.

An event is published after the transaction that made it true. Subscribers get events in order from the moment they
subscribe; a subscriber that does not read loses events, and is told so by a gap, rather than holding up anyone.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened, in Docker's terms. ``time_nano`` is nanoseconds since the epoch."""

    type: str
    """``image``, ``container``, ``network``, ``volume``, ``daemon``."""
    action: str
    """``pull``, ``tag``, ``create``, ``start``, ``die`` …"""
    actor: str
    """ID of what it happened to."""
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    time_nano: int
    namespace: str = "moby"


class Bus(Protocol):
    """The daemon's events."""

    def publish(
        self, type: str, action: str, actor: str, attributes: Mapping[str, str] | None = None
    ) -> Event:
        """Tell every subscriber; never blocks. The event as published, stamped with a time that only rises."""
        ...

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Events from now on."""
        ...

    def history(self, since_nano: int, until_nano: int) -> list[Event]:
        """The events of the last while (at least 256 of them) in a time range, oldest first."""
        ...
