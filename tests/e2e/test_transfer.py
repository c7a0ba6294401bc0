"""Transfers through the HTTP client and Debian's registry, and archives that skopeo reads and writes."""

import json
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from pathlib import Path

import anyio
import pytest
from support.registry import docker_registry
from support.world import NAMESPACE, World

from lading.oci import mediatypes, reference
from lading.remotes.registries import HttpRegistries
from lading.testing import images as make
from lading.transfer.archive_out import SavedImage
from lading.transfer.service import TransferService

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

LAYERS = [
    make.layer({"etc/os": b"base"}),
    make.layer({"data": bytes(range(256)) * 30_000}, media_type=mediatypes.OCI_LAYER),
    make.layer({"bin/app": b"app" * 200_000}),
]


@pytest.fixture(scope="module")
def host() -> Generator[str]:
    with docker_registry() as address:
        yield address


@pytest.fixture
async def registries() -> AsyncGenerator[HttpRegistries]:
    client = HttpRegistries()
    yield client
    await client.close()


def served(world: World, registries: HttpRegistries) -> TransferService:
    """A service on the world's store that talks to real registries."""
    return TransferService(
        store=world.content,
        image_store=world.images,
        fact_rows=world.database.facts(NAMESPACE),
        lease_manager=world.leases,
        snapshotter=world.snapshotter,
        registries=registries,
        bus=world.bus,
        host=make.AMD64,
    )


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 65536):
        yield data[at : at + 65536]


async def archive(world: World, name: str) -> bytes:
    out = bytearray()

    async def sink(chunk: bytes) -> None:
        out.extend(chunk)

    image = await world.images.get(name)
    await world.service.save([SavedImage(target=image.target, reference=reference.parse(name))], sink)
    return bytes(out)


async def test_an_index_goes_round_unchanged(host: str, registries: HttpRegistries):
    source, target = World(), World()
    index = make.index([make.image(LAYERS), make.image(LAYERS[:2], platform=make.ARM64)])
    make.publish(source.repository, index, "latest")
    name = (await source.service.pull(source.reference, platforms="all")).name
    first, second = reference.parse(f"{host}/round/one:v1"), reference.parse(f"{host}/round/two:v2")
    pushed = await served(source, registries).push(name, first)
    assert pushed.pushed.digest == index.descriptor.digest
    pulled = await served(target, registries).pull(first, platforms="all")
    assert pulled.target.digest == index.descriptor.digest
    assert await target.snapshot_names() == set(index.images[0].chain)
    again = await served(target, registries).push(pulled.name, second)
    assert again.pushed.digest == index.descriptor.digest
    labels = (await target.content.info(LAYERS[0].descriptor.digest)).labels
    assert labels[f"containerd.io/distribution.source.{host}"] == "round/one,round/two"


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
async def test_skopeo_reads_what_is_saved(tmp_path: Path):
    world = World()
    image = make.image(LAYERS)
    make.publish(world.repository, make.index([image, make.image(LAYERS[:1], platform=make.ARM64)]), "latest")
    await world.service.pull(world.reference)
    data = await archive(world, str(world.reference))
    (tmp_path / "image.tar").write_bytes(data)
    (tmp_path / "layout").mkdir()
    await anyio.run_process(["tar", "-xf", tmp_path / "image.tar", "-C", tmp_path / "layout"], check=True)
    for where in (f"docker-archive:{tmp_path}/image.tar", f"oci:{tmp_path}/layout:latest"):
        shown = await anyio.run_process(
            ["skopeo", "--override-os", "linux", "--override-arch", "amd64", "inspect", "--config", where],
            check=True,
        )
        assert json.loads(shown.stdout)["rootfs"]["diff_ids"] == [layer.diff_id for layer in image.layers]


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
async def test_what_skopeo_writes_is_loaded(tmp_path: Path, host: str, registries: HttpRegistries, form: str):
    world, target = World(), World()
    image = make.image(LAYERS)
    make.publish(world.repository, image, "latest")
    name = (await world.service.pull(world.reference)).name
    await served(world, registries).push(name, reference.parse(f"{host}/skopeo:v1"))
    await anyio.run_process(
        [
            "skopeo",
            "copy",
            "--src-tls-verify=false",
            *(["--preserve-digests"] if form == "oci-archive" else []),
            f"docker://{host}/skopeo:v1",
            f"{form}:{tmp_path}/image.tar:example.test/copied:v1",
        ],
        check=True,
    )
    [loaded] = await target.service.load(stream((tmp_path / "image.tar").read_bytes()))
    assert str(loaded.reference) == "example.test/copied:v1"
    assert await target.snapshot_names() == set(image.chain)
    if form == "oci-archive":
        assert loaded.target.digest == image.descriptor.digest
