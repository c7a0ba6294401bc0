"""`NativeSnapshotter` keeps the promises of its port, with rows in SQLite and real mounts."""

import pytest
from support.snapshotters import on_tmpfs

from lading.snapshots.native import NativeSnapshotter
from lading.testing.snapshots import MountedSnapshotterSuite

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("durability", ["lazy", "strict"])
class TestNativeSnapshotter(MountedSnapshotterSuite):
    @pytest.fixture
    async def snapshotter(self, tmp_path, durability):
        async with on_tmpfs(tmp_path / "disk", NativeSnapshotter, "native", durability) as snapshotter:
            yield snapshotter

    @pytest.fixture
    def differ(self, snapshotter):
        return snapshotter
