"""Idle shims: how many stay while containers come and go, and how many when it is quiet."""

from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from lading.runtime import spares
from lading.runtime.spares import BUSY, KEPT, Spares

pytestmark = pytest.mark.anyio
SHIM = Path("/usr/bin/shim")


class Shims:
    """Starts and ends shims that are none."""

    def __init__(self) -> None:
        self.started = 0
        self.ended: list[SimpleNamespace] = []

    async def launch(self, _: Path) -> SimpleNamespace:
        self.started += 1
        return SimpleNamespace(lives=0, pid=self.started, client=SimpleNamespace(closed=False, on_close=None))

    async def end(self, shim: SimpleNamespace) -> None:
        self.ended.append(shim)


@pytest.fixture
def shims() -> Shims:
    return Shims()


@pytest.fixture
def idle(shims) -> Spares:
    return Spares(shims.launch, shims.end)


async def test_as_many_as_a_build_has_at_a_time_are_used_again(idle, shims):
    for _ in range(3):
        taken = [await idle.take(SHIM) for _ in range(BUSY)]
        assert all(idle.give(SHIM, shim) for shim in taken)
    assert shims.started == BUSY
    more = await shims.launch(SHIM)
    assert not idle.give(SHIM, more)


async def test_a_quiet_time_ends_those_beyond_the_usual_number(idle, shims, monkeypatch):
    monkeypatch.setattr(spares, "REST", 0.01)
    for shim in [await idle.take(SHIM) for _ in range(BUSY)]:
        idle.give(SHIM, shim)
    assert idle.surplus == BUSY - KEPT
    await idle.trim()
    assert idle.surplus == 0
    assert [shim.pid for shim in shims.ended] == list(range(1, BUSY - KEPT + 1))  # those idle for longest
    assert (await idle.take(SHIM)).pid == BUSY


async def test_while_shims_are_needed_none_is_ended(idle, shims, monkeypatch):
    monkeypatch.setattr(spares, "REST", 0.01)
    for shim in [await idle.take(SHIM) for _ in range(BUSY)]:
        idle.give(SHIM, shim)
    needed = 3

    async def rest(_: float) -> None:
        nonlocal needed
        assert not shims.ended
        if needed:
            needed -= 1
            idle.give(SHIM, await idle.take(SHIM))

    with monkeypatch.context() as patched:
        patched.setattr(anyio, "sleep", rest)
        await idle.trim()
    assert not needed
    assert len(shims.ended) == BUSY - KEPT
