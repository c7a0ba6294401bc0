"""Conformance suite of `lading.core.remotes`: subclass it, and provide the fixtures."""

import itertools
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

import anyio
import pytest

from lading.core.remotes import Fetcher, Pusher, Registries, Resolver
from lading.errors import InvalidArgumentError, LadingError, NotFoundError
from lading.oci import manifest, mediatypes, reference
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.testing.memory.content import MemoryReader

_REPOSITORIES: Final = itertools.count()


def blob(data: bytes, media_type: str = mediatypes.OCI_LAYER) -> Descriptor:
    """The descriptor of some bytes."""
    return Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data))


def image(layers: list[Descriptor], *, config: bytes = b"{}", subject: Descriptor | None = None) -> bytes:
    """The bytes of a manifest."""

    def entry(descriptor: Descriptor) -> dict[str, object]:
        return {
            "mediaType": descriptor.media_type,
            "digest": descriptor.digest,
            "size": descriptor.size,
        }

    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "config": entry(blob(config, mediatypes.OCI_CONFIG)),
        "layers": [entry(layer) for layer in layers],
    }
    if subject is not None:
        document["subject"] = entry(subject)
    return json.dumps(document, indent=2).encode()


def ignore_progress(_: int) -> None:
    """For pushes whose progress is of no interest."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image that a test pushed."""

    reference: Reference
    descriptor: Descriptor
    body: bytes
    layer: Descriptor
    data: bytes


class RemotesSuite:
    """What every `Registries` keeps."""

    @pytest.fixture
    def host(self) -> str:
        """Name of a registry that takes pushes; it may be shared between tests."""
        raise NotImplementedError

    @pytest.fixture
    async def registries(self) -> AsyncGenerator[Registries]:
        """What is tested."""
        raise NotImplementedError
        yield

    @pytest.fixture
    def resolver(self, registries: Registries) -> Resolver:
        return registries.resolver()

    @pytest.fixture
    def repository(self, host: str) -> Reference:
        return reference.parse(f"{host}/suite/r{next(_REPOSITORIES)}:v1")

    @pytest.fixture
    def pusher(self, resolver: Resolver, repository: Reference) -> Pusher:
        return resolver.pusher(repository)

    @pytest.fixture
    def fetcher(self, resolver: Resolver, repository: Reference) -> Fetcher:
        return resolver.fetcher(repository)

    @pytest.fixture
    async def pushed(self, pusher: Pusher, repository: Reference) -> Pushed:
        data = bytes(range(256)) * 2048
        layer = blob(data)
        await pusher.push(layer, MemoryReader(data), on_bytes=ignore_progress)
        await pusher.push(blob(b"{}"), MemoryReader(b"{}"), on_bytes=ignore_progress)
        body = image([layer])
        descriptor = manifest.descriptor_of(body, mediatypes.OCI_MANIFEST)
        await pusher.put(descriptor, body, tag=repository.tag)
        return Pushed(repository, descriptor, body, layer, data)

    async def test_what_was_pushed_is_resolved_byte_for_byte(
        self, resolver: Resolver, pushed: Pushed
    ) -> None:
        found = await resolver.resolve(pushed.reference)
        assert (found.descriptor, found.body) == (pushed.descriptor, pushed.body)

    async def test_a_digest_is_resolved(self, resolver: Resolver, pushed: Pushed) -> None:
        found = await resolver.resolve(pushed.reference.with_digest(pushed.descriptor.digest))
        assert found.body == pushed.body

    async def test_an_unknown_tag_is_not_found(self, resolver: Resolver, pushed: Pushed) -> None:
        with pytest.raises(NotFoundError):
            await resolver.resolve(pushed.reference.with_tag("nothing"))

    async def test_an_unknown_repository_is_not_found(
        self, resolver: Resolver, repository: Reference
    ) -> None:
        with pytest.raises(NotFoundError):
            await resolver.resolve(repository)

    async def test_a_blob_arrives_in_order(self, fetcher: Fetcher, pushed: Pushed) -> None:
        received = bytearray()
        await fetcher.fetch(pushed.layer, received.extend)
        assert bytes(received) == pushed.data

    @pytest.mark.parametrize("offset", [1, 4096, 524287])
    async def test_a_fetch_begins_at_its_offset(self, fetcher: Fetcher, pushed: Pushed, offset: int) -> None:
        received = bytearray()
        await fetcher.fetch(pushed.layer, received.extend, offset=offset)
        assert bytes(received) == pushed.data[offset:]

    async def test_a_fetch_from_the_end_brings_nothing(self, fetcher: Fetcher, pushed: Pushed) -> None:
        received = bytearray()
        await fetcher.fetch(pushed.layer, received.extend, offset=pushed.layer.size)
        assert not received

    async def test_an_unknown_blob_is_not_found(self, fetcher: Fetcher, pushed: Pushed) -> None:
        received = bytearray()
        with pytest.raises(NotFoundError):
            await fetcher.fetch(blob(pushed.data + b"never pushed"), received.extend)
        assert not received

    async def test_what_the_sink_raises_ends_the_fetch(self, fetcher: Fetcher, pushed: Pushed) -> None:
        class FullError(Exception):
            pass

        def sink(_: memoryview) -> None:
            raise FullError

        with pytest.raises(FullError):
            await fetcher.fetch(pushed.layer, sink)

    async def test_a_cancelled_fetch_stops_its_sink(self, fetcher: Fetcher, pushed: Pushed) -> None:
        calls = 0
        with anyio.CancelScope() as scope:

            def sink(_: memoryview) -> None:
                nonlocal calls
                calls += 1
                anyio.from_thread.run_sync(scope.cancel)

            await fetcher.fetch(pushed.layer, sink)
        after = calls
        assert after >= 1
        await anyio.sleep(0.02)
        assert calls == after

    async def test_a_document_is_fetched_verified(self, fetcher: Fetcher, pushed: Pushed) -> None:
        found = await fetcher.document(pushed.descriptor)
        assert found.body == pushed.body
        config = blob(b"{}", mediatypes.OCI_CONFIG)
        assert (await fetcher.document(config)).body == b"{}"

    async def test_a_document_of_another_size_is_refused(self, fetcher: Fetcher, pushed: Pushed) -> None:
        for size in (pushed.descriptor.size - 1, pushed.descriptor.size + 1):
            wrong = Descriptor(media_type=mediatypes.OCI_MANIFEST, digest=pushed.descriptor.digest, size=size)
            with pytest.raises(LadingError):
                await fetcher.document(wrong)

    async def test_existence(self, pusher: Pusher, pushed: Pushed) -> None:
        assert await pusher.exists(pushed.layer)
        assert await pusher.exists(pushed.descriptor)
        assert await pusher.exists(pushed.descriptor, tag="v1")
        assert not await pusher.exists(pushed.descriptor, tag="v2")
        assert not await pusher.exists(blob(b"never pushed"))

    async def test_a_tag_that_means_something_else(self, pusher: Pusher, pushed: Pushed) -> None:
        body = pushed.body + b" "
        other = manifest.descriptor_of(body, mediatypes.OCI_MANIFEST)
        await pusher.put(other, body)
        assert await pusher.exists(other)
        assert not await pusher.exists(other, tag="v1")

    async def test_progress_of_a_push_ends_at_the_size(self, pusher: Pusher) -> None:
        seen: list[int] = []
        data = b"p" * 300_000
        await pusher.push(blob(data), MemoryReader(data), on_bytes=seen.append)
        assert seen == sorted(seen)
        assert seen[-1] == len(data)

    async def test_an_empty_blob_goes_there_and_back(self, pusher: Pusher, fetcher: Fetcher) -> None:
        await pusher.push(blob(b""), MemoryReader(b""), on_bytes=ignore_progress)
        received = bytearray()
        await fetcher.fetch(blob(b""), received.extend)
        assert not received

    async def test_bytes_that_are_not_the_digest_are_refused(self, pusher: Pusher) -> None:
        promised = blob(b"promised")
        with pytest.raises(InvalidArgumentError):
            await pusher.push(promised, MemoryReader(b"else...."), on_bytes=ignore_progress)
        assert not await pusher.exists(promised)

    async def test_a_manifest_without_its_blobs_is_refused(self, pusher: Pusher) -> None:
        body = image([blob(b"never pushed")])
        with pytest.raises(InvalidArgumentError):
            await pusher.put(manifest.descriptor_of(body, mediatypes.OCI_MANIFEST), body, tag="bad")

    async def test_a_blob_is_mounted_from_another_repository(
        self, resolver: Resolver, host: str, pushed: Pushed
    ) -> None:
        other = resolver.pusher(reference.parse(f"{host}/suite/mounted{next(_REPOSITORIES)}"))
        assert await other.mount(pushed.layer, pushed.reference.path)
        assert await other.exists(pushed.layer)

    async def test_what_cannot_be_mounted_can_be_pushed(self, pusher: Pusher, pushed: Pushed) -> None:
        data = b"not there yet"
        assert not await pusher.mount(blob(data), pushed.reference.path)
        await pusher.push(blob(data), MemoryReader(data), on_bytes=ignore_progress)
        assert await pusher.exists(blob(data))

    async def test_tags_are_listed(self, resolver: Resolver, pusher: Pusher, pushed: Pushed) -> None:
        await pusher.put(pushed.descriptor, pushed.body, tag="v2")
        assert [tag async for tag in resolver.tags(pushed.reference)] == ["v1", "v2"]

    async def test_tags_of_an_unknown_repository(self, resolver: Resolver, repository: Reference) -> None:
        with pytest.raises(NotFoundError):
            _ = [tag async for tag in resolver.tags(repository)]

    async def test_referrers(self, fetcher: Fetcher, pusher: Pusher, pushed: Pushed) -> None:
        assert await fetcher.referrers(pushed.descriptor) == []
        body = image([], subject=pushed.descriptor)
        descriptor = manifest.descriptor_of(body, mediatypes.OCI_MANIFEST)
        await pusher.put(descriptor, body)
        found = await fetcher.referrers(pushed.descriptor)
        assert [one.digest for one in found] == [descriptor.digest]
        assert found[0].artifact_type == mediatypes.OCI_CONFIG
        assert await fetcher.referrers(pushed.descriptor, artifact_types=["application/x"]) == []
        await pusher.put(descriptor, body)
        assert len(await fetcher.referrers(pushed.descriptor)) == 1

    async def test_close_may_be_repeated(self, registries: Registries) -> None:
        await registries.close()
        await registries.close()
