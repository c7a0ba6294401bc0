"""Layers that are decoded while they are read: what is shown, what is decoded for it, and what happens when it cannot be."""

import contextlib
import errno
import functools
import gzip
import os
import random
import signal
import threading

import anyio
import pytest
from support.filesystems import left_mounted

from lading.core.devices import Devices
from lading.core.labels import LAYER_BLOB
from lading.core.metadata import Namespace
from lading.core.snapshots import SnapshotKey
from lading.devices.local import LocalDevices, probe
from lading.errors import NotFoundError
from lading.formats.compression import Compression
from lading.formats.seek.indexing import Indexer
from lading.kit import linux
from lading.oci.digest import Digest
from lading.snapshots import erofs
from lading.snapshots.erofs import CACHE, ErofsSnapshotter
from lading.testing.layers import file, tar, unpack
from lading.testing.snapshots import inside

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(probe() is not None, reason=f"no FUSE here: {probe()}"),
    pytest.mark.timeout(120),
]
SIZE = 1 << 20
NAMES = [f"f{number}" for number in range(12)]


@functools.cache
def layer(_number):
    """Contents by name, the archive, a blob, and its index; others for each number."""
    contents = {name: os.urandom(SIZE // 2).hex().encode() for name in NAMES}
    archive = tar(*[file(name, content) for name, content in contents.items()])
    # A member for each file and a bit: as good as any other places to begin.
    blob = b"".join(gzip.compress(archive[at : at + SIZE], 1, mtime=0) for at in range(0, len(archive), SIZE))
    indexer = Indexer(Compression.GZIP, spacing=SIZE)
    for _ in (*indexer.feed(blob), *indexer.finish()):
        pass
    index = indexer.index(Digest.of(blob))
    assert index is not None
    assert len(index.segments) > 5
    return contents, archive, blob, index.encode()


class World:
    """A snapshotter with one layer, which is compressed and nothing else."""

    def __init__(self, place, database, devices=LocalDevices):
        reason = erofs.probe(place / "root")
        if reason:
            pytest.skip(f"no EROFS here: {reason}")
        self.place, self.database, self.devices = place, database, devices
        self.contents, self.archive, blob, self.index = layer(0)
        self.blob = place / "blob"
        self.blob.write_bytes(blob)
        self.directory = place / "root/snapshots/1"
        self.snapshotter = self.open()

    def open(self, cache_bytes=0):
        """As a daemon does when it starts."""
        return ErofsSnapshotter(
            self.place / "root",
            self.database.snapshots(Namespace("default"), "erofs"),
            boot_id="boot-1",
            idle_seconds=0,
            open_blob=self.open_blob,
            cache_bytes=cache_bytes,
            devices=self.devices(self.place / "root"),
            large=1,
        )

    def open_blob(self, _digest):
        return os.open(self.blob, os.O_RDONLY)

    async def add(self):
        await self.snapshotter.recover()
        labels = {LAYER_BLOB: Digest.of(self.blob.read_bytes())}
        self.base = await unpack(self.snapshotter, "base", None, self.archive, labels=labels)
        await self.snapshotter.settle()
        (self.directory / "layer.seek").write_bytes(self.index)
        assert not (self.directory / CACHE).exists()

    def decoded(self):
        """Bytes that are there."""
        try:
            return (self.directory / "layer.segments").stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    async def view(self, key="view"):
        return await self.snapshotter.view(SnapshotKey(key), self.base)

    async def read(self, *names, key="view"):
        """Files through the mounts of a view: contents, or the error."""

        def look(root):
            found = []
            for name in names:
                try:
                    found.append((root / name).read_bytes())
                except OSError as exc:
                    found.append(exc.errno)
            return found

        return await inside(await self.snapshotter.mounts(SnapshotKey(key)), look)


@pytest.fixture
async def world(tmp_path, database):
    made = World(tmp_path, database)
    await made.add()
    try:
        yield made
    finally:
        for key in ("view", "again"):
            with contextlib.suppress(NotFoundError):
                await made.snapshotter.remove(key)
        await made.snapshotter.close()
        left = left_mounted(tmp_path)
        for point in left:
            linux.unmount(point)
    assert left == []


async def test_only_what_is_read_is_decoded(world):
    await world.view()
    assert world.decoded() == 0
    assert await world.read("f2") == [world.contents["f2"]]
    assert 0 < world.decoded() < len(world.archive) * 2 // 3
    assert await world.read(*NAMES) == list(world.contents.values())
    assert not (world.directory / CACHE).exists()


async def test_what_was_decoded_goes_when_it_is_not_used(world):
    await world.view()
    await world.read("f2")
    await world.snapshotter.settle()
    assert world.decoded()
    await world.snapshotter.remove("view")
    await world.snapshotter.settle()
    assert sorted(os.listdir(world.directory)) == ["layer.erofs", "layer.seek", "mnt"]


class Several(World):
    """With more layers than the budget has room for."""

    COUNT = 5

    async def add(self):
        await super().add()
        self.tops = [self.base]
        for number in range(1, self.COUNT):
            _, archive, blob, index = layer(number)
            digest = Digest.of(blob)
            (self.place / digest.hex).write_bytes(blob)
            top = await unpack(
                self.snapshotter, f"layer-{number}", None, archive, labels={LAYER_BLOB: digest}
            )
            self.tops.append(top)
            await self.snapshotter.settle()
            (self.place / f"root/snapshots/{number + 1}/layer.seek").write_bytes(index)

    def open_blob(self, digest):
        path = self.place / digest.hex
        return os.open(path if path.exists() else self.blob, os.O_RDONLY)

    def taken(self):
        """Bytes of contents, by layer."""
        return [
            sum(
                path.stat().st_blocks * 512
                for name in (CACHE, "layer.segments")
                if (path := self.place / f"root/snapshots/{number + 1}/{name}").exists()
            )
            for number in range(self.COUNT)
        ]


def read_all(root):
    return [(root / name).read_bytes() for name in NAMES]


async def test_a_budget_is_kept_while_several_containers_read(tmp_path, database):
    """What was unused for longest goes and comes back right; who reads meanwhile notices nothing."""
    world = Several(tmp_path, database)
    world.snapshotter.cache_within(0)
    await world.add()
    assert world.taken() == [0] * world.COUNT
    whole = len(world.archive) + 65536
    budget = 3 * whole
    world.snapshotter.cache_within(budget)
    stop = threading.Event()
    rounds = [0, 0]

    def read_on(number):
        """A container, as long as it runs."""
        contents = layer(number)[0]

        def look(root):
            chance = random.Random(number)
            while not stop.is_set():
                name = chance.choice(NAMES)
                assert (root / name).read_bytes() == contents[name]
                with open(root / name, "rb") as file:  # or it would never ask again
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                rounds[number] += 1

        return look

    evicted = 0
    async with anyio.create_task_group() as containers:
        for number in range(2):
            mounts = await world.snapshotter.view(SnapshotKey(f"box-{number}"), world.tops[number])
            containers.start_soon(inside, mounts, read_on(number))
        try:
            for step in range(
                60
            ):  # what the kernel still has of a mount need not be fetched: six are enough as a rule
                if step >= 6 and evicted >= 3:
                    break
                number = 2 + step % 3
                before = world.taken()
                mounts = await world.snapshotter.view(SnapshotKey("short"), world.tops[number])
                assert await inside(mounts, read_all) == list(layer(number)[0].values())
                fetched = world.taken()[number]
                await world.snapshotter.remove("short")
                await world.snapshotter.settle()
                after = world.taken()
                assert sum(after) <= budget
                assert after[number] == fetched  # it was used last
                assert fetched > SIZE or not before[number]
                evicted += sum(now < then for now, then in zip(after[2:], before[2:], strict=True))
        finally:
            stop.set()
    assert evicted >= 3
    assert min(rounds) > 3
    for number in range(2):
        await world.snapshotter.remove(f"box-{number}")
    world.snapshotter.cache_within(0)
    await world.snapshotter.settle()
    assert world.taken() == [0] * world.COUNT
    await world.snapshotter.close()


async def test_what_is_whole_becomes_an_ordinary_file(world):
    world.snapshotter.cache_within(1 << 30)
    await world.view()
    await world.read(*NAMES)
    await world.snapshotter.remove("view")
    await world.snapshotter.settle()
    await world.view("again")
    assert (world.directory / CACHE).read_bytes() == world.archive
    assert not world.decoded()
    assert await world.read("f1", key="again") == [world.contents["f1"]]


async def test_the_next_daemon_goes_on(world):
    await world.view()
    assert await world.read("f1") == [world.contents["f1"]]
    await world.snapshotter.close()
    world.snapshotter = world.open()
    await world.snapshotter.recover()
    decoded = world.decoded()
    assert decoded
    assert await world.read("f1") == [world.contents["f1"]]
    assert world.decoded() == decoded
    assert await world.read(*NAMES) == list(world.contents.values())


async def test_what_nobody_serves_any_more_is_mounted_anew(world):
    """The processes were killed: errors for who reads, and another device for the next one."""
    await world.view()
    await world.read("f1")

    def lose(root):
        devices = LocalDevices(world.place / "root")
        for pid in devices.pids():
            os.kill(pid, signal.SIGKILL)
        devices.close()
        with pytest.raises(OSError, match="Input/output"):
            (root / "f4").read_bytes()

    await inside(await world.snapshotter.mounts(SnapshotKey("view")), lose)
    assert await world.read(*NAMES) == list(world.contents.values())


@pytest.mark.parametrize("damage", ["bytes", "bomb"])
async def test_a_damaged_blob_is_an_error_and_never_other_bytes(world, damage):
    good = world.blob.read_bytes()
    at = len(good) // 2
    bad = os.urandom(64) if damage == "bytes" else gzip.compress(bytes(SIZE * 64))
    world.blob.write_bytes(good[:at] + bad + good[at + len(bad) :])
    await world.view()
    found = await world.read(*NAMES)
    assert found.count(errno.EIO) in (1, 2)
    assert all(have in (want, errno.EIO) for have, want in zip(found, world.contents.values(), strict=True))
    with open(world.blob, "r+b") as blob:
        blob.write(good)
    assert await world.read(*NAMES) == list(world.contents.values())


@pytest.mark.parametrize("damage", ["bit", "empty", "cut"])
async def test_a_damaged_index_is_dropped(world, damage):
    seek = world.directory / "layer.seek"
    good = world.index
    seek.write_bytes({"bit": good[:99] + b"?" + good[100:], "empty": b"", "cut": good[:-1]}[damage])
    await world.view()
    assert await world.read(*NAMES) == list(world.contents.values())
    assert (world.directory / CACHE).read_bytes() == world.archive
    assert not seek.exists() or damage == "empty"


class NoDevices(Devices):
    """Of a machine that cannot, or that cannot mount what they give."""

    def __init__(self, root):
        self.asked = 0
        self.root = root

    def attach(self, device):
        self.asked += 1
        if self.asked > 1:
            raise AssertionError("asked again")
        if self.root.name == "root":
            raise OSError(errno.ENOENT, "no FUSE")
        return self.path(device.number)

    def path(self, number):
        return f"/dev/null/{number}"

    def serves(self, number):
        return False

    def close(self):
        pass


class Unmountable(NoDevices):
    def attach(self, device):
        self.root = self.root / "elsewhere"
        return super().attach(device)


@pytest.mark.parametrize("kind", [NoDevices, Unmountable])
async def test_a_machine_that_cannot_decodes_everything(tmp_path, database, kind):
    world = World(tmp_path, database, kind)
    await world.add()
    for key in ("view", "again"):
        await world.view(key)
        assert await world.read(*NAMES, key=key) == list(world.contents.values())
        assert (world.directory / CACHE).read_bytes() == world.archive
        await world.snapshotter.remove(key)
        await world.snapshotter.settle()
    await world.snapshotter.close()


async def test_who_keeps_both_gets_ordinary_files(world):
    world.snapshotter.cache_within(None)
    await world.view()
    assert (world.directory / CACHE).read_bytes() == world.archive
