"""EROFS layers over their life: mounted once, found again, mounted again, checked, unmounted; and what they show."""

import errno
import os
import stat
from pathlib import Path

import anyio
import pytest
from support.erofs import tree
from support.filesystems import tmpfs

from lading.core.metadata import Namespace
from lading.core.snapshots import SnapshotKey
from lading.errors import FailedPreconditionError, NotFoundError, UnsupportedError
from lading.formats.tar.entry import EntryType
from lading.kit import linux
from lading.snapshots.erofs import DamagedLayerError, ErofsSnapshotter, probe
from lading.snapshots.overlay import OverlaySnapshotter
from lading.testing.layers import (
    TIME,
    device,
    directory,
    file,
    hardlink,
    opaque,
    symlink,
    tar,
    unpack,
    whiteout,
)
from lading.testing.snapshots import describe, inside

pytestmark = pytest.mark.anyio
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
ACL = bytes.fromhex(
    "02000000 01000600ffffffff 02000400e8030000 04000400ffffffff 10000400ffffffff 20000400ffffffff"
)


def make(tmp_path, database, kind=ErofsSnapshotter, **options):
    rows = database.snapshots(Namespace("default"), kind.__name__)
    return kind(tmp_path / kind.__name__, rows, boot_id="boot-1", **options)


def points(tmp_path):
    return [Path(point).parent.name for point in linux.mount_points(str(tmp_path))]


def test_probe_says_why_not(tmp_path):
    with tmpfs(tmp_path / "disk") as disk:
        reason = probe(disk / "root")
        assert reason
        assert os.listdir(disk / "root") == []


async def test_a_kernel_without_attributes_in_erofs_is_passed_over(tmp_path, database, monkeypatch):
    def getxattr(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "getxattr", getxattr)
    assert probe(tmp_path / "root") == "Operation not supported"


async def test_a_layer_is_mounted_once_and_not_before_it_is_needed(tmp_path, database):
    snapshotter = make(tmp_path, database)
    base = await unpack(snapshotter, "base", None, tar(file("a", b"1")))
    assert points(tmp_path) == []
    for key in ("one", "two"):
        await snapshotter.prepare(SnapshotKey(key), base)
        assert points(tmp_path) == ["1"]
    await snapshotter.view(SnapshotKey("three"), base)
    assert points(tmp_path) == ["1"]


async def test_mounts_survive_the_process_and_are_made_again_after_a_reboot(tmp_path, database):
    first = make(tmp_path, database)
    base = await unpack(first, "base", None, tar(file("a", b"1")))
    mounts = await first.prepare(SnapshotKey("k"), base)
    await first.close()
    assert points(tmp_path) == ["1"]
    second = make(tmp_path, database)
    await second.recover()
    assert await second.mounts(SnapshotKey("k")) == mounts
    assert points(tmp_path) == ["1"]
    await second.close()
    linux.unmount(linux.mount_points(str(tmp_path))[0])
    third = make(tmp_path, database)
    await third.recover()
    assert await third.mounts(SnapshotKey("k")) == mounts
    assert await inside(mounts, describe) == {"a": "f 644 1"}


async def test_nothing_stays_mounted_that_nobody_needs(tmp_path, database):
    snapshotter = make(tmp_path, database, idle_seconds=0)
    base = await unpack(snapshotter, "base", None, tar(file("a", b"1")))
    top = await unpack(snapshotter, "top", base, tar(file("b", b"2")))
    other = await unpack(snapshotter, "other", base, tar(file("c", b"3")))
    await snapshotter.prepare(SnapshotKey("k"), top)
    await snapshotter.view(SnapshotKey("v"), other)
    assert sorted(points(tmp_path)) == ["1", "2", "3"]
    await snapshotter.remove("v")
    await snapshotter.settle()
    assert sorted(points(tmp_path)) == ["1", "2"]
    for key in ("k", "top", "other", "base"):
        await snapshotter.remove(key)
    await snapshotter.sweep()
    assert points(tmp_path) == []
    assert os.listdir(tmp_path / "ErofsSnapshotter/snapshots") == []


async def test_a_layer_in_use_outlives_its_mount(tmp_path, database):
    snapshotter = make(tmp_path, database)
    base = await unpack(snapshotter, "base", None, tar(file("a", b"content")))
    mounts = await snapshotter.prepare(SnapshotKey("k"), base)

    def look(root):
        linux.unmount(linux.mount_points(str(tmp_path))[0])
        return (root / "a").read_bytes()

    assert await inside(mounts, look) == b"content"


async def test_what_a_container_read_is_cached_once(tmp_path, database, monkeypatch):
    monkeypatch.setattr("lading.snapshots.doubles.QUIET", 0.01)
    monkeypatch.setattr("lading.snapshots.doubles.FRESH", 0.0)
    monkeypatch.setattr("lading.snapshots.erofs.LOOK", 0.01)
    snapshotter = make(tmp_path, database, idle_seconds=0)
    base = await unpack(snapshotter, "base", None, tar(file("a", b"content" * 300_000)))
    await snapshotter.settle()
    mounts = await snapshotter.prepare(SnapshotKey("k"), base)
    data = tmp_path / "ErofsSnapshotter/snapshots/1/layer.data"

    def cached(path):
        with open(path, "rb") as found:
            return linux.cached_pages(found.fileno())

    def look(root):
        return (root / "a").read_bytes()

    assert await inside(mounts, look) == b"content" * 300_000
    assert cached(data.with_name("mnt") / "a") > 500
    assert cached(data) > 500
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(snapshotter.run)
        with anyio.fail_after(30):
            while cached(data):
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert cached(data.with_name("mnt") / "a") > 500


async def test_of_a_new_layer_goes_what_was_read_alone(tmp_path, database, monkeypatch):
    monkeypatch.setattr("lading.snapshots.doubles.QUIET", 0.01)
    monkeypatch.setattr("lading.snapshots.doubles.PIECE", 1 << 20)
    monkeypatch.setattr("lading.snapshots.erofs.LOOK", 0.01)
    snapshotter = make(tmp_path, database, idle_seconds=0)
    size = 4 << 20
    layer = tar(directory("d"), file("./d/read", b"r" * size), file("unread", b"u" * size))
    base = await unpack(snapshotter, "base", None, layer)
    await snapshotter.settle()
    mounts = await snapshotter.prepare(SnapshotKey("k"), base)
    data = tmp_path / "ErofsSnapshotter/snapshots/1/layer.data"

    def cached(offset):
        with open(data, "rb") as found:
            return linux.cached_pages(found.fileno(), offset, size - (1 << 20)) * linux.PAGE

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(snapshotter.run)
        await anyio.sleep(0.1)  # many looks
        assert cached(0) == size - (1 << 20)
        assert await inside(mounts, lambda root: (root / "d/read").read_bytes()) == b"r" * size
        with anyio.fail_after(30):
            while cached(0):
                await anyio.sleep(0.01)
        await anyio.sleep(0.1)
        assert cached(size + (1 << 20)) == size - (1 << 20)
        tasks.cancel_scope.cancel()


async def test_a_layer_lends_its_stream_once_it_is_durable(tmp_path, database):
    snapshotter = make(tmp_path, database)
    archive = tar(file("a", b"content" * 1000)) + bytes(100)
    base = await unpack(snapshotter, "base", None, archive)
    with pytest.raises(FailedPreconditionError):
        async with snapshotter.open_stream(base):
            pass
    await snapshotter.settle()
    async with snapshotter.open_stream(base) as fd:
        assert os.pread(fd, 1 << 20, 0) == archive.ljust(-(-len(archive) // 512) * 512, b"\0")
    await snapshotter.prepare(SnapshotKey("k"), base)
    with pytest.raises(UnsupportedError):
        async with snapshotter.open_stream("k"):
            pass
    with pytest.raises(NotFoundError):
        async with snapshotter.open_stream("missing"):
            pass


async def test_a_layer_is_the_same_in_whatever_pieces_it_came(tmp_path, database):
    snapshotter = make(tmp_path, database)
    archive = tar(file("a", b"content" * 1000)) + bytes(1 << 20)
    names = [await unpack(snapshotter, f"by-{chunk}", None, archive, chunk=chunk) for chunk in (700, 1 << 18)]
    assert await snapshotter.compare(*names) == ""


async def test_mounts_of_a_crash_are_cleared(tmp_path, database):
    first = make(tmp_path, database)
    base = await unpack(first, "base", None, tar(file("a")))
    await first.prepare(SnapshotKey("k"), base)
    rows = database.snapshots(Namespace("default"), "ErofsSnapshotter")
    await rows.delete("k")
    await rows.delete("base")
    second = make(tmp_path, database)
    await second.recover()
    await second.settle()
    assert points(tmp_path) == []
    assert os.listdir(tmp_path / "ErofsSnapshotter/snapshots") == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda layer: (layer / "layer.erofs").write_bytes(b"?" * 4096),
        lambda layer: flip(layer / "layer.erofs", 1200),
        lambda layer: (layer / "layer.erofs").unlink(),
        lambda layer: (layer / "layer.data").unlink(),
        lambda layer: os.truncate(layer / "layer.data", 512),
    ],
)
async def test_images_that_we_did_not_write_are_not_mounted(tmp_path, database, damage):
    snapshotter = make(tmp_path, database)
    base = await unpack(snapshotter, "base", None, tar(file("a", b"1" * 2000)))
    damage(tmp_path / "ErofsSnapshotter/snapshots/1")
    for call in (snapshotter.prepare, snapshotter.view):
        with pytest.raises(DamagedLayerError):
            await call(SnapshotKey("k"), base)
    assert points(tmp_path) == []
    assert [info.key async for info in snapshotter.walk()] == ["base"]


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


async def test_another_boot_unpacks_again_what_was_not_durable(tmp_path, database):
    first = make(tmp_path, database)
    durable = await unpack(first, "durable", None, tar(file("a")))
    await first.settle()
    await unpack(first, "lost", durable, tar(file("b")))
    rows = database.snapshots(Namespace("default"), "ErofsSnapshotter")
    second = ErofsSnapshotter(tmp_path / "ErofsSnapshotter", rows, boot_id="boot-2")
    assert await second.recover() == ["lost"]
    await second.settle()
    assert [info.key async for info in second.walk()] == ["durable"]


LAYERS = [
    tar(
        directory("usr", mode=0o711, uid=3),
        directory("usr/lib", mode=0o2755, xattrs={"user.dir": b"1"}),
        directory("tmp", mode=0o1777),
        file("usr/lib/a", b"a" * 5000, uid=70000, gid=5, mode=0o4755),
        file("usr/lib/b", b"b", xattrs={"security.capability": CAPABILITY, "user.x": b"y" * 300}),
        file("usr/lib/acl", b"c", xattrs={"system.posix_acl_access": ACL}),
        hardlink("usr/lib/a2", "usr/lib/b"),
        directory("inherit", xattrs={"system.posix_acl_default": ACL}),
        symlink("lib", "usr/lib", xattrs={"trusted.l": b"1"}),
        symlink("long", "x" * 2000),
        device("null", EntryType.CHAR, 1, 3, mode=0o666),
        device("disk", EntryType.BLOCK, 259, 70000, mode=0o660),
        device("pipe", EntryType.FIFO, 0, 0),
        directory("gone"),
        *[file(f"gone/{n}", b"%d" % n, mtime=n) for n in range(400)],
        directory("hidden"),
        file("hidden/old"),
        file("empty"),
        file("swap/file"),
        file("ünï/\udcff", b"bytes"),
    ),
    tar(
        file("usr/lib/new/deep/file", b"1"),  # implies directories that are below
        file("lib/through", b"link"),
        whiteout("gone/7"),
        file("gone/8", b"changed", mode=0o600),
        whiteout("hidden"),
        file("hidden/new"),
        file("swap", b"now a file"),
        directory("alone"),
        whiteout("alone/nothing"),
        file("alone/there"),
        opaque("inherit"),
        file("inherit/x"),
    ),
    tar(
        whiteout("usr/lib/a"),
        directory("swap"),
        directory("gone", mode=0o700, mtime=TIME),
        file("swap/y"),
        whiteout("alone/there"),
    ),
]


async def test_the_mounted_tree_is_that_of_the_overlayfs_snapshotter(tmp_path, database):
    found = []
    for kind in (OverlaySnapshotter, ErofsSnapshotter):
        snapshotter = make(tmp_path, database, kind)
        parent = None
        for number, archive in enumerate(LAYERS):
            parent = await unpack(snapshotter, f"layer{number}", parent, archive)
        seen = []
        for call in (snapshotter.prepare, snapshotter.view):
            mounts = await call(SnapshotKey(call.__name__), parent)
            seen.append(await inside(mounts, tree))
        found.append(seen)
    young = max(value[3] for value in found[0][0].values())
    for shown in (one for seen in found for one in seen):
        for path, value in shown.items():
            if path in (".", "ünï", "swap", "hidden", "usr/lib/new", "usr/lib/new/deep", "lib"):
                # Nobody described them, so they are as old as their making; links count as what they were made from.
                shown[path] = (*value[:3], 0, *value[4:])
            if stat.S_ISDIR(value[0]):
                # What a directory's link count says is up to the file system.
                shown[path] = (*shown[path][:5], 0, *shown[path][6:])
    assert young > TIME
    assert "alone/nothing" not in found[1][0]
    assert "gone/7" not in found[1][0]
    for prepared, viewed in zip(*found, strict=True):
        assert prepared == viewed


async def test_whiteouts_are_not_listed_where_nothing_is_merged(tmp_path, database):
    snapshotter = make(tmp_path, database)
    base = await unpack(snapshotter, "base", None, tar(file("a")))
    top = await unpack(
        snapshotter, "top", base, tar(directory("d"), whiteout("d/x"), file("d/y"), whiteout("a"))
    )
    only = await unpack(snapshotter, "only", base, tar(opaque(""), whiteout("a"), file("b")))
    for key, parent, expected in (("t", top, ["d"]), ("o", only, ["b"])):
        for call in (snapshotter.prepare, snapshotter.view):
            mounts = await call(SnapshotKey(f"{key}-{call.__name__}"), parent)
            assert await inside(mounts, os.listdir) == expected
    mounts = await snapshotter.mounts(SnapshotKey("t-prepare"))
    assert await inside(mounts, lambda root: os.listdir(root / "d")) == ["y"]


async def test_set_id_programs_and_devices_work_inside(tmp_path, database):
    snapshotter = make(tmp_path, database)
    base = await unpack(snapshotter, "base", None, tar(device("null", EntryType.CHAR, 1, 3)))
    for call in (snapshotter.prepare, snapshotter.view):
        mounts = await call(SnapshotKey(call.__name__), base)
        assert await inside(mounts, lambda root: (root / "null").read_bytes()) == b""
        assert await inside(mounts, lambda root: os.statvfs(root).f_flag & (os.ST_NOSUID | os.ST_NODEV)) == 0


async def test_a_change_of_a_large_file_is_copied_up(tmp_path, database):
    snapshotter = make(tmp_path, database)
    content = os.urandom(3_000_000)
    base = await unpack(snapshotter, "base", None, tar(file("a", content), file("b", content)))
    key = SnapshotKey("k")

    def change(root):
        with open(root / "a", "r+b") as opened:
            opened.seek(1000)
            opened.write(b"changed")
        return (root / "a").read_bytes(), (root / "b").read_bytes()

    changed = content[:1000] + b"changed" + content[1007:]
    assert await inside(await snapshotter.prepare(key, base), change) == (changed, content)
    await snapshotter.commit("next", key)
    look = await snapshotter.view(SnapshotKey("v"), "next")
    assert await inside(look, lambda root: (root / "a").read_bytes()) == changed
