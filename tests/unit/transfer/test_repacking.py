"""Images whose layers are here unpacked only, and whose blobs no registry has any more."""

import gzip
import io
import json
import tarfile

import pytest
from support.world import NAMESPACE, Keeping, World

from lading.errors import DataLossError
from lading.oci import reference
from lading.oci.digest import DiffID, Digest
from lading.testing import images as make
from lading.transfer.archive_out import SavedImage
from lading.transfer.push import ContentMissingError

pytestmark = pytest.mark.anyio

LAYERS = [make.layer({"base": b"base" * 300}), make.layer({"top": b"top"})]
ELSEWHERE = reference.parse("other.test/copy:1")


@pytest.fixture
def world() -> World:
    world = World()
    world.snapshotter = Keeping(world.database.snapshots(NAMESPACE, "memory"))
    world.service = world.make_service()
    return world


@pytest.fixture
async def image(world: World) -> make.TestImage:
    """An image as a migration leaves it: documents and snapshots, with zeros behind the streams, and no blob of a layer."""
    image = make.image(LAYERS)
    make.publish(world.repository, image, "latest")
    await world.service.pull(world.reference)
    for chain, layer in zip(image.chain, LAYERS, strict=True):
        world.snapshotter.streams[chain] = gzip.decompress(layer.blob) + bytes(4096)
        await world.content.delete(layer.descriptor.digest)
    return image


def lose(world: World) -> None:
    for layer in LAYERS:
        del world.repository.blobs[layer.descriptor.digest]


async def saved(world: World, image: make.TestImage) -> dict[str, bytes]:
    """The members of an archive of the image."""
    out = io.BytesIO()

    async def sink(data: bytes) -> None:
        out.write(data)

    await world.service.save([SavedImage(target=image.descriptor, reference=world.reference)], sink)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}


def layers_of(manifest: bytes, blobs: dict[str, bytes]) -> list[str]:
    """The diff IDs of a manifest's layers."""
    found = [blobs[layer["digest"].partition(":")[2]] for layer in json.loads(manifest)["layers"]]
    return [str(DiffID.of(gzip.decompress(blob))) for blob in found]


async def test_a_save_packs_what_is_nowhere_else(world: World, image: make.TestImage) -> None:
    lose(world)
    members = await saved(world, image)
    blobs = {name.rpartition("/")[2]: body for name, body in members.items() if name.startswith("blobs/")}
    (entry,) = json.loads(members["index.json"])["manifests"]
    manifest = blobs[entry["digest"].partition(":")[2]]
    assert entry["digest"] != image.descriptor.digest
    assert json.loads(manifest)["config"]["digest"] == image.config_descriptor.digest
    assert layers_of(manifest, blobs) == json.loads(image.config)["rootfs"]["diff_ids"]
    assert await saved(world, image) == members  # the same bytes each time
    assert await world.leases.list() == []


async def test_a_push_packs_what_is_nowhere_else(world: World, image: make.TestImage) -> None:
    lose(world)
    result = await world.service.push(str(world.reference), ELSEWHERE)
    assert (result.repacked, result.target.digest) == (True, image.descriptor.digest)
    repository = world.elsewhere.repository("copy")
    manifest = json.loads(repository.manifests[result.pushed.digest].body)
    assert all(Digest(layer["digest"]) in repository.blobs for layer in manifest["layers"])
    assert manifest["config"]["digest"] == image.config_descriptor.digest


async def test_what_a_registry_has_is_to_be_pulled(world: World, image: make.TestImage) -> None:
    """The digest can be kept, so it is not given up for a new one."""
    with pytest.raises(ContentMissingError, match="complete") as caught:
        await saved(world, image)
    assert "pull" in caught.value.hint
    with pytest.raises(ContentMissingError):
        await world.service.push(str(world.reference), ELSEWHERE)


async def test_a_layer_that_was_unpacked_just_now_is_waited_for(world: World, image: make.TestImage) -> None:
    lose(world)
    world.snapshotter.durable = False
    stat = world.snapshotter.stat
    asked: list[str] = []

    async def flushed(name: str):
        asked.append(name)
        world.snapshotter.durable = len(asked) > 1
        return await stat(name)

    world.snapshotter.stat = flushed
    assert "index.json" in await saved(world, image)


async def test_a_damaged_snapshot_is_never_packed(world: World, image: make.TestImage) -> None:
    lose(world)
    world.snapshotter.streams[image.chain[0]] = b"damaged".ljust(1024, b"\0")
    with pytest.raises(DataLossError, match="does not give the bytes"):
        await saved(world, image)


async def test_without_streams_it_is_said_what_is_missing(world: World, image: make.TestImage) -> None:
    lose(world)
    world.snapshotter.streams.clear()
    with pytest.raises(ContentMissingError):
        await saved(world, image)
