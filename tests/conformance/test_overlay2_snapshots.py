"""`Overlay2Snapshotter` keeps the promises of its port, in Docker's classic layout, with rows in SQLite and real mounts."""

from pathlib import Path

import pytest
from support.filesystems import tmpfs

from lading.classic.layout import Layout
from lading.classic.rows import LayerRows
from lading.core.metadata import Namespace
from lading.core.snapshots import SnapshotKey
from lading.metadata.database import SqliteDatabase
from lading.snapshots.overlay2 import Overlay2Snapshotter
from lading.testing.snapshots import MountedSnapshotterSuite, file, tar, unpack

pytestmark = pytest.mark.anyio


class TestOverlay2Snapshotter(MountedSnapshotterSuite):
    @pytest.fixture
    async def snapshotter(self, tmp_path):
        with tmpfs(tmp_path / "disk") as disk:
            async with SqliteDatabase.open(disk / "lading.db", reserve=0) as database:
                layout = Layout(disk)
                layout.make()
                rows = LayerRows(database.snapshots(Namespace("default"), "overlay2"), layout)
                await rows.load()
                snapshotter = Overlay2Snapshotter(disk, rows, durability="strict", boot_id="this-boot")
                yield snapshotter
                await snapshotter.close()

    @pytest.fixture
    def differ(self, snapshotter):
        return snapshotter

    async def test_who_marks_a_layer_second_finds_it_marked(
        self, snapshotter: Overlay2Snapshotter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when several are made on one at a time: neither saw the mark before it made it."""
        base = await unpack(snapshotter, "base", None, tar(file("a")))
        exists = Path.exists
        with monkeypatch.context() as patch:
            patch.setattr(Path, "exists", lambda path: path.name != "committed" and exists(path))
            await snapshotter.prepare(SnapshotKey("one"), base)
            await snapshotter.prepare(SnapshotKey("other"), base)
        assert len([info async for info in snapshotter.walk()]) == 3
