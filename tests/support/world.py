"""A store, registries and a transfer service over them, all in memory."""

from lading.oci import reference
from lading.testing import images as make
from lading.testing.memory.remotes import MemoryRegistries
from lading.transfer.service import TransferService
from support.fakes import FakeBus, FakeContent, FakeImages, FakeLeases, FakeSnapshotter


class World:
    """One host, ``linux/amd64``, and two registries that it may talk to."""

    def __init__(self, *, parallel: bool = True, store: type[FakeContent] = FakeContent) -> None:
        self.leases = FakeLeases()
        self.content = store(self.leases)
        self.images = FakeImages()
        self.snapshotter = FakeSnapshotter(parallel=parallel)
        self.bus = FakeBus()
        self.registries = MemoryRegistries()
        self.registry = self.registries.registry("registry.test")
        self.elsewhere = self.registries.registry("other.test")
        self.repository = self.registry.repository("app")
        self.reference = reference.parse("registry.test/app:latest")
        self.service = TransferService(
            store=self.content,
            image_store=self.images,
            lease_manager=self.leases,
            snapshotter=self.snapshotter,
            registries=self.registries,
            bus=self.bus,
            host=make.AMD64,
        )

    async def snapshot_names(self) -> set[str]:
        return set(self.snapshotter.committed)

    async def has(self, digest: str) -> bool:
        return digest in self.content.blobs
