"""Task groups that fail with the error that caused the failure."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from lading.kit import aio

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
    pending, leaves = [error], list[BaseException]()
    while pending:
        one = pending.pop(0)
        if isinstance(one, BaseExceptionGroup):
            pending.extend(one.exceptions)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        else:
            leaves.append(one)
    return next((leaf for leaf in leaves if not isinstance(leaf, StoppedError)), leaves[0])


async def run_stage(function: Callable[..., T], *args: object) -> T:
    """Call one blocking stage of a pipeline on a data thread.

    A stage that was stopped because its task was cancelled ends as cancelled, not as failed.
    """
    try:
        return await aio.run(aio.DATA, function, *args)
    except StoppedError:
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise
