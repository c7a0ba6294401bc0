"""`ErofsSnapshotter` keeps the promises of its port, with rows in SQLite and real mounts."""

import contextlib

import pytest
from support.filesystems import open_descriptors

from lading.core.metadata import Namespace
from lading.kit import linux
from lading.metadata.database import SqliteDatabase
from lading.snapshots.erofs import ErofsSnapshotter, probe
from lading.testing.snapshots import MountedSnapshotterSuite

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("durability", ["lazy", "strict"])
class TestErofsSnapshotter(MountedSnapshotterSuite):
    @pytest.fixture
    async def snapshotter(self, tmp_path, durability):
        reason = probe(tmp_path / "probe")
        if reason:
            pytest.skip(f"no EROFS here: {reason}")
        async with SqliteDatabase.open(tmp_path / "lading.db", reserve=0) as database:
            before = open_descriptors()
            snapshotter = ErofsSnapshotter(
                tmp_path / "s",
                database.snapshots(Namespace("default"), "erofs"),
                durability=durability,
                boot_id="this-boot",
            )
            try:
                yield snapshotter
                await snapshotter.close()
                assert {one for one in open_descriptors() - before if "lading.db" not in one} == set()
            finally:
                for point in linux.mount_points(str(tmp_path)):
                    with contextlib.suppress(OSError):
                        linux.unmount(point)

    @pytest.fixture
    def differ(self, snapshotter):
        return snapshotter
