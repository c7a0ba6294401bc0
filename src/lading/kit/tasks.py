"""Task groups that fail with the error that caused the failure, and locks by key."""

import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from lading.kit import aio

S = TypeVar("S")
T = TypeVar("T")


class StoppedError(Exception):
    """A thread was told to stop because another part of its operation failed or was cancelled. Never leaves a room."""


@contextlib.asynccontextmanager
async def task_group() -> AsyncGenerator[anyio.abc.TaskGroup]:
    """An anyio task group that raises one plain error instead of an exception group.

    Of several, the first that is not a consequence (`StoppedError`) is raised.
    """
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as errors:
        cause = _root_cause(errors)
        raise cause from cause.__cause__


def _root_cause(error: BaseException) -> BaseException:
    """The leaf that explains the others: an ordinary error before an interrupt's echo, a cause before a consequence."""
    pending, leaves = deque([error]), list[BaseException]()
    while pending:
        one = pending.popleft()
        if isinstance(one, BaseExceptionGroup):
            pending.extend(one.exceptions)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        else:
            leaves.append(one)
    return next((leaf for leaf in leaves if not isinstance(leaf, StoppedError)), leaves[0])


async def map_tasks(function: Callable[[S], Awaitable[T]], items: Sequence[S], *, limit: int) -> list[T]:
    """The results of ``function`` for every item, in order, at most ``limit`` at a time; the first failure ends the others."""
    results: dict[int, T] = {}
    waiting = iter(enumerate(items))

    async def worker() -> None:
        for number, item in waiting:
            results[number] = await function(item)

    async with task_group() as group:
        for _ in range(min(limit, len(items))):
            group.start_soon(worker)
    return [results[number] for number in range(len(items))]


async def run_stage(function: Callable[..., T], *args: object) -> T:
    """Call one blocking stage of a pipeline on a data thread.

    A stage that was stopped because its task was cancelled ends as cancelled, not as failed.
    """
    try:
        return await aio.run(aio.DATA, function, *args)
    except StoppedError:
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise


class Signal:
    """Tells everyone who waits now that something changed. Look first, then wait, without a wait in between."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def wake(self) -> None:
        """Wake those who wait."""
        event, self._event = self._event, anyio.Event()
        event.set()

    async def wait(self) -> None:
        """Wait for the next `wake`."""
        await self._event.wait()


@dataclass(slots=True)
class _Entry:
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    users: int = 0


class KeyedLock:
    """One lock per key, made when needed and forgotten when nobody uses it; first come, first served."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}

    @contextlib.asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncGenerator[None]:
        """Be the only holder of ``key`` in this process."""
        entry = self._entries.setdefault(key, _Entry())
        entry.users += 1
        try:
            async with entry.lock:
                yield
        finally:
            entry.users -= 1
            if not entry.users:
                del self._entries[key]

    def held(self, key: Hashable) -> bool:
        """Whether somebody holds ``key`` or waits for it."""
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)


class SharedLock:
    """Many holders at once, or one alone. Whoever wants it alone goes before those who come later."""

    def __init__(self) -> None:
        self._holders = 0
        self._turn = anyio.Lock()
        self._empty = anyio.Event()

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncGenerator[None]:
        """Hold it with others."""
        async with self._turn:
            self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Hold it alone."""
        async with self._turn:
            while self._holders:
                self._empty = anyio.Event()
                await self._empty.wait()
            yield
