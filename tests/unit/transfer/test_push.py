"""Pushing: nothing twice, the digest unchanged, and a clear choice when content is missing."""

import pytest
from support.world import World

from lading.core.progress import Phase, Progress
from lading.errors import ConflictError, InvalidArgumentError, NotFoundError
from lading.oci import reference
from lading.oci.descriptor import Platform
from lading.testing import images as make

pytestmark = pytest.mark.anyio

BASE = make.layer({"etc/os": b"base"})
TOP = make.layer({"bin/app": b"app" * 30_000})
S390X = Platform(os="linux", architecture="s390x")


async def pulled(world: World, target: make.TestImage | make.TestIndex, **kwargs) -> str:
    make.publish(world.repository, target, "latest")
    return (await world.service.pull(world.reference, **kwargs)).name


async def test_an_image_goes_to_an_empty_registry_unchanged(world: World):
    image = make.image([BASE, TOP])
    name = await pulled(world, image)
    progress = Progress()
    result = await world.service.push(name, reference.parse("other.test/copy:v1"), progress=progress)
    assert (result.pushed, result.target, result.missing) == (result.target, result.target, ())
    repository = world.elsewhere.repository("copy")
    assert repository.tags == {"v1": image.descriptor.digest}
    assert repository.manifests[image.descriptor.digest].body == image.body
    assert set(repository.blobs.values()) == {BASE.blob, TOP.blob, image.config}
    assert {item.phase for item in progress.items.values()} == {Phase.UPLOADED}
    labels = (await world.content.info(TOP.descriptor.digest)).labels
    assert labels["containerd.io/distribution.source.other.test"] == "copy"
    assert world.events[-1].action == "push"
    assert await world.leases.list() == []


async def test_what_is_there_is_not_sent_again(world: World):
    name = await pulled(world, make.image([BASE, TOP]))
    elsewhere = reference.parse("other.test/copy:v1")
    await world.service.push(name, elsewhere)
    progress = Progress()
    await world.service.push(name, elsewhere, progress=progress)
    assert world.elsewhere.calls["push"] == 3
    assert {item.phase for item in progress.items.values()} == {Phase.EXISTS}


async def test_blobs_are_mounted_from_another_repository_of_the_same_registry(world: World):
    name = await pulled(world, make.image([BASE, TOP]))
    progress = Progress()
    await world.service.push(name, reference.parse("registry.test/team/copy:v1"), progress=progress)
    assert world.registry.calls["push"] == 0
    assert {(item.phase, item.detail) for item in progress.items.values()} == {(Phase.MOUNTED, "app")}


async def test_an_index_goes_whole_when_it_is_whole(world: World):
    index = make.index([make.image([BASE]), make.image([TOP], platform=make.ARM64)])
    name = await pulled(world, index, platforms="all")
    result = await world.service.push(name, reference.parse("other.test/copy:v1"))
    assert result.pushed.digest == index.descriptor.digest
    repository = world.elsewhere.repository("copy")
    assert repository.tags["v1"] == index.descriptor.digest
    assert len(repository.manifests) == 3


async def test_an_incomplete_index_goes_back_whole_where_the_rest_is(world: World):
    index = make.index([make.image([BASE]), make.image([TOP], platform=make.ARM64)])
    name = await pulled(world, index)
    result = await world.service.push(name, world.reference.with_tag("again"))
    assert result.pushed.digest == index.descriptor.digest
    assert world.repository.tags["again"] == index.descriptor.digest


async def test_of_an_incomplete_index_the_hosts_manifest_goes(world: World):
    native = make.image([BASE])
    foreign = make.image([TOP], platform=make.ARM64)
    name = await pulled(world, make.index([foreign, native]))
    result = await world.service.push(name, reference.parse("other.test/copy:v1"))
    assert result.pushed.digest == native.descriptor.digest
    assert [d.digest for d in result.missing] == [foreign.descriptor.digest]
    assert world.elsewhere.repository("copy").tags["v1"] == native.descriptor.digest


async def test_of_several_foreign_manifests_none_is_chosen(world: World):
    images = [
        make.image([BASE], platform=make.ARM64),
        make.image([TOP], platform=S390X),
        make.image([BASE, TOP]),
    ]
    name = await pulled(world, make.index(images), platforms=[make.ARM64, S390X])
    with pytest.raises(ConflictError, match="linux/arm64, linux/s390x"):
        await world.service.push(name, reference.parse("other.test/copy:v1"))


async def test_one_platform_by_name(world: World):
    foreign = make.image([TOP], platform=make.ARM64)
    name = await pulled(world, make.index([make.image([BASE]), foreign]), platforms="all")
    elsewhere = reference.parse("other.test/copy:v1")
    result = await world.service.push(name, elsewhere, platform=make.ARM64)
    assert result.pushed.digest == foreign.descriptor.digest
    with pytest.raises(NotFoundError, match=r"does not provide the specified platform \(linux/s390x\)"):
        await world.service.push(name, elsewhere, platform=S390X)


async def test_a_lost_blob_is_named(world: World):
    name = await pulled(world, make.image([BASE, TOP]))
    await world.content.delete(TOP.descriptor.digest)
    with pytest.raises(NotFoundError, match=TOP.descriptor.digest):
        await world.service.push(name, reference.parse("other.test/copy:v1"))
    assert world.elsewhere.repository("copy").tags == {}


async def test_a_lost_blob_is_mounted_where_it_came_from(world: World):
    name = await pulled(world, make.image([BASE, TOP]))
    await world.content.delete(TOP.descriptor.digest)
    result = await world.service.push(name, reference.parse("registry.test/team/copy:v1"))
    assert result.missing == ()
    assert TOP.descriptor.digest in world.registry.repository("team/copy").blobs


async def test_what_cannot_be_pushed(world: World):
    name = await pulled(world, make.image([BASE]))
    digest = world.repository.tags["latest"]
    with pytest.raises(InvalidArgumentError, match="digest reference"):
        await world.service.push(name, world.reference.with_digest(digest))
    with pytest.raises(NotFoundError):
        await world.service.push("no such image", world.reference)
