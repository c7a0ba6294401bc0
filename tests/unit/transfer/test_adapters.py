"""Transfers on the real store: what a pull leaves is exactly what the collector keeps."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.world import NAMESPACE, WatchedSnapshotter, World

from lading.content.local import LocalContentStore
from lading.core.metadata import Node, reachable
from lading.errors import LadingError, UnavailableError
from lading.metadata.database import SqliteDatabase
from lading.testing import images as make

pytestmark = pytest.mark.anyio

BASE = make.layer({"etc/os": b"base"})
TOP = make.layer({"bin/app": b"app" * 300_000})


class Disk(World):
    """A world whose store is on disk."""

    def __init__(self, root: Path, database: SqliteDatabase) -> None:
        super().__init__()
        self.database = database
        self.content = LocalContentStore(root, database.blobs(NAMESPACE))
        self.images = database.images(NAMESPACE)
        self.leases = database.leases(NAMESPACE)
        self.snapshotter = WatchedSnapshotter(database.snapshots(NAMESPACE, "memory"))
        self.service = self.make_service()

    async def kept(self) -> tuple[set[str], set[str]]:
        """Digests that something keeps, and those that are stored."""
        graph = await self.database.graph(NAMESPACE, now=datetime.now(UTC))
        stored = {node.id for node in graph.nodes if node.kind == "content"}
        return {
            node.id for node in reachable(graph.roots, graph.edges) if node.kind == "content"
        } & stored, stored


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncGenerator[Disk]:
    async with SqliteDatabase.open(tmp_path / "lading.db") as database:
        yield Disk(tmp_path / "content", database)


async def test_everything_that_was_pulled_is_kept_and_nothing_else_is(disk: Disk):
    native, foreign = make.image([BASE, TOP]), make.image([TOP], platform=make.ARM64)
    make.publish(disk.repository, make.index([foreign, native]), "latest")
    await disk.service.pull(disk.reference)
    kept, stored = await disk.kept()
    assert kept == stored
    assert len(stored) == 5
    await disk.service.pull(disk.reference, platforms=[make.ARM64])
    kept, stored = await disk.kept()
    assert kept == stored
    assert len(stored) == 7
    await disk.images.delete(str(disk.reference))
    assert (await disk.kept())[0] == set()


async def test_the_snapshot_is_kept_by_the_config(disk: Disk):
    image = make.image([BASE, TOP])
    make.publish(disk.repository, image, "latest")
    await disk.service.pull(disk.reference)
    graph = await disk.database.graph(NAMESPACE, now=datetime.now(UTC))
    assert Node("snapshot", image.chain[-1], "memory") in reachable(graph.roots, graph.edges)


async def test_an_interrupted_pull_is_kept_until_it_goes_on(disk: Disk):
    make.publish(disk.repository, make.image([BASE, TOP]), "latest")
    disk.registry.fail_fetch_at = TOP.descriptor.size // 2
    with pytest.raises(UnavailableError):
        await disk.service.pull(disk.reference)
    kept, stored = await disk.kept()
    assert kept == stored
    [status] = [s for s in await disk.content.statuses() if TOP.descriptor.digest in s.ref]
    assert status.offset > 0
    await disk.service.pull(disk.reference)
    assert disk.registry.calls[f"fetch {TOP.descriptor.digest}"] == 2


async def test_a_refused_pull_leaves_nothing_that_is_kept(disk: Disk):
    make.publish(disk.repository, make.image([BASE, TOP]), "latest")
    disk.repository.blobs[TOP.descriptor.digest] = bytes(TOP.descriptor.size)
    with pytest.raises(LadingError):
        await disk.service.pull(disk.reference)
    assert (await disk.kept())[0] == set()
    assert await disk.content.statuses() == []


async def test_a_blob_whose_file_was_lost_is_fetched_again(disk: Disk, tmp_path: Path):
    make.publish(disk.repository, make.image([BASE, TOP]), "latest")
    await disk.service.pull(disk.reference)
    (tmp_path / "content" / "blobs" / "sha256" / TOP.descriptor.digest.hex).unlink()
    await disk.service.pull(disk.reference)
    assert await disk.content.read(TOP.descriptor.digest, limit=1 << 30) == TOP.blob
    assert disk.registry.calls[f"fetch {TOP.descriptor.digest}"] == 2
    assert disk.registry.calls[f"fetch {BASE.descriptor.digest}"] == 1
