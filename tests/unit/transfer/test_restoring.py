"""Blobs of layers go when they can be had again, oldest first, within a budget, and come back as they were."""

import gzip
import os
from dataclasses import replace

import pytest
from support.world import NAMESPACE, Keeping, World

from lading.core.labels import GC_REF_SNAPSHOT, LAYER_BLOB, RECIPE
from lading.errors import DataLossError, UnavailableError
from lading.kit import aio
from lading.oci import mediatypes
from lading.oci.manifest import descriptor_of
from lading.testing import images as make
from lading.transfer.restoring import FromNowhere, FromRegistry, FromSnapshot, LayerRestorer, Releaser, way_of

pytestmark = pytest.mark.anyio

FILES = [{f"{n}/{m}": b"content %d " % m * 500 for m in range(40)} for n in range(3)]
BLOCK = make.layer({"block": os.urandom(3000)})


@pytest.fixture
def world() -> World:
    world = World()
    world.snapshotter = Keeping(world.database.snapshots(NAMESPACE, "memory"))
    world.service = world.make_service()
    world.content.restore_by(LayerRestorer(world.snapshotter, world.registries))
    return world


def unpacked(blob: bytes) -> bytes:
    return gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob


async def pulled(world, layers, *, streams=True):
    image = make.image(layers)
    make.publish(world.repository, image, "latest")
    await world.service.pull(world.reference)
    if streams:
        world.snapshotter.streams |= {
            name: unpacked(layer.blob) for name, layer in zip(image.chain, layers, strict=True)
        }
    return image, [
        descriptor.digest for descriptor in image.blobs if mediatypes.is_layer(descriptor.media_type)
    ]


def releaser(world, budget=0, *, refetch=False):
    return Releaser(world.content, world.snapshotter, budget=budget, refetch=refetch)


async def here(world, digests):
    return [digest in await world.content.last_used(digests) for digest in digests]


async def read(world, digest):
    async with world.content.open_reader(digest) as reader:
        return await aio.run(aio.DATA, reader.pread, 1 << 24, 0)


async def test_what_the_snapshots_give_again_goes_and_comes_back(world: World):
    plain = make.layer(FILES[2], media_type=mediatypes.OCI_LAYER)
    image, layers = await pulled(world, [make.layer(FILES[0]), make.layer(FILES[1]), plain])
    blobs = {descriptor.digest: blob for descriptor, blob in image.blobs.items()}
    freed = await releaser(world).release(idle=0)
    assert freed == sum(len(blobs[digest]) for digest in layers)
    assert await here(world, layers) == [False] * 3
    assert isinstance(way_of(await world.content.info(layers[0])), FromSnapshot)
    kept_by = (await world.content.info(layers[1])).labels[f"{GC_REF_SNAPSHOT}memory/bytes"]
    assert kept_by == image.chain[1]
    for digest in layers:
        assert await read(world, digest) == blobs[digest]
    assert await here(world, layers) == [True] * 3


async def test_one_layer_in_two_blobs_goes_and_comes_back_as_both(world: World):
    first = make.layer(FILES[0])
    packed = gzip.compress(unpacked(first.blob), 1, mtime=0)
    second = replace(first, blob=packed, descriptor=descriptor_of(packed, mediatypes.OCI_LAYER_GZIP))
    _, (one,) = await pulled(world, [first])
    _, (two,) = await pulled(world, [second])
    blobs = {one: first.blob, two: second.blob}
    assert len(blobs) == 2
    assert await releaser(world).release(idle=0) == sum(map(len, blobs.values()))
    for digest, blob in blobs.items():
        assert await read(world, digest) == blob


async def test_config_and_manifests_stay(world: World):
    image, layers = await pulled(world, [make.layer(FILES[0])])
    await releaser(world).release(idle=0)
    others = [descriptor.digest for descriptor in image.blobs if descriptor.digest not in layers]
    assert all(await here(world, [*others, image.descriptor.digest]))


async def test_an_image_whose_layers_are_away_is_not_fetched_again(world: World):
    _, layers = await pulled(world, [make.layer(FILES[0])])
    await releaser(world).release(idle=0)
    world.repository.blobs.clear()
    await world.service.pull(world.reference)
    assert await here(world, layers) == [False]


async def test_the_budget_keeps_what_was_used_last(world: World):
    _, layers = await pulled(world, [make.layer(files) for files in FILES])
    for digest in (layers[1], layers[2], layers[0]):
        await read(world, digest)
    size = (await world.content.info(layers[0])).size
    await releaser(world, int(size * 1.5)).release(idle=0)
    assert await here(world, layers) == [True, False, False]
    assert await releaser(world, None).release(idle=0) == 0


async def test_what_was_just_used_stays(world: World):
    _, layers = await pulled(world, [make.layer(FILES[0])])
    await read(world, layers[0])
    await releaser(world).release()
    assert await here(world, layers) == [True]


async def test_what_cannot_be_made_again_stays_and_is_tried_once(world: World):
    files = FILES[0]
    _, layers = await pulled(world, [make.layer(files), BLOCK])
    world.snapshotter.streams = dict.fromkeys(world.snapshotter.streams, make.tar(FILES[1]))
    for _ in range(2):
        assert await releaser(world).release(idle=0) == 0
    assert await here(world, layers) == [True, True]
    assert isinstance(way_of(await world.content.info(layers[0])), FromNowhere)


async def test_layers_that_are_not_durable_are_their_blobs_only_proof(world: World):
    _, layers = await pulled(world, [make.layer(FILES[0])])
    world.snapshotter.durable = False
    assert await releaser(world).release(idle=0) == 0
    assert RECIPE not in (await world.content.info(layers[0])).labels
    world.snapshotter.durable = True
    assert await releaser(world).release(idle=0) > 0


async def test_a_blob_that_a_snapshot_is_made_of_stays(world: World):
    image, layers = await pulled(world, [make.layer(FILES[0])])
    await world.snapshotter.update(image.chain[0], {LAYER_BLOB: layers[0]})
    assert await releaser(world, refetch=True).release(idle=0) == 0
    assert await here(world, layers) == [True]


async def test_a_registry_counts_only_if_it_is_allowed(world: World):
    image, layers = await pulled(world, [make.layer(FILES[0])], streams=False)
    assert await releaser(world).release(idle=0) == 0
    assert await releaser(world, refetch=True).release(idle=0) > 0
    assert isinstance(way_of(await world.content.info(layers[0])), FromRegistry)
    blob = next(blob for descriptor, blob in image.blobs.items() if descriptor.digest == layers[0])
    assert await read(world, layers[0]) == blob
    # Allowed no longer: what is here stays here.
    assert await releaser(world).release(idle=0) == 0


async def test_what_no_registry_has_any_more_says_so(world: World):
    _, layers = await pulled(world, [make.layer(FILES[0])], streams=False)
    await releaser(world, refetch=True).release(idle=0)
    world.repository.blobs.clear()
    with pytest.raises(UnavailableError, match=r"registry\.test/app"):
        await read(world, layers[0])


async def test_a_damaged_stream_gives_an_error_and_no_blob(world: World):
    image, layers = await pulled(world, [make.layer(FILES[0])])
    await releaser(world).release(idle=0)
    stream = bytearray(world.snapshotter.streams[image.chain[0]])
    stream[600] ^= 1
    world.snapshotter.streams[image.chain[0]] = bytes(stream)
    with pytest.raises(DataLossError):
        await read(world, layers[0])
    world.snapshotter.streams[image.chain[0]] = bytes(stream[:1024])
    with pytest.raises(DataLossError):
        await read(world, layers[0])
    world.snapshotter.streams.clear()
    with pytest.raises(DataLossError, match="fsck"):
        await read(world, layers[0])
