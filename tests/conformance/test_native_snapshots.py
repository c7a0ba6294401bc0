"""`NativeSnapshotter` keeps the promises of its port, with rows in SQLite and real mounts."""

import pytest
from support.filesystems import open_descriptors, tmpfs

from lading.core.metadata import Namespace
from lading.metadata.database import SqliteDatabase
from lading.snapshots.native import NativeSnapshotter
from lading.testing.snapshots import MountedSnapshotterSuite

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("durability", ["lazy", "strict"])
class TestNativeSnapshotter(MountedSnapshotterSuite):
    @pytest.fixture
    async def snapshotter(self, tmp_path, durability):
        with tmpfs(tmp_path / "disk") as disk:
            async with SqliteDatabase.open(disk / "lading.db", reserve=0) as database:
                before = open_descriptors()
                snapshotter = NativeSnapshotter(
                    disk / "snapshots",
                    database.snapshots(Namespace("default"), "native"),
                    durability=durability,
                    boot_id="this-boot",
                )
                yield snapshotter
                await snapshotter.close()
                assert {one for one in open_descriptors() - before if "lading.db" not in one} == set()

    @pytest.fixture
    def differ(self, snapshotter):
        return snapshotter
