"""A process that works with a store on a recorded disk, and marks in the record what it was acknowledged.

``power_cut_child.py BOOT ROOT MARK REGISTRY DRIVER DURABILITY KEEP [no-flush]``; in the ``first`` boot it pulls and ends at once, in the
``second`` it takes that up. With ``no-flush`` it has a store that does not care. ``KEEP`` is as in ``layers-keep``, or ``on-demand``:
compressed, and layers are decoded while they are read, however small they are.
"""

import json
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import apsw

from lading import library
from lading.core.labels import GC_ROOT
from lading.core.snapshots import SnapshotKey, SnapshotName
from lading.daemon import image_store
from lading.daemon.config import Config, LadingSettings
from lading.daemon.events import EventBus
from lading.formats.seek.indexing import Indexer
from lading.kit import aio, linux
from lading.snapshots import erofs, rebuild
from support.power_cut_world import ADDED, IMAGES, by_name, seen

BOXES = 8
SPACING = 16 << 10
"""Bytes of a segment of a layer that is decoded on demand."""
_LARGEST = 16 << 20


@asynccontextmanager
async def opened(
    root: Path, driver: str, durability: str, keep: str, boot: str
) -> AsyncGenerator[image_store.Store]:
    """The daemon's store, in the boot ``boot``."""
    linux.boot_id = lambda: boot
    on_demand = keep == "on-demand"
    if on_demand:
        decode_on_demand()
    config = Config(
        data_root=root,
        storage_driver=driver,
        lading=LadingSettings(
            durability="strict" if durability == "strict" else "lazy",
            layers_keep="compressed" if on_demand else keep,  # pyright: ignore[reportArgumentType]
        ),
    )
    async with AsyncExitStack() as stack:
        yield await image_store.open_store(stack, config, EventBus(), uses=tuple)


def decode_on_demand() -> None:
    """Have the test's small layers decoded while they are read, in small segments, and forgotten when nobody uses them."""
    kind = image_store.SNAPSHOTTERS["erofs"]
    make = partial(erofs.ErofsSnapshotter, large=1, idle_seconds=0)
    image_store.SNAPSHOTTERS = {  # pyright: ignore[reportConstantRedefinition]
        **image_store.SNAPSHOTTERS,
        "erofs": replace(kind, make=make),
    }
    rebuild.Indexer = partial(Indexer, spacing=SPACING)  # pyright: ignore[reportAttributeAccessIssue]


async def index(parts: image_store.Store) -> None:
    """Make the seek indexes that the daemon makes in the background."""
    snapshotter = parts.snapshotter
    assert isinstance(snapshotter, erofs.ErofsSnapshotter)
    for row in await parts.database.snapshots(parts.maintenance.namespace, snapshotter.name).list():
        if erofs.DIFF_ID in row.extra:
            await snapshotter._index(snapshotter._rebuildable(row))  # pyright: ignore[reportPrivateUsage]


class Marks:
    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, what: str, **facts: str) -> None:
        with self._path.open("wb", buffering=0) as file:
            file.write(json.dumps({"what": what, **facts}).encode())


async def add_to(
    parts: image_store.Store, parent: SnapshotName | None, key: str, name: str, root: Path
) -> None:
    """Write into an active snapshot, as a container does, and commit it."""
    mounts = await parts.snapshotter.prepare(SnapshotKey(key), parent)
    point = root.parent / "point"
    point.mkdir(exist_ok=True)
    for each in mounts:
        linux.mount_with(each.source, str(point), each.type, each.options)
    try:
        for path, data in ADDED.items():
            (point / path).parent.mkdir(parents=True, exist_ok=True)
            (point / path).write_bytes(data)
    finally:
        linux.unmount(str(point))
    await parts.snapshotter.commit(SnapshotName(name), SnapshotKey(key), labels={GC_ROOT: "test"})


async def collect(parts: image_store.Store) -> None:
    async for _ in parts.maintenance.collect(dry_run=False):
        pass
    await parts.snapshotter.settle()


async def top_of(parts: image_store.Store, name: str) -> SnapshotName | None:
    detail = await parts.images.inspect(name)
    assert detail.manifest is not None
    return await parts.transfer.ensure_unpacked(detail.manifest.descriptor)


async def first(root: Path, marks: Marks, host: str, driver: str, durability: str, keep: str) -> None:
    """Pull, and leave all that is put off to the next boot."""
    root.mkdir(mode=0o711)
    async with opened(root, driver, durability, keep, "boot-first") as parts:
        marks.write("opened")
        await pull(library.Store(parts), marks, {"d": f"{host}/app:d"}, "d")
        os._exit(0)


async def second(root: Path, marks: Marks, host: str, driver: str, durability: str, keep: str) -> None:
    """All that a store does, after it has cleaned up."""
    names = {short: f"{host}/app:{short}" for short in IMAGES}
    async with opened(root, driver, durability, keep, "boot-second") as parts:
        store = library.Store(parts)
        await parts.maintenance.tidy()
        await top_of(parts, names["d"])
        await pull(store, marks, names, "a")
        await parts.snapshotter.settle()
        marks.write("settled")
        await pull(store, marks, names, "b")
        lease = await parts.leases.create(labels={})
        top = await top_of(parts, names["b"])
        await add_to(parts, top, "work-b", "made-b", root)
        marks.write("made", name="made-b", image="b")
        await pull(store, marks, names, "c")
        await parts.snapshotter.prepare(SnapshotKey("box"), await top_of(parts, names["c"]), lease=lease.id)
        marks.write("prepared", name="box", image="c")
        for number in range(BOXES):
            top = await top_of(parts, names["c"])
            await parts.snapshotter.prepare(SnapshotKey(f"box-{number}"), top, lease=lease.id)
            marks.write("prepared", name=f"box-{number}", image="c")
        marks.write("removing", image="a")
        await store.remove(names["a"])
        await collect(parts)
        marks.write("removed", image="a")
        again = f"{host}/app:again"
        marks.write("tagging", name=again)
        await store.tag(names["c"], again)
        marks.write("tagged", image="c", name=again)
        await pull(store, marks, names, "d")
        async with anyio.create_task_group() as group:
            group.start_soon(pull, store, marks, names, "e")
            group.start_soon(pull, store, marks, names, "a")
        await parts.snapshotter.settle()
        marks.write("settled")
        await collect(parts)  # what is only a cache goes, and comes back
        if keep == "on-demand":
            await index(parts)
            await collect(parts)
            await read_half(store, names)
        for name in names.values():
            await top_of(parts, name)
        async for info in parts.content.walk():
            await parts.content.read(info.digest, limit=_LARGEST)
        await collect(parts)
        marks.write("end")
    marks.write("closed")


async def read_half(store: library.Store, names: Mapping[str, str]) -> None:
    """Have some of each image decoded, while others are mounted."""
    async with AsyncExitStack() as stack:
        for name in names.values():
            root = await stack.enter_async_context(store.mount(name))
            await aio.run(aio.DISK, seen, root / "usr" if (root / "usr").is_dir() else root)


async def pull(store: library.Store, marks: Marks, names: Mapping[str, str], short: str) -> None:
    marks.write("pulling", image=short)
    image = await store.pull(names[short])
    assert image.id in [by_name(short).id(classic=classic) for classic in (False, True)]
    marks.write("pulled", image=short)


def stop_flushing() -> None:
    """Make the store forget what it promised: the replay must notice."""
    linux.syncfs = lambda _: None
    erofs._flush_file = lambda _: None  # pyright: ignore[reportPrivateUsage]


def wrap_the_log_often() -> None:
    """As in a store that has worked for a while: then its log is overwritten in place, and fdatasync(2) of it commits nothing else."""
    apsw.connection_hooks.append(lambda connection: connection.wal_autocheckpoint(12))


if __name__ == "__main__":
    os.umask(0o022)
    wrap_the_log_often()
    if "no-flush" in sys.argv:
        stop_flushing()
    boot = first if sys.argv[1] == "first" else second
    anyio.run(boot, Path(sys.argv[2]), Marks(Path(sys.argv[3])), *sys.argv[4:8])
