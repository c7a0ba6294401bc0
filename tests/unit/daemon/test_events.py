"""The event bus."""

from collections.abc import AsyncIterator

import anyio
import pytest

from lading.core.events import Event
from lading.daemon.events import GAP, EventBus

pytestmark = pytest.mark.anyio


async def take(events: AsyncIterator[Event], count: int) -> list[Event]:
    with anyio.fail_after(5):
        return [await anext(events) for _ in range(count)]


async def test_a_subscriber_gets_what_happens_from_then_on_in_order() -> None:
    bus = EventBus()
    bus.publish("image", "pull", "a")
    async with bus.subscribe() as events:
        for name in "bcd":
            bus.publish("image", "pull", name, {"name": name})
        assert [event.actor for event in await take(events, 3)] == ["b", "c", "d"]
    assert bus.subscribers == 0


async def test_times_only_rise_and_select_history() -> None:
    bus = EventBus()
    published = [bus.publish("image", "tag", str(n)) for n in range(500)]
    times = [event.time_nano for event in published]
    assert times == sorted(set(times))
    assert bus.history(times[10], times[20]) == published[10:21]


async def test_history_keeps_at_least_256() -> None:
    bus = EventBus()
    for n in range(5000):
        bus.publish("image", "tag", str(n))
    kept = bus.history(0, 2**63)
    assert len(kept) >= 256
    assert kept[-1].actor == "4999"


async def test_a_slow_subscriber_loses_events_and_is_told_how_many() -> None:
    bus = EventBus(queue=2)
    async with bus.subscribe() as slow, bus.subscribe() as quick:
        for n in range(5):
            bus.publish("image", "tag", str(n))
            assert (await take(quick, 1))[0].actor == str(n)
        assert [event.actor for event in await take(slow, 2)] == ["0", "1"]
        bus.publish("image", "tag", "5")
        gap, after = await take(slow, 2)
        assert (gap.action, gap.attributes) == (GAP, {"lost": "3"})
        assert after.actor == "5"


async def test_a_gap_is_told_also_when_nothing_follows() -> None:
    bus = EventBus(queue=1)
    async with bus.subscribe() as events:
        bus.publish("image", "tag", "0")
        bus.publish("image", "tag", "1")
        assert [event.action for event in await take(events, 2)] == ["tag", GAP]


async def test_attributes_are_the_event_s_own() -> None:
    bus = EventBus()
    attributes = {"name": "a"}
    event = bus.publish("image", "tag", "x", attributes)
    attributes["name"] = "b"
    assert event.attributes == {"name": "a"}
