"""A cache that one daemon wrote saves another one the work: over a registry, a directory of the client, and the image itself."""

import base64
import json
import time
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
from support.builds import Client, House, Screen, build_house, copy, definition, image, local, publish, run
from support.images import busybox_layer

from lading.builder.caching.importing import STACK_LIMIT, ImportedCache
from lading.builder.results import LayerForm
from lading.core.leases import LeaseID
from lading.errors import NotFoundError, UnsupportedError
from lading.formats import cacheconfig
from lading.formats.llb import make
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.testing.registry import FakeRegistry

pytestmark = pytest.mark.anyio


@pytest.fixture
def registry() -> Generator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def base(registry: FakeRegistry) -> str:
    return publish(registry, "base", [busybox_layer()])


@pytest.fixture
def client(tmp_path: Path) -> Client:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "hello").write_text("hello\n")
    return CachingClient(directories={"context": directory})


class CachingClient(Client):
    """A client with a content store."""

    def content(self, store: str) -> "ClientStore":
        return STORE


class ClientStore:
    """`ClientContent` in memory."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    async def size(self, digest: Digest) -> int:
        if digest not in self.blobs:
            raise NotFoundError(f"no {digest}")
        return len(self.blobs[digest])

    async def read(self, digest: Digest, *, offset: int = 0) -> AsyncIterator[bytes]:
        if digest not in self.blobs:
            raise NotFoundError(f"no {digest}")
        yield self.blobs[digest][offset:]

    async def write(self, descriptor: Descriptor, source: AsyncIterator[bytes], *, labels=None) -> None:
        data = b"".join([part async for part in source])
        assert descriptor.digest.matches(data)
        self.blobs[descriptor.digest] = data


STORE = ClientStore()


def two_stages(base: str) -> make.Edge:
    first = run(copy(image(base), local("context"), "/", "/app/"), "date +%s%N >/made; cat /app/hello >/kept")
    return copy(image(base), first, "/kept", "/result")


async def lease_of(house: House) -> LeaseID:
    return (await house.store.leases.create()).id


async def build(
    house: House, edge: make.Edge, client: Client, *, imports=(), exports=()
) -> tuple[Screen, dict]:
    screen = Screen()
    told: dict[str, str] = {}
    async with house.solver.open_job("b", session=client, progress=screen) as job:
        for kind, attributes in imports:
            await job.import_cache(kind, attributes)
        ref = await job.load(definition(edge))
        await ref.evaluate()
        assert await ref.read_file("/result") == b"hello\n"
        lease = await lease_of(house)
        for kind, attributes in exports:
            told |= await job.export_cache(kind, attributes, [ref], lease=lease)
    return screen, told


async def test_a_registry_carries_all_steps(
    tmp_path: Path, registry: FakeRegistry, base: str, client: Client
) -> None:
    place = f"{registry.host}/cache:latest"
    async with build_house(tmp_path / "one") as house:
        await build(house, two_stages(base), client, exports=[("registry", {"ref": place, "mode": "max"})])
    async with build_house(tmp_path / "two", driver="erofs") as house:
        screen, _ = await build(house, two_stages(base), client, imports=[("registry", {"ref": place})])
        names = [name for name in screen.ran() if name.startswith(("run", "copy"))]
        assert names == []
        # only the frontier was fetched, and it is a record of our own now
        assert [one.record_type for one in await house.solver.disk_usage()].count("regular") == 1
        screen, _ = await build(house, two_stages(base), client)
        assert [name for name in screen.ran() if name.startswith(("run", "copy"))] == []


async def test_min_has_what_the_result_is_made_of(
    tmp_path: Path, registry: FakeRegistry, base: str, client: Client
) -> None:
    place = f"{registry.host}/cache:latest"
    async with build_house(tmp_path / "one") as house:
        await build(house, two_stages(base), client, exports=[("registry", {"ref": place})])
    repository = registry.repository("cache")
    _, body = repository.manifests[repository.tags["latest"]]
    manifest = json.loads(body)
    assert manifest["config"]["mediaType"] == cacheconfig.MEDIA_TYPE
    assert len(manifest["layers"]) == 2
    config = cacheconfig.parse(repository.blobs[manifest["config"]["digest"]])
    assert sum(bool(record.results) for record in config.records) == 1
    async with build_house(tmp_path / "two") as house:
        screen, _ = await build(house, two_stages(base), client, imports=[("registry", {"ref": place})])
        # the steps before are found by their names alone, and need not be there
        assert [name for name in screen.ran() if name.startswith(("run", "copy"))] == []


async def test_a_directory_of_the_client(tmp_path: Path, base: str, client: Client) -> None:
    STORE.blobs.clear()
    async with build_house(tmp_path / "one") as house:
        _, told = await build(
            house, two_stages(base), client, exports=[("local", {"dest": "/d", "mode": "max"})]
        )
    target = json.loads(told["cache.manifest"])["digest"]
    async with build_house(tmp_path / "two") as house:
        imports = [("local", {"src": "/d", "digest": target})]
        screen, _ = await build(house, two_stages(base), client, imports=imports)
        assert [name for name in screen.ran() if name.startswith(("run", "copy"))] == []


async def test_an_image_carries_its_own(
    tmp_path: Path, registry: FakeRegistry, base: str, client: Client
) -> None:
    async with (
        build_house(tmp_path / "one") as house,
        house.solver.open_job("b", session=client, progress=Screen()) as job,
    ):
        ref = await job.load(definition(two_stages(base)))
        lease = await lease_of(house)
        layers = await ref.layers(LayerForm(), lease=lease)
        held = await job.inline_cache({}, ref, [one.descriptor.digest for one in layers], lease=lease)
        assert held is not None
        blobs = []
        for one in layers:
            async with house.store.content.open_reader(one.descriptor.digest) as reader:
                blobs.append(reader.pread(reader.size, 0))
    kind = "application/vnd.oci.image.manifest.v1+json"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
        "moby.buildkit.cache.v0": base64.b64encode(held).decode(),
    }
    added = [registry.add_blob("app", blob) for blob in blobs]
    made = registry.add_blob("app", json.dumps(config).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": made.digest,
            "size": made.size,
        },
        "layers": [
            {"mediaType": one.descriptor.media_type, "digest": blob.digest, "size": blob.size}
            for one, blob in zip(layers, added, strict=True)
        ],
    }
    registry.add_manifest("app", json.dumps(manifest).encode(), kind, tag="latest")
    async with build_house(tmp_path / "two") as house:
        imports = [("registry", {"ref": f"{registry.host}/app:latest"})]
        screen, _ = await build(house, two_stages(base), client, imports=imports)
        assert [name for name in screen.ran() if name.startswith(("run", "copy"))] == []


async def test_a_cache_that_is_away_or_damaged_costs_nothing(
    tmp_path: Path, registry: FakeRegistry, base: str, client: Client
) -> None:
    place = f"{registry.host}/cache:latest"
    async with build_house(tmp_path / "one") as house:
        screen, _ = await build(house, two_stages(base), client, imports=[("registry", {"ref": place})])
        assert any("importing" in name and event.error for name, event in screen.vertices().items())
        await build(house, two_stages(base), client, exports=[("registry", {"ref": place, "mode": "max"})])
    repository = registry.repository("cache")
    manifest = json.loads(repository.manifests[repository.tags["latest"]][1])
    for layer in manifest["layers"]:
        repository.blobs[layer["digest"]] = b"damaged"
    async with build_house(tmp_path / "two") as house:
        screen, _ = await build(house, two_stages(base), client, imports=[("registry", {"ref": place})])
        assert "copy /kept /result" in screen.ran()
        with pytest.raises(UnsupportedError):
            await build(house, two_stages(base), client, imports=[("gha", {})])


def test_a_hostile_config_is_refused() -> None:
    blob = "sha256:" + "0" * 64
    for document in (
        {"layers": [{"blob": "x", "parent": -1}]},
        {"layers": [{"blob": blob, "parent": 5}]},
        {"layers": [{"blob": blob, "parent": 0}]},
        {"records": [{"digest": blob, "layers": [{"layer": 3}]}]},
        {"records": [{"digest": blob, "inputs": [[{"link": 9}]]}]},
        {"records": [{"digest": "no"}]},
    ):
        with pytest.raises(Exception, match=r"cache config|digest"):
            cacheconfig.parse(json.dumps(document).encode())
    circle = {"layers": [{"blob": blob, "parent": 1}, {"blob": blob, "parent": 0}]}
    with pytest.raises(Exception, match="stand on each other"):
        cacheconfig.layers_below(cacheconfig.parse(json.dumps(circle).encode()), 0)


BLOB = "sha256:" + "1" * 64


def imported(config: cacheconfig.Config) -> ImportedCache:
    """A cache whose only blob is known. Nothing is ever fetched."""
    blob = Descriptor(
        media_type="application/vnd.oci.image.layer.v1.tar+gzip",
        digest=Digest(BLOB),
        size=1,
        annotations={cacheconfig.DIFF_ID: BLOB},
    )
    return ImportedCache(config, {BLOB: blob}, None)  # type: ignore[arg-type]


async def test_layers_that_stand_on_each_other_are_nobodys_result() -> None:
    layers = (
        cacheconfig.Layer(BLOB, 1),
        cacheconfig.Layer(BLOB, 0),
        cacheconfig.Layer(BLOB, cacheconfig.NOTHING),
    )
    for top, whole in ((0, False), (2, True)):
        record = cacheconfig.Record(digest=BLOB, results=(cacheconfig.Result(layer=top),))
        cache = imported(cacheconfig.Config(layers=layers, records=(record,)))
        assert (await cache.find(Digest(BLOB), [])).record == ("0" if whole else None)


async def test_a_hostile_cache_costs_time_by_its_length_alone() -> None:
    """50,000 records of one name, whose results stand on 50,000 layers, the lowest of them unknown."""
    count = 50_000
    layers = [
        cacheconfig.Layer("sha256:" + "2" * 64, cacheconfig.NOTHING),
        *(cacheconfig.Layer(BLOB, one) for one in range(count)),
    ]
    records = [cacheconfig.Record(digest=BLOB, results=(cacheconfig.Result(layer=count),))] * count
    started = time.process_time()
    found = await imported(cacheconfig.Config(layers=tuple(layers), records=tuple(records))).find(
        Digest(BLOB), []
    )
    assert (len(found.keys), found.record) == (count, None)
    assert time.process_time() - started < 5


async def test_a_result_of_endless_layers_is_not_used() -> None:
    layers = (
        cacheconfig.Layer(BLOB, cacheconfig.NOTHING),
        *(cacheconfig.Layer(BLOB, one) for one in range(STACK_LIMIT)),
    )
    record = cacheconfig.Record(digest=BLOB, results=(cacheconfig.Result(layer=STACK_LIMIT),))
    cache = imported(cacheconfig.Config(layers=layers, records=(record,)))
    assert (await cache.find(Digest(BLOB), [])).record == "0"
    assert await cache.load("0") is None
    assert (await cache.find(Digest(BLOB), [])).record is None


@pytest.mark.parametrize("config", [b"[]", b"nothing", b'{"moby.buildkit.cache.v0": 1}', b"[" * 100_000])
async def test_an_image_whose_config_is_none_has_no_cache(
    tmp_path: Path, registry: FakeRegistry, base: str, client: Client, config: bytes
) -> None:
    made = registry.add_blob("evil", config)
    kind = "application/vnd.oci.image.manifest.v1+json"
    about = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": made.digest,
        "size": made.size,
    }
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": about, "layers": []}
    registry.add_manifest("evil", json.dumps(manifest).encode(), kind, tag="latest")
    async with build_house(tmp_path / "one") as house:
        imports = [("registry", {"ref": f"{registry.host}/evil:latest"})]
        screen, _ = await build(house, two_stages(base), client, imports=imports)
        assert any("importing" in name and event.error for name, event in screen.vertices().items())


def test_a_layer_whose_parent_is_not_told_stands_on_the_first_as_go_writes_it() -> None:
    document = {"layers": [{"blob": BLOB, "parent": -1}, {"blob": BLOB}], "records": []}
    assert cacheconfig.layers_below(cacheconfig.parse(json.dumps(document).encode()), 1) == [0, 1]


def test_an_image_holds_the_records_alone_as_buildkit_writes_them() -> None:
    record = {
        "digest": BLOB,
        "layers": [{"layer": 1, "createdAt": "2026-01-01T00:00:00Z"}],
        "inputs": [[{"link": 0}]],
    }
    config = cacheconfig.parse_inline(json.dumps([{"digest": BLOB}, record]).encode(), [BLOB, BLOB])
    assert cacheconfig.layers_below(config, 1) == [0, 1]
    assert json.loads(cacheconfig.encode_inline(config))[1] == record
    with pytest.raises(Exception, match="layer that does not exist"):
        cacheconfig.parse_inline(json.dumps([record]).encode(), [BLOB])
