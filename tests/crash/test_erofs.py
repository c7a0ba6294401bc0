"""SIGKILL at each named point of an EROFS layer's life: rows, files and mounts agree after the next start."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from lading.core.labels import LAYER_BLOB
from lading.core.metadata import Namespace
from lading.core.snapshots import SnapshotKey, SnapshotName
from lading.kit import linux
from lading.metadata.database import SqliteDatabase
from lading.oci.digest import Digest
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
from tests.crash.test_erofs import BASE, TOP, labels, make
from lading.testing.layers import unpack

async def main(root, compressed):
    async with SqliteDatabase.open(root / "lading.db", reserve=0) as database:
        s = make(root, database, compressed)
        await s.recover()
        base = await unpack(s, "base", None, BASE, labels=labels(root, BASE))
        await s.settle()
        await unpack(s, "top", base, TOP, labels=labels(root, TOP))
        await s.settle()
        await s.prepare(SnapshotKey("key"), SnapshotName("top"))
        await s.commit(SnapshotName("image"), SnapshotKey("key"))
        await s.remove("image")
        await s.remove("top")
        await s.sweep()
        await s.close()
    print("done")

anyio.run(main, Path(sys.argv[1]), sys.argv[2] == "compressed")
"""
BASE = tar(file("d/base", b"1" * 1000))
TOP = tar(file("d/top", b"2" * 1000))
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


def labels(root, archive):
    """Store an archive as a blob, for layers that are made again from it."""
    digest = Digest.of(archive)
    (root / "blobs").mkdir(exist_ok=True)
    (root / "blobs" / digest.hex).write_bytes(archive)
    return {LAYER_BLOB: digest}


def make(root, database, compressed):
    return ErofsSnapshotter(
        root / "root",
        database.snapshots(Namespace("default"), "erofs"),
        boot_id="boot-1",
        idle_seconds=0,
        open_blob=lambda digest: os.open(root / "blobs" / digest.hex, os.O_RDONLY),
        cache_bytes=0 if compressed else None,
    )


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point(disk, point, times):
    kill(disk, point, times, "both")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("point", ["layer.imaged", "layer.completed", "layer.rebuilt", "layer.mounted"])
def test_killed_while_layers_are_kept_compressed(disk, point, times):
    kill(disk, point, times, "compressed")


def kill(disk, point, times, keep):
    environment = {
        **os.environ,
        "LADING_FAILPOINT": f"{point}:kill@{times}",
        "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[2])]),
    }
    command = [sys.executable, "-c", SCRIPT, str(disk), keep]
    first = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if times == 1:
        assert first.returncode == -signal.SIGKILL, first.stderr
    else:
        assert first.returncode in (-signal.SIGKILL, 0), first.stderr

    async def check():
        async with SqliteDatabase.open(disk / "lading.db", reserve=0) as database:
            rows = database.snapshots(Namespace("default"), "erofs")
            snapshotter = make(disk, database, keep == "compressed")
            assert await snapshotter.recover() == []
            await snapshotter.settle()
            found = {row.info.key: row for row in await rows.list()}
            assert sorted(os.listdir(disk / "root/snapshots")) == sorted(
                str(row.id) for row in found.values()
            )
            for name, archive in (("base", BASE), ("top", TOP)):
                if name not in found:
                    parent = "base" if name == "top" else None
                    await unpack(snapshotter, name, parent, archive, labels=labels(disk, archive))
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
