"""The history of builds: what is kept when many end at once."""

import time

import anyio
import pytest

from lading.builder.control import Build, SolveWish
from lading.builder.history import KEPT, History
from lading.builder.progress import ProgressLog
from lading.core.builds import BuildRecord
from lading.core.metadata import Namespace
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
