"""Fetches over bad connections: hostile-input.md R4 to R7, each attack with its compatible twin."""

import hashlib
import random
import socket
import threading
import time
from collections.abc import Generator

import anyio
import pytest
from support.remotes import World, at, world

from lading.core.remotes import replies_of
from lading.errors import (
    DataLossError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from lading.kit import aio
from lading.oci import reference
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.remotes.config import Config
from lading.remotes.connection import Origin
from lading.remotes.dial import Address, Dialer, Proxies, Trust, resolve
from lading.remotes.errors import TransportError, UnknownHostError
from lading.remotes.registries import HttpRegistries
from lading.testing.registry import FakeRegistry, Fault

pytestmark = pytest.mark.anyio

DATA = random.Random(7).randbytes(700_001)
BLOB = "/blobs/"


@pytest.fixture
def registry() -> Generator[FakeRegistry]:
    with FakeRegistry() as fake:
        yield fake


async def fetch(
    registry: FakeRegistry, *faults: Fault, world_: World | None = None, offset: int = 0, **limits: object
) -> bytes:
    layer = registry.add_blob("app", DATA)
    registry.faults.extend(faults)
    received = bytearray(DATA[:offset])
    async with world(limits=limits) as fresh:
        await (world_ or fresh).resolver().fetcher(at(registry)).fetch(layer, received.extend, offset=offset)
    return bytes(received)


CUTS = (0, 1, 4095, 4096, 16384, 262143, 262144, 262145, len(DATA) - 1)


@pytest.mark.parametrize("cut", CUTS)
async def test_a_cut_is_resumed_where_it_was(registry: FakeRegistry, cut: int) -> None:
    assert await fetch(registry, Fault(path=BLOB, cut_at=cut)) == DATA
    again = registry.seen("GET", BLOB)[1]
    assert again.fields.get("range") == (f"bytes={cut}-{len(DATA) - 1}" if cut else None)


@pytest.mark.parametrize("offset", [1, 4096, len(DATA) - 1])
async def test_a_cut_of_a_resumed_fetch(registry: FakeRegistry, offset: int) -> None:
    assert await fetch(registry, Fault(path=BLOB, cut_at=0), offset=offset) == DATA


async def test_many_cuts_with_progress_are_survived(registry: FakeRegistry) -> None:
    assert await fetch(registry, Fault(path=BLOB, cut_at=20_000, times=30)) == DATA


async def test_cuts_without_progress_end_the_fetch(registry: FakeRegistry) -> None:
    with pytest.raises(UnavailableError) as caught:
        await fetch(registry, Fault(path=BLOB, cut_at=1, times=-1))
    assert len(registry.seen("GET", BLOB)) == 5
    assert registry.host in str(caught.value)


async def test_a_name_that_nobody_knows_is_asked_for_once() -> None:
    async with world() as client:
        client.names["nowhere.example"] = ""
        with pytest.raises(UnavailableError, match=r"cannot find the address of nowhere\.example"):
            await client.resolver().resolve(reference.parse("nowhere.example/app:v1"))
        assert client.waits == []


def test_a_name_that_was_known_may_be_again() -> None:
    known = True

    def answer(host: str, port: int) -> list[Address]:
        if not known:
            raise UnknownHostError(f"cannot find the address of {host}")
        return [(socket.AF_INET, ("127.0.0.1", port))]

    dialer = Dialer(Proxies(), idle=1, resolver=answer)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = Origin("http", "registry.example", listener.getsockname()[1])
        dialer.connect(origin, Trust(), timeout=1, guard=None).close()
        known = False
        with pytest.raises(TransportError, match="cannot find") as caught:
            dialer.connect(origin, Trust(), timeout=1, guard=None)
        assert type(caught.value) is TransportError, "which is repeated"


async def test_a_stall_is_resumed(registry: FakeRegistry) -> None:
    assert await fetch(registry, Fault(path=BLOB, stall_at=300_000), idle=0.2) == DATA


async def test_stalls_without_progress_end_the_fetch(registry: FakeRegistry) -> None:
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        await fetch(registry, Fault(path=BLOB, stall_at=0, times=-1), idle=0.05)
    assert time.monotonic() - began < 3


async def test_a_trickle_counts_as_a_stall(registry: FakeRegistry) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 700001\r\n\r\n"
    with pytest.raises(UnavailableError):
        await fetch(registry, Fault(path=BLOB, raw=raw + b"x", times=-1))


async def test_a_slow_link_is_no_stall(registry: FakeRegistry) -> None:
    assert await fetch(registry, Fault(path=BLOB, rate=2e6), idle=0.3) == DATA


@pytest.mark.parametrize(
    "length",
    ["700_001", "+700001", " 0x10", "٧٠٠", "7e5", "-1", "700000", "700002", "700001, 700001"],
)
async def test_a_length_that_lies_or_is_odd(registry: FakeRegistry, length: str) -> None:
    layer = registry.add_blob("app", DATA)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()
    registry.faults.append(Fault(path=BLOB, raw=head + DATA, times=-1))
    async with world() as client:
        with pytest.raises((DataLossError, UnavailableError)):
            await client.resolver().fetcher(at(registry)).fetch(layer, lambda _: None)


async def test_both_length_and_chunks(registry: FakeRegistry) -> None:
    layer = registry.add_blob("app", b"12345")
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n"
    registry.faults.append(Fault(path=BLOB, raw=raw, times=-1))
    async with world() as client:
        with pytest.raises(LadingError):
            await client.resolver().fetcher(at(registry)).fetch(layer, lambda _: None)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n2;x=y\r\n45\r\n0\r\nT: v\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\n\r\n12345",
        b"HTTP/1.0 200 OK\r\n\r\n12345",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345",
    ],
    ids=["chunked", "length twice", "until close", "http/1.0", "interim"],
)
async def test_honest_framings(registry: FakeRegistry, raw: bytes) -> None:
    layer = registry.add_blob("app", b"12345")
    registry.faults.append(Fault(path=BLOB, raw=raw, times=-1))
    received = bytearray()
    async with world() as client:
        await client.resolver().fetcher(at(registry)).fetch(layer, received.extend)
    assert received == b"12345"


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\n12345\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n12345\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\n\r\n123456",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\n12345",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(70)) + b"\r\n",
    ],
    ids=["hex", "negative", "too long", "coded", "gzip", "over", "bare newlines", "not http", "headers"],
)
async def test_dishonest_framings(registry: FakeRegistry, raw: bytes) -> None:
    layer = registry.add_blob("app", b"12345")
    registry.faults.append(Fault(path=BLOB, raw=raw, times=-1))
    received = bytearray()
    async with world() as client:
        with pytest.raises(LadingError):
            await client.resolver().fetcher(at(registry)).fetch(layer, received.extend)
    assert len(received) <= 5


async def test_a_range_that_is_ignored_costs_only_the_prefix(registry: FakeRegistry) -> None:
    ignored = Fault(path=BLOB, ignore_range=True)
    assert await fetch(registry, Fault(path=BLOB, cut_at=300_000), ignored) == DATA


@pytest.mark.parametrize(
    "said",
    [
        "bytes 0-399999/700001",
        "bytes 300001-700000/700001",
        "bytes 300000-700000/700002",
        "bytes x",
        "300000-700000/700001",
    ],
)
async def test_a_wrong_range_is_refused(registry: FakeRegistry, said: str) -> None:
    with pytest.raises(DataLossError):
        await fetch(registry, Fault(path=BLOB, content_range=said, times=-1), offset=300_000)


async def test_a_range_of_unknown_total_is_taken(registry: FakeRegistry) -> None:
    said = "bytes 300000-700000/*"
    assert await fetch(registry, Fault(path=BLOB, content_range=said), offset=300_000) == DATA


async def test_a_shorter_blob_is_a_loss(registry: FakeRegistry) -> None:
    with pytest.raises(DataLossError):
        await fetch(registry, Fault(path=BLOB, data=DATA[:1000], times=-1), offset=300_000)


async def test_what_the_registry_lacks(registry: FakeRegistry) -> None:
    with pytest.raises(NotFoundError) as caught:
        await fetch(registry, Fault(path=BLOB, status=404, times=-1))
    assert [reply.status for reply in replies_of(caught.value)] == [404]


async def test_foreign_addresses_are_not_followed(registry: FakeRegistry) -> None:
    with FakeRegistry() as elsewhere:
        url = f"http://{elsewhere.host}/blob"
        layer = Descriptor(media_type="x", digest=Digest.of(DATA), size=len(DATA), urls=(url,))
        registry.repository("app")
        async with world() as client:
            with pytest.raises(NotFoundError, match="foreign"):
                await client.resolver().fetcher(at(registry)).fetch(layer, len)
        assert not elsewhere.requests


@pytest.mark.parametrize("status", [429, 503])
async def test_patience_with_a_busy_registry(registry: FakeRegistry, status: int) -> None:
    async with world() as client:
        busy = Fault(path=BLOB, status=status, fields=(("Retry-After", "7"),), times=2)
        assert await fetch(registry, busy, world_=client) == DATA
        assert [round(wait) for wait in client.waits] == [7, 7]


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [
        ("99999999999999999999", 60),
        ("-5", 0.01),
        ("soon", 0.01),
        ("٣", 0.01),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.005),
        ("", 0.01),
    ],
)
async def test_an_odd_retry_after(registry: FakeRegistry, retry_after: str, wait: float) -> None:
    async with world() as client:
        fields = (("Retry-After", retry_after),)
        raw = (
            "HTTP/1.1 429 No\r\nContent-Length: 0\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields) + "\r\n"
        )
        busy = Fault(path=BLOB, raw=raw.encode("utf-8"))
        assert await fetch(registry, busy, world_=client) == DATA
        assert client.waits == [pytest.approx(wait, abs=0.02)]


async def test_a_registry_that_is_busy_for_ever(registry: FakeRegistry) -> None:
    async with world() as client:
        with pytest.raises(ResourceExhaustedError):
            await fetch(
                registry,
                Fault(path=BLOB, status=429, fields=(("Retry-After", "50"),), times=-1),
                world_=client,
            )
        assert sum(client.waits) <= 180
        assert len(registry.seen("GET", BLOB)) <= 5


async def test_the_same_server_error_twice_is_final(registry: FakeRegistry) -> None:
    with pytest.raises(UnavailableError):
        await fetch(registry, Fault(path=BLOB, status=500, times=-1))
    assert len(registry.seen("GET", BLOB)) == 2


async def test_one_server_error_is_not(registry: FakeRegistry) -> None:
    assert await fetch(registry, Fault(path=BLOB, status=502)) == DATA


async def test_a_fetch_goes_on_at_another_host(registry: FakeRegistry, tmp_path: object) -> None:
    with FakeRegistry() as mirror:
        layer = registry.add_blob("app", DATA)
        mirror.add_blob("app", DATA)
        mirror.faults += [Fault(path=BLOB, cut_at=200_000), Fault(path=BLOB, status=500, times=-1)]
        async with mirrored(tmp_path, registry, mirror) as client:
            received = bytearray()
            await client.resolver().fetcher(at(registry)).fetch(layer, received.extend)
    assert bytes(received) == DATA
    assert registry.seen("GET", BLOB)[0].fields["range"] == f"bytes=200000-{len(DATA) - 1}"
    assert "ns=" in mirror.requests[0].target
    assert "ns=" not in registry.requests[0].target


async def test_every_host_is_named_when_all_fail(registry: FakeRegistry, tmp_path: object) -> None:
    with FakeRegistry() as mirror:
        layer = registry.add_blob("app", DATA)
        registry.faults.append(
            Fault(path=BLOB, status=403, body=b'{"errors":[{"code":"DENIED","message":"no"}]}', times=-1)
        )
        async with mirrored(tmp_path, registry, mirror) as client:
            with pytest.raises(LadingError) as caught:
                await client.resolver().fetcher(at(registry)).fetch(layer, lambda _: None)
    assert caught.value.code == "remote-denied"
    replies = replies_of(caught.value)
    assert [(reply.host, reply.status) for reply in replies] == [(mirror.host, 404), (registry.host, 403)]
    assert replies[1].codes == ("DENIED",)
    assert mirror.host in str(caught.value)
    assert registry.host in str(caught.value)


def mirrored(tmp_path: object, registry: FakeRegistry, *mirrors: FakeRegistry):
    import pathlib

    directory = pathlib.Path(str(tmp_path)) / f"127.0.0.1_{registry.port}_"
    directory.mkdir()
    tables = "\n".join(f'[host."http://{mirror.host}"]' for mirror in mirrors)
    (directory / "hosts.toml").write_text(f'server = "http://{registry.host}"\n{tables}\n')
    return world(host_directories=(str(tmp_path),))


async def test_cancelling_is_prompt_while_the_host_stands_still(registry: FakeRegistry) -> None:
    layer = registry.add_blob("app", DATA)
    registry.faults.append(Fault(path=BLOB, stall_at=100_000))
    received = bytearray()
    arrived = anyio.Event()

    def sink(view: memoryview) -> None:
        received.extend(view)
        if len(received) == 100_000:
            anyio.from_thread.run_sync(arrived.set)

    async with world(limits={"idle": 30.0}) as client, anyio.create_task_group() as tasks:
        fetcher = client.resolver().fetcher(at(registry))
        tasks.start_soon(fetcher.fetch, layer, sink)
        await arrived.wait()
        began = time.monotonic()
        tasks.cancel_scope.cancel()
    assert time.monotonic() - began < 1
    assert bytes(received) == DATA[:100_000]


async def test_no_more_connections_than_allowed(registry: FakeRegistry) -> None:
    layers = [registry.add_blob("app", bytes([n]) * 200_000) for n in range(12)]
    registry.faults.append(Fault(path=BLOB, rate=4e6, times=-1))
    async with world(limits={"connections_per_host": 3}) as client, anyio.create_task_group() as tasks:
        fetcher = client.resolver().fetcher(at(registry))
        for layer in layers:
            tasks.start_soon(fetcher.fetch, layer, lambda _: None)
    assert registry.most_in_use == 3


PARALLEL = {"parallel_from": 100_000, "parallel_chunk": 40_000, "single_chunk": 80_000}


async def parallel(registry: FakeRegistry, *faults: Fault, **limits: object) -> tuple[bytes, Descriptor]:
    layer = registry.add_blob("app", DATA)
    registry.faults.extend(faults)
    digest = hashlib.sha256()
    received = bytearray()

    def sink(view: memoryview) -> None:
        digest.update(view)
        received.extend(view)

    async with world(limits={**PARALLEL, **limits}) as client:
        await client.resolver().fetcher(at(registry)).fetch(layer, sink)
    assert digest.hexdigest() == layer.digest.hex
    return bytes(received), layer


async def test_a_slow_link_gets_several_connections(registry: FakeRegistry) -> None:
    received, _ = await parallel(registry, Fault(path=BLOB, rate=1e6, times=-1))
    assert received == DATA
    assert 2 <= registry.most_in_use <= 4


async def test_a_fast_link_gets_one(registry: FakeRegistry) -> None:
    received, _ = await parallel(registry, parallel_below=1.0)
    assert received == DATA
    assert registry.most_in_use == 1


@pytest.mark.parametrize("cut", [0, 1, 39_999, 20_000])
async def test_cuts_on_several_connections(registry: FakeRegistry, cut: int) -> None:
    faults = [
        Fault(path=BLOB, rate=2e6, times=3),
        Fault(path=BLOB, cut_at=cut, times=2),
        Fault(path=BLOB, rate=2e6, times=2),
        Fault(path=BLOB, stall_at=cut, times=1),
        Fault(path=BLOB, rate=2e6, times=-1),
    ]
    received, _ = await parallel(registry, *faults, idle=0.2)
    assert received == DATA


async def test_a_host_without_ranges_sends_everything_once(registry: FakeRegistry) -> None:
    received, _ = await parallel(registry, Fault(path=BLOB, ignore_range=True, times=-1))
    assert received == DATA
    assert len(registry.seen("GET", BLOB)) == 1


async def test_a_sink_that_fails_ends_all_connections(registry: FakeRegistry) -> None:
    layer = registry.add_blob("app", DATA)
    registry.faults.append(Fault(path=BLOB, rate=1e6, times=-1))
    seen = 0

    def sink(view: memoryview) -> None:
        nonlocal seen
        seen += len(view)
        if seen > 200_000:
            raise ResourceExhaustedError("the disk is full")

    async with world(limits=PARALLEL) as client:
        with pytest.raises(ResourceExhaustedError, match="disk is full"):
            await client.resolver().fetcher(at(registry)).fetch(layer, sink)


async def test_an_offset_beyond_the_end(registry: FakeRegistry) -> None:
    layer = registry.add_blob("app", DATA)
    async with world() as client:
        with pytest.raises(InvalidArgumentError):
            await client.resolver().fetcher(at(registry)).fetch(layer, lambda _: None, offset=len(DATA) + 1)


async def test_cancelling_is_prompt_while_a_name_server_is_silent(registry: FakeRegistry) -> None:
    layer = registry.add_blob("app", DATA)
    asked, answer = threading.Event(), threading.Event()

    def resolver(host: str, port: int) -> list[Address]:
        asked.set()
        answer.wait(10)
        return resolve(host, port)

    client = HttpRegistries(Config(host_directories=()), resolver=resolver)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.resolver().fetcher(at(registry)).fetch, layer, len)
            await aio.run(aio.DISK, asked.wait)
            began = time.monotonic()
            tasks.cancel_scope.cancel()
        assert time.monotonic() - began < 1
    finally:
        answer.set()
        await client.close()


async def test_connections_are_used_again(registry: FakeRegistry) -> None:
    layer = registry.add_blob("app", DATA)
    async with world() as client:
        fetcher = client.resolver().fetcher(at(registry))
        for _ in range(5):
            await fetcher.fetch(layer, len)
    assert registry.connections == 2  # the first was for TLS, which it does not speak


async def test_a_connection_that_died_while_idle_is_replaced(registry: FakeRegistry) -> None:
    layer = registry.add_blob("app", DATA)
    async with world() as client:
        fetcher = client.resolver().fetcher(at(registry))
        await fetcher.fetch(layer, len)
        registry.hang_up()
        await fetcher.fetch(layer, len)
        assert client.waits == []
