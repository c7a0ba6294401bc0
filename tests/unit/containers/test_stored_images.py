"""Images as containers get them: what is remembered of them follows what is stored."""

import pytest
from support.world import World
from typing_extensions import override

from lading.containers.environment import StoredImages
from lading.core import images as records
from lading.errors import NotFoundError
from lading.images import lookup
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.testing import images as make
from lading.testing.memory.content import MemoryContentStore

pytestmark = pytest.mark.anyio
NAME = "registry.test/app:latest"


class _Counting(MemoryContentStore):
    """Counts how often blobs are read."""

    reads = 0

    @override
    async def read(self, digest: Digest, *, limit: int) -> bytes:
        self.reads += 1
        return await super().read(digest, limit=limit)


@pytest.fixture
def world() -> World:
    return World(store=_Counting)


def source(world: World) -> StoredImages:
    async def find(name: str) -> records.Image:
        return (await lookup.find(world.images, name)).image

    async def commit(*_: object, **__: object) -> Descriptor:
        raise NotImplementedError

    return StoredImages(world.content, find=find, unpack=world.service.ensure_unpacked, commit=commit)


def two_platforms() -> make.TestIndex:
    return make.index(
        [
            make.image([make.layer({"here": b"amd64"})]),
            make.image([make.layer({"here": b"arm64"})], platform=make.ARM64),
        ]
    )


async def test_an_image_is_read_once(world: World) -> None:
    index = two_platforms()
    make.publish(world.repository, index, "latest")
    await world.service.pull(world.reference)
    images = source(world)
    first = await images.open(NAME, None)
    assert isinstance(world.content, _Counting)
    before = world.content.reads
    assert await images.open(NAME, None) == first
    assert first.manifest.digest == index.images[0].descriptor.digest
    assert world.content.reads == before


async def test_a_platform_that_comes_later_is_found(world: World) -> None:
    index = two_platforms()
    make.publish(world.repository, index, "latest")
    await world.service.pull(world.reference)
    images = source(world)
    with pytest.raises(NotFoundError, match="does not provide the specified platform"):
        await images.open(NAME, make.ARM64)
    await world.service.pull(world.reference, platforms=[make.ARM64])
    found = await images.open(NAME, make.ARM64)
    assert found.manifest.digest == index.images[1].descriptor.digest


async def test_an_image_whose_config_has_gone_is_not_offered(world: World) -> None:
    made = make.image([make.layer({"here": b"x"})])
    make.publish(world.repository, made, "latest")
    await world.service.pull(world.reference)
    images = source(world)
    await images.open(NAME, None)
    await world.content.delete(made.config_descriptor.digest)
    with pytest.raises(NotFoundError):
        await images.open(NAME, None)


async def test_a_name_that_is_moved_means_the_other_image(world: World) -> None:
    images = source(world)
    for text in (b"one", b"two"):
        made = make.image([make.layer({"here": text})])
        make.publish(world.repository, made, "latest")
        await world.service.pull(world.reference)
        assert (await images.open(NAME, None)).target.digest == made.descriptor.digest
