"""Saving and loading: the digest unchanged, archives that every tool can read, and hostile ones refused."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import AsyncIterator

import pytest
from support.world import World

from lading.errors import DataLossError, InvalidArgumentError, LadingError, NotFoundError
from lading.oci import mediatypes, reference
from lading.oci.descriptor import Platform
from lading.oci.digest import DiffID, Digest
from lading.oci.document import encode
from lading.oci.manifest import Manifest
from lading.testing import images as make
from lading.transfer.archive_out import SavedImage

pytestmark = pytest.mark.anyio

BASE = make.layer({"etc/os": b"base"})
TOP = make.layer({"bin/app": b"app" * 30_000})
FOREIGN = make.image([TOP], platform=make.ARM64)


async def stream(data: bytes, step: int = 7919) -> AsyncIterator[bytes]:
    for at in range(0, len(data), step):
        yield data[at : at + step]


async def saved(world: World, *names: str, platforms: list[Platform] | None = None) -> bytes:
    out = bytearray()

    async def sink(chunk: bytes) -> None:
        assert len(chunk) <= 1 << 20
        out.extend(chunk)

    images = [
        SavedImage(target=(await world.images.get(name)).target, reference=reference.parse(name))
        for name in names or [str(world.reference)]
    ]
    await world.service.save(images, sink, platforms=platforms)
    return bytes(out)


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {m.name: opened.extractfile(m).read() for m in opened if m.isfile()}


def packed(files: dict[str, bytes | str], *, hard: bool = False) -> bytes:
    """A tar of files and, where the value is text, links."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, value in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(value, str):
                member.type = tarfile.LNKTYPE if hard else tarfile.SYMTYPE
                member.linkname = value
                archive.addfile(member)
            else:
                member.size = len(value)
                archive.addfile(member, io.BytesIO(value))
    return out.getvalue()


async def test_save_and_load_keep_the_digest(world: World, other: World):
    image = make.image([BASE, TOP])
    target = make.publish(world.repository, image, "latest")
    await world.service.pull(world.reference)
    archive = await saved(world)
    [loaded] = await other.service.load(stream(archive))
    assert (loaded.reference, loaded.target) == (world.reference, target)
    assert (await other.images.get(str(world.reference))).target == target
    assert await other.snapshot_names() == set(image.chain)
    assert await other.leases.list() == []
    assert (await other.content.info(target.digest)).labels[
        "containerd.io/gc.ref.content.config"
    ] == image.config_descriptor.digest
    assert other.events[-1].action == "load"


async def test_the_archive_is_what_docker_writes(world: World):
    image = make.image([BASE, TOP])
    make.publish(world.repository, image, "latest")
    await world.service.pull(world.reference)
    files = members(await saved(world))
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    [entry] = json.loads(files["index.json"])["manifests"]
    assert entry["digest"] == image.descriptor.digest
    assert entry["annotations"] == {
        "io.containerd.image.name": "registry.test/app:latest",
        "org.opencontainers.image.ref.name": "latest",
    }
    [row] = json.loads(files["manifest.json"])
    assert row["RepoTags"] == ["registry.test/app:latest"]
    assert files[row["Config"]] == image.config
    assert [files[path] for path in row["Layers"]] == [BASE.blob, TOP.blob]
    assert json.loads(files["repositories"]) == {"registry.test/app": {"latest": TOP.descriptor.digest.hex}}


async def test_an_incomplete_index_is_saved_reduced_and_comes_back_whole(world: World, other: World):
    native = make.image([BASE])
    index = make.index([FOREIGN, native])
    make.publish(world.repository, index, "latest")
    await world.service.pull(world.reference)
    archive = await saved(world)
    files = members(archive)
    [entry] = json.loads(files["index.json"])["manifests"]
    reduced = json.loads(files[f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}"])
    for child in reduced["manifests"]:
        assert f"blobs/sha256/{child['digest'].removeprefix('sha256:')}" in files
    assert [child["digest"] for child in reduced["manifests"]] == [native.descriptor.digest]
    [loaded] = await other.service.load(stream(archive))
    assert loaded.target.digest == index.descriptor.digest
    assert await other.snapshot_names() == set(native.chain)


async def test_platforms_by_name(world: World, other: World):
    native = make.image([BASE])
    make.publish(world.repository, make.index([FOREIGN, native]), "latest")
    await world.service.pull(world.reference, platforms="all")
    one = members(await saved(world, platforms=[make.ARM64]))
    assert json.loads(one["index.json"])["manifests"][0]["digest"] == FOREIGN.descriptor.digest
    with pytest.raises(NotFoundError, match="specified platform"):
        await saved(world, platforms=[Platform(os="linux", architecture="s390x")])
    both = await saved(world, platforms=[make.ARM64, make.AMD64])
    [_] = await other.service.load(stream(both), platforms=[make.ARM64])
    assert await other.has(native.config_descriptor.digest)
    with pytest.raises(NotFoundError, match="linux/s390x"):
        await other.service.load(stream(both), platforms=[Platform(os="linux", architecture="s390x")])


async def test_several_images_share_their_blobs(world: World, other: World):
    make.publish(world.repository, make.image([BASE]), "latest")
    make.publish(world.repository, make.image([BASE, TOP]), "two")
    names = [(await world.service.pull(world.reference.with_tag(tag))).name for tag in ("latest", "two")]
    archive = await saved(world, *names)
    assert len(members(archive)) == 4 + 6
    assert {str(i.reference) for i in await other.service.load(stream(archive))} == set(names)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
async def test_any_compression(world: World, other: World, pack):
    make.publish(world.repository, make.image([BASE]), "latest")
    await world.service.pull(world.reference)
    archive = pack(await saved(world))
    [loaded] = await other.service.load(stream(archive))
    assert loaded.reference == world.reference


def legacy(image: make.TestImage, **changes) -> dict[str, bytes | str]:
    config = f"{image.config_descriptor.digest.hex}.json"
    layers = [f"{one.diff_id.hex}/layer.tar" for one in image.layers]
    row = {"Config": config, "RepoTags": ["app:1", "other/app:2"], "Layers": layers, **changes}
    files: dict[str, bytes | str] = {config: image.config}
    files |= {path: one.blob for path, one in zip(layers, image.layers, strict=True)}
    files["manifest.json"] = json.dumps([row]).encode()
    return files


PLAIN = make.layer({"a": b"1"}, media_type=mediatypes.OCI_LAYER)


async def test_dockers_old_format(other: World):
    image = make.image([PLAIN, BASE])
    loaded = await other.service.load(stream(packed(legacy(image))))
    assert [i.reference.familiar for i in loaded] == ["app:1", "other/app:2"]
    manifest = json.loads(await other.content.read(loaded[0].target.digest, limit=1 << 20))
    assert [layer["mediaType"] for layer in manifest["layers"]] == [
        mediatypes.DOCKER_LAYER,
        mediatypes.DOCKER_LAYER_GZIP,
    ]
    assert await other.snapshot_names() == set(image.chain)


async def test_a_layer_may_be_a_link_to_another_layer(other: World):
    image = make.image([PLAIN, make.layer({}), PLAIN])
    files = legacy(image, Layers=["one/layer.tar", "two/layer.tar", "three/layer.tar"])
    files["one/layer.tar"] = PLAIN.blob
    files["two/layer.tar"] = make.layer({}).blob
    files["three/layer.tar"] = "../one/layer.tar"
    [first, _] = await other.service.load(stream(packed(files)))
    assert first.unpack is not None
    assert await other.snapshot_names() == set(image.chain)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"manifest.json": b"[]x"},
        {"manifest.json": b'[{"Config":"../../etc/passwd","Layers":[]}]'},
        {"manifest.json": b'[{"Config":"loop","Layers":[]}]', "loop": "pool", "pool": "loop"},
        {"manifest.json": b'[{"Config":"/etc/passwd","Layers":[]}]', "etc/passwd": "/etc/shadow"},
        {"index.json": b'{"schemaVersion":2,"manifests":[],"layers":[]}'},
        {"blobs/sha256/abc": b"x", "index.json": b"{}"},
    ],
)
async def test_hostile_archives_are_refused(other: World, files):
    with pytest.raises(InvalidArgumentError):
        await other.service.load(stream(packed(files)))
    assert await other.images.list() == []
    assert await other.leases.list() == []


async def test_a_blob_under_a_wrong_name_is_refused(other: World):
    files: dict[str, bytes | str] = {f"blobs/sha256/{Digest.of(b'right').hex}": b"wrong"}
    with pytest.raises(DataLossError):
        await other.service.load(stream(packed(files)))


async def test_a_truncated_archive_is_refused(world: World, other: World):
    make.publish(world.repository, make.image([BASE, TOP]), "latest")
    await world.service.pull(world.reference)
    archive = await saved(world)
    for end in (100, 1000, len(archive) // 2):
        with pytest.raises(LadingError):
            await other.service.load(stream(archive[:end]))
    with pytest.raises(LadingError):
        await other.service.load(stream(gzip.compress(archive)[:-500]))
    assert await other.images.list() == []


async def test_names_in_archives_are_checked(other: World):
    loaded = await other.service.load(stream(packed(legacy(make.image([PLAIN]), RepoTags=["../X:1"]))))
    assert [i.reference for i in loaded] == [None]
    assert [i.name for i in await other.images.list()] == [f"moby-dangling@{loaded[0].target.digest}"]


@pytest.mark.parametrize("name", ["liar@sha256:" + "0" * 64, "moby-dangling@sha256:" + "0" * 64])
async def test_a_name_in_an_archive_cannot_lie_about_its_digest(other: World, name: str):
    loaded = await other.service.load(stream(packed(legacy(make.image([PLAIN]), RepoTags=[name, "app:1"]))))
    assert [str(image.reference) for image in loaded] == ["docker.io/library/app:1"]
    assert [record.name for record in await other.images.list()] == ["docker.io/library/app:1"]


async def test_a_reduced_index_cannot_pass_for_a_stranger(world: World, other: World):
    """An archive must not make a name point to an index that does not cover what it shows."""
    stranger = make.index([make.image([PLAIN])])
    shown = make.index([make.image([BASE])])
    entry = {
        "mediaType": mediatypes.OCI_INDEX,
        "digest": shown.descriptor.digest,
        "size": shown.descriptor.size,
        "annotations": {"lading.index.original": stranger.descriptor.digest},
    }
    files: dict[str, bytes | str] = {
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    }
    for index in (stranger, shown):
        files[f"blobs/sha256/{index.descriptor.digest.hex}"] = index.body
        for image in index.images:
            files[f"blobs/sha256/{image.descriptor.digest.hex}"] = image.body
            files |= {f"blobs/sha256/{d.digest.hex}": blob for d, blob in image.blobs.items()}
    with pytest.raises(InvalidArgumentError, match="no part of"):
        await other.service.load(stream(packed(files)))


async def test_what_cannot_be_unpacked_is_loaded_all_the_same(world: World, other: World):
    wasm = world.repository.add_blob(b"\0asm", "application/wasm")
    image = make.image([], diff_ids=[DiffID(wasm.digest)])
    body = encode(
        Manifest(
            schema_version=2,
            media_type=mediatypes.OCI_MANIFEST,
            config=image.config_descriptor,
            layers=(wasm,),
        )
    )
    world.repository.add_blob(image.config)
    target = world.repository.add_manifest(body, mediatypes.OCI_MANIFEST, tag="latest")
    await world.service.pull(world.reference)
    [loaded] = await other.service.load(stream(await saved(world)))
    assert (loaded.target, loaded.unpack) == (target, None)
