"""What `DirectorySnapshotter` does beside its port: removal, orphans, durability, recovery, probing."""

import errno
import os

import anyio
import pytest
from support.filesystems import tmpfs

from lading.core.metadata import Namespace
from lading.core.snapshots import SnapshotKey, SnapshotName
from lading.errors import DataLossError, InvalidArgumentError, NotFoundError, ResourceExhaustedError
from lading.kit import fs, linux
from lading.metadata.database import SqliteDatabase
from lading.oci.digest import DiffID
from lading.snapshots import overlay
from lading.snapshots.native import NativeSnapshotter
from lading.snapshots.overlay import OverlaySnapshotter
from lading.testing.layers import file, tar, unpack

pytestmark = pytest.mark.anyio


@pytest.fixture
def disk(tmp_path):
    with tmpfs(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
async def rows(disk):
    async with SqliteDatabase.open(disk / "lading.db", reserve=0) as database:
        yield database.snapshots(Namespace("default"), "overlayfs")


def make(disk, rows, **options):
    return OverlaySnapshotter(disk / "root", rows, **{"boot_id": "boot-1", "flush_delay": 0, **options})


def directories(disk):
    return sorted(os.listdir(disk / "root/snapshots"))


async def boots(rows):
    return {row.info.key: row.boot_id for row in await rows.list()}


async def test_the_tree_is_nobody_elses(disk, rows):
    snapshotter = make(disk, rows)
    assert (disk / "root/snapshots").stat().st_mode & 0o777 == 0o700
    await snapshotter.close()


@pytest.mark.parametrize("name", ["a,b", "a:b", "a\\b"])
async def test_roots_that_mount_options_cannot_express(disk, rows, name):
    with pytest.raises(InvalidArgumentError):
        OverlaySnapshotter(disk / name, rows, boot_id="b")


async def test_lazy_layers_become_durable_in_the_background(disk, rows):
    snapshotter = make(disk, rows)
    async with anyio.create_task_group() as group:
        group.start_soon(snapshotter.run)
        name = await unpack(snapshotter, "a", None, tar(file("x")))
        await unpack(snapshotter, "b", name, tar(file("x")))
        with anyio.fail_after(10):
            while set((await boots(rows)).values()) != {""}:
                await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    await snapshotter.close()


async def test_a_clean_end_leaves_everything_durable(disk, rows):
    snapshotter = make(disk, rows)
    await unpack(snapshotter, "a", None, tar(file("x")))
    assert await boots(rows) == {"a": "boot-1"}
    await snapshotter.close()
    assert await boots(rows) == {"a": ""}


async def test_strict_layers_are_durable_at_once(disk, rows, monkeypatch):
    flushed = []
    monkeypatch.setattr(linux, "syncfs", flushed.append)
    snapshotter = make(disk, rows, durability="strict")
    await unpack(snapshotter, "a", None, tar(file("x")))
    assert (await boots(rows), len(flushed)) == ({"a": ""}, 1)
    await snapshotter.close()


async def test_a_failed_flush_is_not_tried_again(disk, rows, monkeypatch):
    flushes = []

    def fail(fd):
        flushes.append(fd)
        raise OSError(5, "Input/output error")

    snapshotter = make(disk, rows)
    await unpack(snapshotter, "a", None, tar(file("x")))
    with monkeypatch.context() as patch:
        patch.setattr(linux, "syncfs", fail)
        await snapshotter.settle()
        await snapshotter.close()
    assert len(flushes) == 1
    again = make(disk, rows)  # nor by the next process, to which the kernel would say that all is well
    assert await again.recover() == ["a"]
    await again.close()


async def test_a_commit_that_can_be_made_again_is_forgotten_by_another_boot(disk, rows):
    first = make(disk, rows)
    for name in ("kept", "lost"):
        await first.prepare(SnapshotKey("key"), None, durable=False)
        await first.commit(SnapshotName(name), SnapshotKey("key"), durable=False)
        assert (await boots(rows))[name] == "boot-1"
        if name == "kept":
            await first.settle()
            assert await boots(rows) == {"kept": ""}
    os.close(first._directories.fd)  # as if the power had gone
    second = make(disk, rows, boot_id="boot-2")
    assert await second.recover() == ["lost"]
    await second.close()


async def test_layers_of_another_boot_are_made_again(disk, rows):
    first = make(disk, rows)
    durable = await unpack(first, "durable", None, tar(file("x")))
    await first.settle()
    lost = await unpack(first, "lost", durable, tar(file("y", b"old")))
    await unpack(first, "child", lost, tar(file("z")))
    await first.prepare(SnapshotKey("container"), SnapshotName("child"))
    os.close(first._directories.fd)  # as if the power had gone

    second = make(disk, rows, boot_id="boot-2")
    assert sorted(await second.recover()) == ["child", "lost"]
    await second.settle()
    assert [info.key async for info in second.walk()] == ["container", "durable"]
    with pytest.raises(NotFoundError):
        await second.mounts(SnapshotKey("container"))
    await unpack(second, "lost", durable, tar(file("y", b"new")))
    await unpack(second, "child", "lost", tar(file("z")))
    assert "lowerdir=" in (await second.mounts(SnapshotKey("container")))[0].options[-1]
    assert len(directories(disk)) == 4
    await second.close()


async def test_layers_of_this_boot_are_flushed_after_a_restart(disk, rows):
    first = make(disk, rows)
    await unpack(first, "a", None, tar(file("x")))
    os.close(first._directories.fd)
    second = make(disk, rows)
    assert await second.recover() == []
    await second.close()
    assert await boots(rows) == {"a": ""}


async def test_removal_is_first_out_of_sight_then_off_the_disk(disk, rows):
    snapshotter = make(disk, rows)
    await snapshotter.prepare(SnapshotKey("a"), None)
    (name,) = directories(disk)
    await snapshotter.remove("a")
    assert directories(disk) == [f"rm-{name}"]
    await snapshotter.settle()
    assert directories(disk) == []
    await snapshotter.close()


async def test_what_the_collector_condemned_is_swept(disk, rows):
    snapshotter = make(disk, rows)
    await unpack(snapshotter, "a", None, tar(file("x", b"x" * 50_000)))
    await snapshotter.prepare(SnapshotKey("kept"), None)
    (disk / "root/snapshots/rm-999").mkdir()
    await rows.delete("a")
    archive = tar(file("x"))
    async with snapshotter.open_layer(SnapshotName("b"), None, diff_id=DiffID.of(archive)) as layer:
        assert await snapshotter.sweep() >= 50_000
        assert len(directories(disk)) == 2
        layer.write(archive)
        layer.finish()
        await layer.commit()
    assert await snapshotter.sweep() == 0
    assert len(directories(disk)) == 2
    await snapshotter.close()


async def test_a_cancelled_layer_leaves_nothing(disk, rows):
    snapshotter = make(disk, rows)
    with anyio.CancelScope() as scope:
        async with snapshotter.open_layer(SnapshotName("b"), None, diff_id=DiffID.of(b"")) as layer:
            layer.write(tar(file("x"))[:700])
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    await snapshotter.settle()
    assert (directories(disk), await rows.list()) == ([], [])
    await snapshotter.close()


async def test_a_layer_that_is_too_large(disk, rows):
    snapshotter = make(disk, rows, max_layer_bytes=10_000)
    with pytest.raises(ResourceExhaustedError):
        await unpack(snapshotter, "a", None, tar(file("x", b"x" * 10_000)))
    await snapshotter.close()


async def test_options_that_exceed_a_page_are_mounted_from_a_common_directory(disk):
    options = [
        f"workdir={disk}/w",
        f"upperdir={disk}/u",
        "lowerdir=" + ":".join(f"{disk}/{n}/fs" for n in range(300)),
    ]
    for place in ("w", "u", "m", *(f"{n}/fs" for n in range(300))):
        (disk / place).mkdir(parents=True)
    (disk / "299/fs/deep").touch()

    def look():
        linux.mount_with("overlay", str(disk / "m"), "overlay", options)
        try:
            return os.listdir(disk / "m")
        finally:
            linux.unmount(str(disk / "m"))

    cwd = os.getcwd()
    assert linux.in_private_namespace(look) == ["deep"]
    assert os.getcwd() == cwd


def test_probe(disk, monkeypatch):
    assert overlay.probe(disk / "new") is None
    assert os.listdir(disk / "new") == []

    def refuse(*arguments):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(linux, "mount_with", refuse)
    assert overlay.probe(disk / "new") == "Invalid argument"


async def test_a_committed_snapshot_survives_with_all_that_it_stands_on(disk, rows):
    first = make(disk, rows)
    base = await unpack(first, "a", None, tar(file("f", b"1")))
    await first.prepare(SnapshotKey("key"), base)
    await first.commit(SnapshotName("made"), SnapshotKey("key"))
    assert await boots(rows) == {"a": "", "made": ""}
    second = make(
        disk, rows, boot_id="boot-2"
    )  # the power went before anything was flushed in the background
    assert await second.recover() == []
    await first.close()
    await second.close()


async def test_nothing_is_committed_on_layers_that_could_not_be_flushed(disk, rows, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, "lost")

    snapshotter = make(disk, rows)
    base = await unpack(snapshotter, "a", None, tar(file("f", b"1")))
    await snapshotter.prepare(SnapshotKey("key"), base)
    with monkeypatch.context() as patch:
        patch.setattr(linux, "syncfs", fail)
        await snapshotter.settle()
    with pytest.raises(DataLossError):
        await snapshotter.commit(SnapshotName("made"), SnapshotKey("key"))
    await snapshotter.close()


async def test_a_copied_tree_is_durable_before_it_is_used(disk, monkeypatch):
    async with SqliteDatabase.open(disk / "native.db", reserve=0) as database:
        rows = database.snapshots(Namespace("default"), "native")
        snapshotter = NativeSnapshotter(disk / "native", rows, boot_id="boot-1", durability="strict")
        base = await unpack(snapshotter, "a", None, tar(file("f", b"1")))
        flushes: list[int] = []
        monkeypatch.setattr(linux, "syncfs", flushes.append)
        await snapshotter.prepare(SnapshotKey("key"), base)
        assert len(flushes) == 1
        await snapshotter.close()


async def test_new_directories_are_durable_before_their_row(disk, rows, monkeypatch):
    flushed: list[str] = []
    create = rows.create

    async def late(*args, **facts):
        assert sorted(os.path.basename(path) for path in flushed) == ["1", "fs", "work"]
        return await create(*args, **facts)

    snapshotter = make(disk, rows)
    monkeypatch.setattr(fs, "fsync_directory", lambda path: flushed.append(str(path)))
    monkeypatch.setattr(rows, "create", late)
    await snapshotter.prepare(SnapshotKey("key"), None)
    await snapshotter.close()
