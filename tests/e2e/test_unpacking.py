"""Pulls through the real store into the real snapshotters."""

from pathlib import Path

import anyio
import pytest

from lading.content.local import LocalContentStore
from lading.core.metadata import Namespace
from lading.core.snapshots import SnapshotKey, SnapshotName
from lading.daemon.events import EventBus
from lading.errors import DataLossError
from lading.kit import linux
from lading.metadata.database import SqliteDatabase
from lading.oci import reference
from lading.snapshots.base import DirectorySnapshotter
from lading.snapshots.native import NativeSnapshotter
from lading.snapshots.overlay import OverlaySnapshotter
from lading.testing import images as make
from lading.testing.memory.remotes import MemoryRegistries
from lading.transfer.service import TransferService

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

NAMESPACE = Namespace("moby")
LAYERS = [
    make.layer({"etc/os": b"base", "dir/gone": b"1"}),
    make.layer({"dir/kept": b"2" * 100_000}),
    make.layer({"dir/.wh.gone": b"", "top": b"3"}),
]


@pytest.mark.parametrize("kind", [OverlaySnapshotter, NativeSnapshotter])
async def test_layers_become_snapshots_however_they_arrive(kind: type[DirectorySnapshotter], tmp_path: Path):
    registries = MemoryRegistries()
    repository = registries.registry("registry.test").repository("app")
    image = make.image(LAYERS)
    many = make.image([make.layer({f"file{n}": b"x" * n}) for n in range(30)])
    wrong = [LAYERS[0].diff_id, LAYERS[2].diff_id, LAYERS[1].diff_id]
    make.publish(repository, image, "latest")
    make.publish(repository, many, "many")
    make.publish(repository, make.image(LAYERS, diff_ids=wrong), "wrong")
    name = "overlayfs" if kind is OverlaySnapshotter else "native"
    async with SqliteDatabase.open(tmp_path / "lading.db") as database:
        snapshotter = kind(
            tmp_path / "snapshots", database.snapshots(NAMESPACE, name), boot_id=linux.boot_id()
        )
        try:
            service = TransferService(
                store=LocalContentStore(tmp_path / "content", database.blobs(NAMESPACE)),
                image_store=database.images(NAMESPACE),
                fact_rows=database.facts(NAMESPACE),
                lease_manager=database.leases(NAMESPACE),
                snapshotter=snapshotter,
                registries=registries,
                bus=EventBus(),
                host=make.AMD64,
            )
            result = await service.pull(reference.parse("registry.test/app:latest"))
            assert result.snapshot == image.chain[-1]
            with pytest.raises(DataLossError):
                await service.pull(reference.parse("registry.test/app:wrong"))
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(service.pull, reference.parse("registry.test/app:many"))
            names = {info.key async for info in snapshotter.walk()}
            assert names == {LAYERS[0].diff_id, *image.chain, *many.chain}
            mounts = await snapshotter.view(SnapshotKey("look"), SnapshotName(image.chain[-1]))
            assert mounts
            assert await database.leases(NAMESPACE).list() == []
        finally:
            await snapshotter.close()
