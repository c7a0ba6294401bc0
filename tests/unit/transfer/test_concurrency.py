"""Pulls beside each other: shared work, taken over when its owner leaves, overlapped inside one layer, never deadlocked."""

from collections.abc import Callable, Iterable, Mapping

import anyio
import pytest
from support.world import NAMESPACE, World
from typing_extensions import override

from lading.core import remotes
from lading.core.progress import Phase, Progress
from lading.core.remotes import Credentials, Document, Fetcher, Known, Resolver, Sink
from lading.kit import aio
from lading.oci import mediatypes
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.reference import Reference
from lading.testing import images as make
from lading.transfer.service import TransferService

pytestmark = pytest.mark.anyio

BIG = make.layer({"data": bytes(range(256)) * 20_000}, media_type=mediatypes.OCI_LAYER)
TOP = make.layer({"bin/app": b"app" * 30_000})


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.001)


class HeldFetcher(Fetcher):
    """Delivers the first half of large blobs, and the rest when the gate is opened."""

    def __init__(self, inner: Fetcher, owner: "HeldRegistries", blobs: Mapping[str, bytes]) -> None:
        self._inner, self._owner, self._blobs = inner, owner, blobs

    @override
    async def document(self, descriptor: Descriptor) -> Document:
        return await self._inner.document(descriptor)

    @override
    async def fetch(self, descriptor: Descriptor, sink: Sink, *, offset: int = 0) -> None:
        if descriptor.size < 1_000_000:
            await self._inner.fetch(descriptor, sink, offset=offset)
            return
        self._owner.offsets.append(offset)
        data = self._blobs[descriptor.digest]
        half = max(offset, len(data) // 2)
        await aio.run(aio.DATA, sink, memoryview(data)[offset:half])
        await self._owner.gate.wait()
        await aio.run(aio.DATA, sink, memoryview(data)[half:])

    @override
    async def referrers(
        self, descriptor: Descriptor, *, artifact_types: Iterable[str] = ()
    ) -> list[Descriptor]:
        return []


class HeldResolver(Resolver):
    def __init__(self, inner: Resolver, owner: "HeldRegistries") -> None:
        self._inner, self._owner = inner, owner

    @override
    async def resolve(self, reference: Reference, *, known: Known | None = None) -> Document:
        return await self._inner.resolve(reference, known=known)

    @override
    def fetcher(self, repository: Reference) -> Fetcher:
        return HeldFetcher(self._inner.fetcher(repository), self._owner, self._owner.world.repository.blobs)


class HeldRegistries(remotes.Registries):
    def __init__(self, world: World) -> None:
        self.world = world
        self.gate = anyio.Event()
        self.offsets: list[int] = []

    @override
    def resolver(
        self, credentials: Credentials | None = None, *, headers: Mapping[str, str] | None = None
    ) -> Resolver:
        return HeldResolver(self.world.registries.resolver(credentials), self)


@pytest.fixture
def held(world: World) -> HeldRegistries:
    """Registries whose large blobs stop half way, in front of a service of the same world."""
    registries = HeldRegistries(world)
    world.service = TransferService(
        store=world.content,
        image_store=world.images,
        fact_rows=world.database.facts(NAMESPACE),
        lease_manager=world.leases,
        snapshotter=world.snapshotter,
        registries=registries,
        bus=world.bus,
        host=make.AMD64,
    )
    return registries


async def test_a_layer_is_unpacked_while_it_arrives(world: World, held: HeldRegistries):
    make.publish(world.repository, make.image([BIG]), "latest")
    async with anyio.create_task_group() as group:
        group.start_soon(world.service.pull, world.reference)
        await until(lambda: world.snapshotter.written >= len(BIG.blob) // 2)
        assert not await world.has(BIG.descriptor.digest)
        assert not await world.snapshot_names()
        held.gate.set()
    assert await world.snapshot_names()


async def test_a_resumed_prefix_is_unpacked_at_once(world: World, held: HeldRegistries):
    make.publish(world.repository, make.image([BIG]), "latest")
    async with world.content.open_writer(f"layer-{BIG.descriptor.digest}", expected=BIG.descriptor) as writer:
        writer.write(BIG.blob[:4_000_000])
    async with anyio.create_task_group() as group:
        group.start_soon(world.service.pull, world.reference)
        await until(lambda: world.snapshotter.written >= 4_000_000)
        held.gate.set()
    assert held.offsets == [4_000_000]


async def test_a_waiting_pull_shows_the_same_progress_and_takes_over(world: World, held: HeldRegistries):
    make.publish(world.repository, make.image([BIG]), "latest")
    short, half = BIG.descriptor.digest.short, len(BIG.blob) // 2
    first, second = Progress(), Progress()
    async with anyio.create_task_group() as group:
        leader = anyio.CancelScope()

        async def lead() -> None:
            with leader:
                await world.service.pull(world.reference, progress=first)

        async def follow() -> None:
            await world.service.pull(world.reference, progress=second)

        group.start_soon(lead)
        await until(lambda: short in first.items and first.items[short].current == half)
        group.start_soon(follow)
        await until(lambda: short in second.items and second.items[short].current == half)
        leader.cancel()
        await until(lambda: len(held.offsets) == 2)
        held.gate.set()
    assert held.offsets == [0, half]
    assert (await world.images.get(str(world.reference))).target
    assert second.items[short].phase is Phase.COMPLETE


async def test_a_hostile_layer_stops_the_download(world: World, held: HeldRegistries):
    make.publish(world.repository, make.image([BIG]), "latest")
    world.snapshotter.failure = ValueError("hostile")
    with anyio.fail_after(5), pytest.raises(ValueError, match="hostile"):
        await world.service.pull(world.reference)
    assert not held.gate.is_set()


async def test_many_images_on_one_base_end(world: World):
    """Layers hold each other's chains and slots in every order; none may wait for ever."""
    shared = [make.layer({f"base{n}": bytes([n]) * 50_000}) for n in range(4)]
    for n in range(12):
        own = [make.layer({f"own{n}.{m}": b"x" * 10_000}) for m in range(n % 4)]
        make.publish(world.repository, make.image([*shared, *own]), f"tag{n}")
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for n in range(12):
                group.start_soon(world.service.pull, world.reference.with_tag(f"tag{n}"))
    for layer in shared:
        assert world.registry.calls[f"fetch {layer.descriptor.digest}"] == 1
    assert len(await world.images.list()) == 12
    assert await world.leases.list() == []


async def test_a_lost_snapshot_is_unpacked_again_and_a_lost_blob_fetched_again(world: World):
    image = make.image([BIG, TOP])
    make.publish(world.repository, image, "latest")
    await world.service.pull(world.reference)
    for key in reversed(image.chain):  # what an unclean boot does to lazy-durable snapshots
        await world.snapshotter.remove(key)
    assert await world.service.ensure_unpacked(image.descriptor) == image.chain[-1]
    assert await world.snapshot_names() == set(image.chain)
    await world.content.delete(TOP.descriptor.digest)
    await world.service.pull(world.reference)
    assert await world.has(TOP.descriptor.digest)


async def test_pulls_of_one_image_do_not_end_each_others_leases(world: World):
    """The lease of a pull that has just begun is none of an earlier attempt."""
    image = make.image([make.layer({"a": b"a"})])
    make.publish(world.repository, image, "latest")

    async def pull() -> None:
        for _ in range(20):
            await world.service.pull(world.reference, platforms=[Platform(os="linux", architecture="amd64")])

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(pull)
    assert await world.leases.list() == []
