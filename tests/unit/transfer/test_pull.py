"""Pulling: what is stored, labelled, unpacked and named, and what is left when it goes wrong."""

from collections.abc import Callable

import anyio
import pytest
from support.world import World

from lading.core.leases import Resource
from lading.core.progress import Phase, Progress
from lading.errors import (
    DataLossError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    UnsupportedError,
)
from lading.oci import mediatypes
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import DiffID, Digest
from lading.oci.document import encode
from lading.oci.manifest import Index, Manifest
from lading.testing import images as make
from lading.testing.memory.remotes import _Fetcher
from lading.transfer.documents import Documents

pytestmark = pytest.mark.anyio

BASE = make.layer({"etc/os": b"base"})
TOP = make.layer({"bin/app": b"app" * 30_000})


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.001)


async def test_an_image_is_stored_unpacked_and_named(world: World):
    image = make.image([BASE, TOP])
    target = make.publish(world.repository, image, "latest")
    result = await world.service.pull(world.reference)
    assert result.target == target
    assert result.updated
    assert result.snapshot == image.chain[-1]
    assert (await world.images.get(str(world.reference))).target == target
    for descriptor, blob in image.blobs.items():
        assert await world.content.read(descriptor.digest, limit=1 << 20) == blob
    assert await world.content.read(target.digest, limit=1 << 20) == image.body
    assert await world.snapshot_names() == set(image.chain)
    assert await world.leases.list() == []
    assert (world.events[-1].action, world.events[-1].actor) == ("pull", "registry.test/app:latest")


async def test_labels_keep_everything_as_containerd_does(world: World):
    image = make.image([BASE, TOP])
    index = make.index([image])
    make.publish(world.repository, index, "latest")
    await world.service.pull(world.reference)
    source = {"containerd.io/distribution.source.registry.test": "app"}
    digests = [index.descriptor.digest, image.descriptor.digest, *(d.digest for d in image.blobs)]
    labels = {d: (await world.content.info(d)).labels for d in digests}
    assert labels[index.descriptor.digest] == {
        "containerd.io/gc.ref.content.m.0": image.descriptor.digest,
        **source,
    }
    assert labels[image.descriptor.digest] == {
        "containerd.io/gc.ref.content.config": image.config_descriptor.digest,
        "containerd.io/gc.ref.content.l.0": BASE.descriptor.digest,
        "containerd.io/gc.ref.content.l.1": TOP.descriptor.digest,
        **source,
    }
    assert labels[image.config_descriptor.digest] == {
        "containerd.io/gc.ref.snapshot.memory": image.chain[-1],
        **source,
    }
    assert labels[TOP.descriptor.digest] == {"containerd.io/uncompressed": TOP.diff_id, **source}


async def test_manifests_are_asked_for_together_and_while_their_index_is_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    images = [
        make.image([BASE]),
        make.image([BASE, TOP], platform=Platform(os="linux", architecture="arm64")),
    ]
    index = make.index(images)
    make.publish(world.repository, index, "latest")
    asked: set[Digest] = set()
    answered: list[Digest] = []
    keep, document = Documents.keep, _Fetcher.document

    async def slow_keep(self, kept, **options):
        if kept.descriptor.digest == index.descriptor.digest:
            await until(lambda: len(asked) == 2)
        await keep(self, kept, **options)

    async def slow_document(self, descriptor):
        asked.add(descriptor.digest)
        await until(lambda: len(asked) == 2)
        if descriptor.digest == images[0].descriptor.digest:
            await until(lambda: images[1].descriptor.digest in answered)
        answered.append(descriptor.digest)
        return await document(self, descriptor)

    monkeypatch.setattr(Documents, "keep", slow_keep)
    monkeypatch.setattr(_Fetcher, "document", slow_document)
    result = await world.service.pull(world.reference, platforms="all")
    assert [each.digest for each in result.manifests] == [each.descriptor.digest for each in images]


async def test_pulling_again_fetches_nothing_and_says_so(world: World):
    make.publish(world.repository, make.image([BASE, TOP]), "latest")
    await world.service.pull(world.reference)
    fetched = world.registry.calls["fetch"]
    progress = Progress()
    result = await world.service.pull(world.reference, progress=progress)
    assert not result.updated
    assert world.registry.calls["fetch"] == fetched
    assert {item.phase for item in progress.items.values()} <= {Phase.EXISTS, Phase.COMPLETE}


async def test_pulling_again_writes_nothing(world: World, monkeypatch: pytest.MonkeyPatch):
    image = make.image([BASE, TOP])
    make.publish(world.repository, make.index([image]), "latest")
    await world.service.pull(world.reference)

    async def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was written")

    for port, method in (
        (world.leases, "create"),
        (world.content, "update"),
        (world.images, "put"),
        (world.images, "delete"),
    ):
        monkeypatch.setattr(port, method, refuse)
    result = await world.service.pull(world.reference)
    assert result.snapshot == image.chain[-1]
    assert [d.digest for d in result.manifests] == [image.descriptor.digest]


async def test_pulling_again_brings_back_what_is_gone(world: World):
    image = make.image([BASE, TOP])
    make.publish(world.repository, image, "latest")
    await world.service.pull(world.reference)
    await world.content.delete(TOP.descriptor.digest)
    result = await world.service.pull(world.reference)
    assert not result.updated
    assert await world.has(TOP.descriptor.digest)
    for name in reversed(image.chain):
        await world.snapshotter.remove(name)
    result = await world.service.pull(world.reference)
    assert await world.snapshot_names() == set(image.chain)


async def test_only_the_hosts_platform_is_fetched(world: World):
    native, foreign = make.image([BASE]), make.image([TOP], platform=make.ARM64)
    make.publish(world.repository, make.index([foreign, native]), "latest")
    result = await world.service.pull(world.reference)
    assert [d.digest for d in result.manifests] == [native.descriptor.digest]
    assert not await world.has(TOP.descriptor.digest)


async def test_several_platforms_at_once_and_all(world: World):
    native, foreign = make.image([BASE]), make.image([TOP], platform=make.ARM64)
    third = make.image([BASE, TOP], platform=Platform(os="linux", architecture="s390x"))
    make.publish(world.repository, make.index([foreign, native, third]), "latest")
    result = await world.service.pull(world.reference, platforms=[make.AMD64, make.ARM64])
    assert {d.digest for d in result.manifests} == {native.descriptor.digest, foreign.descriptor.digest}
    assert await world.snapshot_names() == set(native.chain)
    everything = await world.service.pull(world.reference, platforms="all")
    assert len(everything.manifests) == 3
    assert await world.has(third.config_descriptor.digest)


async def test_a_foreign_platform_is_unpacked_when_it_is_needed(world: World):
    foreign = make.image([BASE, TOP], platform=make.ARM64)
    make.publish(world.repository, make.index([foreign]), "latest")
    result = await world.service.pull(world.reference, platforms=[make.ARM64])
    assert result.snapshot is None
    assert await world.snapshot_names() == set()
    assert await world.service.ensure_unpacked(foreign.descriptor) == foreign.chain[-1]
    assert await world.snapshot_names() == set(foreign.chain)


async def test_no_such_platform(world: World):
    make.publish(world.repository, make.index([make.image([BASE], platform=make.ARM64)]), "latest")
    with pytest.raises(
        NotFoundError, match="no matching manifest for linux/amd64 in the manifest list entries"
    ):
        await world.service.pull(world.reference)
    make.publish(world.repository, make.image([BASE]), "single")
    with pytest.raises(NotFoundError, match=r"does not provide the specified platform \(linux/arm64\)"):
        await world.service.pull(world.reference.with_tag("single"), platforms=[make.ARM64])


async def test_the_blob_is_fetched_although_its_contents_are_unpacked(world: World):
    """Two blobs with one diff ID: each manifest stays complete."""
    plain = make.layer({"etc/os": b"base"}, media_type=mediatypes.OCI_LAYER)
    assert plain.diff_id == BASE.diff_id
    make.publish(world.repository, make.image([BASE]), "gzip")
    make.publish(world.repository, make.image([plain]), "plain")
    await world.service.pull(world.reference.with_tag("gzip"))
    await world.service.pull(world.reference.with_tag("plain"))
    assert await world.has(plain.descriptor.digest)
    assert len(await world.snapshot_names()) == 1


async def test_a_moved_tag_leaves_the_old_image_dangling(world: World):
    old, new = make.image([BASE]), make.image([TOP])
    make.publish(world.repository, old, "latest")
    await world.service.pull(world.reference)
    make.publish(world.repository, new, "latest")
    await world.service.pull(world.reference)
    dangling = f"moby-dangling@{old.descriptor.digest}"
    assert {image.name for image in await world.images.list()} == {str(world.reference), dangling}
    make.publish(world.repository, old, "old")
    await world.service.pull(world.reference.with_tag("old"))
    assert dangling not in {image.name for image in await world.images.list()}


async def test_two_pulls_share_one_download(world: World):
    image = make.image([BASE, TOP])
    make.publish(world.repository, image, "latest")
    one, two = Progress(), Progress()
    async with anyio.create_task_group() as group:
        for progress in (one, two):

            async def pull(progress: Progress = progress) -> None:
                await world.service.pull(world.reference, progress=progress)

            group.start_soon(pull)
    for digest in image.blobs:
        assert world.registry.calls[f"fetch {digest.digest}"] == 1
    for progress in (one, two):
        assert all(item.current == item.total for item in progress.items.values())
        assert set(progress.items) == {BASE.descriptor.digest.short, TOP.descriptor.digest.short}


async def test_a_cut_download_goes_on_where_it_was(world: World):
    big = make.layer({"data": bytes(range(256)) * 4000}, media_type=mediatypes.OCI_LAYER)
    make.publish(world.repository, make.image([big]), "latest")
    world.registry.fail_fetch_at = 300_000
    with pytest.raises(UnavailableError):
        await world.service.pull(world.reference)
    assert await world.images.list() == []
    [lease] = await world.leases.list()
    assert Resource(kind="ingest", id=f"layer-{big.descriptor.digest}") in await world.leases.resources(
        lease.id
    )
    [status] = [s for s in await world.content.statuses() if s.ref.startswith("layer")]
    assert status.offset == 300_000
    result = await world.service.pull(world.reference)
    assert result.snapshot == big.diff_id
    assert await world.leases.list() == []


async def test_a_spoilt_prefix_is_fetched_again_within_the_same_pull(world: World):
    """A power cut may leave an ingest of the right length with wrong bytes."""
    big = make.layer({"data": bytes(range(256)) * 4000}, media_type=mediatypes.OCI_LAYER)
    image = make.image([big])
    make.publish(world.repository, image, "latest")
    async with world.content.open_writer(f"layer-{big.descriptor.digest}", expected=big.descriptor) as writer:
        writer.write(b"\0" * 200_000)
    result = await world.service.pull(world.reference)
    assert result.snapshot == image.chain[-1]
    assert await world.content.read(big.descriptor.digest, limit=1 << 22) == big.blob


async def test_a_blob_that_is_not_what_it_says_is_refused(world: World):
    image = make.image([BASE, TOP])
    make.publish(world.repository, image, "latest")
    world.repository.blobs[TOP.descriptor.digest] = TOP.blob[:-1] + b"x"
    with pytest.raises(DataLossError):
        await world.service.pull(world.reference)
    assert await world.images.list() == []
    assert await world.leases.list() == []
    assert await world.content.statuses() == []
    assert not await world.has(TOP.descriptor.digest)
    assert image.chain[-1] not in await world.snapshot_names()


async def test_a_layer_that_is_not_what_the_config_says_is_refused(world: World):
    make.publish(world.repository, make.image([BASE], diff_ids=[DiffID(TOP.diff_id)]), "latest")
    with pytest.raises(DataLossError):
        await world.service.pull(world.reference)
    assert await world.snapshot_names() == set()
    assert await world.images.list() == []


async def test_a_config_that_does_not_fit_its_layers_is_refused(world: World):
    make.publish(world.repository, make.image([BASE, TOP], diff_ids=[BASE.diff_id]), "latest")
    with pytest.raises(InvalidArgumentError, match="1 diff IDs for 2 layers"):
        await world.service.pull(world.reference)
    assert await world.images.list() == []


async def test_a_size_that_a_stored_blob_does_not_have_is_refused(world: World):
    make.publish(world.repository, make.image([BASE]), "latest")
    await world.service.pull(world.reference)
    liar = Descriptor(
        media_type=BASE.descriptor.media_type, digest=BASE.descriptor.digest, size=BASE.descriptor.size + 1
    )
    config = make.image([BASE]).config_descriptor
    body = encode(
        Manifest(schema_version=2, media_type=mediatypes.OCI_MANIFEST, config=config, layers=(liar,))
    )
    world.repository.add_manifest(body, mediatypes.OCI_MANIFEST, tag="liar")
    with pytest.raises(DataLossError, match="was announced with"):
        await world.service.pull(world.reference.with_tag("liar"))


async def test_schema_1_is_refused_with_an_explanation(world: World):
    body = b'{"schemaVersion":1,"name":"app","tag":"latest","fsLayers":[]}'
    world.repository.add_manifest(body, mediatypes.DOCKER_SCHEMA1_SIGNED, tag="latest")
    with pytest.raises(UnsupportedError, match="schema 1"):
        await world.service.pull(world.reference)


async def test_an_unknown_layer_type_is_stored_and_not_unpacked(world: World):
    artifact = world.repository.add_blob(b"\0asm", "application/wasm")
    image = make.image([BASE])
    body = encode(
        Manifest(
            schema_version=2,
            media_type=mediatypes.OCI_MANIFEST,
            config=image.config_descriptor,
            layers=(artifact,),
        )
    )
    make.publish(world.repository, image)
    target = world.repository.add_manifest(body, mediatypes.OCI_MANIFEST, tag="latest")
    result = await world.service.pull(world.reference)
    assert result.snapshot is None
    assert await world.has(artifact.digest)
    with pytest.raises(UnsupportedError, match="application/wasm"):
        await world.service.ensure_unpacked(target)


async def test_indexes_nest_but_not_without_end(world: World):
    image = make.image([BASE])
    descriptor = make.publish(world.repository, image)
    for depth in range(12):
        body = encode(Index(schema_version=2, media_type=mediatypes.OCI_INDEX, manifests=(descriptor,)))
        descriptor = world.repository.add_manifest(body, mediatypes.OCI_INDEX, tag=f"depth{depth + 1}")
    with pytest.raises(InvalidArgumentError, match="nested deeper"):
        await world.service.pull(world.reference.with_tag("depth12"), platforms="all")
    result = await world.service.pull(world.reference.with_tag("depth3"), platforms="all")
    assert [d.digest for d in result.manifests] == [image.descriptor.digest]


async def test_attestations_come_with_the_image_that_they_are_about(world: World):
    images = [make.image([BASE]), make.image([TOP], platform=make.ARM64)]
    statements = []
    for image in images:
        statement = world.repository.add_blob(image.descriptor.digest.encode(), mediatypes.IN_TOTO)
        body = encode(
            Manifest(
                schema_version=2,
                media_type=mediatypes.OCI_MANIFEST,
                config=image.config_descriptor,
                layers=(statement,),
            )
        )
        attestation = world.repository.add_manifest(body, mediatypes.OCI_MANIFEST)
        statements.append((statement, body, attestation))
        make.publish(world.repository, image)
    entries = tuple(image.descriptor for image in images) + tuple(
        Descriptor(
            media_type=mediatypes.OCI_MANIFEST,
            digest=attestation.digest,
            size=attestation.size,
            platform=Platform(os="unknown", architecture="unknown"),
            annotations={
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": image.descriptor.digest,
            },
        )
        for image, (_, _, attestation) in zip(images, statements, strict=True)
    )
    body = encode(Index(schema_version=2, media_type=mediatypes.OCI_INDEX, manifests=entries))
    world.repository.add_manifest(body, mediatypes.OCI_INDEX, tag="latest")
    result = await world.service.pull(world.reference)
    assert [d.digest for d in result.manifests] == [entries[0].digest, entries[2].digest]
    assert result.snapshot == images[0].chain[-1]
    assert await world.has(statements[0][0].digest)
    assert not await world.has(statements[1][0].digest)


async def test_a_config_that_claims_to_be_huge_is_not_fetched(world: World):
    image = make.image([BASE])
    huge = Descriptor(media_type=mediatypes.OCI_CONFIG, digest=image.config_descriptor.digest, size=9 << 20)
    body = encode(Manifest(schema_version=2, media_type=mediatypes.OCI_MANIFEST, config=huge, layers=()))
    world.repository.add_manifest(body, mediatypes.OCI_MANIFEST, tag="latest")
    with pytest.raises(ResourceExhaustedError, match="config"):
        await world.service.pull(world.reference)
    assert world.registry.calls["fetch"] == 0


async def test_a_manifest_that_claims_to_be_huge_is_not_fetched(world: World):
    huge = Descriptor(
        media_type=mediatypes.OCI_INDEX, digest=Digest.of(b"x"), size=5 << 20, platform=make.AMD64
    )
    body = encode(Index(schema_version=2, media_type=mediatypes.OCI_INDEX, manifests=(huge,)))
    world.repository.add_manifest(body, mediatypes.OCI_INDEX, tag="latest")
    with pytest.raises(Exception, match="more than 4194304"):
        await world.service.pull(world.reference)
    assert world.registry.calls["document"] == 0


async def test_inline_data_must_be_what_the_descriptor_says(world: World):
    import base64

    image = make.image([BASE])
    good = make.layer({"inline": b"1"})
    for data, tag in ((good.blob, "good"), (b"other", "bad")):
        inline = Descriptor(
            media_type=good.descriptor.media_type,
            digest=good.descriptor.digest,
            size=good.descriptor.size,
            data=base64.b64encode(data).decode(),
        )
        config = make.image([good])
        world.repository.add_blob(config.config, mediatypes.OCI_CONFIG)
        body = encode(
            Manifest(
                schema_version=2,
                media_type=mediatypes.OCI_MANIFEST,
                config=config.config_descriptor,
                layers=(inline,),
            )
        )
        world.repository.add_manifest(body, mediatypes.OCI_MANIFEST, tag=tag)
    with pytest.raises(InvalidArgumentError, match="another digest"):
        await world.service.pull(world.reference.with_tag("bad"))
    result = await world.service.pull(world.reference.with_tag("good"))
    assert result.snapshot == good.diff_id
    assert image.chain


async def test_a_foreign_layer_is_not_fetched_from_its_urls(world: World):
    foreign = make.layer({"a": b"b"}, media_type=mediatypes.OCI_LAYER_NONDIST_GZIP)
    make.publish(world.repository, make.image([foreign]), "latest")
    del world.repository.blobs[foreign.descriptor.digest]
    with pytest.raises(NotFoundError, match="foreign"):
        await world.service.pull(world.reference)


async def test_cancelling_is_quick_and_leaves_something_to_resume(world: World):
    big = make.layer({"data": bytes(range(256)) * 40_000}, media_type=mediatypes.OCI_LAYER)
    make.publish(world.repository, make.image([big]), "latest")
    progress = Progress()
    async with anyio.create_task_group() as group:

        async def pull() -> None:
            await world.service.pull(world.reference, progress=progress)

        group.start_soon(pull)
        await until(lambda: progress.item(big.descriptor.digest.short).current > 0)
        began = anyio.current_time()
        group.cancel_scope.cancel()
    assert anyio.current_time() - began < 1
    assert await world.images.list() == []
    statuses = await world.content.statuses()
    assert any(s.ref.startswith("layer-") and s.offset for s in statuses)
    assert len(await world.leases.list()) == 1
    await world.service.pull(world.reference)
    assert await world.leases.list() == []


async def test_an_image_without_layers(world: World):
    make.publish(world.repository, make.image([]), "latest")
    result = await world.service.pull(world.reference)
    assert result.snapshot is None


async def test_the_same_layer_twice_in_one_image(world: World):
    empty = make.layer({})
    image = make.image([BASE, empty, TOP, empty])
    make.publish(world.repository, image, "latest")
    result = await world.service.pull(world.reference)
    assert result.snapshot == image.chain[-1]
    assert world.registry.calls[f"fetch {empty.descriptor.digest}"] == 1


async def test_another_blob_for_a_layer_that_is_unpacked_must_be_that_layer(world: World):
    """Its tree is there and is not made again, but the blob will be pushed and saved."""
    image = make.image([BASE, TOP])
    make.publish(world.repository, image, "latest")
    await world.service.pull(world.reference)
    same = make.layer({"etc/os": b"base"}, media_type=mediatypes.OCI_LAYER)
    make.publish(world.repository, make.image([same, TOP]), "latest")
    pulled = await world.service.pull(world.reference)
    written = world.snapshotter.written
    stranger = make.layer({"etc/os": b"evil"})
    make.publish(
        world.repository, make.image([stranger, TOP], diff_ids=[BASE.diff_id, TOP.diff_id]), "latest"
    )
    with pytest.raises(DataLossError, match="but the config promises"):
        await world.service.pull(world.reference)
    assert world.snapshotter.written == written
    assert (await world.images.get(str(world.reference))).target == pulled.target
    assert await world.leases.list() == []  # so that the collector has it
