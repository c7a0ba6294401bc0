"""Pushes over bad connections."""

import random
from collections.abc import Generator

import pytest
from support.remotes import at, world

from lading.core.remotes import Credentials
from lading.errors import (
    DataLossError,
    InvalidArgumentError,
    LadingError,
    UnauthenticatedError,
    UnavailableError,
)
from lading.oci import manifest, mediatypes
from lading.testing.memory.content import MemoryReader
from lading.testing.registry import FakeRegistry, Fault
from lading.testing.remotes import blob, ignore_progress, image

pytestmark = pytest.mark.anyio

DATA = random.Random(9).randbytes(500_001)
LAYER = blob(DATA)
CHUNKED = {"monolithic": 1000, "upload_chunk": 200_000}


@pytest.fixture
def registry() -> Generator[FakeRegistry]:
    with FakeRegistry() as fake:
        yield fake


async def push(registry: FakeRegistry, *faults: Fault, **limits: object) -> list[int]:
    registry.faults.extend(faults)
    seen: list[int] = []
    async with world(limits={**CHUNKED, **limits}) as client:
        await client.resolver().pusher(at(registry)).push(LAYER, MemoryReader(DATA), on_bytes=seen.append)
    assert registry.repository("app").blobs[LAYER.digest] == DATA
    return seen


async def test_chunks(registry: FakeRegistry) -> None:
    await push(registry)
    ranges = [one.fields["content-range"] for one in registry.seen("PATCH", "")]
    assert ranges == ["0-199999", "200000-399999", "400000-500000"]


async def test_the_registry_says_how_small_chunks_may_be(registry: FakeRegistry) -> None:
    registry.chunk_least = 300_000
    await push(registry)
    ranges = [one.fields["content-range"] for one in registry.seen("PATCH", "")]
    assert ranges == ["0-299999", "300000-500000"]


async def test_small_blobs_take_one_put(registry: FakeRegistry) -> None:
    await push(registry, monolithic=1 << 20)
    assert not registry.seen("PATCH", "")
    assert len(registry.seen("PUT", "")) == 1


@pytest.mark.parametrize("cut", [0, 1, 16384, 199_999])
@pytest.mark.parametrize("skip", [0, 1])
async def test_a_cut_chunk_is_resumed(registry: FakeRegistry, cut: int, skip: int) -> None:
    seen = await push(registry, Fault(method="PATCH", cut_at=cut, skip=skip))
    assert seen[-1] == len(DATA)
    sent = sum(int(one.fields["content-length"]) for one in registry.seen("PATCH", ""))
    assert sent < 2 * len(DATA)
    assert len(registry.seen("POST", "")) == (2 if (cut, skip) == (1, 0) else 1)


async def test_a_cut_put_is_begun_anew(registry: FakeRegistry) -> None:
    await push(registry, Fault(method="PUT", cut_at=1000), monolithic=1 << 20)
    assert len(registry.seen("POST", "")) == 2


async def test_an_upload_that_vanishes_is_begun_anew(registry: FakeRegistry) -> None:
    await push(registry, Fault(method="PATCH", status=404, skip=1))


async def test_cuts_without_progress_end_the_push(registry: FakeRegistry) -> None:
    with pytest.raises(UnavailableError):
        await push(registry, Fault(method="PATCH", cut_at=0, times=-1))
    assert len(registry.seen("PATCH", "")) == 5


async def test_a_refused_push_gives_up_its_upload(registry: FakeRegistry) -> None:
    with pytest.raises(LadingError) as caught:
        await push(
            registry, Fault(method="PATCH", status=403, body=b'{"errors":[{"code":"DENIED"}]}', times=-1)
        )
    assert caught.value.code == "remote-denied"
    assert registry.seen("DELETE", "uploads")
    assert not registry.uploads


async def test_a_busy_registry_is_waited_for(registry: FakeRegistry) -> None:
    await push(registry, Fault(method="POST", status=429, times=2), Fault(method="PATCH", status=503, skip=1))


async def test_a_registry_that_counts_wrongly(registry: FakeRegistry) -> None:
    raw = b"HTTP/1.1 202 Accepted\r\nRange: 0-999999\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(LadingError):
        await push(registry, Fault(method="PATCH", raw=raw, times=-1))


async def test_an_upload_elsewhere_gets_no_credentials(registry: FakeRegistry) -> None:
    registry.login, registry.bearer = ("me", "secret"), False
    with FakeRegistry(bind="127.0.0.2") as other:
        other.repository("app")
        other.uploads["u"] = bytearray()
        raw = f"HTTP/1.1 202 Accepted\r\nLocation: http://{other.host}/v2/app/blobs/uploads/u\r\nContent-Length: 0\r\n\r\n"
        registry.faults.append(Fault(method="POST", raw=raw.encode()))
        async with world(limits=CHUNKED) as client:
            pusher = client.resolver(Credentials(username="me", password="secret")).pusher(at(registry))
            await pusher.push(LAYER, MemoryReader(DATA), on_bytes=ignore_progress)
        assert other.repository("app").blobs[LAYER.digest] == DATA
        assert all("authorization" not in one.fields for one in other.requests)


async def test_a_token_that_expires_while_pushing(registry: FakeRegistry) -> None:
    registry.login, registry.token_uses = ("me", "secret"), 2
    async with world(limits=CHUNKED) as client:
        pusher = client.resolver(Credentials(username="me", password="secret")).pusher(at(registry))
        await pusher.push(LAYER, MemoryReader(DATA), on_bytes=ignore_progress)
    assert registry.repository("app").blobs[LAYER.digest] == DATA
    assert set(registry.issued) == {("repository:app:pull,push",)}


async def test_a_push_without_credentials(registry: FakeRegistry) -> None:
    registry.login = ("me", "secret")
    with pytest.raises(UnauthenticatedError):
        await push(registry)


async def test_a_mount_asks_for_the_source(registry: FakeRegistry) -> None:
    registry.login = ("me", "secret")
    registry.add_blob("base", DATA)
    async with world() as client:
        pusher = client.resolver(Credentials(username="me", password="secret")).pusher(at(registry))
        assert await pusher.mount(LAYER, "base")
    assert registry.issued == [("repository:app:pull,push", "repository:base:pull")]


async def test_a_failed_mount_leaves_its_upload_to_the_push(registry: FakeRegistry) -> None:
    async with world() as client:
        pusher = client.resolver().pusher(at(registry))
        assert not await pusher.mount(LAYER, "nowhere")
        await pusher.push(LAYER, MemoryReader(DATA), on_bytes=ignore_progress)
    assert len(registry.seen("POST", "")) == 1


async def test_a_manifest_that_is_stored_as_another(registry: FakeRegistry) -> None:
    body = image([])
    other = blob(b"other").digest
    raw = f"HTTP/1.1 201 Created\r\nDocker-Content-Digest: {other}\r\nContent-Length: 0\r\n\r\n".encode()
    registry.faults.append(Fault(method="PUT", raw=raw))
    async with world() as client:
        with pytest.raises(DataLossError):
            await (
                client.resolver()
                .pusher(at(registry))
                .put(manifest.descriptor_of(body, mediatypes.OCI_MANIFEST), body, tag="v1")
            )


async def test_content_of_another_length_is_not_even_sent(registry: FakeRegistry) -> None:
    async with world() as client:
        with pytest.raises(InvalidArgumentError):
            await (
                client.resolver()
                .pusher(at(registry))
                .push(LAYER, MemoryReader(b"short"), on_bytes=ignore_progress)
            )
    assert not registry.requests
