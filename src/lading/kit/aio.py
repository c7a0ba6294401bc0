"""The one door from the event loop to blocking calls.

Everything that may block runs here under a named limiter, so that one kind of work cannot starve another. Blob bytes are
moved by threads of ``DATA``; short system calls on files run on ``DISK``; the database has its own writer thread.
"""

import functools
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Final, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

T = TypeVar("T")


class Lane:
    """A named limit on threads. A limiter belongs to one event loop, so it is made on first use in each."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.threads = threads
        self._limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar(f"lading.{name}")

    @property
    def limiter(self) -> anyio.CapacityLimiter:
        """The limiter of the running event loop."""
        try:
            return self._limiter.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(self.threads)
            self._limiter.set(limiter)
            return limiter


DISK: Final = Lane("disk", 16)
"""Short file-system calls."""
DATA: Final = Lane("data", 32)
"""Threads that move blob bytes; they mostly wait for the network, the disk, or C code outside the interpreter lock."""
COMPRESS: Final = Lane("compress", 2)
"""CPU-bound compression."""


async def run(
    lane: Lane, function: Callable[..., T], *args: object, abandon_on_cancel: bool = False, **kwargs: object
) -> T:
    """Call a blocking function on a thread of ``lane``.

    Cancellation waits for the function unless ``abandon_on_cancel``; then its result is dropped and it must hold
    nothing that needs cleaning up.
    """
    return await anyio.to_thread.run_sync(
        functools.partial(function, *args, **kwargs),
        abandon_on_cancel=abandon_on_cancel,
        limiter=lane.limiter,
    )


def wanted() -> bool:
    """On a thread of `run`: whether the task that waits for it still does."""
    try:
        anyio.from_thread.check_cancelled()
    except anyio.get_cancelled_exc_class():
        return False
    return True


async def each(lane: Lane, blocking: Iterator[T]) -> AsyncGenerator[T]:
    """What a blocking iterator gives, taken on threads of ``lane``. Use it in `contextlib.aclosing`, which closes both."""
    end = object()

    def take() -> T | object:
        return next(blocking, end)

    try:
        while (found := await run(lane, take)) is not end:
            yield cast("T", found)
    finally:
        close = getattr(blocking, "close", None)
        if close is not None:
            with anyio.CancelScope(shield=True):
                await run(lane, close)
