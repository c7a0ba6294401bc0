"""Trees: what the operations of a definition give each other.

A tree is a stack of differences, each that of a committed snapshot to its parent, bottom first; or a directory of the client, as
it was synchronised; or nothing. The lowest differences may be those of an image whose layers are still in a registry: they
are brought when somebody looks into the tree. A stack is *natural* if it is the chain of its topmost snapshot; another one (of
a merge) becomes one when somebody looks.
"""

import contextlib
import os
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import anyio

from lading.builder.ops.files import copying
from lading.core.buildcache import BuildCache
from lading.core.diff import Differ
from lading.core.leases import LeaseID
from lading.core.mounts import Mount
from lading.core.snapshots import SnapshotKey, SnapshotName, Snapshotter
from lading.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from lading.kit import aio, linux
from lading.kit.tasks import KeyedLock, task_group
from lading.oci.digest import DiffID, Digest

T = TypeVar("T")


class DiffingSnapshotter(Snapshotter, Differ, Protocol):
    """What the builder needs of a snapshotter."""


class Base(Protocol):
    """An image whose layers may be away."""

    @property
    def layers(self) -> tuple[SnapshotName, ...]:
        """The snapshots that they become, bottom first."""
        ...

    async def bring(self) -> None:
        """Have them all committed. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A directory of ours that does not change as long as the build has it. ``key`` names its snapshot.

    Two folders of the same key and ``version`` have the same content.
    """

    path: str
    key: SnapshotKey
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """See the module. ``own`` are the snapshots that its operation made; ``blobs`` the manifests of its base images."""

    layers: tuple[SnapshotName, ...] = ()
    top: SnapshotName | None = None
    """The snapshot that shows it, where that is known."""
    base: Base | None = None
    folder: Folder | None = None
    blobs: tuple[Digest, ...] = ()
    own: tuple[SnapshotName, ...] = ()

    def below(self, made: SnapshotName, parent: SnapshotName | None) -> "Tree":
        """The tree of a snapshot that was made on top of this one, as ``parent`` shows it."""
        lower = (parent,) if self.folder is not None and parent is not None else self.layers
        return Tree(layers=(*lower, made), top=made, blobs=self.blobs, own=(made,))

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return not self.layers and self.folder is None


NOTHING = Tree()


class Trees:
    """Makes trees, and shows them. ``place`` is a directory of ours for mount points."""

    def __init__(
        self, snapshotter: DiffingSnapshotter, cache: BuildCache, place: Path, lease: Callable[[], LeaseID]
    ) -> None:
        self.snapshotter = snapshotter
        self._cache = cache
        self._place = place
        self._lease = lease
        self._stacking = KeyedLock()

    @property
    def lease(self) -> LeaseID:
        """The lease that holds what builds make, until it is recorded or their end."""
        return self._lease()

    # From trees to snapshots.

    async def snapshot(self, tree: Tree) -> SnapshotName | None:
        """The committed snapshot that shows a tree; ``None`` for an empty one."""
        if tree.folder is not None:
            return await self._snapshot_of(tree.folder)
        if not tree.layers:
            return None
        if tree.base is not None:
            await tree.base.bring()
        return tree.top or await self._stack(tree.layers)

    async def _stack(self, layers: Sequence[SnapshotName]) -> SnapshotName:
        """A natural stack's top as it is; else its layers on top of each other once more."""
        chain: list[SnapshotName] = [layers[0]]
        if (await self.snapshotter.stat(layers[0])).parent is not None:
            chain = []
        while chain and len(chain) < len(layers):
            if (await self.snapshotter.stat(layers[len(chain)])).parent != chain[-1]:
                break
            chain.append(layers[len(chain)])
        top = chain[-1] if chain else None
        for layer in layers[len(chain) :]:
            top = await self._put(layer, top)
        assert top is not None
        return top

    async def _put(self, layer: SnapshotName, parent: SnapshotName | None) -> SnapshotName:
        """A layer's difference on another parent, under a name that follows from both."""
        name = SnapshotName(Digest.of(f"stacked {parent} {layer}".encode()))
        async with self._stacking.hold(name):
            try:
                await self.snapshotter.stat(name)
            except NotFoundError:
                diff_id = await self.diff_id(layer)
                await self.copy(layer, parent, name, diff_id, lease=self.lease)
        return name

    async def copy(
        self,
        layer: SnapshotName,
        parent: SnapshotName | None,
        name: SnapshotName,
        diff_id: DiffID,
        *,
        epoch: int | None = None,
        lease: LeaseID,
    ) -> None:
        """A layer's difference once more, on another parent; ``diff_id`` is what `diff_id` said of it and ``epoch``."""
        async with (
            self.snapshotter.open_diff(layer, epoch=epoch) as chunks,
            self.snapshotter.open_layer(name, parent, diff_id=diff_id, lease=lease) as writer,
        ):

            def feed() -> None:
                for chunk in chunks:
                    writer.write(chunk)
                writer.finish()

            await aio.run(aio.DATA, feed)
            with contextlib.suppress(AlreadyExistsError):
                await writer.commit()

    async def diff_id(self, layer: SnapshotName, epoch: int | None = None) -> DiffID:
        """The diff ID of a layer's own difference, computed once; with ``epoch`` no time in it is later."""
        part = "diff-id" if epoch is None else f"diff-id:{epoch}"
        known = await self._cache.digest(self.snapshotter.name, layer, part)
        if known is not None:
            return DiffID(known)
        async with self.snapshotter.open_diff(layer, epoch=epoch) as chunks:

            def digest() -> DiffID:
                hasher = Digest.of(b"").hasher()
                for chunk in chunks:
                    hasher.update(chunk)
                return DiffID.from_hasher(hasher)

            found = await aio.run(aio.DATA, digest)
        await self._cache.put_digest(self.snapshotter.name, layer, part, found)
        return found

    async def _snapshot_of(self, folder: Folder) -> SnapshotName:
        """A copy of a directory as a snapshot."""
        async with self.active(NOTHING) as active:
            await self.work(active.mounts, [[_bind(folder.path)]], _copy_whole)
            return await active.commit()

    # Snapshots being made.

    @asynccontextmanager
    async def active(self, tree: Tree) -> AsyncGenerator["Active"]:
        """A writable snapshot on top of a tree; removed when the context is left, unless it was committed."""
        parent = await self.snapshot(tree)
        key = SnapshotKey(f"build-{secrets.token_hex(12)}")
        mounts = await self.snapshotter.prepare(key, parent, lease=self.lease, durable=False)
        active = Active(self, key, parent, mounts)
        try:
            yield active
        finally:
            if not active.committed:
                with anyio.CancelScope(shield=True):
                    await self.snapshotter.remove(key)

    # Looking.

    @asynccontextmanager
    async def shown(self, tree: Tree) -> AsyncGenerator[list[Mount]]:
        """Read-only mounts of a tree; none for an empty one."""
        if tree.folder is not None:
            yield [_bind(tree.folder.path)]
            return
        name = await self.snapshot(tree)
        if name is None:
            yield []
            return
        async with self.snapshotter.shown(name) as mounts:
            yield mounts

    @asynccontextmanager
    async def mounted(self, tree: Tree) -> AsyncGenerator[str]:
        """A tree, mounted read-only at a directory of ours, where processes of ours can see it."""
        async with self.shown(tree) as mounts, self.mounted_at(mounts) as path:
            yield path

    @asynccontextmanager
    async def mounted_at(self, mounts: Sequence[Mount]) -> AsyncGenerator[str]:
        """Mounts, made at a directory of ours."""
        point = self._place / f"mount-{secrets.token_hex(8)}"
        await aio.run(aio.DISK, _mount_all, mounts, point)
        try:
            yield str(point)
        finally:
            with anyio.CancelScope(shield=True):
                await aio.run(aio.DISK, _unmount, point)

    async def work(
        self,
        target: Sequence[Mount],
        sources: Sequence[Sequence[Mount]],
        function: Callable[[int, Sequence[int]], T],
        *,
        stop: threading.Event | None = None,
    ) -> T:
        """Call ``function`` with descriptors of the mounted target and sources, on a thread that alone sees them.

        An empty list of mounts is an empty directory. ``stop`` is set when the caller is cancelled.
        """

        def run() -> T:
            return linux.in_private_namespace(lambda: _with_mounts(self._place, target, sources, function))

        if stop is None:
            return await aio.run(aio.DATA, run)
        async with task_group() as group:
            group.start_soon(_set_when_cancelled, stop)
            result = await aio.run(aio.DATA, run)
            group.cancel_scope.cancel()
        return result

    @asynccontextmanager
    async def room(self, mounts: Sequence[Mount]) -> AsyncGenerator["Room"]:
        """A place where mounts are made for a while, which nobody else sees: for several visits, and for processes."""
        point = self._place / f"mount-{secrets.token_hex(8)}"
        room = Room(str(point))
        try:
            await room.run(lambda: _furnish(mounts, point))
            yield room
        finally:
            with anyio.CancelScope(shield=True):
                await aio.run(aio.DISK, _give_up, room, point)

    async def look(self, tree: Tree, function: Callable[[int], T]) -> T:
        """Call ``function``, which only reads, with a descriptor of a tree's root, as `work` does."""
        async with self.shown(tree) as mounts:
            if (
                len(mounts) == 1 and mounts[0].type == "bind"
            ):  # a directory of ours: it need not be mounted to be read
                return await aio.run(aio.DATA, _with_directory, mounts[0].source, function)
            return await self.work(mounts, (), lambda root, _: function(root))

    def clean(self) -> None:
        """Unmount what an earlier process left. Blocking."""
        self._place.mkdir(parents=True, exist_ok=True, mode=0o700)
        for point in linux.mount_points(str(self._place)):
            linux.unmount(point)
        for entry in self._place.glob("mount-*"):
            entry.rmdir()


class Room:
    """A thread with a mount namespace of its own, in which something is mounted at ``path``. See `Trees.room`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(1, "lading-room", linux.enter_private_namespace)

    async def run(self, function: Callable[[], T]) -> T:
        """Call a blocking function on the thread; a process that it starts sees the same mounts. Cancellation waits for it."""
        return await aio.run(aio.DATA, lambda: self._thread.submit(function).result())

    async def work(self, function: Callable[[int], T]) -> T:
        """Call ``function`` with a descriptor of what is mounted."""
        return await self.run(lambda: _with_directory(self.path, function))

    def leave(self) -> None:
        """End the thread, with which everything that was mounted goes. Blocking."""
        self._thread.shutdown()


class Active:
    """A snapshot that is being made."""

    def __init__(
        self, trees: Trees, key: SnapshotKey, parent: SnapshotName | None, mounts: Sequence[Mount]
    ) -> None:
        self.key = key
        self.mounts = list(mounts)
        self.parent = parent
        self.committed = False
        self._trees = trees

    async def commit(self) -> SnapshotName:
        """Make it a committed one. It may be gone after an unclean boot, when it is made again."""
        name = SnapshotName(f"{self.key}-done")
        with anyio.CancelScope(shield=True):
            await self._trees.snapshotter.commit(name, self.key, durable=False)
            self.committed = True
        return name


async def _set_when_cancelled(stop: threading.Event) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        stop.set()


def _bind(path: str) -> Mount:
    return Mount(type="bind", source=path, options=("ro", "rbind"))


def _with_directory(path: str, function: Callable[[int], T]) -> T:
    try:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise FailedPreconditionError(f"cannot open a tree: {exc}") from exc
    try:
        return function(root)
    finally:
        os.close(root)


def _furnish(mounts: Sequence[Mount], point: Path) -> None:
    """On the thread of a room: what is mounted there goes with it."""
    point.mkdir(mode=0o700)
    try:
        _attach(mounts, point)
    except OSError as exc:
        raise FailedPreconditionError(f"cannot mount a tree: {exc}") from exc


def _give_up(room: Room, point: Path) -> None:
    room.leave()
    with contextlib.suppress(FileNotFoundError):  # it was not made
        point.rmdir()


def _attach(mounts: Sequence[Mount], point: Path) -> None:
    for mount in mounts:
        target = point / mount.target.lstrip("/") if mount.target else point
        linux.mount_with(mount.source, str(target), mount.type, mount.options)


def _mount_all(mounts: Sequence[Mount], point: Path) -> None:
    point.mkdir(mode=0o700)
    try:
        _attach(mounts, point)
    except OSError as exc:
        with contextlib.suppress(OSError):
            _unmount(point)
        raise FailedPreconditionError(f"cannot mount a tree: {exc}") from exc


def _unmount(point: Path) -> None:
    for mounted in linux.mount_points(str(point)):
        linux.unmount(mounted)
    point.rmdir()


def _with_mounts(
    place: Path,
    target: Sequence[Mount],
    sources: Sequence[Sequence[Mount]],
    function: Callable[[int, Sequence[int]], T],
) -> T:
    """On a thread of its own namespace: mount on a tmpfs of its own, so that no directory is left behind."""
    linux.mount("tmpfs", str(place), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=700,size=64k")
    with contextlib.ExitStack() as stack:
        roots: list[int] = []
        for number, mounts in enumerate((target, *sources)):
            point = place / str(number)
            _mount_all(mounts, point)
            roots.append(os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, roots[-1])
        return function(roots[0], roots[1:])


def _copy_whole(target: int, sources: Sequence[int]) -> None:
    copying.copy_tree(sources[0], target)
