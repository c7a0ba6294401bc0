"""How long a call has to wait while the collector goes through a large store."""

import pathlib
import time
from datetime import timedelta
from functools import partial

import anyio

from lading.content.local import LocalContentStore, utc_now
from lading.core.metadata import Namespace
from lading.gc.collector import Collector
from lading.metadata.database import SqliteDatabase
from lading.oci.digest import Digest

NAMESPACE = Namespace("moby")


def measure(scratch: pathlib.Path, nodes: int) -> dict[str, float]:
    """Seconds by operation, with ``nodes`` blobs of which one in a hundred is garbage."""
    return anyio.run(_measure, scratch / "gc", nodes)


async def _measure(root: pathlib.Path, nodes: int) -> dict[str, float]:
    root.mkdir()
    waits: list[float] = []
    worked: list[float] = []
    done = anyio.Event()
    async with SqliteDatabase.open(root / "lading.db") as database:
        blobs = database.blobs(NAMESPACE)
        digests = [Digest.of(str(number).encode()) for number in range(nodes)]
        garbage = set(digests[::100])
        lease = (await database.leases(NAMESPACE).create(labels={})).id
        kept = digests[1]
        for at in range(0, nodes, 500):
            async with anyio.create_task_group() as group:
                for digest in digests[at : at + 500]:
                    held = None if digest in garbage else lease
                    group.start_soon(partial(blobs.add, digest, 1, labels={}, lease=held))
        store = LocalContentStore(root / "content", blobs, namespace=NAMESPACE)
        collector = Collector(
            database, NAMESPACE, content=store, snapshotters={}, clock=utc_now, interval=timedelta(hours=1)
        )

        async def call() -> None:
            while not done.is_set():
                begun, used = time.perf_counter(), time.process_time()
                await blobs.get(kept)
                await blobs.update(kept, {"touched": str(begun)})
                waits.append(time.perf_counter() - begun)
                worked.append(time.process_time() - used)
                await anyio.sleep(0.001)

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await anyio.sleep(1)
            usual, worst = sorted(waits)[len(waits) // 2], max(waits)
            waits.clear()
            worked.clear()
            begun = time.perf_counter()
            await collector.collect()
            total = time.perf_counter() - begun
            done.set()
    return {
        f"gc, {nodes} nodes": total,
        f"gc, {nodes} nodes: longest call meanwhile": max(waits, default=0.0),
        f"gc, {nodes} nodes: most cpu-s of all threads in one call": max(worked, default=0.0),
        f"gc, {nodes} nodes: median call before": usual,
        f"gc, {nodes} nodes: longest call before": worst,
    }
