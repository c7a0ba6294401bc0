"""Layers that are kept compressed: their contents are a cache, made again from the blob, and nothing else is ever shown."""

import asyncio
import functools
import gzip
import os
import subprocess
from unittest import mock

import anyio
import pytest

from lading.core.labels import LAYER_BLOB
from lading.core.metadata import Namespace
from lading.core.snapshots import Capability, SnapshotKey
from lading.errors import DataLossError
from lading.formats.compression import Compression, compressor
from lading.oci.digest import DiffID, Digest
from lading.snapshots.erofs import CACHE, DATA, SIDE, ErofsSnapshotter
from lading.snapshots.rebuild import Cache, Layer, RebuildError
from lading.testing.layers import directory, file, tar, unpack
from lading.testing.snapshots import describe, inside

pytestmark = pytest.mark.anyio
ARCHIVE = tar(directory("d"), file("d/a", b"first" * 1000), file("b", b"second"))
OTHER = tar(file("c", b"third" * 100_000))


class Blobs:
    """Blob files, and how often each was opened."""

    def __init__(self, place):
        self.place = place
        self.opened = []
        place.mkdir()

    def add(self, archive, compression=Compression.GZIP):
        if compression is Compression.GZIP:
            data = gzip.compress(archive, 6, mtime=0)
        else:
            made = compressor(compression)
            data = b"".join([*made.feed(archive), made.finish()])
        digest = Digest.of(data)
        (self.place / digest.hex).write_bytes(data)
        return digest

    def open(self, digest):
        self.opened.append(digest)
        return os.open(self.place / digest.hex, os.O_RDONLY)


@pytest.fixture
def blobs(tmp_path):
    return Blobs(tmp_path / "blobs")


def make(tmp_path, database, blobs, boot="boot-1", cache=0, idle=0.0):
    rows = database.snapshots(Namespace("default"), "erofs")
    return ErofsSnapshotter(
        tmp_path / "root", rows, boot_id=boot, idle_seconds=idle, open_blob=blobs.open, cache_bytes=cache
    )


def caches(tmp_path):
    return sorted(path.parent.name for path in tmp_path.glob(f"root/snapshots/*/{CACHE}"))


async def add(snapshotter, blobs, archive, name="base", parent=None, compression=Compression.GZIP):
    digest = blobs.add(archive, compression)
    return await unpack(snapshotter, name, parent, archive, labels={LAYER_BLOB: digest})


async def shown(snapshotter, key, name):
    mounts = await snapshotter.view(SnapshotKey(key), name)
    return await inside(mounts, describe)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD, Compression.NONE])
async def test_contents_go_when_unused_and_come_back_when_used(tmp_path, database, blobs, compression):
    snapshotter = make(tmp_path, database, blobs)
    assert Capability.REBUILDS in snapshotter.capabilities
    base = await add(snapshotter, blobs, ARCHIVE, compression=compression)
    assert caches(tmp_path) == ["1"]
    await snapshotter.settle()
    assert caches(tmp_path) == []
    assert (await snapshotter.usage(base)).size < len(ARCHIVE) + 16384
    expected = {"b": "f 644 second", "d": "d 755", "d/a": "f 644 " + "first" * 1000}
    assert await shown(snapshotter, "view", base) == expected
    assert await shown(snapshotter, "again", base) == expected
    assert len(blobs.opened) == 1
    await snapshotter.settle()
    assert caches(tmp_path) == ["1"]  # in use
    for key in ("view", "again"):
        await snapshotter.remove(key)
    await snapshotter.settle()
    assert caches(tmp_path) == []


@pytest.mark.parametrize("more", [10_240 - len(ARCHIVE) % 10_240, 1 << 20])
async def test_what_follows_the_end_of_an_archive_is_no_damage(tmp_path, database, blobs, more):
    snapshotter = make(tmp_path, database, blobs)
    base = await add(snapshotter, blobs, ARCHIVE + bytes(more))
    before = os.stat(tmp_path / "root/snapshots/1" / CACHE).st_size
    await snapshotter.settle()
    assert caches(tmp_path) == []
    assert set(await shown(snapshotter, "view", base)) == {"b", "d", "d/a"}
    assert os.stat(tmp_path / "root/snapshots/1" / CACHE).st_size == before


async def test_contents_that_somebody_waits_for_do_not_go(tmp_path, database, blobs, monkeypatch):
    snapshotter = make(tmp_path, database, blobs)
    base = await add(snapshotter, blobs, ARCHIVE)
    await snapshotter.settle()
    loop = asyncio.get_running_loop()
    have = snapshotter._cache.have

    def have_slowly(layers):
        have(layers)
        # Making others again takes long enough for what is unused to be looked for.
        asyncio.run_coroutine_threadsafe(snapshotter.settle(), loop).result(30)

    monkeypatch.setattr(snapshotter._cache, "have", have_slowly)
    assert set(await shown(snapshotter, "view", base)) == {"b", "d", "d/a"}


async def test_several_layers_come_back_at_once(tmp_path, database, blobs):
    snapshotter = make(tmp_path, database, blobs)
    base = await add(snapshotter, blobs, ARCHIVE)
    top = await add(snapshotter, blobs, OTHER, "top", base)
    await snapshotter.settle()
    assert set(await shown(snapshotter, "view", top)) == {"b", "c", "d", "d/a"}
    assert caches(tmp_path) == ["1", "2"]


async def test_the_budget_keeps_what_was_used_last(tmp_path, database, blobs):
    size = 512 * 1024
    snapshotter = make(tmp_path, database, blobs, cache=2 * size)
    names = [
        await add(snapshotter, blobs, tar(file("f", bytes([n]) * (size - 4096))), f"layer-{n}")
        for n in range(3)
    ]
    for number, name in enumerate(names):
        os.utime(tmp_path / "root/snapshots" / str(number + 1) / CACHE, ns=(number, number))
        del name
    await snapshotter.settle()
    assert caches(tmp_path) == ["2", "3"]


async def test_unused_is_counted_from_the_last_container_not_the_last_mount(tmp_path, database, blobs):
    """One that ran for long, and another of its image a moment later: nothing is made again."""
    snapshotter = make(tmp_path, database, blobs, idle=60)
    base = await add(snapshotter, blobs, ARCHIVE)
    await snapshotter.view(SnapshotKey("box"), base)

    async def settle_after(seconds):
        for number in snapshotter._used:
            snapshotter._used[number] -= seconds
        await snapshotter.settle()
        return caches(tmp_path)

    assert await settle_after(3600) == ["1"]
    await snapshotter.remove("box")
    assert await settle_after(0) == ["1"]
    assert await settle_after(50) == ["1"]
    assert await settle_after(20) == []
    await snapshotter.close()


async def test_layers_whose_blob_is_not_known_are_kept(tmp_path, database, blobs):
    snapshotter = make(tmp_path, database, blobs)
    await unpack(snapshotter, "base", None, ARCHIVE)
    await snapshotter.settle()
    assert (tmp_path / "root/snapshots/1" / DATA).stat().st_size == len(ARCHIVE)


@pytest.mark.parametrize("damage", ["gone", "other", "cut", "longer"])
async def test_nothing_is_shown_that_the_layer_was_not(tmp_path, database, blobs, damage):
    snapshotter = make(tmp_path, database, blobs)
    base = await add(snapshotter, blobs, ARCHIVE)
    await snapshotter.settle()
    path = next(blobs.place.iterdir())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        wrong = ARCHIVE.replace(b"second", b"zecond") if damage == "other" else ARCHIVE + bytes(10240)
        path.write_bytes(gzip.compress(wrong))
    with pytest.raises(RebuildError):
        await snapshotter.view(SnapshotKey("view"), base)
    assert caches(tmp_path) == []
    assert list(tmp_path.glob("root/snapshots/*/*.part")) == []
    path.write_bytes(gzip.compress(ARCHIVE))
    assert (await shown(snapshotter, "view", base))["b"] == "f 644 second"


async def test_the_cache_does_not_outlive_its_boot(tmp_path, database, blobs):
    """A power cut may leave a file of the right length with wrong bytes."""
    snapshotter = make(tmp_path, database, blobs, cache=1 << 30)
    await snapshotter.recover()
    base = await add(snapshotter, blobs, ARCHIVE)
    await snapshotter.settle()
    same = make(tmp_path, database, blobs, cache=1 << 30)
    await same.recover()
    assert caches(tmp_path) == ["1"]
    (tmp_path / "root/snapshots/1" / CACHE).write_bytes(bytes(len(ARCHIVE)))
    later = make(tmp_path, database, blobs, boot="boot-2", cache=1 << 30)
    assert await later.recover() == []
    assert caches(tmp_path) == []
    assert (await shown(later, "view", base))["b"] == "f 644 second"


async def test_keeping_both_again_serves_what_was_kept_compressed(tmp_path, database, blobs):
    first = make(tmp_path, database, blobs)
    base = await add(first, blobs, ARCHIVE)
    await first.close()
    assert caches(tmp_path) == []
    both = make(tmp_path, database, blobs, cache=None)
    assert Capability.REBUILDS not in both.capabilities
    await both.recover()
    assert (await shown(both, "view", base))["b"] == "f 644 second"
    await both.remove("view")
    await both.settle()
    assert caches(tmp_path) == ["1"]


async def test_sparse_contents_stay(tmp_path, database, blobs):
    holes = tmp_path / "holes"
    with holes.open("wb") as out:
        out.seek(65536)
        out.write(b"x" * 512)
        out.truncate(1 << 20)
    command = ["tar", "-C", str(tmp_path), "--sparse", "--hole-detection=raw", "-cf", "-", "holes"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    snapshotter = make(tmp_path, database, blobs)
    base = await add(snapshotter, blobs, archive)
    await snapshotter.settle()
    assert caches(tmp_path) == []
    assert (tmp_path / "root/snapshots/1" / SIDE).exists()
    found = (await shown(snapshotter, "view", base))["holes"]
    assert found == "f 644 " + "\0" * 65536 + "x" * 512 + "\0" * ((1 << 20) - 66048)


def test_a_disk_error_leaves_nothing(tmp_path, monkeypatch):
    blobs = Blobs(tmp_path / "blobs")
    layer = Layer(
        id=1, data=tmp_path / CACHE, length=len(ARCHIVE), blob=blobs.add(ARCHIVE), diff_id=DiffID.of(ARCHIVE)
    )

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lading.kit.fs.write_all", full)
    with pytest.raises(OSError, match="No space"):
        Cache(tmp_path, blobs.open, 0).have([layer])
    assert list(tmp_path.glob("layer*")) == []
    monkeypatch.undo()
    Cache(tmp_path, blobs.open, 0).have([layer])
    assert layer.data.read_bytes() == ARCHIVE


def test_a_blob_whose_store_reports_loss(tmp_path):
    def lost(digest):
        raise DataLossError("lost", subject=digest)

    layer = Layer(id=1, data=tmp_path / CACHE, length=1024, blob=Digest.of(b""), diff_id=DiffID.of(b""))
    with pytest.raises(RebuildError, match="missing"):
        Cache(tmp_path, lost, 0).have([layer])


@functools.cache
def compressed(compression):
    """A stream of several segments, and its blob."""
    content = tar(*[file(f"f{number}", os.urandom(2 << 20).hex().encode()) for number in range(3)])
    if compression is Compression.GZIP:
        return content, gzip.compress(content, 1, mtime=0)
    made = compressor(compression)
    return content, b"".join([*made.feed(content), made.finish()])


def large(tmp_path, *, compression=Compression.GZIP):
    """A layer of several segments, and what it holds."""
    content, data = compressed(compression)
    blobs = Blobs(tmp_path / "blobs")
    digest = Digest.of(data)
    (blobs.place / digest.hex).write_bytes(data)
    layer = Layer(id=1, data=tmp_path / CACHE, length=len(content), blob=digest, diff_id=DiffID.of(content))
    return blobs, layer, content


def test_an_index_makes_the_same_contents(tmp_path):
    blobs, layer, content = large(tmp_path)
    cache = Cache(tmp_path, blobs.open, 0, indexed=1)
    assert cache.wants_index(layer)
    cache.make_index(layer)
    assert not cache.wants_index(layer)
    assert layer.seek.stat().st_size < len(content) / 100
    with mock.patch.object(Cache, "_decode", side_effect=AssertionError("not in one piece")):
        cache.have([layer])
    assert layer.data.read_bytes() == content


def test_no_wrong_byte_by_an_index(tmp_path):
    blobs, layer, content = large(tmp_path)
    cache = Cache(tmp_path, blobs.open, 0, indexed=1)
    cache.make_index(layer)
    blob = blobs.place / layer.blob.hex
    good = blob.read_bytes()
    seek = layer.seek.read_bytes()
    for at in (len(good) // 7, len(good) // 2, len(good) - 5000):
        layer.seek.write_bytes(seek)
        blob.write_bytes(good[:at] + b"damaged!" + good[at + 8 :])
        with pytest.raises(RebuildError, match="does not unpack"):
            cache.have([layer])
        assert list(tmp_path.glob("layer*")) == []
    blob.write_bytes(good)
    cache.have([layer])
    assert layer.data.read_bytes() == content


@pytest.mark.parametrize("damage", ["bit", "cut", "other"])
def test_an_index_that_is_damaged_is_dropped_and_made_again(tmp_path, damage):
    blobs, layer, content = large(tmp_path)
    cache = Cache(tmp_path, blobs.open, 0, indexed=1)
    cache.make_index(layer)
    good = layer.seek.read_bytes()
    if damage == "other":
        other = blobs.add(content, Compression.NONE)
        cache.make_index(layer._replace(blob=other))
    else:
        layer.seek.write_bytes(good[:-1] if damage == "cut" else good[:200] + b"?" + good[201:])
    cache.have([layer])
    assert layer.data.read_bytes() == content
    assert cache.wants_index(layer)
    cache.make_index(layer)
    assert layer.seek.read_bytes() == good


def test_what_cannot_be_cut_is_decoded_in_one_piece(tmp_path):
    blobs, layer, content = large(tmp_path, compression=Compression.ZSTD)  # one frame
    cache = Cache(tmp_path, blobs.open, 0, indexed=1)
    cache.make_index(layer)
    assert layer.seek.read_bytes() == b""
    assert not cache.wants_index(layer)
    cache.have([layer])
    assert layer.data.read_bytes() == content


def test_an_index_of_another_stream_is_never_kept(tmp_path):
    blobs, layer, _ = large(tmp_path)
    cache = Cache(tmp_path, blobs.open, 0, indexed=1)
    with pytest.raises(RebuildError, match="unpacks to"):
        cache.make_index(layer._replace(diff_id=DiffID.of(b"")))
    with pytest.raises(RebuildError, match="missing"):
        cache.make_index(layer._replace(blob=Digest.of(b"")))
    cache.make_index(layer, lambda: False)  # whoever wanted it has left
    assert list(tmp_path.glob("layer*")) == []


async def test_large_layers_are_indexed_in_the_background(tmp_path, database, blobs):
    snapshotter = make(tmp_path, database, blobs)
    snapshotter._flush_delay = 0
    snapshotter._cache._indexed = 1
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(snapshotter.run)
        base = await add(snapshotter, blobs, OTHER)
        with anyio.fail_after(30):
            while not (tmp_path / "root/snapshots/1/layer.seek").exists():
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    await snapshotter.settle()
    assert caches(tmp_path) == []
    assert (await shown(snapshotter, "view", base))["c"] == "f 644 " + "third" * 100_000
    await snapshotter.close()
