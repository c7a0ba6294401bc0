"""Importing a root file system."""

import bz2
import gzip
import json
from collections.abc import AsyncIterator

import pytest
from support.world import World

from lading.errors import InvalidArgumentError
from lading.oci import mediatypes, reference
from lading.oci.config import RunConfig
from lading.oci.digest import Digest
from lading.testing import images as make
from lading.transfer.import_ import ImportOptions

pytestmark = pytest.mark.anyio

TREE = make.tar({"etc/os": b"root" * 1000})


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 4096):
        yield data[at : at + 4096]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
async def test_a_tar_becomes_an_image(world: World, pack):
    options = ImportOptions(
        platform=make.AMD64, config=RunConfig(cmd=("/bin/sh",)), message="imported from -"
    )
    target = await world.service.import_(stream(pack(TREE)), options, reference=reference.parse("new:1"))
    assert (await world.images.get("docker.io/library/new:1")).target == target
    manifest = json.loads(await world.content.read(target.digest, limit=1 << 20))
    [layer] = manifest["layers"]
    assert layer["mediaType"] == mediatypes.OCI_LAYER_GZIP
    blob = await world.content.read(Digest(layer["digest"]), limit=1 << 20)
    assert gzip.decompress(blob) == TREE
    config = json.loads(await world.content.read(Digest(manifest["config"]["digest"]), limit=1 << 20))
    assert config["config"] == {"Cmd": ["/bin/sh"]}
    assert config["history"][0]["comment"] == "imported from -"
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    assert await world.snapshot_names() == set(config["rootfs"]["diff_ids"])
    assert await world.leases.list() == []


async def test_without_a_name_it_is_dangling(world: World):
    target = await world.service.import_(stream(TREE), ImportOptions(platform=make.AMD64))
    assert [i.name for i in await world.images.list()] == [f"moby-dangling@{target.digest}"]


async def test_nothing_is_an_empty_tree(world: World):
    target = await world.service.import_(stream(b""), ImportOptions(platform=make.AMD64))
    manifest = json.loads(await world.content.read(target.digest, limit=1 << 20))
    config = json.loads(await world.content.read(Digest(manifest["config"]["digest"]), limit=1 << 20))
    assert config["rootfs"]["diff_ids"] == [str(Digest.of(b""))]
    assert await world.snapshot_names() == set(config["rootfs"]["diff_ids"])


async def test_what_is_no_tar_is_refused(world: World):
    with pytest.raises(InvalidArgumentError):
        await world.service.import_(stream(b"no tar"), ImportOptions(platform=make.AMD64))
    assert await world.images.list() == []
