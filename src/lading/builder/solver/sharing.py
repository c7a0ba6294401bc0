"""Work that is done once for all who wait for it, and cancelled when nobody waits any more."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, cast

import anyio
from anyio.abc import TaskGroup

T = TypeVar("T")


class _Attempt:
    """One run of the work."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.over = anyio.Event()
        self.waiters = 0
        self.doomed = False


class Shared(Generic[T]):
    """One piece of work. What it gave, or raised, is kept; an attempt that was cancelled counts as never made."""

    def __init__(self, group: TaskGroup, work: Callable[[], Awaitable[T]]) -> None:
        self._group = group
        self._work = work
        self._attempt: _Attempt | None = None
        self._done = False
        self._error: Exception | None = None
        self._value: T | None = None

    @property
    def finished(self) -> bool:
        """Whether there is a value."""
        return self._done and self._error is None

    @property
    def value(self) -> T:
        """The value of finished work."""
        assert self.finished
        return cast("T", self._value)

    async def join(self) -> T:
        """Wait for the outcome, and see to it that there will be one.

        Who is cancelled while waiting, and was the last to wait, returns when the work has let go of everything.
        """
        while not self._done:
            await self._wait(self._attempt or self._start())
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    def _start(self) -> _Attempt:
        attempt = self._attempt = _Attempt()
        self._group.start_soon(self._run, attempt)
        return attempt

    async def _wait(self, attempt: _Attempt) -> None:
        if attempt.doomed:
            await attempt.over.wait()
            return
        attempt.waiters += 1
        try:
            await attempt.over.wait()
        finally:
            attempt.waiters -= 1
            if not attempt.waiters and not attempt.over.is_set():
                attempt.doomed = True
                attempt.scope.cancel()
                with anyio.CancelScope(shield=True):
                    await attempt.over.wait()

    async def _run(self, attempt: _Attempt) -> None:
        try:
            with attempt.scope:
                try:
                    self._value = await self._work()
                except Exception as exc:  # noqa: BLE001 -- it is raised where the outcome is asked for
                    if attempt.doomed:
                        return
                    self._error = exc
                self._done = True
        finally:
            self._attempt = None
            attempt.over.set()
