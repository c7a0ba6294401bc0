"""Stores on a directory, as the daemon wires them."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lading.content.local import LocalContentStore
from lading.core.content import IngestRef
from lading.core.leases import LeaseID
from lading.core.metadata import Namespace
from lading.gc.collector import Collector
from lading.kit import aio
from lading.metadata.database import SqliteDatabase
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.testing.content import Copies

MOBY = Namespace("moby")
MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    database: SqliteDatabase
    content: LocalContentStore
    collector: Collector

    async def put(self, data: bytes, *, lease: LeaseID | None = None, labels=None, ref: str = "") -> Digest:
        target = describe(data)
        writer = self.content.open_writer(
            IngestRef(ref or f"put-{target.digest}"), expected=target, lease=lease
        )
        async with writer as ingest:
            if ingest.offset < len(data):
                await aio.run(aio.DATA, ingest.write, data[ingest.offset :])
            return (await ingest.commit(labels=labels or {})).digest


def describe(data: bytes) -> Descriptor:
    return Descriptor(media_type=MEDIA_TYPE, digest=Digest.of(data), size=len(data))


class NoFiles:
    """A snapshotter that has nothing to delete."""

    async def sweep(self) -> int:
        return 0


@asynccontextmanager
async def open_stores(
    root: Path, *, reserve: int = 1 << 20, clock=lambda: datetime.now(UTC)
) -> AsyncGenerator[Stores]:
    os.makedirs(root, exist_ok=True)
    async with SqliteDatabase.open(root / "lading.db", reserve=reserve, clock=clock) as database:
        content = LocalContentStore(root / "content", database.blobs(MOBY), namespace=MOBY, clock=clock)
        content.restore_by(Copies(*[bytes([number]) * 100_000 for number in range(3)]))
        collector = Collector(
            database, MOBY, content=content, snapshotters={"native": NoFiles()}, clock=clock, delay=0
        )
        yield Stores(database=database, content=content, collector=collector)
