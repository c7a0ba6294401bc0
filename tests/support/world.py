"""A store, registries and a transfer service over them, all in memory."""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from typing_extensions import Buffer, override

from lading.core import content, events, images, leases, metadata
from lading.core.leases import LeaseID
from lading.core.metadata import Namespace
from lading.core.snapshots import NO_LABELS, Labels, LayerWriter, SnapshotName
from lading.daemon.events import EventBus
from lading.errors import FailedPreconditionError, UnsupportedError
from lading.oci import reference
from lading.oci.digest import DiffID
from lading.testing import images as make
from lading.testing.memory.content import Bytes, MemoryContentStore
from lading.testing.memory.metadata import MemoryDatabase
from lading.testing.memory.remotes import MemoryRegistries
from lading.testing.memory.snapshots import MemorySnapshotter
from lading.transfer.service import TransferService

NAMESPACE = Namespace("moby")
FOREVER = 1 << 63


class WatchedSnapshotter(MemorySnapshotter):
    """Counts the bytes of layers that it is given, and can be told to refuse them."""

    def __init__(self, rows: metadata.Snapshots, *, parallel: bool = True) -> None:
        super().__init__(rows, parallel=parallel)
        self.failure: Exception | None = None
        self.written = 0

    @override
    def open_layer(
        self,
        name: SnapshotName,
        parent: SnapshotName | None,
        *,
        diff_id: DiffID,
        compressed_size: int = 0,
        lease: LeaseID | None = None,
    ) -> AbstractAsyncContextManager[LayerWriter]:
        return self._watch(super().open_layer(name, parent, diff_id=diff_id, lease=lease))

    @asynccontextmanager
    async def _watch(self, layer: AbstractAsyncContextManager[LayerWriter]) -> AsyncGenerator[LayerWriter]:
        async with layer as writer:
            yield _WatchedLayer(self, writer)


class _WatchedLayer(LayerWriter):
    def __init__(self, owner: WatchedSnapshotter, inner: LayerWriter) -> None:
        self._owner, self._inner = owner, inner

    @override
    def write(self, data: Buffer) -> None:
        if self._owner.failure is not None:
            raise self._owner.failure
        self._inner.write(data)
        self._owner.written += memoryview(data).nbytes

    @override
    def finish(self) -> DiffID:
        return self._inner.finish()

    @override
    async def commit(self, *, labels: Labels = NO_LABELS) -> None:
        await self._inner.commit(labels=labels)


class Keeping(WatchedSnapshotter):
    """Keeps the tar streams that it is told."""

    def __init__(self, rows: metadata.Snapshots) -> None:
        super().__init__(rows)
        self.streams: dict[str, bytes] = {}
        self.durable = True

    @override
    def open_stream(self, name: SnapshotName) -> AbstractAsyncContextManager[int]:
        return self._open(name)

    @asynccontextmanager
    async def _open(self, name: SnapshotName) -> AsyncGenerator[int]:
        await self.stat(name)
        if name not in self.streams:
            raise UnsupportedError("no stream")
        if not self.durable:
            raise FailedPreconditionError("not yet")
        fd = os.memfd_create("stream")
        os.write(fd, self.streams[name])
        try:
            yield fd
        finally:
            os.close(fd)


class World:
    """One host, ``linux/amd64``, and two registries that it may talk to."""

    def __init__(
        self, *, parallel: bool = True, store: type[MemoryContentStore] = MemoryContentStore
    ) -> None:
        self.database: metadata.Database = MemoryDatabase()
        self.leases: leases.Manager = self.database.leases(NAMESPACE)
        self.bytes = Bytes()
        self.content: content.Store = store(self.database.blobs(NAMESPACE), data=self.bytes)
        self.images: images.Store = self.database.images(NAMESPACE)
        self.snapshotter = WatchedSnapshotter(self.database.snapshots(NAMESPACE, "memory"), parallel=parallel)
        self.bus = EventBus()
        self.registries = MemoryRegistries()
        self.registry = self.registries.registry("registry.test")
        self.elsewhere = self.registries.registry("other.test")
        self.repository = self.registry.repository("app")
        self.reference = reference.parse("registry.test/app:latest")
        self.service = self.make_service()

    def make_service(
        self, *, packed: bool = True, collect: Callable[[], None] = lambda: None
    ) -> TransferService:
        """A transfer service over what the world has now."""
        return TransferService(
            store=self.content,
            image_store=self.images,
            fact_rows=self.database.facts(NAMESPACE),
            lease_manager=self.leases,
            snapshotter=self.snapshotter,
            registries=self.registries,
            bus=self.bus,
            host=make.AMD64,
            packed=packed,
            collect=collect,
        )

    @property
    def events(self) -> list[events.Event]:
        """What was told to the bus, oldest first."""
        return self.bus.history(0, FOREVER)

    async def snapshot_names(self) -> set[str]:
        return {info.key async for info in self.snapshotter.walk()}

    async def has(self, digest: str) -> bool:
        return digest in {info.digest async for info in self.content.walk()}
