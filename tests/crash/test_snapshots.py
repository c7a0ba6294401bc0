"""SIGKILL at each named point of a snapshot's life: rows and directories agree after the next start."""

import os
import signal
import subprocess
import sys

import anyio
import pytest
from support.filesystems import tmpfs

from lading.core.metadata import Namespace
from lading.core.snapshots import Kind
from lading.metadata.database import SqliteDatabase
from lading.snapshots.native import NativeSnapshotter
from lading.snapshots.overlay import OverlaySnapshotter
from lading.testing.layers import file, tar, unpack

pytestmark = pytest.mark.crash


@pytest.fixture
def disk(tmp_path):
    with tmpfs(tmp_path / "disk") as disk:
        yield disk


def directories(disk):
    return sorted(os.listdir(disk / "root/snapshots"))


SCRIPT = """
import sys, anyio
from pathlib import Path
from lading.core.metadata import Namespace
from lading.core.snapshots import SnapshotKey, SnapshotName
from lading.metadata.database import SqliteDatabase
from lading.snapshots.native import NativeSnapshotter
from lading.snapshots.overlay import OverlaySnapshotter
from lading.testing.layers import file, tar, unpack

async def main(root, kind):
    async with SqliteDatabase.open(root / "lading.db", reserve=0) as database:
        make = {"overlay": OverlaySnapshotter, "native": NativeSnapshotter}[kind]
        s = make(root / "root", database.snapshots(Namespace("default"), kind), boot_id="boot-1")
        await s.recover()
        base = await unpack(s, "base", None, tar(file("base", b"1")))
        await unpack(s, "top", base, tar(file("top", b"2")))
        await s.prepare(SnapshotKey("key"), SnapshotName("top"))
        await s.commit(SnapshotName("image"), SnapshotKey("key"))
        await s.remove("image")
        await s.close()
    print("done")

anyio.run(main, Path(sys.argv[1]), sys.argv[2])
"""
POINTS = [
    "layer.completed",
    "layer.committed",
    "snapshot.filled",
    "snapshot.flushed",
    "snapshot.row-deleted",
    "snapshot.doomed",
]


@pytest.mark.parametrize("kind", ["overlay", "native"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point(disk, kind, point):
    environment = {**os.environ, "LADING_FAILPOINT": f"{point}:kill", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(disk), kind]
    first = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert first.returncode == -signal.SIGKILL, first.stderr

    async def check():
        async with SqliteDatabase.open(disk / "lading.db", reserve=0) as database:
            rows = database.snapshots(Namespace("default"), kind)
            snapshotter = {"overlay": OverlaySnapshotter, "native": NativeSnapshotter}[kind](
                disk / "root", rows, boot_id="boot-1"
            )
            assert await snapshotter.recover() == []
            await snapshotter.settle()
            found = await rows.list()
            assert directories(disk) == sorted(str(row.id) for row in found)
            for row in found:
                assert (snapshotter.tree(row)).is_dir()
                if row.info.kind is Kind.COMMITTED and row.info.key in ("base", "top"):
                    assert (snapshotter.tree(row) / row.info.key).exists()
            parent = None
            for name in ("base", "top"):
                if name not in {row.info.key for row in found}:
                    await unpack(snapshotter, name, parent, tar(file(name)))
                parent = name
            await snapshotter.close()

    anyio.run(check)
