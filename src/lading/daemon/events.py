"""The daemon's event bus, in process: a ring of the last events and a bounded queue for every subscriber."""

import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio
from typing_extensions import override

from lading.core.events import Bus, Event

_HISTORY: Final = 1024
_QUEUE: Final = 4096
GAP: Final = "gap"
"""Action of the ``daemon`` event that stands for events which a slow subscriber lost; attribute ``lost`` counts them."""


class EventBus(Bus):
    """Publishing costs an append per subscriber and never waits. Use it on the event loop only."""

    def __init__(self, *, history: int = _HISTORY, queue: int = _QUEUE) -> None:
        self._history: deque[Event] = deque(maxlen=history)
        self._queue = queue
        self._subscribers: set[_Subscriber] = set()
        self._last = 0

    @property
    def subscribers(self) -> int:
        """How many listen now."""
        return len(self._subscribers)

    @override
    def publish(
        self, type: str, action: str, actor: str, attributes: Mapping[str, str] | None = None
    ) -> Event:
        self._last = max(time.time_ns(), self._last + 1)
        event = Event(
            type=type, action=action, actor=actor, attributes=dict(attributes or {}), time_nano=self._last
        )
        self._history.append(event)
        for subscriber in self._subscribers:
            subscriber.offer(event)
        return event

    @override
    @asynccontextmanager
    async def subscribe(self) -> AsyncGenerator[AsyncIterator[Event]]:
        subscriber = _Subscriber(self._queue)
        self._subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)

    @override
    def history(self, since_nano: int, until_nano: int) -> list[Event]:
        return [event for event in self._history if since_nano <= event.time_nano <= until_nano]


class _Subscriber(AsyncIterator[Event]):
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self._gap: Event | None = None
        self._news = anyio.Event()

    def offer(self, event: Event) -> None:
        if len(self._events) >= self._limit:
            lost = int(self._gap.attributes["lost"]) + 1 if self._gap else 1
            self._gap = Event(
                type="daemon", action=GAP, actor="", attributes={"lost": str(lost)}, time_nano=event.time_nano
            )
            return
        if self._gap is not None:
            self._events.append(self._gap)
            self._gap = None
        self._events.append(event)
        self._news.set()

    @override
    async def __anext__(self) -> Event:
        while not self._events:
            if self._gap is not None:
                gap, self._gap = self._gap, None
                return gap
            self._news = anyio.Event()
            await self._news.wait()
        return self._events.popleft()
