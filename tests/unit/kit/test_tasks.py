"""Errors that come out of concurrent work are the ones that caused it."""

import anyio
import anyio.lowlevel
import pytest

from lading.errors import InvalidArgumentError
from lading.kit.tasks import KeyedLock, StoppedError, run_stage, task_group

pytestmark = pytest.mark.anyio


async def test_one_plain_error_with_its_cause():
    async def fail() -> None:
        raise InvalidArgumentError("x") from ValueError("y")

    with pytest.raises(InvalidArgumentError) as caught:
        async with task_group() as group:
            group.start_soon(fail)
    assert isinstance(caught.value.__cause__, ValueError)


async def test_a_cause_is_preferred_to_its_consequence():
    async def consequence() -> None:
        raise StoppedError

    async def cause() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise InvalidArgumentError("x")

    async def both() -> None:
        async with task_group() as group:
            group.start_soon(cause)
            await anyio.lowlevel.checkpoint()
            group.start_soon(consequence)

    with pytest.raises(InvalidArgumentError):
        await both()


async def test_cancelling_is_no_error():
    with anyio.move_on_after(0.01) as scope:
        async with task_group() as group:
            group.start_soon(anyio.sleep_forever)
    assert scope.cancelled_caught


async def test_a_stage_that_was_stopped_by_cancelling_ends_as_cancelled():
    def stop() -> None:
        raise StoppedError

    with anyio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(anyio.get_cancelled_exc_class()):
            await run_stage(stop)
    with pytest.raises(StoppedError):
        await run_stage(stop)


async def test_a_key_has_one_holder_at_a_time_and_is_then_forgotten():
    lock = KeyedLock()
    order: list[str] = []

    async def work(name: str, key: str) -> None:
        async with lock.hold(key):
            order.append(f"{name} in")
            await anyio.lowlevel.checkpoint()
            order.append(f"{name} out")

    async with anyio.create_task_group() as group:
        group.start_soon(work, "a", "1")
        group.start_soon(work, "b", "1")
        group.start_soon(work, "c", "2")
    assert order.index("a out") < order.index("b in")
    assert order.index("c in") < order.index("a out")
    assert len(lock) == 0
