"""Which snapshotter a daemon takes."""

import os

import pytest
from support.filesystems import tmpfs

from lading.core.metadata import Namespace
from lading.core.snapshots import SnapshotKey
from lading.daemon.config import Config, LadingSettings
from lading.daemon.image_store import SNAPSHOTTERS, open_snapshotter
from lading.errors import FailedPreconditionError
from lading.metadata.database import SqliteDatabase
from lading.snapshots import erofs

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")]


def no_blob(digest):
    raise FileNotFoundError(digest)


async def chosen(root, driver="", use=False, keep="both"):
    config = Config(data_root=root, storage_driver=driver, lading=LadingSettings(layers_keep=keep))
    async with SqliteDatabase.open(root / "lading.db", reserve=0) as database:
        snapshotter = await open_snapshotter(config, database, driver, no_blob)
        if use:
            await snapshotter.prepare(SnapshotKey("container"), None)
        await snapshotter.close()
        assert await database.snapshots(Namespace(config.containerd_namespace), "none").list() == []
        return snapshotter.name


async def test_the_best_that_works(tmp_path):
    if erofs.probe(tmp_path / "probe"):
        pytest.skip("no EROFS here")
    assert await chosen(tmp_path) == next(iter(SNAPSHOTTERS)) == "erofs"


async def test_what_does_not_work_is_passed_over(tmp_path):
    with tmpfs(tmp_path / "disk") as disk:  # EROFS needs a file system with readable pages below
        assert await chosen(disk) == "overlayfs"
        with pytest.raises(FailedPreconditionError, match="erofs"):
            await chosen(disk, "erofs")


async def test_what_is_in_use_stays_in_use(tmp_path):
    assert await chosen(tmp_path, "native", use=True) == "native"
    assert await chosen(tmp_path) == "native"
    assert await chosen(tmp_path, "overlayfs") == "overlayfs"


async def test_only_one_that_makes_layers_again_keeps_them_compressed(tmp_path):
    if erofs.probe(tmp_path / "probe"):
        pytest.skip("no EROFS here")
    assert await chosen(tmp_path, keep="compressed") == "erofs"
    with pytest.raises(FailedPreconditionError, match=r"overlayfs.*lading\.layers-keep"):
        await chosen(tmp_path, "overlayfs", keep="compressed")
