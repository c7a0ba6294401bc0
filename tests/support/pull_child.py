"""A process that pulls one image into a store on disk, slowly, and can be killed at any moment.

Prints ``offset N`` for every large fetch that begins, ``pulled`` when the pull is acknowledged.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import anyio
from typing_extensions import override

from lading.content.local import LocalContentStore
from lading.core import remotes
from lading.core.metadata import Namespace
from lading.core.remotes import Credentials, Document, Fetcher, Known, Resolver, Sink
from lading.daemon.events import EventBus
from lading.kit import aio, linux
from lading.metadata.database import SqliteDatabase
from lading.oci import mediatypes, reference
from lading.oci.descriptor import Descriptor
from lading.snapshots.native import NativeSnapshotter
from lading.testing import images as make
from lading.testing.memory.remotes import MemoryRegistries
from lading.transfer.service import TransferService

NAMESPACE = Namespace("moby")
REFERENCE = reference.parse("registry.test/app:latest")
IMAGE = make.image(
    [
        make.layer({"etc/os": b"base"}),
        make.layer({"data": bytes(range(256)) * 32_000}, media_type=mediatypes.OCI_LAYER),
        make.layer({"more": bytes(range(255, -1, -1)) * 16_000}, media_type=mediatypes.OCI_LAYER),
    ]
)


class SlowFetcher(Fetcher):
    """Brings 64 KiB at a time, with a pause after each."""

    def __init__(self, inner: Fetcher, pause: float) -> None:
        self._inner, self._pause = inner, pause

    @override
    async def document(self, descriptor: Descriptor) -> Document:
        return await self._inner.document(descriptor)

    @override
    async def fetch(self, descriptor: Descriptor, sink: Sink, *, offset: int = 0) -> None:
        data = next(blob for found, blob in IMAGE.blobs.items() if found.digest == descriptor.digest)
        print("offset", offset, descriptor.digest.short, flush=True)
        for start in range(offset, len(data), 65536):
            await aio.run(aio.DATA, sink, memoryview(data)[start : start + 65536])
            await anyio.sleep(self._pause)

    @override
    async def referrers(
        self, descriptor: Descriptor, *, artifact_types: Iterable[str] = ()
    ) -> list[Descriptor]:
        return []


class SlowResolver(Resolver):
    def __init__(self, inner: Resolver, pause: float) -> None:
        self._inner, self._pause = inner, pause

    @override
    async def resolve(self, reference: reference.Reference, *, known: Known | None = None) -> Document:
        return await self._inner.resolve(reference, known=known)

    @override
    def fetcher(self, repository: reference.Reference) -> Fetcher:
        return SlowFetcher(self._inner.fetcher(repository), self._pause)


class SlowRegistries(remotes.Registries):
    def __init__(self, pause: float) -> None:
        self._registries = MemoryRegistries()
        self._pause = pause
        make.publish(self._registries.registry("registry.test").repository("app"), IMAGE, "latest")

    @override
    def resolver(self, credentials: Credentials | None = None, *, headers: object = None) -> Resolver:
        return SlowResolver(self._registries.resolver(credentials), self._pause)


async def main(root: Path, pause: float) -> None:
    async with SqliteDatabase.open(root / "lading.db") as database:
        service = TransferService(
            store=LocalContentStore(root / "content", database.blobs(NAMESPACE)),
            image_store=database.images(NAMESPACE),
            fact_rows=database.facts(NAMESPACE),
            lease_manager=database.leases(NAMESPACE),
            snapshotter=NativeSnapshotter(
                root / "snapshots", database.snapshots(NAMESPACE, "native"), boot_id=linux.boot_id()
            ),
            registries=SlowRegistries(pause),
            bus=EventBus(),
            host=make.AMD64,
        )
        print("ready", flush=True)
        await service.pull(REFERENCE)
        print("pulled", flush=True)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), float(sys.argv[2]))
