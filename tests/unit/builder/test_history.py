"""The history of builds: what is kept when many end at once, and when it is written; the progress of one under way."""

import time
from typing import Any

import anyio
import pytest

from lading.builder import progress
from lading.builder.control import Build, SolveWish
from lading.builder.history import KEPT, History
from lading.builder.progress import ProgressLog
from lading.builder.reports import VertexEvent
from lading.core.builds import BuildRecord
from lading.core.leases import LeaseID
from lading.core.metadata import Namespace
from lading.errors import LadingError, ResourceExhaustedError
from lading.oci.digest import Digest
from lading.testing.memory.content import MemoryContentStore
from lading.testing.memory.metadata import MemoryDatabase

pytestmark = pytest.mark.anyio
NAMESPACE = Namespace("moby")


async def test_builds_that_end_at_once_expire_the_same_record_and_do_not_fail() -> None:
    database = MemoryDatabase()
    store = database.builds(NAMESPACE)
    leases = database.leases(NAMESPACE)
    now = time.time_ns()
    for number in range(KEPT):
        await store.put(BuildRecord(ref=f"old-{number}", created=now - 1_000_000 * (number + 1)))
    history = History(
        store=store,
        blobs=MemoryContentStore(database.blobs(NAMESPACE)),
        lease_manager=leases,
        failure=lambda error: repr(error).encode(),
        provenance=lambda build, ref: ("", b""),
    )
    lease = await leases.create()
    builds = [
        Build(wish=SolveWish(ref=f"new-{number}"), log=ProgressLog(), started=now + number, lease=lease.id)
        for number in range(4)
    ]
    for build in builds:
        await history.began(build)
    async with anyio.create_task_group() as tasks:
        for build in builds:
            tasks.start_soon(history.ended, build, {}, None)
    kept = [record.ref for record in await store.list()]
    assert kept == [
        *(f"new-{number}" for number in (3, 2, 1, 0)),
        *(f"old-{number}" for number in range(KEPT - 4)),
    ]


class SlowStore(MemoryContentStore):
    """Its writes wait until they are let."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.let = anyio.Event()
        self.error: LadingError | None = None

    async def put_many(self, *arguments: Any, **options: Any) -> None:
        await self.let.wait()
        if self.error is not None:
            raise self.error
        await super().put_many(*arguments, **options)


@pytest.fixture
def database() -> MemoryDatabase:
    return MemoryDatabase()


@pytest.fixture
def slow(database: MemoryDatabase) -> SlowStore:
    return SlowStore(database.blobs(NAMESPACE))


@pytest.fixture
def history(database: MemoryDatabase, slow: SlowStore) -> History:
    return History(
        store=database.builds(NAMESPACE),
        blobs=slow,
        lease_manager=database.leases(NAMESPACE),
        failure=lambda error: repr(error).encode(),
        provenance=lambda build, ref: ("", b""),
    )


def build() -> Build:
    return Build(wish=SolveWish(ref="one"), log=ProgressLog(), started=time.time_ns(), lease=LeaseID("l"))


async def test_a_client_has_its_answer_before_the_record_is_written_and_nobody_can_tell(
    history: History, slow: SlowStore
) -> None:
    one, found = build(), list[str]()

    async def ask() -> None:
        found.extend(f"{each.kind} {each.record.ref}" for each in await history.list(active=False))

    async with history.writing():
        await history.began(one)
        with anyio.fail_after(5):
            await history.ended(one, {}, None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.sleep(0.05)
            assert found == []
            slow.let.set()
    assert found == ["complete one"]


async def test_who_asks_for_builds_under_way_does_not_wait_for_those_that_are_over(
    history: History, slow: SlowStore
) -> None:
    async with history.writing():
        for each in (
            build(),
            Build(wish=SolveWish(ref="two"), log=ProgressLog(), started=1, lease=LeaseID("m")),
        ):
            await history.began(each)
        await history.ended(build(), {}, None)
        with anyio.fail_after(5):
            assert [each.record.ref for each in await history.list(active=True)] == ["two"]
            assert await history.list(active=True, ref="buildx-test-history-api-feature") == []
            assert [each.record.ref for each in await history.list(active=False, ref="two")] == ["two"]
        slow.let.set()


async def test_when_it_is_left_every_record_is_written(history: History, slow: SlowStore) -> None:
    one = build()
    async with history.writing():
        await history.began(one)
        await history.ended(one, {}, None)
        slow.let.set()
    assert [each.record.ref for each in await history.list(active=False)] == ["one"]


async def test_a_record_that_cannot_be_written_is_no_build_under_way(
    history: History, slow: SlowStore
) -> None:
    one = build()
    slow.error = ResourceExhaustedError("the disk is full")
    slow.let.set()
    async with history.writing():
        await history.began(one)
        await history.ended(one, {}, None)
        assert await history.list(active=False) == []


async def test_a_follower_of_a_build_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_BATCH_SECONDS", 60)
    log = ProgressLog()
    log.tell(VertexEvent(digest=Digest.of(b"one"), name="one"))
    seen: list[str] = []

    async def follow() -> None:
        async for batch in log.follow():
            seen.extend(each.name for each in batch if isinstance(each, VertexEvent))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            while not seen:
                await anyio.sleep(0.001)
            log.tell(VertexEvent(digest=Digest.of(b"two"), name="two"))
            log.close()
    assert seen == ["one", "two"]
