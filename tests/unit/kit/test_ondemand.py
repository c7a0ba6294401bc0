"""A part that is opened by the first who asks, once."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from lading.errors import UnavailableError
from lading.kit.ondemand import OnDemand

pytestmark = pytest.mark.anyio


class Part:
    """Counts how often it was opened and closed; fails while told to; opens when let."""

    def __init__(self) -> None:
        self.opened = self.closed = 0
        self.failing = False
        self.let = anyio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[int]:
        await self.let.wait()
        if self.failing:
            raise UnavailableError("not now")
        self.opened += 1
        async with anyio.create_task_group():
            try:
                yield self.opened
            finally:
                await anyio.lowlevel.checkpoint()
                self.closed += 1


async def test_nobody_asks():
    part = Part()
    async with OnDemand(part.open) as room:
        assert room.opened is None
    assert (part.opened, part.closed) == (0, 0)


async def test_all_who_ask_get_one_and_it_is_closed_once():
    part = Part()
    got: list[int] = []
    async with OnDemand(part.open) as room:

        async def ask() -> None:
            got.append(await room.get())

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            part.let.set()
        assert got == [1] * 5
        assert room.opened == 1
        assert part.closed == 0
    assert (part.opened, part.closed) == (1, 1)


async def test_a_failure_is_told_to_who_asked_and_tried_again():
    part = Part()
    part.let.set()
    part.failing = True
    async with OnDemand(part.open) as room:
        with pytest.raises(UnavailableError):
            await room.get()
        assert room.opened is None
        part.failing = False
        assert await room.get() == 1


async def test_who_asks_may_go_away_while_it_opens():
    part = Part()
    async with OnDemand(part.open) as room:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(room.get)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert room.opened is None
        part.let.set()
        assert await room.get() == 1


async def test_an_error_of_who_holds_it_passes():
    part = Part()
    part.let.set()
    with pytest.raises(ValueError, match="mine"):
        async with OnDemand(part.open) as room:
            await room.get()
            raise ValueError("mine")
    assert part.closed == 1
