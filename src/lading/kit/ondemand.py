"""A part of the house that is opened by the first who asks for it, once, and then stays open."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, Self, TypeVar

import anyio
import anyio.abc

T = TypeVar("T")


class OnDemand(Generic[T]):
    """An async context manager. Enters ``open()`` when it is asked for the first time, and leaves it when it is left itself.

    It is entered in a task of its own, because task groups must be left by the task that entered them, and those who ask
    come and go. Those who ask meanwhile wait for the same opening. If it fails, or who asked is cancelled, nothing is
    open, the error is his who asked, and the next one tries again.
    """

    def __init__(self, open: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._open = open
        self._tasks: anyio.abc.TaskGroup
        self._lock = anyio.Lock()
        self._closing = anyio.Event()
        self._part: list[T] = []

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        # An error of ours does not cancel the part: it is closed as it would be without.
        self._closing.set()
        await self._tasks.__aexit__(None, None, None)

    @property
    def opened(self) -> T | None:
        """The part, if somebody has asked for it."""
        return self._part[0] if self._part else None

    async def get(self) -> T:
        """The part, opened if it is not yet. Raises what opening raises."""
        if not self._part:
            async with self._lock:
                if not self._part:
                    self._part.append(await self._tasks.start(self._keep))
        return self._part[0]

    async def _keep(self, *, task_status: anyio.abc.TaskStatus[T]) -> None:
        async with self._open() as part:
            task_status.started(part)
            await self._closing.wait()
