"""SIGKILL at each named point of an EROFS layer's life: rows, files and mounts agree after the next start."""

import contextlib
import os
import signal
import subprocess
import sys

import anyio
import pytest

from lading.core.metadata import Namespace
from lading.core.snapshots import SnapshotKey, SnapshotName
from lading.kit import linux
from lading.metadata.database import SqliteDatabase
from lading.snapshots.erofs import ErofsSnapshotter, probe
from lading.testing.layers import file, tar, unpack
from lading.testing.snapshots import describe, inside

pytestmark = pytest.mark.crash


@pytest.fixture
def disk(tmp_path):
    reason = probe(tmp_path / "probe")
    if reason:
        pytest.skip(f"no EROFS here: {reason}")
    (tmp_path / "probe").rmdir()
    try:
        yield tmp_path
        assert linux.mount_points(str(tmp_path)) == []
    finally:
        for point in linux.mount_points(str(tmp_path)):
            with contextlib.suppress(OSError):
                linux.unmount(point)


SCRIPT = """
import sys, anyio
from pathlib import Path
from lading.core.metadata import Namespace
from lading.core.snapshots import SnapshotKey, SnapshotName
from lading.metadata.database import SqliteDatabase
from lading.snapshots.erofs import ErofsSnapshotter
from lading.testing.layers import file, tar, unpack

async def main(root):
    async with SqliteDatabase.open(root / "lading.db", reserve=0) as database:
        s = ErofsSnapshotter(root / "root", database.snapshots(Namespace("default"), "erofs"), boot_id="boot-1")
        await s.recover()
        base = await unpack(s, "base", None, tar(file("d/base", b"1" * 1000)))
        await unpack(s, "top", base, tar(file("d/top", b"2" * 1000)))
        await s.prepare(SnapshotKey("key"), SnapshotName("top"))
        await s.commit(SnapshotName("image"), SnapshotKey("key"))
        await s.remove("image")
        await s.remove("top")
        await s.sweep()
        await s.close()
    print("done")

anyio.run(main, Path(sys.argv[1]))
"""
POINTS = [
    "layer.imaged",
    "layer.completed",
    "layer.committed",
    "layer.mounted",
    "snapshot.filled",
    "snapshot.flushed",
    "snapshot.row-deleted",
    "snapshot.doomed",
]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point(disk, point, times):
    environment = {
        **os.environ,
        "LADING_FAILPOINT": f"{point}:kill@{times}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", SCRIPT, str(disk)]
    first = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if times == 1:
        assert first.returncode == -signal.SIGKILL, first.stderr
    else:
        assert first.returncode in (-signal.SIGKILL, 0), first.stderr

    async def check():
        async with SqliteDatabase.open(disk / "lading.db", reserve=0) as database:
            rows = database.snapshots(Namespace("default"), "erofs")
            snapshotter = ErofsSnapshotter(disk / "root", rows, boot_id="boot-1")
            assert await snapshotter.recover() == []
            await snapshotter.settle()
            found = {row.info.key: row for row in await rows.list()}
            assert sorted(os.listdir(disk / "root/snapshots")) == sorted(
                str(row.id) for row in found.values()
            )
            for name, archive in (("base", file("d/base", b"1" * 1000)), ("top", file("d/top", b"2" * 1000))):
                if name not in found:
                    await unpack(snapshotter, name, "base" if name == "top" else None, tar(archive))
            mounts = await snapshotter.view(SnapshotKey("look"), SnapshotName("top"))
            tree = await inside(mounts, describe)
            assert tree == {"d": "d 755", "d/base": "f 644 " + "1" * 1000, "d/top": "f 644 " + "2" * 1000}
            for key in ("look", "key", "image", "top", "base"):
                with contextlib.suppress(Exception):
                    await snapshotter.remove(key)
            await snapshotter.sweep()
            assert os.listdir(disk / "root/snapshots") == []
            await snapshotter.close()

    anyio.run(check)
